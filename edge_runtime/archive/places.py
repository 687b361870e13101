"""Where an archive and its answers stand: folders of this machine, or prefixes of an object store
through pyarrow's file systems. Both look alike from above.

An object store is named by its address, `s3://bucket/prefix` or `gs://bucket/prefix`, with
pyarrow's options in its query. Who may read it is told by the environment, as its own tools have
it; an address that holds a credential is refused, since addresses stand in manifests.

What is wrong with one file is an `InputError`, and becomes an answer with status error. What is
wrong with the place (a folder that is not mounted, a store that does not answer) is a `DataError`:
whoever asked must ask again, and nothing is answered meanwhile.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from edge_runtime.errors import DataError, InputError, UsageError, one_line
from edge_runtime.files import replacing
from edge_runtime.imaging.kinds import HEAD, halves_of, other_halves
from edge_runtime.imaging.limits import ImageLimits, check_size, first_bytes, read_source
from edge_runtime.imaging.nifti_pair import join_pair, other_half
from edge_runtime.imaging.readers import read_any
from edge_runtime.studies.zips import FAR, ZipSource

SCHEMES = ("s3", "gs", "gcs")
NO_ADDRESS = "no address such as s3://bucket/prefix"
NO_FILE = "no such file"
CHANGED = "changed since the manifest was made"
LINK = "a link to a folder: name the folder itself"
UNFINISHED = "unfinished"  # folder of files that are being written


class Stamp(NamedTuple):
    """What tells that a file is still the same.

    Attributes:
        size: bytes; of half a NIfTI pair, those of both halves.
        etag: when it was modified, in nanoseconds (of object stores, mostly whole seconds), of
            a pair for each half; None of what is no regular file.
    """

    size: int
    etag: str | None


class Listing(NamedTuple):
    """What stands in one folder.

    Attributes:
        folders: names.
        files: names.
        closed: name -> why that cannot be looked into.
    """

    folders: list[str]
    files: set[str]
    closed: dict[str, str]


class Place(Protocol):
    """A tree of files. Paths are those of the place, `/` between their parts or as the system has
    it; it pickles small, since it travels to other processes.
    """

    @property
    def readers(self) -> int:
        """Files that are worth reading at once: more where each takes long to ask for."""
        ...

    def join(self, folder: str, name: str) -> str:
        """The path of a name in a folder."""
        ...

    def what(self, path: str) -> str:
        """`folder`, `file`, or empty for what is not there."""
        ...

    def listing(self, folder: str) -> Listing:
        """
        Raises:
            InputError: it cannot be looked into.
        """
        ...

    def stamps(self, paths: list[str]) -> list[Stamp]:
        """Of files, of those of one folder best behind its listing."""
        ...

    def begin(self, path: str, most: int = HEAD) -> bytes:
        """The first bytes; none of what is no regular file.

        Raises:
            InputError: it cannot be read.
        """
        ...

    def read(self, path: str, limits: ImageLimits) -> bytes:
        """All bytes; of half a NIfTI pair, those of both.

        Raises:
            InputError: see `limits.read_file`.
        """
        ...

    def zip_source(self, path: str) -> ZipSource:
        """What `ZipReader` reads a zip from."""
        ...

    def opened(self, path: str) -> BinaryIO:
        """A file to be read where it is asked for.

        Raises:
            InputError: not there. OSError: of a folder, it cannot be opened.
        """
        ...

    def write(self, path: str, data: bytes) -> None:
        """Have a file, whole or not at all; folders are made."""
        ...

    def remove(self, path: str) -> None:
        """Have a file no more."""
        ...


def is_address(word: str) -> bool:
    """Whether a word names an object store."""
    return re.match("[a-z][a-z0-9+.-]*://", word, flags=re.I) is not None


def place_of(word: str) -> tuple[Place, str]:
    """The place that a word means, and the path in it.

    Raises:
        UsageError: an address of another kind, or with a credential.
    """
    if not is_address(word):
        return Folder(), word
    parts = _split(word)
    if parts.scheme.lower() not in SCHEMES:
        raise UsageError(
            f"{parts.scheme}:// is not supported: s3://bucket/prefix or gs://bucket/prefix"
        )
    if parts.password is not None or parts.username not in (None, "anonymous"):
        raise UsageError(
            "an address with a credential: give it by the environment, as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if not parts.hostname or parts.fragment:
        raise UsageError(NO_ADDRESS)
    query = f"?{parts.query}" if parts.query else ""
    store = Objects(f"{parts.scheme.lower()}://{parts.netloc}", query)
    return store, f"{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}".rstrip("/")


def absolute(word: str) -> str:
    """A word that means the same place from whichever folder."""
    return word if is_address(word) else os.path.abspath(word)  # noqa: PTH100 - links stay


def _split(word: str) -> SplitResult:
    try:
        return urlsplit(word)
    except ValueError:  # brackets that hold no address
        raise UsageError(NO_ADDRESS) from None


@dataclass(frozen=True)
class Folder:
    """Files of this machine."""

    readers: int = field(default=1, init=False)

    def join(self, folder: str, name: str) -> str:
        return os.path.join(folder, name)  # noqa: PTH118 - paths stay as the user wrote them

    def what(self, path: str) -> str:
        if os.path.isdir(path):  # noqa: PTH112 - as above
            return "folder"
        return "file" if os.path.lexists(path) else ""

    def listing(self, folder: str) -> Listing:
        found = Listing([], set(), {})
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not _is_folder(entry):
                        found.files.add(entry.name)
                    elif _is_link(entry):
                        found.closed[entry.name] = LINK
                    else:
                        found.folders.append(entry.name)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}") from None
        return found

    def stamps(self, paths: list[str]) -> list[Stamp]:
        return list(map(_stamp, paths))

    def begin(self, path: str, most: int = HEAD) -> bytes:
        return first_bytes(path, most)

    def read(self, path: str, limits: ImageLimits) -> bytes:
        return read_any(path, limits)

    def zip_source(self, path: str) -> ZipSource:
        return path

    def opened(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def write(self, path: str, data: bytes) -> None:
        # Not beside it: what reads all Parquet files of a folder would read the half-written too.
        # The head stands beside their folders, and above it nothing is ours.
        unfinished = Path(path).parent.parent / UNFINISHED if path.endswith(".parquet") else None
        with replacing(path, within=unfinished) as part:
            part.write_bytes(data)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Whether a folder may lead anywhere, or round in a circle."""
    junction = getattr(os.path, "isjunction", None)  # of Windows, from Python 3.12 on
    return entry.is_symlink() or (junction is not None and junction(entry.path))


def _stamp(path: str) -> Stamp:
    """Of a file of this machine."""
    size, times = 0, []
    halves: list[str | os.PathLike[str]] = [path]
    if halves_of(path) and (other := other_half(path)) is not None:
        halves.append(other)
    for half in halves:
        try:
            status = os.stat(half)  # noqa: PTH116
        except (OSError, ValueError):
            return Stamp(0, None)
        if not stat.S_ISREG(status.st_mode):
            return Stamp(0, None)
        size += status.st_size
        times.append(str(status.st_mtime_ns))
    return Stamp(size, "+".join(times))


@dataclass
class Objects:
    """Objects of a store.

    Args:
        root: scheme and bucket, as `s3://bucket`.
        query: pyarrow's options, with their `?`, or empty.
    """

    root: str
    query: str
    readers: int = field(default=8, init=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "query": self.query, "readers": self.readers}

    def join(self, folder: str, name: str) -> str:
        return f"{folder}/{name}"

    def what(self, path: str) -> str:
        from pyarrow.fs import FileType

        with _answering(self.root):
            kind = self._system.get_file_info(path).type
        return {FileType.File: "file", FileType.Directory: "folder"}.get(kind, "")

    def listing(self, folder: str) -> Listing:
        from pyarrow.fs import FileSelector, FileType

        found = Listing([], set(), {})
        self._listed.clear()
        with _answering(self.root):
            for info in self._system.get_file_info(FileSelector(folder)):
                if info.type == FileType.Directory:
                    found.folders.append(info.base_name)
                else:
                    found.files.add(info.base_name)
                    self._listed[info.path] = info
        return found

    def stamps(self, paths: list[str]) -> list[Stamp]:
        infos = [self._listed.pop(path, None) for path in paths]
        missing = [path for path, info in zip(paths, infos, strict=True) if info is None]
        asked: Iterator[Any] = iter(())
        if missing:
            with _answering(self.root):
                asked = iter(self._system.get_file_info(missing))
        known = (next(asked) if info is None else info for info in infos)
        return [self._stamp(path, info) for path, info in zip(paths, known, strict=True)]

    def begin(self, path: str, most: int = HEAD) -> bytes:
        with self._opened(path) as file:
            return file.read(most) or b""

    def read(self, path: str, limits: ImageLimits) -> bytes:
        if halves_of(path) and (pair := self._pair(path)) is not None:
            header = self._whole(pair[0], limits)
            with self.opened(pair[1]) as image:
                return join_pair(header, image, limits)
        return self._whole(path, limits)

    def zip_source(self, path: str) -> ZipSource:
        return lambda: _Ranged(self.root, self._open(path))

    def opened(self, path: str) -> BinaryIO:
        return io.BufferedReader(self._opened(path), FAR)

    def write(self, path: str, data: bytes) -> None:
        # One piece, and then the end: until that comes, the store shows nothing.
        with _answering(self.root):
            stream = self._system.open_output_stream(path, compression=None)  # not by its name
            stream.write(data)
            stream.close()

    def remove(self, path: str) -> None:
        with _answering(self.root), suppress(FileNotFoundError):
            self._system.delete_file(path)

    @cached_property
    def _system(self) -> Any:
        """
        Raises:
            UsageError: options that pyarrow does not know.
        """
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem

        try:
            return FileSystem.from_uri(f"{self.root}{self.query}")[0]
        except (ArrowException, OSError, ValueError) as error:
            raise UsageError(f"{self.root}: {one_line(error)}") from None

    @cached_property
    def _listed(self) -> dict[str, Any]:
        """By path, what the last listing told and nobody asked for yet."""
        return {}

    def _stamp(self, path: str, info: Any) -> Stamp:
        infos = [info]
        if halves_of(path) and (pair := self._pair(path)) is not None:
            other = pair[0] if pair[0] != path else pair[1]
            with _answering(self.root):
                infos.append(self._system.get_file_info(other))
        if not all(info.is_file for info in infos):
            return Stamp(0, None)
        # A listing tells parts of a second that a single object does not.
        times = (str(info.mtime_ns // 10**9 * 10**9) for info in infos)
        return Stamp(sum(info.size for info in infos), "+".join(times))

    def _pair(self, path: str) -> tuple[str, str] | None:
        """Header and image of a pair that is whole."""
        own = path.lower().endswith(halves_of(path)[0])
        folder, _, name = path.rpartition("/")
        for other in other_halves(name):
            there = f"{folder}/{other}"
            if self.what(there) == "file":
                return (path, there) if own else (there, path)
        return None

    def _whole(self, path: str, limits: ImageLimits) -> bytes:
        with self._opened(path) as file:
            check_size(file.seek(0, os.SEEK_END), limits)
            file.seek(0)
            data = file.readall()
        return read_source(data, limits)

    def _open(self, path: str) -> Any:
        """
        Raises:
            InputError: not there. DataError: the store does not answer.
        """
        try:
            with _answering(self.root):
                return self._system.open_input_file(path)
        except FileNotFoundError:
            raise InputError(NO_FILE) from None

    def _opened(self, path: str) -> _Ranged:
        return _Ranged(self.root, self._open(path))


class _Ranged(io.RawIOBase):
    """An object that is read where it is asked for."""

    def __init__(self, root: str, file: Any) -> None:
        self._root, self._file = root, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readall(self) -> bytes:
        with _answering(self._root):
            data: bytes = self._file.read()
            return data

    def readinto(self, buffer: Any) -> int:
        with _answering(self._root):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _answering(self._root):
            place: int = self._file.seek(offset, whence)
            return place

    def tell(self) -> int:
        with _answering(self._root):
            place: int = self._file.tell()
            return place

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
        super().close()


@contextmanager
def _answering(root: str) -> Iterator[None]:
    """
    Raises:
        DataError: the store says no, or nothing. FileNotFoundError stays what it is.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{root}: {one_line(error)[:300]}") from None
