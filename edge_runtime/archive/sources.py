"""What an archive is made of: a folder, a prefix of an object store, or a list of paths and
addresses; and each file of it, by a name, a size and what tells that it is still the same.

A folder is gone through as `btc-edge classify -r` does: hidden files are none of it, a file is an
image by its name or its content, links to folders inside it are not followed, and the header of a
NIfTI pair is no input of its own. Beside that, zips are files.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import IO, TYPE_CHECKING, NamedTuple

from edge_runtime.archive.places import CHANGED, NO_FILE, Folder, Place, place_of
from edge_runtime.batch import in_order
from edge_runtime.errors import DataError, InputError, UsageError
from edge_runtime.files import Note, PassedOver, is_hidden, is_index
from edge_runtime.imaging.kinds import (
    SUFFIXES,
    ZIP,
    is_header_of_pair,
    kind_named,
    kind_of,
)

if TYPE_CHECKING:
    from edge_runtime.archive.places import Stamp
    from edge_runtime.imaging.limits import ImageLimits
    from edge_runtime.studies.zips import ZipSource

Tell = Callable[[Note], None]

STDIN = "-"
TREE, LIST, ONE = "tree", "list", "one"  # what a source is
ARCHIVE = "zip"  # the kind of an entry that holds others
VOLUME = "nifti"  # what half of a pair is, too
NO_IMAGE = "no image in it"
TOGETHER = 1000  # files of a folder that are looked at together
READERS = 8  # lines of a list that are looked at, and its files that are read, at once
MOST_LINE = 1 << 16  # bytes of a line of a list


class Entry(NamedTuple):
    """A file of an archive.

    Attributes:
        path: what answers call it: below the folder or prefix, or as the list has it.
        size: bytes; of a NIfTI pair those of both halves; 0 where there is no regular file.
        etag: what tells that it is still the same, see `places.Stamp`; None where there is no
            regular file.
        kind: `zip`, or the name of a `kinds.Kind`, by the file's name or, where that does not
            tell, by its content; empty for what is none.
        problem: why it is not even looked at; None for nearly all.
    """

    path: str
    size: int
    etag: str | None
    kind: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """An archive. It pickles small: it travels to other processes, which open it anew.

    Args:
        word: what the user calls it.
        form: TREE, a folder or a prefix; LIST; or ONE file.
        base: the folder that paths of this machine count from, since another process may be in
            another one.
    """

    word: str
    form: str
    base: str = ""

    @property
    def readers(self) -> int:
        """Files that are worth reading at once."""
        return self._tree[0].readers if self.form == TREE else READERS

    def entries(self, tell: Tell = lambda note: None) -> Iterator[Entry]:
        """All files, in an order that follows from their names, or from the list.

        Args:
            tell: called with what is no image.

        Raises:
            InputError: nothing in it, or a folder that cannot be looked into. DataError: the
                store does not answer. UsageError: a line of a list that can be none.
        """
        found = False
        try:
            if self.form == TREE:
                yield from _walk(*self._tree, "", self.word, tell)
                return
            for line, entry in in_order(self._look, self._lines(), READERS):
                found = True
                if entry is not None:
                    yield entry
                else:
                    yield from self._folder(line, tell)
        except InputError as error:
            raise InputError(f"{self.word}: {error}") from None
        if not found:
            raise InputError(f"{self.word}: {NO_IMAGE}")

    def read(self, entry: Entry, limits: ImageLimits) -> bytes:
        """The bytes of a file; of a NIfTI pair those of both halves as one file.

        Raises:
            InputError: it cannot be read, is too large, or is not what it was.
            DataError: the place where it stood is gone, or does not answer.
        """
        place, path = self._find(entry)
        try:
            data = place.read(path, limits)
        except InputError as error:
            if str(error) == NO_FILE:
                self._check_place(place, path, entry)
            _check_same(place, path, entry, f": {error}")
            raise
        _check_same(place, path, entry)
        return data

    def zip_source(self, entry: Entry) -> ZipSource:
        """What `ZipReader` reads a zip from.

        Raises:
            InputError, DataError: as `read`.
        """
        place, path = self._find(entry)
        self._check_place(place, path, entry)
        _check_same(place, path, entry)
        return place.zip_source(path)

    def based_on(self, base: str) -> Source:
        """The same where paths of this machine that an entry has count from another folder; those
        of a folder count from it."""
        return self if self.form == TREE else replace(self, base=base)

    def check_same(self, entry: Entry) -> None:
        """
        Raises:
            InputError: a file is not what it was. DataError: the store does not answer.
        """
        _check_same(*self._find(entry), entry)

    @cached_property
    def _tree(self) -> tuple[Place, str]:
        return self._based(*place_of(self.word))

    def _based(self, place: Place, path: str) -> tuple[Place, str]:
        return place, place.join(self.base, path) if isinstance(place, Folder) else path

    @cached_property
    def _places(self) -> dict[str, Place]:
        """The stores of a list, kept since they hold connections."""
        return {}

    def __getstate__(self) -> dict[str, str]:
        return {"word": self.word, "form": self.form, "base": self.base}

    def _find(self, entry: Entry) -> tuple[Place, str]:
        if entry.problem is not None:
            raise InputError(entry.problem)
        if self.form != TREE:
            return self._locate(entry.path)
        place, root = self._tree
        return place, place.join(root, entry.path)

    def _locate(self, line: str) -> tuple[Place, str]:
        """Where a line of a list stands."""
        place, path = self._based(*place_of(line))
        return self._places.setdefault(repr(place), place), path

    def _folder(self, line: str, tell: Tell) -> Iterator[Entry]:
        """The entries of a line that is a folder; one that says so where there are none."""
        try:
            yield from _walk(*self._locate(line), line, line, tell)
        except InputError as error:
            yield Entry(line, 0, None, problem=str(error))

    def _look(self, line: str) -> tuple[str, Entry | None]:
        """The entry of a line; None for a folder's."""
        place, path = self._locate(line)
        if place.what(path) == "folder":
            return line, None
        stamp = place.stamps([path])[0]
        return line, Entry(line, *stamp, _kind(place, path, stamp) or "")

    def _lines(self) -> Iterator[str]:
        if self.form == ONE:
            yield self.word
        elif self.word == STDIN:
            yield from _lines_of(sys.stdin.buffer, self.word)
        else:
            with open(self.word, "rb") as listing:
                yield from _lines_of(listing, self.word)

    def _check_place(self, place: Place, path: str, entry: Entry) -> None:
        """Of a file that was there. What is wrong with the whole folder, as on a machine where it
        is not mounted, is no fault of its files."""
        if entry.etag is None or not isinstance(place, Folder) or os.path.lexists(path):
            return
        root = self._tree[1] if self.form == TREE else os.path.dirname(path)  # noqa: PTH120
        try:
            with os.scandir(root or os.curdir) as inside:
                if next(inside, None) is not None:
                    return
        except OSError:
            pass
        raise DataError(f"{root}: the folder is gone, empty or not on this machine")


def open_source(word: str) -> Source:
    """The archive that a word means: a folder, an address of an object store, a text file with one
    path or address a line, or `-` for such lines on stdin. An image or a zip is an archive of one.

    Raises:
        UsageError: nothing is there, or none of these. DataError: the store does not answer.
    """
    base = os.getcwd()  # noqa: PTH109 - a word as all others
    if word == STDIN:
        return Source(word, LIST, base)
    place, path = place_of(word)
    what = place.what(path)
    if not what:
        raise UsageError(f"{word}: no such folder, list or address")
    if what == "folder":
        return Source(word, TREE, base)
    stamp = place.stamps([path])[0]
    if _kind(place, path, stamp):
        return Source(word, ONE, base)
    try:
        start = place.begin(path)
    except InputError as error:
        raise UsageError(f"{word}: {error}") from None
    if stamp.etag is None or b"\0" in start or not isinstance(place, Folder):
        raise UsageError(f"{word}: no folder, no image, and no list of paths on this machine")
    return Source(word, LIST, base)


def _walk(place: Place, root: str, called: str, word: str, tell: Tell) -> Iterator[Entry]:
    """The entries of a folder: its files before those of its folders, both by their names.

    Args:
        called: goes before their names, empty for nothing.
        word: what messages call the folder.

    Raises:
        InputError: it cannot be looked into, or holds no image.
    """
    others = PassedOver()
    found = False
    waiting = [""]
    while waiting:
        below = waiting.pop()
        inside = partial(_joined, place, below)
        here = partial(_joined, place, called)
        try:
            listing = place.listing(_joined(place, root, below))
        except InputError as error:
            if not below:
                raise
            found = True
            yield Entry(here(below), 0, None, problem=str(error))
            continue
        names = iter(sorted(_wanted(listing.files)))
        while some := list(islice(names, TOGETHER)):
            paths = [_joined(place, root, inside(name)) for name in some]
            for name, stamp, kind in _looked_at(place, some, paths):
                path = here(inside(name))
                if kind is None:
                    others.add(path)
                else:
                    found = True
                    yield Entry(path, *stamp, kind)
        for name in sorted(name for name in listing.closed if not is_hidden(name)):
            found = True
            yield Entry(here(inside(name)), 0, None, problem=listing.closed[name])
        folders = sorted((name for name in listing.folders if not is_hidden(name)), reverse=True)
        waiting += map(inside, folders)
    if others.count:
        tell(others.note(word))
    if not found:
        raise InputError(NO_IMAGE)


def _joined(place: Place, folder: str, name: str) -> str:
    return place.join(folder, name) if folder and name else folder or name


def _wanted(files: set[str]) -> Iterator[str]:
    """The files of a folder that are inputs of their own, if they are images."""
    shown = {name for name in files if not is_hidden(name)}
    return (name for name in shown if not is_header_of_pair(name, shown))


def _looked_at(
    place: Place, names: list[str], paths: list[str]
) -> Iterator[tuple[str, Stamp, str | None]]:
    """Of files, what tells that they are the same, and their kind, None for no image."""
    stamps = place.stamps(paths)

    def kind(number: int) -> str | None:
        if is_index(names[number]):
            return None
        return _kind(place, paths[number], stamps[number])

    kinds = in_order(kind, range(len(names)), place.readers)
    yield from zip(names, stamps, kinds, strict=True)


def _kind(place: Place, path: str, stamp: Stamp) -> str | None:
    """What a file is, by its name or, where that does not tell, by its content; empty for an image
    by its name, or a file, that cannot be read, which is told when its turn comes; None for no
    image."""
    is_there = stamp.etag is not None  # opening a device may do something
    if path.lower().endswith(SUFFIXES):
        kind = kind_named(path)
        return "" if not is_there else VOLUME if kind is None else kind.name
    try:
        start = place.begin(path) if is_there else b""
    except InputError:
        return ""
    if start.startswith(ZIP):
        return ARCHIVE
    kind = kind_of(start)
    return None if kind is None else kind.name


def _check_same(place: Place, path: str, entry: Entry, more: str = "") -> None:
    if place.stamps([path])[0] != (entry.size, entry.etag):
        raise InputError(f"{CHANGED}{more}")


def _lines_of(stream: IO[bytes], word: str) -> Iterator[str]:
    """
    Raises:
        UsageError: a line that is no path.
    """
    start = codecs.BOM_UTF8  # as editors of Windows begin a text
    while line := stream.readline(MOST_LINE):
        if len(line) == MOST_LINE:
            raise UsageError(f"{word}: a line of more than {MOST_LINE} bytes: no list of paths")
        if path := os.fsdecode(line.removeprefix(start).rstrip(b"\r\n")):
            yield path
        start = b""
