"""The files of a drop: on the disk, in memory, or in zips, of which only the beginning is read
until their slices are wanted."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from edge_runtime.batch import Unusable
from edge_runtime.errors import InputError
from edge_runtime.files import Note, PassedOver, is_hidden
from edge_runtime.imaging.kinds import (
    GZIP,
    HEAD,
    SUFFIXES,
    ZIP,
    Kind,
    gzipped_kind,
    halves_of,
    kind_of,
    refusal,
)
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB, ImageLimits, first_bytes
from edge_runtime.imaging.readers import read_any, size_of
from edge_runtime.studies.zips import ZipCaps, ZipReader, ZipSource, is_folder

BEGIN = 1 << 16  # bytes of a file that are read at first: nearly every header ends there
CAPS = ZipCaps(
    members=32_768,
    bytes=16 * 1024 * MIB,
    member_ratio=1_040,  # a black slice: deflate reaches 1,032
    ratio=200,
    methods=frozenset((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),  # others unpack unbounded
)
OPEN = 16  # zips of a drop that are open at once

# Why a member of a zip is none.
LINK = "a link; links in a zip are not followed"
SPECIAL = "not a regular file"
NESTED = "a zip within a zip: unpack it first"
NOTHING = "no image in this zip file"


class ZipMember(NamedTuple):
    """A file in a zip.

    Attributes:
        opened: the zips of the drop, those that were used last at the end.
    """

    zip: ZipReader
    info: zipfile.ZipInfo
    opened: list[ZipReader]

    def begin(self, most: int) -> bytes:
        """The first `most` bytes.

        Raises:
            InputError: as `ZipReader.unpack`.
        """
        if not self.opened or self.opened[-1] is not self.zip:
            if self.zip in self.opened:
                self.opened.remove(self.zip)
            self.opened.append(self.zip)
            if len(self.opened) > OPEN:
                self.opened.pop(0).rest()
        return self.zip.unpack(self.info, most)


class DropFile(NamedTuple):
    """A file of a drop.

    Attributes:
        name: what answers call it.
        source: its path, its bytes, or where it stands in a zip.
        of: what the user named, such as a folder: loose pictures of one such, which come one
            behind the other, are one study of that name. Empty: each is answered alone.
    """

    name: str
    source: str | os.PathLike[str] | bytes | ZipMember
    of: str = ""

    def begin(self, most: int = HEAD) -> bytes:
        """The first bytes; none of what is no regular file.

        Raises:
            InputError: it cannot be read.
        """
        if isinstance(self.source, bytes):
            return self.source[:most]
        if isinstance(self.source, ZipMember):
            return self.source.begin(most)
        return first_bytes(self.source, most)

    def read(self, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
        """All bytes; of half a NIfTI pair on the disk, those of both.

        Raises:
            InputError: it cannot be read, or is empty or too large.
        """
        if not isinstance(self.source, ZipMember):
            return read_any(self.source, limits)
        if self.source.info.file_size > limits.max_bytes:
            raise InputError(f"larger than the limit of {limits.max_bytes // MIB} MiB")
        data = self.source.begin(limits.max_bytes + 1)
        if not data:
            raise InputError("empty file")
        return data

    def size(self) -> int:
        """Bytes, as far as is told without reading them."""
        if isinstance(self.source, bytes):
            return len(self.source)
        return (
            self.source.info.file_size
            if isinstance(self.source, ZipMember)
            else size_of(self.source)
        )

    def kind(self) -> Kind | None:
        """What it is by its first bytes; None for what is not read, and what cannot be."""
        try:
            return kind_in(self.begin())
        except InputError:
            return None

    @property
    def is_pair(self) -> bool:
        """Whether it may be half of a NIfTI pair, which lies beside it on the disk."""
        return isinstance(self.source, (str, os.PathLike)) and bool(
            halves_of(os.fspath(self.source))
        )


class Begun(NamedTuple):
    """A file of a kind that is read, and its first BEGIN bytes."""

    file: DropFile
    kind: Kind
    start: bytes


def kind_in(start: bytes) -> Kind | None:
    """What a file is that begins so."""
    return kind_of(start[:HEAD]) or gzipped_kind(start)


def begin_all(
    files: Iterable[DropFile | Unusable], limits: ImageLimits, tell: Callable[[Note], None]
) -> Iterator[Begun | Unusable]:
    """The files of kinds that are read, those in zips among them, and why others cannot be used.

    Args:
        tell: called with what a zip holds besides images.
    """
    opened: list[ZipReader] = []
    for file in files:
        if isinstance(file, Unusable):
            yield file
            continue
        try:
            start = file.begin(BEGIN)
            if start.startswith(ZIP) and not isinstance(file.source, ZipMember):
                yield from unzipped(file.name, file.source, tell, opened, file.of)
                continue
            kind = kind_in(start)
            if kind is None and file.is_pair:
                kind = gzipped_kind(GZIP)
            if kind is None:
                if not start:
                    file.read(limits)  # says why there is none
                raise InputError(refusal(start))
        except InputError as error:
            yield Unusable(file.name, error)
            continue
        yield Begun(file, kind, start)


def unzipped(
    zip_name: str,
    source: ZipSource,
    tell: Callable[[Note], None],
    opened: list[ZipReader],
    of: str = "",
) -> Iterator[Begun | Unusable]:
    """The members of a zip that are of kinds that are read.

    Args:
        tell: called with what it holds besides images.
        opened: see `ZipMember`.
        of: see `DropFile`; a zip that stands in a folder may hold no image.

    Raises:
        InputError: the zip is refused as a whole.
    """
    archive = ZipReader(source, CAPS)
    members: dict[str, zipfile.ZipInfo] = {}
    for parts, info in archive.members:
        archive.refuse_bomb(info)
        if not parts or is_folder(info) or any(map(is_hidden, parts)):
            continue
        name = "/".join(parts)
        if name in members:
            raise InputError(f"two members are called {name!r}; refused")
        members[name] = info
    found = False
    others = PassedOver()
    for name, info in members.items():
        member = DropFile(f"{zip_name}/{name}", ZipMember(archive, info, opened), of)
        kind = stat.S_IFMT(info.external_attr >> 16)
        try:
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):  # 0: not packed on a Unix
                raise InputError(LINK if kind == stat.S_IFLNK else SPECIAL)
            start = member.begin(BEGIN)
            if start.startswith(ZIP):
                raise InputError(NESTED)
        except InputError as error:
            found = True
            yield Unusable(member.name, error)
            continue
        what = kind_in(start)
        if what is None or (what is gzipped_kind(start) and not name.lower().endswith(SUFFIXES)):
            others.add(member.name)
        else:
            found = True
            yield Begun(member, what, start)
    if others.count:
        tell(others.note(zip_name))
    if not found and of not in ("", zip_name):  # it stood in a folder
        tell(Note(zip_name, NOTHING))
    elif not found:
        raise InputError(NOTHING)
