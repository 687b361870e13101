"""The data sets that a command line names, and the facts of their pictures.

A data set is a folder or zip with a card (see `trainer.data.card`), or one of class folders alone.
Each picture is read once; a slice keeps about 2 KB of facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.errors import DataError, InputError, UsageError, printable
from edge_runtime.files import is_hidden
from edge_runtime.imaging.decode import read_header
from edge_runtime.imaging.kinds import KINDS
from edge_runtime.labels import normalise_label
from edge_runtime.model.metadata import is_label
from trainer.data.archive import FolderArchive, ImageArchive, open_archive
from trainer.data.boxes import read_boxes
from trainer.data.card import DataCard, find_card
from trainer.data.groups import read_groups
from trainer.data.layout import SPLITS, PassedOver, arrange
from trainer.data.near_duplicates import Thumbnails
from trainer.data.reading import Picture, Progress, read_pictures
from trainer.prepare.folder import MASKS
from trainer.prepare.rows import Box

VOLUME = "a volume, which may name its patient: btc-data volumes makes a data set of them, to join"
_OF_VOLUMES = frozenset(kind.name for kind in KINDS if not kind.is_picture)

Skip = Callable[[str, str], None]  # told of a file that is left out, and why
Say = Callable[[str], None]


@dataclass(frozen=True)
class Input:
    """One of the data sets.

    Attributes:
        name: what it is called in the result: part of its paths.
        path: folder or zip.
        card: what is known of it, where it has a card.
    """

    name: str
    path: Path
    card: DataCard | None

    @property
    def masks(self) -> FolderArchive | None:
        """The tumours' masks, where a command of btc-data left some beside the slices."""
        place = self.path / MASKS
        own = self.path.is_dir() and self.card is not None
        return FolderArchive(place) if own and place.is_dir() else None


@dataclass
class Fact:
    """What is kept of a picture.

    Attributes:
        number: of its input.
        archive: what it is read from again.
        name: within the archive.
        partial: whether it is of the card's `partial`.
        label, split: see `layout.class_and_split`.
        sha256: of the file, hexadecimal.
        pixels, thumbnail: see `reading.Picture`.
        row: of a table of groups; empty where there is none.
        box: of a table of boxes.
        mask: SHA-256 of its mask's file, hexadecimal; empty where it has none.
    """

    number: int
    archive: ImageArchive
    name: str
    partial: bool
    label: str
    split: str
    sha256: str
    pixels: str
    thumbnail: Thumbnails
    row: Mapping[str, str] = field(default_factory=dict)
    box: Box | None = None
    mask: str = ""


def find_inputs(words: Sequence[str], no_card: bool = False) -> list[Input]:
    """The inputs that a command line names, as PATH or NAME=PATH.

    Raises:
        UsageError: none of that name, a name that cannot be a folder's here, or two alike.
        DataError: a wrong card.
    """
    inputs: list[Input] = []
    for word in words:
        name, equals, rest = word.partition("=")
        named = bool(equals) and not Path(word).exists()
        path = Path(rest if named else word)
        if not path.exists():
            raise UsageError(f"{path}: no such zip file or folder")
        if not named:
            whole = path.resolve()
            name = whole.name if path.is_dir() else whole.stem
        if why := _wrong_name(name, [each.name for each in inputs]):
            raise UsageError(f"{name!r} {why}; name it otherwise, as one={path}")
        inputs.append(Input(name, path, None if no_card else find_card(path)))
    return inputs


def read_input(
    number: int,
    each: Input,
    skip: Skip,
    say: Say,
    progress: Progress | None,
) -> tuple[list[Fact], list[str]]:
    """The facts of an input's pictures, with what its tables say of each; and the reason for each
    file that gives none.

    Args:
        number: of the input.
        skip, say: told of what is left out, and of what one should know.

    Raises:
        DataError: no readable picture, or a wrong table.
    """
    files = each.card.files if each.card else {"images": each.path}
    masks = each.masks
    masked = set(masks.names()) if masks else set()
    facts: list[Fact] = []
    problems: list[str] = []
    for key, table in (("images", "groups"), ("partial", "partial_groups")):
        if key not in files:
            continue
        archive = open_archive(files[key])
        names, passed_over = arrange(archive)
        for passed in passed_over:
            skip(f"{each.name}: {passed.words}", passed.reason)
            problems += [passed.reason] * len(passed.paths)

        def keep(
            picture: Picture, archive: ImageArchive = archive, partial: bool = key == "partial"
        ) -> Fact:
            # One that is called ` train` would be a class here, and a split in the result.
            if not is_label(picture.label) or picture.label.lower() in SPLITS:
                raise InputError("no class can be called as its folder is: rename that")
            if picture.header.format in _OF_VOLUMES:
                raise InputError(VOLUME)
            return Fact(
                number, archive, picture.path, partial, picture.label, picture.split,
                picture.sha256.hex(), picture.pixels, picture.thumbnail,
                mask=_mask_of(picture, masks) if picture.path in masked else "",
            )  # fmt: skip

        reading = read_pictures(archive, names, keep, progress)
        volumes = tuple(path for path, reason in reading.problems if reason == VOLUME)
        for passed in [
            *reading.passed_over,
            *[PassedOver("volumes", VOLUME, volumes)] * any(volumes),
        ]:
            skip(f"{each.name}: {passed.words}", passed.reason)
            problems += [passed.reason] * len(passed.paths)
        for path, reason in reading.problems:
            if reason != VOLUME:
                skip(f"{each.name}: {path}", reason)
                problems.append(reason.replace(path, "its file"))
        _add_tables(reading.kept, each, files.get(table), files.get("boxes"), say)
        facts += reading.kept
    if not facts:
        raise DataError(f"{each.path}: no readable picture in class folders")
    if strange := sorted(masked - {fact.name for fact in facts if fact.mask}):
        say(
            f"{each.name}: {len(strange):,} files in {MASKS}, such as {strange[0]}, are no PNG of "
            "the size of a slice that is called so; they are left out"
        )
    if each.card is None:
        say(f"{each.name}: no data card, so nobody knows its licence and where it comes from")
    return facts, problems


def _mask_of(picture: Picture, masks: FolderArchive | None) -> str:
    """The digest of a slice's mask; empty where its file is none."""
    try:
        encoded = masks.read(picture.path) if masks else b""
        header = read_header(encoded)
    except InputError:
        return ""
    height, width = picture.gray.shape
    if header is None or header[:3] != ("png", width, height):
        return ""
    return hashlib.sha256(encoded).hexdigest()


def _add_tables(
    facts: list[Fact], each: Input, groups: Path | None, boxes: Path | None, say: Say
) -> None:
    """Add to each fact its row of the tables."""
    if groups is not None and facts:
        table = read_groups(groups, [fact.name for fact in facts])
        for fact in facts:
            fact.row = table[fact.name]
        labels = ((fact, fact.row.get("label", "")) for fact in facts)
        other = [
            fact.name
            for fact, label in labels
            if normalise_label(label or fact.label) != fact.label
        ]
        if other:
            say(
                f"{each.name}: {groups.name} gives {len(other):,} slices another label than their "
                f"folder, such as {other[0]}; the folder counts"
            )
    images = [fact for fact in facts if not fact.partial]
    if boxes is not None and images:
        found = read_boxes(boxes, [fact.name for fact in images])
        for fact, (left, top, right, bottom) in zip(images, found.tolist(), strict=True):
            if left == left:  # not NaN
                fact.box = (left, top, right, bottom)


def _wrong_name(name: str, others: Sequence[str]) -> str:
    """Why an input cannot be called so; empty where it can."""
    if not name or name != printable(name) or "/" in name or "\\" in name or not is_label(name):
        return "cannot be a folder's name here"
    if is_hidden(name):
        return "would be a hidden folder"
    if name.lower() in SPLITS:
        return "would be taken for one side of a split"
    if name.casefold() in (other.casefold() for other in others):
        return "is the name of two inputs"
    return ""
