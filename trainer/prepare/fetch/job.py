"""From what names a version of a collection to a folder with its files and its card.

files/          what the collection holds, archives unpacked; nothing is converted
groups.csv      path, label, source of each picture, where there are class folders
data.toml       the data card
croissant.json  the same for other programs
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import edge_runtime
from edge_runtime.errors import DataError, InputError, UsageError
from edge_runtime.imaging.kinds import Kind, kind_named, kind_of
from edge_runtime.imaging.limits import MIB, first_bytes
from trainer.data.archive import FolderArchive
from trainer.data.card import CardText, Source
from trainer.data.layout import PassedOver, arrange, class_spot
from trainer.prepare.fetch.hugging_face import HuggingFace
from trainer.prepare.fetch.kaggle import Kaggle
from trainer.prepare.fetch.origin import (
    GIB,
    LONGEST,
    Bar,
    Desk,
    Origin,
    Told,
    plain,
    remember,
    remembered,
)
from trainer.prepare.fetch.unpack import Unpacker, archive_kind
from trainer.prepare.fetch.web import Web
from trainer.prepare.folder import (
    Claim,
    Summary,
    content_digest,
    summary,
    write_description,
)
from trainer.prepare.rows import Row

FILES = "files"
PART, STAGE = ".btc-data-part", ".btc-data-files"  # a download, files while they are unpacked
MATLAB = ".mat"
BRANCHES = ("main", "master", "HEAD")
NO_CLASS = "a picture in no class folder"

_KAGGLE = re.compile(r"kaggle:([\w-]+)/([\w-]+)(?:/versions/([1-9]\d{0,8}))?", re.ASCII)
_HUGGING_FACE = re.compile(r"hf:(\w[\w.-]*)/(\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_DIGEST = re.compile("[0-9a-fA-F]{64}")
_FORMS = "kaggle:OWNER/NAME/versions/N, hf:OWNER/NAME@REVISION, or a URL with --sha256"


@dataclass(frozen=True)
class Said:
    """What the user says of a collection, in place of what its service says; empty where
    nothing."""

    title: str = ""
    license: str = ""
    citation: str = ""
    source: str = ""


@dataclass(frozen=True)
class Fetched:
    """What a finished folder holds.

    Attributes:
        files: how many, by suffix.
        matlab, volumes: how many of them are MATLAB's, and DICOM or NIfTI.
        slices: the pictures in class folders, and what was left out by reason.
    """

    files: Mapping[str, int]
    matlab: int
    volumes: int
    slices: Summary


@dataclass(frozen=True)
class Talk:
    """Whom a job talks to: `line` takes one for stderr; `bar` as of a `Desk`."""

    line: Callable[[str], None]
    bar: Bar


def read_origin(text: str, sha256: str | None) -> Origin:
    """The version of a collection that a text names.

    Raises:
        UsageError: it names none; the message says what to type.
    """
    if text.startswith(("kaggle:", "hf:")):
        if sha256 is not None:
            raise UsageError("--sha256 is for a URL: its version is what proves this collection")
        return _kaggle(text) if text.startswith("kaggle:") else _hugging_face(text)
    return _web(text, sha256)


def _kaggle(text: str) -> Kaggle:
    found = _KAGGLE.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is no Kaggle data set: type kaggle:OWNER/NAME/versions/N")
    owner, name, number = found.groups()
    if number is None:
        raise UsageError(
            f"{text} names no version, and what is newest changes: type {text}/versions/N, with "
            f"a number that https://www.kaggle.com/datasets/{owner}/{name} shows"
        )
    return Kaggle(owner, name, int(number))


def _hugging_face(text: str) -> HuggingFace:
    found = _HUGGING_FACE.fullmatch(text)
    if not found or ".." in text:
        raise UsageError(f"{text!r} is no data set of Hugging Face: type hf:OWNER/NAME@REVISION")
    owner, name, revision = found.groups()
    commits = f"https://huggingface.co/datasets/{owner}/{name}/commits/main"
    if revision is None:
        raise UsageError(
            f"{text} names no version: type {text}@REVISION, with a tag or a commit hash that "
            f"{commits} shows"
        )
    if revision in BRANCHES:
        raise UsageError(
            f"{revision} is a branch, which moves, and no version: type hf:{owner}/{name}@"
            f"REVISION, with a tag or a commit hash that {commits} shows"
        )
    return HuggingFace(owner, name, revision)


def _web(text: str, sha256: str | None) -> Web:
    try:
        parts = urlsplit(text)
        named = parts.hostname if parts.port != 0 else None
    except ValueError:
        named = None
    if not named or parts.scheme not in ("http", "https") or not text.isprintable():
        raise UsageError(f"{text!r} names no version of a collection: type {_FORMS}")
    if parts.username is not None or parts.password is not None:
        raise UsageError("a URL with a name or password would stand in the card: leave it out")
    if sha256 is None:
        raise UsageError(
            "a URL needs --sha256 HEX, which says which file is meant: its publisher's page may "
            "give it, or: sha256sum FILE"
        )
    if not _DIGEST.fullmatch(sha256):
        raise UsageError("--sha256 takes the 64 hexadecimal digits of a SHA-256")
    return Web(text, sha256.lower())


def fetch(origin: Origin, out: Path, said: Said, talk: Talk, most: int, offline: bool) -> Fetched:
    """Download a version of a collection, or take it from the cache, into a folder.

    Args:
        out: new, empty, or what the same command left when it was stopped.
        said: what the card is to say.
        most: bytes that the download may have.
        offline: only the cache is used.

    Raises:
        UsageError: `out` holds something else, or the version is none.
        DataError: it cannot be had; one line on what to do.
    """
    if any(len(text) > LONGEST for text in vars(said).values()):
        raise UsageError(f"a text of the card may have {LONGEST:,} characters")
    said = Said(**{key: plain(text) for key, text in vars(said).items()})
    claim = Claim(out, {"command": "fetch", "key": origin.key, **vars(said)})
    try:
        told, place = _obtain(origin, out, said, talk, most, offline)
        unpacker = _unpacked(origin, told, place, out)
        fetched = _described(origin, told, said, unpacker, out, talk)
    except BaseException:
        claim.give_up()
        raise
    claim.end()
    return fetched


def _obtain(
    origin: Origin, out: Path, said: Said, talk: Talk, most: int, offline: bool
) -> tuple[Told, Path]:
    """What is told of the collection, and where the cache has it."""
    told = remembered(origin.key)
    place = origin.cached(told)
    announced = False

    def announce(told: Told) -> None:
        nonlocal announced
        if not announced:
            talk.line(_line(origin, told, said))
        announced = True
        if told.size is not None and told.size > most:
            raise DataError(
                f"{origin.spec}: {_size(told.size)} is more than {most / GIB:g} GiB; raise "
                "--max-size to have it"
            )

    if place is not None and (told is not None or origin.sha256 or offline):
        size = place.stat().st_size if place.is_file() else None
        known = told or replace(origin.bare(), size=size)
        talk.line(f"{_line(origin, known, said)}; from the cache")
        return known, place
    if offline:
        raise DataError(
            f"{origin.spec}: not in the cache, or not all of it; give the same command without "
            "--offline where there is a connection"
        )
    told, place = origin.obtain(Desk(out / PART, announce, most, talk.bar))
    if not origin.sha256:  # of which nothing is told
        remember(origin.key, told)
    return told, place


def _line(origin: Origin, told: Told, said: Said) -> str:
    """What the service says of a collection, before it comes."""
    parts = [said.title or told.title]
    licence = said.license or told.license
    parts.append(f"licence {licence}" if licence else "licence not stated")
    parts.append("size not stated" if told.size is None else _size(told.size))
    return f"{origin.spec}: {'; '.join(filter(None, parts))}"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"


def _unpacked(origin: Origin, told: Told, place: Path, out: Path) -> Unpacker:
    """The collection's files in their place; what an earlier run left there is made anew."""
    stage = out / STAGE
    for left in (stage, out / FILES):
        if left.exists():
            shutil.rmtree(left)
    stage.mkdir()
    unpacker = Unpacker(stage)
    try:
        if place.is_dir():
            unpacker.copy_folder(place, origin.links_into(place))
            _compare(origin, told, place, unpacker)
        elif kind := archive_kind(place, origin.name):
            unpacker.unpack(place, kind, origin.name)
        else:
            unpacker.copy_file(place, origin.name)
        unpacker.unpack_within()
        if not unpacker.files:
            raise DataError(f"{origin.spec}: no file that could be kept")
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:  # of a write, on a full disk
            error.filename = str(out)
        raise
    stage.replace(out / FILES)
    return unpacker


def _compare(origin: Origin, told: Told, place: Path, unpacker: Unpacker) -> None:
    """Whether the cache's files are what the service states."""
    for path, digest in unpacker.files.items():
        if told.digests.get(path, digest) != digest:
            raise DataError(
                f"{origin.spec}: {path} in the cache is damaged; delete {place}, and give the same "
                "command again"
            )


def _described(
    origin: Origin, told: Told, said: Said, unpacker: Unpacker, out: Path, talk: Talk
) -> Fetched:
    """Write the tables and, last, the card; say what was left out."""
    source = Source(
        name=said.source or origin.source,
        title=said.title or told.title,
        license=said.license or told.license,
        citation=said.citation or told.citation,
        url=told.url,
        version=told.version,
        sha256=origin.sha256 or content_digest(unpacker.files.values()),
    )
    rows, passed_over = _pictures(out / FILES, unpacker.files, source.name)
    for each in _grouped(unpacker.left_out):
        talk.line(f"{each.words}: {each.reason}; skipped")
    for each in passed_over:
        talk.line(f"{each.words}: {each.reason}; in no table")
    card = CardText(f"btc-data fetch {edge_runtime.__version__}", (source,))
    write_description(out, FILES, rows, card)
    reasons = [reason for reason, names in unpacker.left_out.items() for _ in names]
    reasons += [each.reason for each in passed_over for _ in each.paths]
    suffixes = Counter(map(_suffix, unpacker.files))
    return Fetched(
        dict(sorted(suffixes.items())),
        suffixes[MATLAB],
        sum(_is_volume(out / FILES, path) for path in unpacker.files),
        summary(rows, reasons),
    )


def _pictures(
    folder: Path, digests: Mapping[str, str], source: str
) -> tuple[list[Row], list[PassedOver]]:
    """The pictures (and volumes beside them) in class folders, and what else is there; a collection
    without pictures in such folders is one of other files, all of which are kept: volumes alone
    lie in folders of patients as a rule."""
    names, passed_over = arrange(FolderArchive(folder))
    rows, outside = [], []
    for name in names:
        spot = class_spot(name)
        if spot is None:
            outside.append(name)
        else:
            rows.append(Row(name, spot[0], digests[name], source))
    if not any(_is_picture(folder, row.path) for row in rows):
        return [], []
    return rows, [*passed_over, *_grouped({NO_CLASS: outside})]


def _grouped(names: Mapping[str, Sequence[str]]) -> list[PassedOver]:
    return [
        PassedOver("", reason, tuple(sorted(each)))
        for reason, each in sorted(names.items())
        if each
    ]


def _suffix(path: str) -> str:
    """What a file's name ends with; both parts of `.nii.gz`."""
    lower = PurePosixPath(path.lower())
    return "".join(lower.suffixes[-2:]) if lower.suffix == ".gz" else lower.suffix


def _is_picture(folder: Path, name: str) -> bool:
    kind = _kind(folder, name)
    return kind is not None and kind.is_picture


def _is_volume(folder: Path, name: str) -> bool:
    kind = _kind(folder, name)
    return kind is not None and not kind.is_picture


def _kind(folder: Path, name: str) -> Kind | None:
    """What a file is by its name or, where that says nothing, by its content."""
    named = kind_named(name)
    if named is not None:
        return named
    try:
        return kind_of(first_bytes(folder / name))
    except InputError:
        return None
