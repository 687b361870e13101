"""The data card: a small TOML file that says what belongs to a data set.

A folder's card is its `data.toml`. A zip's card lies beside it: `NAME.toml` beside `NAME.zip`, or
else a `data.toml` whose `images` is that zip. Other programs write TOML files too: beside a zip,
one without any of a card's keys, or a `data.toml` that does not name the zip, is passed over.

    title = "Brain tumour slices"
    images = "slices.zip"                 # zip or folder; without it the card's folder, or NAME.zip
    groups = "groups.csv"
    boxes = "boxes.csv"
    partial = "untyped.zip"               # slices of several possible classes
    partial_groups = "untyped.csv"
    tumour_free = ["notumor"]
    license = "CC BY 4.0"
    citation = "…"
    url = "https://…"
    notes = "…"
    made_by = "btc-data join 0.1.0"

    [[sources]]             # where the images come from, one table each
    name = "cheng"          # as the column `source` of the tables calls it
    title = "…"
    license = "CC BY 4.0"
    citation = "…"
    url = "https://…"
    version = "…"
    sha256 = "…"            # over the files that were read
    plane = "axial"         # of all its slices, where no table says it
    sequence = "T1"         # likewise

Every key may be missing. Files are named relative to the card and lie in its folder or below it:
a card may come with data from anywhere. For links the rule of folders holds, see `archive`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge_runtime.errors import (
    DataError,
    InputError,
    did_you_mean,
    one_line,
    printable,
)
from edge_runtime.imaging.limits import ImageLimits, read_file
from edge_runtime.labels import NO_TUMOR
from trainer.data.views import SourceView

NAME = "data.toml"
TABLES = ("groups", "boxes", "partial_groups")
SETS = ("images", "partial")  # zips or folders
ABOUT = ("title", "license", "citation", "url")
SOURCE = ("name", *ABOUT, "version", "sha256", "plane", "sequence")
# By their order in a message.
KEYS = dict.fromkeys(
    ("images", *TABLES, "partial", "tumour_free", *ABOUT, "notes", "made_by", "sources")
).keys()
MAX_BYTES = 64 << 10
CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories: controls and line breaks
HINT = "mend it, or pass it over with --no-card"


@dataclass(frozen=True)
class Source:
    """Where images of a data set come from: a collection, a hospital, a scanner.

    Attributes:
        name: as the column `source` of the tables calls it.
        title, license, citation, url, version: as in a card; empty where nobody knows.
        sha256: digest over the files that were read, or of the archive; empty where unknown.
        plane, sequence: of all its slices, where no table says it; empty where unknown or mixed.
    """

    name: str
    title: str = ""
    license: str = ""
    citation: str = ""
    url: str = ""
    version: str = ""
    sha256: str = ""
    plane: str = ""
    sequence: str = ""


@dataclass(frozen=True)
class CardText:
    """What a program that makes a data set says of it: the rest is filled in by `written_card`.

    Attributes:
        made_by: the command and its version.
        sources: in the order of the card; title, licence, citation and url of the whole are
            theirs together.
        notes: for people; may have several lines.
        tumour_free: the classes without a tumour, those among them that the data set has.
    """

    made_by: str
    sources: tuple[Source, ...]
    notes: str = ""
    tumour_free: tuple[str, ...] = (NO_TUMOR,)

    def joined(self, key: str) -> str:
        """What the sources say together of one of ABOUT; each thing once."""
        return joined(getattr(source, key) for source in self.sources)


@dataclass(frozen=True)
class DataCard:
    """What a card says.

    Attributes:
        path: the card.
        files: by key, of SETS and TABLES: what is there.
        tumour_free: the classes without a tumour; None where the card does not say.
        about: by key, of ABOUT.
        sources: where the images come from.
    """

    path: Path
    files: Mapping[str, Path]
    tumour_free: tuple[str, ...] | None
    about: Mapping[str, str]
    sources: tuple[Source, ...] = ()


def source_views(sources: Iterable[Source]) -> tuple[SourceView, ...]:
    """What a card says of how the slices of each source were taken.

    Parts of one source may have an entry each: what these say differently is unknown. A card of
    one source speaks of the slices whose source nobody knows too.
    """
    parts: dict[str, list[Source]] = {}
    for each in sources:
        parts.setdefault(each.name, []).append(each)
    views = []
    for name, own in parts.items():
        planes, sequences = {each.plane for each in own}, {each.sequence for each in own}
        one = SourceView(
            name,
            planes.pop() if len(planes) == 1 else "",
            sequences.pop() if len(sequences) == 1 else "",
        )
        if one.plane or one.sequence:
            views += [one, one._replace(source="")] if len(parts) == 1 else [one]
    return tuple(views)


def joined(texts: Iterable[str]) -> str:
    """What several say together; each thing once."""
    return "; ".join(dict.fromkeys(text for text in texts if text))


def find_card(data: Path) -> DataCard | None:
    """The card of a zip or folder, with `images` among its files; None where there is none.

    A file beside a zip may be another program's: a NAME.toml without any key of a card, and a
    data.toml that does not name the zip, are none of its cards.

    Raises:
        DataError: a wrong card, or a file that it names is not there.
    """
    if data.is_dir():
        content = _parse(data / NAME)
        return None if content is None else _card(data / NAME, content, data)
    own = data.with_suffix(".toml")
    content = _parse(own)
    # data.toml beside data.zip may be the card of a third.
    if (
        content is not None
        and KEYS & content.keys()
        and not (own.name == NAME and "images" in content)
    ):
        card = _card(own, content, data)
        if not card.files["images"].samefile(data):
            raise _wrong(own, f"images is {card.files['images'].name}, not {data.name}")
        return card
    shared = data.with_name(NAME)
    content = _parse(shared)
    if content is None or not _names(shared, content, data):
        return None
    return _card(shared, content, data)


def written_card(files: Mapping[str, str], tumour_free: Iterable[str], text: CardText) -> str:
    """The card of a data set that a program has made.

    Args:
        files: by key, of SETS and TABLES: names relative to the card.
        tumour_free: the classes without a tumour.

    Raises:
        DataError: it would be larger than one that is read.
    """
    lines = [f"{key} = {_toml(text.joined(key))}" for key in ABOUT if text.joined(key)]
    lines += [f"{key} = {_toml(name)}" for key, name in files.items()]
    lines.append(f"tumour_free = [{', '.join(map(_toml, tumour_free))}]")
    if text.notes:
        lines.append(f"notes = {_toml(text.notes)}")
    lines.append(f"made_by = {_toml(text.made_by)}")
    for source in text.sources:
        lines += ["", "[[sources]]"]
        said = ((key, getattr(source, key)) for key in SOURCE)
        lines += [f"{key} = {_toml(value)}" for key, value in said if value]
    written = "\n".join(lines) + "\n"
    if len(written.encode()) > MAX_BYTES:
        raise DataError(
            f"the card of {len(text.sources):,} sources would be larger than the limit of "
            f"{MAX_BYTES >> 10} KiB: shorten what their cards say"
        )
    return written


def card_text(
    images: str | None,
    classes: Mapping[str, int],
    sources: Iterable[str],
    tumour_free: Iterable[str],
) -> str:
    """A card to fill in.

    Args:
        images: the zip's name; None for a folder's own card.
        classes: number of images by class.
        sources: names of where the images come from.
    """
    counted = ", ".join(f"{printable(name)} {count:,}" for name, count in classes.items())
    lines = [
        "# Data card, made by btc-audit. Put it and groups.csv beside the data (in its folder, or",
        "# beside the zip), and btc-train, btc-evaluate and btc-audit find all that it names.",
        f"# Classes: {counted}.",
    ]
    if there := ", ".join(map(printable, sources)):
        lines.append(f"# Sources in groups.csv: {there}.")
    lines.append("")
    if images is not None and _is_text(images):
        lines.append(f"images = {_toml(images)}")
    elif images is not None:
        lines.append(
            "# The zip's name is not UTF-8: call this file like it, with the suffix .toml."
        )
    lines.append('groups = "groups.csv"')
    lines.append(
        f"tumour_free = [{', '.join(map(_toml, tumour_free))}]  # classes without a tumour"
    )
    lines += [
        "",
        '# boxes = "boxes.csv"             # the tumours\' boxes',
        '# partial = "untyped.zip"         # slices that show one of several classes',
        '# partial_groups = "untyped.csv"',
        '# title = ""',
        '# license = ""',
        '# citation = ""',
        '# url = ""',
        '# notes = ""',
    ]
    return "\n".join(lines) + "\n"


def _names(path: Path, content: Mapping[str, Any], data: Path) -> bool:
    """Whether a card beside several zips is that of `data`.

    Raises:
        DataError: it may be: all of it is a card's, but what `images` names is not there.
    """
    if "images" not in content:
        return False
    try:
        return _file(path, content, "images").samefile(data)
    except DataError:
        if content.keys() <= KEYS:
            raise
        return False


def _card(path: Path, content: Mapping[str, Any], data: Path) -> DataCard:
    """What a card says; where it does not name its images, they are `data`."""
    for key in content:
        if key not in KEYS:
            near = did_you_mean(key, KEYS) or f"; there are {', '.join(KEYS)}"
            raise _wrong(path, f"unknown key {key[:60]!r}{near}")
    if "partial_groups" in content and "partial" not in content:
        raise _wrong(path, "partial_groups is the table of partial, which is not there")
    texts = (*ABOUT, "notes", "made_by")
    words = {key: _words(path, content, key) for key in texts if key in content}
    files = {"images": data}
    files |= {key: _file(path, content, key) for key in (*SETS, *TABLES) if key in content}
    if "partial" in files and files["partial"].samefile(path.parent):
        raise _wrong(path, "partial is the card's own folder: keep its slices in one below it")
    about = {key: words[key] for key in ABOUT if key in words}
    return DataCard(path, files, _tumour_free(path, content), about, _sources(path, content))


def _parse(path: Path) -> dict[str, Any] | None:
    """A TOML file's content; None where there is no file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    if not os.path.lexists(path):  # a link that leads nowhere is a wrong card
        return None
    try:
        # Windows editors begin a file with a byte order mark, which TOML does not know.
        text = read_file(path, ImageLimits(max_bytes=MAX_BYTES)).decode("utf-8-sig")
        return tomllib.loads(text)
    except InputError as error:
        raise _wrong(path, one_line(error)) from None
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, no TOML, a huge number
        raise _wrong(path, f"not a TOML file: {one_line(error)}") from None


def _text(path: Path, content: Mapping[str, Any], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise _wrong(path, f"{key} is no text")
    return value


def _words(path: Path, content: Mapping[str, Any], key: str) -> str:
    """A text that pages show: nothing in it may steer a terminal; notes alone have lines."""
    value = _text(path, content, key)
    line = value.replace("\n", "") if key == "notes" else value
    if hidden := [c for c in line if unicodedata.category(c) in CONTROLS]:
        raise _wrong(path, f"{key} has a character that does not show, {hidden[0]!a}")
    return value


def _tumour_free(path: Path, content: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = content.get("tumour_free", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(path, 'tumour_free is no list of texts, as ["notumor"]')
    return tuple(names) or None


def _sources(path: Path, content: Mapping[str, Any]) -> tuple[Source, ...]:
    found = content.get("sources", [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _wrong(path, "sources is no list of tables, as [[sources]] begins one")
    for each in found:
        for key in each:
            if key not in SOURCE:
                near = did_you_mean(key, SOURCE) or f"; there are {', '.join(SOURCE)}"
                raise _wrong(path, f"unknown key {key[:60]!r} of a source{near}")
        if not each.get("name"):
            raise _wrong(path, "a source without a name")
    return tuple(Source(**{key: _words(path, each, key) for key in each}) for each in found)


def _file(path: Path, content: Mapping[str, Any], key: str) -> Path:
    """What a key names, below the card's folder."""
    name = _text(path, content, key)
    slashed = name.replace("\\", "/")
    parts = PurePosixPath(slashed).parts
    if slashed.startswith("/") or ".." in parts or re.match("[A-Za-z]:", slashed):
        raise _wrong(path, f"{key} {name[:200]!r} is not inside the card's folder")
    place = path.parent.joinpath(*parts)
    try:
        there = place.exists() if key in SETS else place.is_file()
    except (OSError, ValueError):  # a name too long, or with a null byte
        there = False
    if not name or not there:
        kind = "file or folder" if key in SETS else "file"
        raise _wrong(path, f"{key} {name[:200]!r}: there is no such {kind}")
    return place


def _wrong(path: Path, why: str) -> DataError:
    return DataError(f"{path}: {why}; {HINT}")


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8, as TOML is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _toml(text: str) -> str:
    """A TOML string, which knows the escapes of JSON and no bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
