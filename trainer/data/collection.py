"""Several zips and folders of slices as one data set.

Each is a collection: its folders say for themselves which classes and splits there are, and its
tables speak of its own slices. Among several the paths of a collection begin with its name, as
they would if one folder held them all; it comes from the zip's or folder's own name alone, so that
data may move. A collection that stands alone has no name, and its paths begin with nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from edge_runtime.errors import DataError, UsageError
from trainer.data.archive import ImageArchive, Other, open_archive
from trainer.data.layout import PassedOver, arrange
from trainer.data.owners import Owner, without_mark
from trainer.data.reading import (
    Kept,
    Picture,
    Problem,
    Progress,
    Reading,
    nothing_readable,
    read_pictures,
)
from trainer.data.tables import first_folder
from trainer.data.views import SourceView


@dataclass(frozen=True)
class Collection:
    """A zip or folder of slices, and what belongs to it.

    Attributes:
        path: the zip or folder.
        name: what its paths begin with among several; empty where it stands alone.
        source: where its slices come from where no table says so; empty: `name` is as good.
        groups_csv, boxes_csv: its tables, or None. Paths in them are its own, without `name`.
        views: what its card says of how the slices of a source were taken; an entry of no source
            holds for slices whose source nobody knows.
    """

    path: Path
    name: str = ""
    source: str = ""
    groups_csv: Path | None = None
    boxes_csv: Path | None = None
    views: tuple[SourceView, ...] = ()

    @property
    def prefix(self) -> str:
        """What its paths begin with."""
        return f"{self.name}/" if self.name else ""

    @property
    def title(self) -> str:
        """What a message calls it."""
        return self.name or self.path.resolve().name

    def members(self, paths: Sequence[str]) -> dict[str, int]:
        """Where its slices stand among the paths of all: by the path within the collection."""
        prefix = self.prefix
        return {p[len(prefix) :]: i for i, p in enumerate(paths) if p.startswith(prefix)}

    def own_owners(self, owners: Sequence[Owner], members: Mapping[str, int]) -> list[Owner]:
        """The owners of its slices, their files named within the collection; none of none.

        Args:
            owners: of the slices of all.
            members: see there.
        """
        mine = [owners[i] for i in members.values()] if owners else []
        return [owner._replace(file=owner.file.removeprefix(self.prefix)) for owner in mine]

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """A DataError of one of several says of which."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.name}: {error}" if self.name else str(error)) from None


# One zip or folder, or named collections.
Data: TypeAlias = "str | os.PathLike[str] | Sequence[Collection]"


def collections_of(data: Data) -> tuple[Collection, ...]:
    """The collections in the order of their slices, that of their paths: it does not matter in
    which order they were named."""
    if isinstance(data, (str, os.PathLike)):
        return (Collection(Path(data)),)
    return tuple(sorted(data, key=lambda each: each.prefix))


def are_several(collections: Sequence[Collection]) -> bool:
    """Whether paths begin with the names of collections."""
    return bool(collections[0].name)


def title_of(data: Data) -> str:
    """What a message calls the data."""
    return ", ".join(each.title for each in collections_of(data))


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each zip or folder: its own, without a zip's suffix. A number tells those of one
    name apart, in their order."""
    names: list[str] = []
    for path in paths:
        # A link keeps its own name, `.` and `..` have none. Paths stand in tables, as UTF-8.
        own = path.name if path.name not in ("", "..") else path.resolve().name
        own = (own.removesuffix(path.suffix) if path.is_file() else own).strip() or "data"
        wanted = own.encode("utf-8", "backslashreplace").decode()
        name, number = wanted, 1
        while name in names:
            number += 1
            name = f"{wanted}-{number}"
        names.append(name)
    return names


def check_apart(paths: Sequence[Path]) -> None:
    """Refuse zips or folders of which slices would count twice.

    Raises:
        UsageError: two are one, or a folder lies in another.
    """
    real = [path.resolve() for path in paths]
    for i, one in enumerate(real):
        for at, other in enumerate(real):
            if i < at and one == other:
                raise UsageError(f"{paths[at]}: the same data as {paths[i]}; name it once")
            if one in other.parents and other.is_dir():
                raise UsageError(f"{paths[at]} lies in {paths[i]}: its slices would count twice")


def read_collections(
    collections: Sequence[Collection],
    keep: Callable[[Picture], Kept],
    progress: Progress | None = None,
) -> tuple[Reading[Kept], tuple[PassedOver, ...]]:
    """Read and decode each file once, see `read_pictures`, each collection arranged for itself.

    Args:
        keep: what is kept of a slice, whose path begins with the collection's name.
        progress: called with (done, total), over all.

    Returns:
        What was read, and all that is passed over.

    Raises:
        DataError: a collection of which nothing can be read, or a hostile archive.
    """
    arranged = []
    for each in collections:
        archive = open_archive(each.path)
        arranged.append((each, archive, *arrange(archive)))
    total = sum(len(names) for _, _, names, _ in arranged)
    read: Reading[Kept] = Reading()
    beside: list[PassedOver] = []
    before = 0
    for each, archive, names, passed_over in arranged:
        own = read_pictures(
            archive, names, _placed(each.prefix, keep), _counted(progress, before, total)
        )
        if not own.kept:
            raise nothing_readable(each.title, own.problems, (*passed_over, *own.passed_over))
        before += len(names)
        read.kept.extend(own.kept)
        read.problems.extend(Problem(each.prefix + path, reason) for path, reason in own.problems)
        read.passed_over.extend(_within(each.prefix, own.passed_over))
        read.notes.extend(each.prefix + note for note in own.notes)
        beside.extend(_within(each.prefix, passed_over))
    return read, (*_merged(beside), *_merged(read.passed_over))


def _within(prefix: str, passed_over: Iterable[PassedOver]) -> Iterator[PassedOver]:
    for each in passed_over:
        yield each._replace(paths=tuple(prefix + path for path in each.paths))


def _merged(passed_over: Iterable[PassedOver]) -> list[PassedOver]:
    """What was passed over for one reason, in one."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, reason, paths in passed_over:
        found[kind, reason] += paths
    return [PassedOver(*key, tuple(paths)) for key, paths in sorted(found.items())]


def owners_among(
    collections: Sequence[Collection], paths: Sequence[str], owners: Sequence[Owner]
) -> tuple[tuple[Owner, ...], list[str]]:
    """The owners of all slices (`paths`), of which each of several collections may have a mark of
    its own in place of patients, see `without_mark`; and sentences on them."""
    found, warnings = list(owners), []
    for each in collections if are_several(collections) else ():
        members = each.members(paths).values()
        known, told = without_mark([owners[i] for i in members])
        warnings += [f"{each.name}: {words}" for words in told]
        for i, owner in zip(members, known, strict=True):
            found[i] = owner
    return tuple(found), warnings


def tables_of(
    collections: Sequence[Collection], paths: Sequence[str], shared: object | None
) -> list[str]:
    """Which table of groups speaks of each slice, see `ties_of`: of several collections each has
    its own, unless they have one in common."""
    own = are_several(collections) and shared is None
    return [first_folder(path) for path in paths] if own else []


def open_data(data: Data) -> ImageArchive:
    """The files of all collections, by the names that begin with the collections'.

    Raises:
        DataError: neither zips nor folders, or a hostile archive.
    """
    collections = collections_of(data)
    if not are_several(collections):
        return open_archive(collections[0].path)
    return _Together({each.name: open_archive(each.path) for each in collections})


class _Together:
    """The files of several archives, each below its name."""

    def __init__(self, archives: Mapping[str, ImageArchive]) -> None:
        self._archives = archives

    def names(self) -> list[str]:
        return sorted(
            f"{at}/{name}" for at, each in self._archives.items() for name in each.names()
        )

    def others(self) -> list[Other]:
        return sorted(
            Other(f"{at}/{other.path}", other.reason)
            for at, each in self._archives.items()
            for other in each.others()
        )

    def size(self, name: str) -> int:
        at, _, inner = name.partition("/")
        return self._archives[at].size(inner)

    def read(self, name: str) -> bytes:
        at, _, inner = name.partition("/")
        return self._archives[at].read(inner)

    def begin(self, name: str, most: int) -> bytes:
        at, _, inner = name.partition("/")
        return self._archives[at].begin(inner, most)


def _placed(prefix: str, keep: Callable[[Picture], Kept]) -> Callable[[Picture], Kept]:
    if not prefix:
        return keep

    def placed(picture: Picture) -> Kept:
        owner = picture.owner._replace(file=prefix + picture.owner.file)
        return keep(replace(picture, path=prefix + picture.path, owner=owner))

    return placed


def _counted(progress: Progress | None, before: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(before + done, total)
