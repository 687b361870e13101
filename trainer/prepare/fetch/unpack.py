"""Files of a collection that nobody has looked at, copied or unpacked below a folder of ours.

Archives are untrusted, as in `trainer.data.archive`: names that point outside, a name twice, and
what unpacks beyond reason mean a hostile one, which is refused as a whole. Only regular files are
written, each of them new; a link, a device or a member that cannot be read is told and left out.
So nothing is ever written through a link, or outside the folder.

Archives within (zip, tar, tar.gz) are unpacked in their turn, each into a folder of its name.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, cast

from edge_runtime.errors import DataError
from edge_runtime.files import is_hidden
from edge_runtime.imaging.kinds import GZIP
from edge_runtime.imaging.limits import MIB
from trainer.data.archive import MAX_MEMBERS, MAX_RATIO, MAX_TOTAL_BYTES, SPECIAL, member_parts
from trainer.prepare.fetch.origin import CHUNK

DEPTH = 3  # of archives in archives
MAX_HEADER = 16 * MIB  # of a member of a tar; tarfile reads it at once
ZIP, TAR = "zip", "tar"
SUFFIXES = {".zip": ZIP, ".tar": TAR, ".tar.gz": TAR, ".tgz": TAR}
ZIPS_OF_OTHERS = (".npz", ".keras", ".xlsx", ".docx", ".pptx", ".jar", ".whl", ".pt", ".pth")
OTHER_PACKERS = (".7z", ".rar", ".bz2", ".tbz2", ".xz", ".txz", ".zst")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError,
          ValueError, NotImplementedError, OverflowError, gzip.BadGzipFile)  # fmt: skip

# Why something is left out.
LINK = "a link; links of a collection are not followed"
HIDDEN = "hidden, so no data"
NAME = "its name cannot be a file's, or is not UTF-8"
ENCRYPTED = "encrypted"
METHOD = "packed by a method that is not unpacked here"
DAMAGED = "damaged in the archive"
LEFT_PACKED = "left packed: an archive that cannot be read"
BESIDE = "left packed: its folder is there already"
OTHER_PACKER = "left packed: unpack it with another program"
TOO_DEEP = "left packed: too many archives within each other"


class Damaged(DataError):
    """An archive that cannot be read to its end."""


class Unpacker:
    """Writes files below a folder.

    Args:
        root: the folder, which is there and empty.

    Attributes:
        files: SHA-256 of what was written, by its path below the root.
        left_out: names, by the reason.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, str] = {}
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self._count = self._bytes = 0

    def copy_folder(self, folder: Path, links_into: Path | None) -> None:
        """Copy a folder's files.

        Args:
            links_into: links that lead to files below it are these files.

        Raises:
            DataError: too many files, or too many bytes.
        """
        inside = None if links_into is None else links_into.resolve()
        for path in _walk(folder):
            name = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = path.resolve()
                if inside is None or not target.is_relative_to(inside) or not target.is_file():
                    self.left_out[LINK].append(name)
                    continue
            elif not stat.S_ISREG(mode):
                self.left_out[SPECIAL].append(name)
                continue
            self.copy_file(path, name)

    def copy_file(self, path: Path, name: str) -> None:
        """Copy one file.

        Raises:
            DataError: there is one of this name, too many files, or too many bytes.
        """
        self._admit(name, 1, path.stat().st_size)
        with open(path, "rb") as stream:
            self._write(name, name, stream)

    def unpack(self, archive: Path, kind: str, name: str, below: str = "") -> None:
        """Unpack an archive.

        Args:
            kind: ZIP or TAR.
            name: what messages call it.
            below: the folder below the root that it is unpacked into.

        Raises:
            Damaged: it cannot be read; what came of it is gone.
            DataError: it is hostile.
        """
        before = set(self.files)
        try:
            (self._unpack_zip if kind == ZIP else self._unpack_tar)(archive, name, below)
        except DAMAGE:
            for path in self.files.keys() - before:
                (self.root / path).unlink()
                del self.files[path]
            raise Damaged(f"{name}: a damaged archive, or none that is read here") from None

    def unpack_within(self, depth: int = 1) -> None:
        """Unpack the archives among the files, and those among theirs.

        Raises:
            DataError: one is hostile.
        """
        again = False
        told = {path for paths in self.left_out.values() for path in paths}
        for path in sorted(self.files):
            kind, stem = named_archive(path)
            if path in told:
                continue
            if path.lower().endswith(OTHER_PACKERS):
                self.left_out[OTHER_PACKER].append(path)
            if kind is None:
                continue
            if depth > DEPTH:
                self.left_out[TOO_DEEP].append(path)
            elif (self.root / stem).exists():
                self.left_out[BESIDE].append(path)
            else:
                again = self._unpack_one(path, kind, stem) or again
        if again:
            self.unpack_within(depth + 1)

    def _unpack_one(self, path: str, kind: str, stem: str) -> bool:
        try:
            self.unpack(self.root / path, kind, path, stem)
        except Damaged:
            self.left_out[LEFT_PACKED].append(path)
            return False
        (self.root / path).unlink()
        del self.files[path]
        return True

    def _unpack_zip(self, path: Path, name: str, below: str) -> None:
        with zipfile.ZipFile(path) as archive:
            infos = _reasonable_infos(archive, path, name)
            self._admit(name, len(infos), sum(info.file_size for info in infos))
            for info in infos:
                inner = _joined(below, name, info.filename)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if info.filename.endswith(("/", "\\")) or kind == stat.S_IFDIR or inner == below:
                    continue
                if kind not in (0, stat.S_IFREG):  # 0: not packed on a Unix
                    self.left_out[LINK if kind == stat.S_IFLNK else SPECIAL].append(inner)
                elif info.flag_bits & 1:
                    self.left_out[ENCRYPTED].append(inner)
                elif info.compress_type not in METHODS:
                    self.left_out[METHOD].append(inner)
                else:
                    self._write_zipped(archive, info, inner, name)

    def _write_zipped(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, inner: str, name: str
    ) -> None:
        """A damaged member costs itself only."""
        try:
            with archive.open(info) as stream:
                self._write(inner, name, stream)
        except DAMAGE:
            self.left_out[DAMAGED].append(inner)

    def _unpack_tar(self, path: Path, name: str, below: str) -> None:
        with (
            closing(_Bounded(path, name)) as stream,
            tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:", encoding="utf-8") as archive,
        ):
            for member in archive:
                if member.size < 0:  # leads back to where it was read, for ever
                    raise tarfile.ReadError
                stream.check(member.offset_data + (0 if member.issparse() else member.size))
                self._admit(name, 1, member.size)
                inner = _joined(below, name, member.name)
                if member.isdir() or inner == below:
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or member.issparse():
                    linked = member.issym() or member.islnk()
                    self.left_out[LINK if linked else SPECIAL].append(inner)
                else:
                    self._write(inner, name, content)
            # tarfile takes a damaged header for the end.
            stream.seek(archive.offset)
            if any(stream.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError

    def _admit(self, name: str, count: int, size: int) -> None:
        self._count += count
        self._bytes += size
        if self._count > MAX_MEMBERS:
            raise DataError(f"{name}: more than {MAX_MEMBERS:,} files; refused")
        if self._bytes > MAX_TOTAL_BYTES:
            raise DataError(f"{name}: unpacks to more than {MAX_TOTAL_BYTES // MIB:,} MiB; refused")

    def _write(self, inner: str, archive: str, stream: IO[bytes]) -> None:
        """Write a new file, unless its name cannot be one."""
        if any(map(is_hidden, inner.split("/"))):
            self.left_out[HIDDEN].append(inner)
            return
        if not _is_file_name(inner):
            self.left_out[NAME].append(inner)
            return
        place, digest = self.root / inner, hashlib.sha256()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            written = open(place, "xb")  # noqa: SIM115  below, after what can go wrong with names
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise DataError(f"{archive}: two members are called {inner!r}; refused") from None
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise
            self.left_out[NAME].append(inner)
            return
        try:
            with written:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
                    written.write(chunk)
        except BaseException:
            place.unlink()
            raise
        self.files[inner] = digest.hexdigest()


class _Bounded:
    """A tar, packed by gzip or not, that unpacks to no more than is reasonable: reading or seeking
    beyond that, or reading a header of many megabytes at once, is refused."""

    def __init__(self, path: Path, name: str) -> None:
        self._stream = _unzipped(path)
        self._most = _reasonable(path.stat().st_size)
        self._name = name

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            _refuse_bomb(self._name)
        data = self._stream.read(size)
        self.check(self._stream.tell())
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._stream.tell()
        self.check(offset)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def check(self, offset: int) -> None:
        """Refuse what reaches beyond reason."""
        if offset > self._most:
            _refuse_bomb(self._name)

    def close(self) -> None:
        self._stream.close()


def archive_kind(path: Path, name: str) -> str | None:
    """Which archive a downloaded file is by its content: ZIP, TAR, or None where it is none or
    one of a program's own."""
    lower = name.lower()
    with open(path, "rb") as stream:
        head = stream.read(4)
    if head in (b"PK\x03\x04", b"PK\x05\x06"):
        return None if lower.endswith(ZIPS_OF_OTHERS) else ZIP
    named, _ = named_archive(lower)
    if named is not None:  # what is no tar will be told
        return named
    try:
        with closing(_unzipped(path)) as stream:
            begin = stream.read(tarfile.BLOCKSIZE)
    except (OSError, EOFError, zlib.error):
        return None
    return TAR if begin[257:262] == b"ustar" else None


def check_archive(path: Path, name: str) -> None:
    """Look at an archive that another program is to unpack.

    Raises:
        Damaged: it cannot be read.
        DataError: it unpacks beyond reason.
    """
    try:
        if archive_kind(path, name) == ZIP:
            with zipfile.ZipFile(path) as archive:
                infos = _reasonable_infos(archive, path, name)
            _check_totals(name, len(infos), sum(info.file_size for info in infos))
        else:
            _check_tar(path, name)
    except DAMAGE:
        raise Damaged(f"{name}: a damaged archive, or none that is read here") from None


def _check_tar(path: Path, name: str) -> None:
    count = size = 0
    with (
        closing(_Bounded(path, name)) as stream,
        tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive,
    ):
        for member in archive:
            if member.size < 0:
                raise tarfile.ReadError
            if member.issparse():
                _refuse_bomb(name)
            count += 1
            size += member.size
            _check_totals(name, count, size)


def named_archive(path: str) -> tuple[str | None, str]:
    """Which archive a file is by its name, and the path without the suffix."""
    for suffix, kind in SUFFIXES.items():
        if path.lower().endswith(suffix) and len(path.rpartition("/")[2]) > len(suffix):
            return kind, path[: -len(suffix)]
    return None, path


def _unzipped(path: Path) -> BinaryIO:
    with open(path, "rb") as stream:
        packed = stream.read(2) == GZIP
    opened: Any = gzip.open(path) if packed else open(path, "rb")  # noqa: SIM115  of the caller
    return cast("BinaryIO", opened)


def _walk(folder: Path) -> Iterator[Path]:
    """What is below a folder and no folder itself, links to folders included, sorted by path."""

    def fail(error: OSError) -> NoReturn:
        raise error

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=fail):
        linked = [name for name in folders if Path(place, name).is_symlink()]
        found += [Path(place, name) for name in names + linked]
    return iter(sorted(found))


def _joined(below: str, archive: str, name: str) -> str:
    """A member's path below the root; refuses one that points outside."""
    return "/".join((*filter(None, (below,)), *member_parts(archive, name)))


def _is_file_name(path: str) -> bool:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded


def _reasonable_infos(archive: zipfile.ZipFile, path: Path, name: str) -> list[zipfile.ZipInfo]:
    """The members of a zip; all together, and each of them, unpack within reason."""
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > _reasonable(path.stat().st_size) or any(
        info.file_size > _reasonable(info.compress_size) for info in infos
    ):
        _refuse_bomb(name)
    return infos


def _check_totals(name: str, count: int, size: int) -> None:
    if count > MAX_MEMBERS:
        raise DataError(f"{name}: more than {MAX_MEMBERS:,} files; refused")
    if size > MAX_TOTAL_BYTES:
        raise DataError(f"{name}: unpacks to more than {MAX_TOTAL_BYTES // MIB:,} MiB; refused")


def _reasonable(size: int) -> int:
    """Bytes that so many packed ones may unpack to."""
    return max(MAX_RATIO * size, MIB)


def _refuse_bomb(name: str) -> NoReturn:
    raise DataError(f"{name}: unpacks beyond reason (zip bomb?); refused")
