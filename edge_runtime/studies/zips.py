"""A zip read in memory, one member at a time, within caps.

It is untrusted: nothing is extracted to disk, and counts, sizes and ratios are capped. Names that
point outside or what unpacks beyond reason mean a hostile zip, which is refused as a whole; a
member that cannot be unpacked is a problem of that member only.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from edge_runtime.errors import InputError
from edge_runtime.imaging.limits import MIB

NO_ZIP = "not a readable zip file"
BOMB = "unpacks beyond reason (zip bomb?); refused"
SMALLEST = 64 * MIB  # what all members together may unpack to at any ratio
BLOCK = MIB  # bytes that are unpacked at once
FAR = MIB  # bytes that are asked for at once where each asking takes long
RECORD = 256  # bytes of a member in the directory of a zip, on average, its name among them


ZipSource = str | os.PathLike[str] | bytes | Callable[[], io.RawIOBase]


@dataclass(frozen=True)
class ZipCaps:
    """What a zip is refused beyond.

    Attributes:
        members: how many.
        bytes: that all of them unpack to.
        member_ratio: of a member that unpacks to more than a MiB.
        ratio: of all members together, once these unpack to more than SMALLEST.
        methods: of compression, by the numbers of `zipfile`; others are refused member by member.
            None takes all that Python knows.
    """

    members: int
    bytes: int
    member_ratio: int
    ratio: int | None = None
    methods: frozenset[int] | None = None


class ZipReader:
    """The members of a zip.

    Args:
        source: its path, its bytes, or what opens it where it is neither.

    Attributes:
        members: the folders and the name of each (none for the archive's own root), in their order.

    Raises:
        InputError: no zip, or one that points outside or is beyond the caps.
    """

    def __init__(self, source: ZipSource, caps: ZipCaps) -> None:
        self._source, self._caps = source, caps
        self._lock = threading.Lock()  # a zip is one open file
        self._opened: tuple[zipfile.ZipFile, _Directory] | None = None
        infos = self._zip().infolist()
        if len(infos) > caps.members:
            raise InputError(f"more than {caps.members:,} members")
        size = sum(info.file_size for info in infos)
        packed = sum(info.compress_size for info in infos)
        if packed > self._size():  # then the ratios would be of what is not there
            raise InputError(BOMB)
        if size > caps.bytes:
            raise InputError(f"unpacks to more than {caps.bytes // MIB:,} MiB")
        if caps.ratio is not None and size > max(caps.ratio * packed, SMALLEST):
            raise InputError(BOMB)
        self.members = [(parts_of(info.filename), info) for info in infos]

    def _size(self) -> int:
        """Bytes of the zip."""
        assert self._opened is not None  # its members were listed
        return self._opened[1].seek(0, os.SEEK_END)

    def refuse_bomb(self, info: zipfile.ZipInfo) -> None:
        """
        Raises:
            InputError: a member that unpacks to far more than it is packed in.
        """
        if info.file_size > max(self._caps.member_ratio * info.compress_size, MIB):
            raise InputError(f"member {'/'.join(parts_of(info.filename))!r} {BOMB}")

    def unpack(self, info: zipfile.ZipInfo, most: int) -> bytes:
        """The first `most` bytes of a member.

        Raises:
            InputError: encrypted, damaged, or packed in a way that is not read.
        """
        if info.flag_bits & 1:
            raise InputError("encrypted")
        methods = self._caps.methods
        if methods is not None and info.compress_type not in methods:
            raise InputError("not supported: packed by another method than deflate")
        try:
            with self._lock, self._zip().open(info) as stream:
                return _read(stream, min(most, info.file_size + 1))
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            raise InputError(f"damaged in the archive ({error})") from None
        except (NotImplementedError, RuntimeError):
            raise InputError("packed by an unknown method") from None
        except ValueError:  # its own head is not where, or not what, the directory says
            raise InputError("damaged in the archive") from None

    def rest(self) -> None:
        """Close the file until a member is asked for."""
        with self._lock:
            self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        opened, self._opened = getattr(self, "_opened", None), None
        if opened is not None:
            for part in opened:
                part.close()

    def _zip(self) -> zipfile.ZipFile:
        """
        Raises:
            InputError: no zip, or its directory is far longer than that of so many members.
        """
        if self._opened is None:
            stream = None
            try:
                stream = _Directory(self._source, RECORD * self._caps.members)
                self._opened = zipfile.ZipFile(stream), stream
                stream.most = None
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
                raise InputError(NO_ZIP) from None
            except _TooLong:
                raise InputError(f"more than {self._caps.members:,} members") from None
            finally:
                if self._opened is None and stream is not None:
                    stream.close()
        return self._opened[0]


def _read(stream: IO[bytes], most: int) -> bytes:
    """As `stream.read`, in blocks: in one go zlib would hold it twice."""
    data, left = io.BytesIO(), most
    while left > 0 and (block := stream.read(min(left, BLOCK))):
        data.write(block)
        left -= len(block)
    return data.getvalue()


class _TooLong(Exception):
    """More is asked for than may be read."""


class _Directory(io.BufferedReader):
    """A zip of which `zipfile` reads the directory, which it does at once, whatever its size, and
    makes some hundred bytes of each 46.

    Attributes:
        most: bytes that may be read at once; None once the directory is known.
    """

    def __init__(self, source: ZipSource, most: int) -> None:
        if isinstance(source, bytes):
            super().__init__(io.BytesIO(source))
        elif callable(source):
            super().__init__(source(), FAR)
        else:
            super().__init__(io.FileIO(source))
        self.most: int | None = most

    def read(self, size: int | None = -1, /) -> bytes:
        # Without a size `zipfile` reads the end of a file, some 64 KiB.
        if self.most is not None and size is not None and size > self.most:
            raise _TooLong
        return super().read(size)


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the name of a zip's member; none for the archive's own root.

    Windows programs write backslashes, which are taken for slashes as `unzip` does (APPNOTE.TXT,
    4.4.17, knows forward slashes only).

    Raises:
        InputError: an absolute name, one with a drive, or one that climbs out of the archive.
    """
    mapped = name.replace("\\", "/")
    parts = PurePosixPath(mapped).parts
    if mapped.startswith("/") or ".." in parts or re.match("[A-Za-z]:", "".join(parts[:1])):
        raise InputError(f"member {name!r} points outside the archive; refused")
    return parts


def is_folder(info: zipfile.ZipInfo) -> bool:
    """Whether a member is a folder by its name."""
    return info.filename.endswith(("/", "\\"))
