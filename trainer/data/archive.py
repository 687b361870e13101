"""Reading a data set's files from a folder or a zip, one member at a time, in memory.

An archive is untrusted: nothing is extracted to disk, and counts, sizes and ratios are capped.
Names that point outside or a member that unpacks beyond reason mean a hostile archive, which is
refused as a whole; an image that cannot be decoded is a problem of that image only.

A folder is the user's own. One rule for links in it: a link is what it leads to, a file or a
folder, inside the data or not, under the link's own name. One that leads nowhere, or back to a
folder above it, is told and passed over. A zip holds no such files: its links are told and
passed over.

Hidden files and folders (a leading dot, and what file servers and desktops leave behind, see
`files.is_hidden`) are no data. A folder with a run.json is a run of `btc-train`, not data either,
and one with a metrics.json and a predictions.csv is what `btc-evaluate` left. Folders that hold
nothing are told: a class may be meant. What the device reads is an image file, a picture as well as
a volume, by its suffix or, where that says nothing, by its content.
"""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from edge_runtime.errors import DataError, InputError
from edge_runtime.files import is_hidden, is_index
from edge_runtime.imaging.kinds import (
    HEAD,
    PICTURE_SUFFIXES,
    SUFFIXES,
    halves_of,
    kind_of,
    other_halves,
)
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB, ImageLimits, first_bytes, read_file
from edge_runtime.imaging.readers import read_any, size_of
from edge_runtime.studies.zips import ZipCaps, ZipReader, is_folder, parts_of

MAX_MEMBERS = 500_000  # files and folders
MAX_MEMBER_BYTES = 64 * MIB  # of a picture; of a volume as many as on the device
_OF_PICTURES = ImageLimits(max_bytes=MAX_MEMBER_BYTES)
MAX_TOTAL_BYTES = 64 * 1024 * MIB
MAX_RATIO = 200  # images hardly compress; deflate reaches 1,032 on zeros
# Of archives of volumes: the voxels of one, unpacked, and masks, which are nearly all zeros.
MAX_VOLUME_BYTES = 1024 * MIB
MAX_MASK_RATIO = 1_040
_OF_VOLUMES = ImageLimits(max_bytes=MAX_VOLUME_BYTES)
RUN = "run.json"
RESULTS = frozenset({"metrics.json", "predictions.csv"})  # `btc-evaluate` writes both

# Why something is passed over.
RUN_FOLDER = "a run of btc-train, no class"
RESULTS_FOLDER = "a folder of results, no class"
EMPTY = "an empty folder"
NOWHERE = "a link that leads nowhere"
CIRCLE = "a link that leads back to a folder above it"
PACKED_LINK = "a link; links in a zip are not followed"
SPECIAL = "not a regular file"
NAMELESS = "a member without a name"
NO_PICTURE = "not a picture that is read here"
PAIR = "half of a NIfTI pair, which is not read from a zip: save both halves as one .nii file"
ANYWHERE = (
    *(RUN_FOLDER, RESULTS_FOLDER, EMPTY, NOWHERE, CIRCLE, PACKED_LINK, SPECIAL, NAMELESS),
)  # told in any folder


class Other(NamedTuple):
    """A file or folder that gives no picture, and why."""

    path: str
    reason: str


class ImageArchive(Protocol):
    """Named image files; names are relative, with forward slashes."""

    def names(self) -> list[str]:
        """Names of all image files, sorted."""
        ...

    def others(self) -> list[Other]:
        """What is there beside the image files and is not hidden, sorted."""
        ...

    def size(self, name: str) -> int:
        """Bytes that `read` gives at most; 0 where it cannot be known: reading it tells why."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file, in any thread. Raises InputError when it cannot be read."""
        ...

    def begin(self, name: str, most: int) -> bytes:
        """The first `most` bytes of one file, or all of it. Raises InputError as `read`."""
        ...


class _Listing:
    """Names of image files, and of what else is there.

    Args:
        every: every file counts as one.
    """

    def __init__(self, every: bool = False) -> None:
        self._every = every
        self.images: set[str] = set()
        self.others: list[Other] = []

    def add(self, name: str, head: Callable[[], bytes]) -> bool:
        """Take a file; `head` gives its first bytes, where the name does not tell enough.

        Returns:
            Whether it is an image file.
        """
        found = self._every or name.lower().endswith(SUFFIXES) or _is_image(name, head)
        if found:
            self.images.add(name)
        else:
            self.others.append(Other(name, NO_PICTURE))
        return found

    def names(self) -> list[str]:
        """The image files, sorted; of a NIfTI pair the half with the voxels, as on the device,
        but both where every file counts."""
        return sorted(name for name in self.images if not self._is_header_of_pair(name))

    def _is_header_of_pair(self, name: str) -> bool:
        halves = () if self._every else halves_of(name)
        return bool(halves) and (
            name.lower().endswith(halves[0]) and not self.images.isdisjoint(other_halves(name))
        )


def _is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file whose name does not say so is an image by its content: scanners name the files
    of a series without a suffix. DICOMDIR is their table of contents."""
    if is_index(PurePosixPath(name).name):
        return False
    try:
        return kind_of(head()) is not None
    except InputError:  # reading it will tell
        return True


def _limits(name: str, every: bool) -> ImageLimits:
    """Of the bytes that are read of a file."""
    if every:
        return _OF_VOLUMES
    return _OF_PICTURES if name.lower().endswith(PICTURE_SUFFIXES) else DEFAULT_LIMITS


def _made_by_us(names: Set[str]) -> str | None:
    """Why the files of these names make a folder one that our own commands left; else None."""
    if RUN in names:
        return RUN_FOLDER
    return RESULTS_FOLDER if names >= RESULTS else None


class FolderArchive:
    """Image files below a folder; see the module for links and hidden folders.

    Args:
        every: list every regular file, of up to MAX_VOLUME_BYTES, and give each as it stands, not
            a NIfTI pair as one.
    """

    def __init__(self, root: Path, every: bool = False) -> None:
        self._root, self._every = root, every

    def names(self) -> list[str]:
        """Names of all image files, sorted.

        Raises:
            DataError: a folder that may not be read, or far too many files.
        """
        return self._listing.names()

    def others(self) -> list[Other]:
        return sorted(self._listing.others)

    def size(self, name: str) -> int:
        return size_of(self._path(name), _limits(name, self._every))

    def read(self, name: str) -> bytes:
        read = read_file if self._every else read_any
        return read(self._path(name), _limits(name, self._every))

    def begin(self, name: str, most: int) -> bytes:
        return first_bytes(self._path(name), most)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"  # a `Path` would cost as much as opening the file

    @cached_property
    def _listing(self) -> _Listing:
        """
        Raises:
            DataError: see `names`.
        """
        listing = _Listing(self._every)
        closed: list[str] = []
        count = 0
        # Folders to look into, each with the folders above it: a link may lead in circles.
        waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while waiting:
            folder, above = waiting.pop()
            try:
                status = (self._root / folder).stat()
                with os.scandir(self._root / folder) as found:
                    entries = [entry for entry in found if not is_hidden(entry.name)]
            except OSError as error:
                closed.append(f"{folder or self._root}: {error.strerror}")
                continue
            own = (status.st_dev, status.st_ino)
            if own in above:
                listing.others.append(Other(folder, CIRCLE))
                continue
            ours = _made_by_us({entry.name for entry in entries})
            if folder and (ours or not entries):
                listing.others.append(Other(folder, ours or EMPTY))
                continue
            count += len(entries)
            if count > MAX_MEMBERS:
                raise DataError(f"{self._root}: more than {MAX_MEMBERS:,} files and folders")
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    mode = Path(entry.path).stat().st_mode if entry.is_symlink() else None
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        listing.others.append(Other(name, NOWHERE))
                    else:
                        closed.append(f"{name}: {error.strerror}")
                    continue
                if entry.is_dir(follow_symlinks=False) if mode is None else stat.S_ISDIR(mode):
                    waiting.append((name, above | {own}))
                else:
                    listing.add(name, partial(first_bytes, entry.path))
        if closed:
            more = f" (and {len(closed) - 1} more folders)" if len(closed) > 1 else ""
            raise DataError(f"a folder of the data cannot be read: {min(closed)}{more}")
        return listing


class ZipArchive:
    """Image files in a zip.

    Args:
        every: list every file, of up to MAX_VOLUME_BYTES.

    Raises:
        DataError: no zip, or one that points outside, repeats a name or unpacks beyond reason.
    """

    def __init__(self, path: Path, every: bool = False) -> None:
        self._every = every
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._listing = _Listing(every)
        caps = ZipCaps(MAX_MEMBERS, MAX_TOTAL_BYTES, MAX_MASK_RATIO if every else MAX_RATIO)
        try:
            self._zip = ZipReader(path, caps)
            passed = _folders_passed_over(self._zip.members)
            self._listing.others += [Other("/".join(parts), why) for parts, why in passed.items()]
            for parts, info in self._zip.members:
                if not any(parts[:depth] in passed for depth in range(1, len(parts))):
                    self._admit(path.name, parts, info)
        except InputError as error:
            raise DataError(f"{path.name}: {error}") from None

    def _admit(self, archive: str, parts: tuple[str, ...], info: zipfile.ZipInfo) -> None:
        """
        Raises:
            InputError: a bomb, or a name that another member has.
        """
        name = "/".join(parts)
        self._zip.refuse_bomb(info)
        if not parts:
            if info.file_size:
                self._listing.others.append(Other(archive, NAMELESS))
            return
        if is_folder(info) or any(map(is_hidden, parts)):
            return
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):  # 0: not packed on a Unix
            if kind != stat.S_IFDIR:
                reason = PACKED_LINK if kind == stat.S_IFLNK else SPECIAL
                self._listing.others.append(Other(name, reason))
            return
        head = partial(self._zip.unpack, info, HEAD)
        if self._listing.add(name, head) and name in self._members:
            raise InputError(f"two members are called {name!r}; refused")
        self._members[name] = info

    def names(self) -> list[str]:
        return self._listing.names()

    def others(self) -> list[Other]:
        return sorted(self._listing.others)

    def size(self, name: str) -> int:
        return min(self._members[name].file_size, _limits(name, self._every).max_bytes)

    def read(self, name: str) -> bytes:
        if halves_of(name) and not self._every:
            raise InputError(PAIR)
        info, most = self._members[name], _limits(name, self._every).max_bytes
        if info.file_size > most:
            raise InputError(f"larger than the limit of {most // MIB} MiB")
        data = self._zip.unpack(info, most + 1)
        if not data:
            raise InputError("empty file")
        return data

    def begin(self, name: str, most: int) -> bytes:
        return self._zip.unpack(self._members[name], most)


def _folders_passed_over(
    named: Sequence[tuple[tuple[str, ...], zipfile.ZipInfo]],
) -> dict[tuple[str, ...], str]:
    """The folders of a zip that our commands left, or that hold nothing, and why."""
    below: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for parts, info in named:
        if any(map(is_hidden, parts)):
            continue
        if is_folder(info) and parts:
            below[parts].update()  # it may hold nothing
        for depth in range(1, len(parts)):
            below[parts[:depth]].add(parts[depth])
    why = {folder: EMPTY if not names else _made_by_us(names) for folder, names in below.items()}
    ours = {folder for folder, reason in why.items() if reason not in (None, EMPTY)}
    return {
        folder: reason
        for folder, reason in why.items()
        if reason and not any(folder[:depth] in ours for depth in range(1, len(folder)))
    }


def member_parts(archive: str, name: str) -> tuple[str, ...]:
    """As `zips.parts_of`.

    Args:
        archive: what the message calls the zip.

    Raises:
        DataError: a name that points outside.
    """
    try:
        return parts_of(name)
    except InputError as error:
        raise DataError(f"{archive}: {error}") from None


def open_archive(path: str | os.PathLike[str], every: bool = False) -> ImageArchive:
    """A zip or a folder as an `ImageArchive`.

    Args:
        every: its files are volumes, masks and whatever else: `names` are those of all of them.

    Raises:
        DataError: neither, or a hostile archive.
    """
    place = Path(path)
    if place.is_dir():
        return FolderArchive(place, every)
    if place.is_file():
        return ZipArchive(place, every)
    raise DataError(f"{place}: no such zip file or folder")
