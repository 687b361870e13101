"""Which files of a data set are its pictures, and the class and split that their paths say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from edge_runtime.errors import InputError
from edge_runtime.labels import normalise_label
from trainer.data.archive import ANYWHERE, NO_PICTURE, ImageArchive

SPLITS = {"training": "training", "train": "training", "testing": "testing", "test": "testing"}
OUTSIDE = "in no class folder of Training or Testing"
NO_CLASS = "no picture that is read here, so no class"
ONE_SIDED = "no picture that is read here"
NAMED = 3  # files of a kind that are told by name


class PassedOver(NamedTuple):
    """Files (or folders) that were not read, all for one reason.

    Attributes:
        kind: what they have in common, such as a suffix; may be empty.
        reason: why.
        paths: their names within the data set.
    """

    kind: str
    reason: str
    paths: tuple[str, ...]

    @property
    def words(self) -> str:
        """The first of them by name, and how many more there are."""
        named = ", ".join(self.paths[:NAMED])
        more = len(self.paths) - NAMED
        return f"{named} and {more:,} more {self.kind}".rstrip() if more > 0 else named


def arrange(archive: ImageArchive) -> tuple[list[str], tuple[PassedOver, ...]]:
    """The pictures of a data set that are to be read, and what is passed over.

    Where there are Training or Testing folders, they say which classes there are: pictures
    elsewhere count only in folders of the same names. Files that are no pictures are told where
    they lie in class folders, and so is a class folder that holds no pictures at all: without a
    word its class would be missing from the model.

    Returns:
        Names of pictures, sorted; those in no class folder are among them, as problems to tell.
    """
    names = archive.names()
    places = {name: spot for name in names if (spot := class_spot(name)) is not None}
    classes = {label for label, split in places.values() if split}
    outside: list[str] = []
    divided = bool(classes)
    if divided:
        outside = [name for name, (label, _) in places.items() if label not in classes]
    else:
        classes = {label for label, _ in places.values()}
    filled = set(places.values())
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    bare: dict[str, str] = {}  # folders without a picture, and the class that each would be

    def add(path: str, reason: str) -> None:
        suffix = PurePosixPath(path).suffix.lower()
        kind = suffix or ("without a suffix" if reason == NO_PICTURE else "")
        found[kind, reason].append(path)

    for name in outside:
        found["pictures", OUTSIDE].append(name)
    for path, reason in archive.others():
        spot = class_spot(path)
        if reason in ANYWHERE:
            found["", reason].append(path)
        elif spot is not None and (spot[1] or not divided or spot[0] in classes):
            if spot not in filled and (spot[1] or not divided):
                bare[PurePosixPath(path).parent.as_posix()] = spot[0]
            add(path, reason)
        elif _is_beside_classes(path):
            add(path, reason)
    for folder, label in bare.items():
        found["", ONE_SIDED if label in classes else NO_CLASS].append(folder)
    left_out = set(outside)
    passed_over = [PassedOver(*key, tuple(paths)) for key, paths in sorted(found.items())]
    return [name for name in names if name not in left_out], tuple(passed_over)


def class_spot(name: str) -> tuple[str, str] | None:
    """`class_and_split` of a file, None where it lies in no class folder."""
    try:
        return class_and_split(name)
    except InputError:
        return None


def _is_beside_classes(name: str) -> bool:
    """Whether a file lies where class folders are expected."""
    return PurePosixPath(name).parent.name.lower() in SPLITS


def class_and_split(name: str) -> tuple[str, str]:
    """The label and the split (`training`, `testing` or empty) that a file's path says.

    Raises:
        InputError: the file lies in no class folder, or its name cannot stand in a table.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError("its name is not UTF-8 and cannot stand in a table") from None
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise InputError("lies in no class folder")
    split = next((SPLITS[p.lower()] for p in parts[:-2] if p.lower() in SPLITS), "")
    if parts[-2].lower() in SPLITS:
        raise InputError("lies in no class folder")
    return normalise_label(parts[-2]), split


def and_passed_over(passed_over: Sequence[PassedOver]) -> str:
    """How a message goes on about files that were passed over; empty where there are none."""
    count = sum(len(each.paths) for each in passed_over)
    first = next((f", such as {e.paths[0]}: {e.reason}" for e in passed_over), "")
    return f", {count} passed over{first}" if count else ""
