"""Reading a data set's files from a folder or a zip, one member at a time, in memory.

An archive is untrusted: nothing is extracted to disk, and counts, sizes and ratios are capped.
Names that point outside or a member that unpacks beyond reason mean a hostile archive, which is
refused as a whole; an image that cannot be decoded is a problem of that image only.
"""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from edge_runtime.errors import DataError, InputError
from edge_runtime.images import MIB, SUFFIXES, ImageLimits, read_file

MAX_MEMBERS = 500_000
MAX_MEMBER_BYTES = 64 * MIB
MAX_TOTAL_BYTES = 64 * 1024 * MIB
MAX_RATIO = 200  # images hardly compress; deflate reaches 1,032 on zeros


class Source(Protocol):
    """Named image files; names are relative, with forward slashes."""

    def names(self) -> list[str]:
        """Names of all image files, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file. Raises InputError when it cannot be read."""
        ...


class FolderSource:
    """Image files below a folder; links that leave it are not followed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self._root):
            found += [
                (Path(folder) / name).relative_to(self._root).as_posix()
                for name in files
                if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            ]
        return sorted(found)

    def read(self, name: str) -> bytes:
        return read_file(self._root / name, ImageLimits(max_bytes=MAX_MEMBER_BYTES))


class ZipSource:
    """Image files in a zip.

    Raises:
        DataError: no zip, or one that points outside, repeats a name or unpacks beyond reason.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            raise DataError(f"{path.name}: not a readable zip file") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise DataError(f"{path.name}: more than {MAX_MEMBERS:,} members")
        if sum(info.file_size for info in infos) > MAX_TOTAL_BYTES:
            raise DataError(f"{path.name}: unpacks to more than {MAX_TOTAL_BYTES // MIB:,} MiB")
        for info in infos:
            self._admit(path.name, info)

    def _admit(self, archive: str, info: zipfile.ZipInfo) -> None:
        name = info.filename
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or ":" in name[:3] or ".." in parts:
            raise DataError(f"{archive}: member {name!r} points outside the archive; refused")
        if info.file_size > max(MAX_RATIO * info.compress_size, MIB):
            raise DataError(
                f"{archive}: member {name!r} unpacks beyond reason (zip bomb?); refused"
            )
        if info.is_dir() or parts[0] == "__MACOSX" or parts[-1].startswith("."):
            return
        if name.lower().endswith(SUFFIXES):
            if name in self._members:
                raise DataError(f"{archive}: two members are called {name!r}; refused")
            self._members[name] = info

    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        info = self._members[name]
        if info.flag_bits & 1:
            raise InputError("encrypted")
        if info.file_size > MAX_MEMBER_BYTES:
            raise InputError(f"larger than the limit of {MAX_MEMBER_BYTES // MIB} MiB")
        try:
            with self._zip.open(info) as stream:
                data = stream.read(MAX_MEMBER_BYTES + 1)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            raise InputError(f"damaged in the archive ({error})") from None
        except (NotImplementedError, RuntimeError):
            raise InputError("packed by an unknown method") from None
        if not data:
            raise InputError("empty file")
        return data


def open_source(path: str | os.PathLike[str]) -> Source:
    """A zip or a folder as a `Source`.

    Raises:
        DataError: neither, or a hostile archive.
    """
    place = Path(path)
    if place.is_dir():
        return FolderSource(place)
    if place.is_file():
        return ZipSource(place)
    raise DataError(f"{place}: no such zip file or folder")
