"""The one reader of a data set's slices: each file is hashed and decoded once.

A picture is one slice. A DICOM or NIfTI file gives those that show a head, cut by the same code and
within the same limits as on the device.

A training (`trainer.data.dataset`) and an audit (`trainer.audit.files`) keep different things of a
picture; what both need is measured here.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.batch import Budget, Reservation, in_order
from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.decode import decode, decode_memory, read_header
from edge_runtime.imaging.head import shows_head
from edge_runtime.imaging.headers import Header
from edge_runtime.imaging.kinds import KINDS, gzipped_kind, kind_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB
from edge_runtime.imaging.readers import numbered, open_slices
from edge_runtime.imaging.stack import Stack
from edge_runtime.labels import NO_TUMOR
from trainer.data.archive import MAX_MEMBER_BYTES, ImageArchive
from trainer.data.file_statistics import file_statistics
from trainer.data.layout import PassedOver, and_passed_over, class_and_split
from trainer.data.near_duplicates import Thumbnails, thumbnail
from trainer.data.owners import Owner, read_owner
from trainer.data.slices import file_and_number, slice_name
from trainer.data.workers import workers

Progress = Callable[[int, int], None]  # called with (done, total)
Kept = TypeVar("Kept")

# Bytes that the files in work and their decoding may take together: what a single picture may. A
# volume that needs more is in memory alone.
MEMORY = MAX_MEMBER_BYTES + DEFAULT_LIMITS.max_memory
SMALL = 16 * MIB  # what decoding gets before the file's header is known
PER_PIXEL = 8  # bytes that what is measured of a decoded slice takes at most
MAX_SLICES = 500_000  # of a data set; as many as it may have files
VOLUMES = frozenset(kind.name for kind in KINDS if not kind.is_picture)  # DICOM and NIfTI
PACKAGE = "pip install"  # in the reason of a file that a package is missing for


@dataclass(frozen=True)
class Picture:
    """A readable slice of a data set.

    Attributes:
        path: its name within the data set, see `slice_name`.
        label: the class that its folder names.
        split: `training`, `testing` or empty.
        encoded: the file.
        header: what the file's first bytes say; sizes alone where they say nothing. Of a DICOM or
            NIfTI file the kind and the slice's sizes.
        gray: the decoded slice, uint8 H×W.
        sha256: 32 bytes, of the file; of a slice of several that and its number.
        pixels: digest of `gray`, 16 hexadecimal digits.
        thumbnail: uint8 32×32, see `near_duplicates`.
        file_statistics: float32 array of 10, see `file_statistics`. A file's bytes are shared
            evenly among its slices.
        owner: whose slice it is.
    """

    path: str
    label: str
    split: str
    encoded: bytes
    header: Header
    gray: npt.NDArray[np.uint8]
    sha256: bytes
    pixels: str
    thumbnail: Thumbnails
    file_statistics: npt.NDArray[np.float32]
    owner: Owner


class Problem(NamedTuple):
    """A file that cannot be used, and why in one line."""

    path: str
    reason: str


@dataclass(frozen=True)
class Reading(Generic[Kept]):
    """What was read of a data set.

    Attributes:
        kept: of each slice, in the order of the files.
        problems: the files that cannot be used, in their order.
        passed_over: those that a package is missing for, all together.
        notes: a sentence on each file of which not every slice was taken.
    """

    kept: list[Kept] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def unread(self) -> list[str]:
        """The files of which nothing was read."""
        return [path for path, _ in self.problems] + [
            path for each in self.passed_over for path in each.paths
        ]


@dataclass(frozen=True)
class _File(Generic[Kept]):
    """What was kept of a file's slices, and how many of them show no head."""

    kept: list[Kept]
    empty: int


def read_pictures(
    archive: ImageArchive,
    names: Sequence[str],
    keep: Callable[[Picture], Kept],
    progress: Progress | None = None,
) -> Reading[Kept]:
    """Read and decode each file in one of several threads, which share MEMORY.

    A file of which decoding takes more than SMALL lets go of what it has until there is room, and
    is read again; one that takes more than MEMORY, measuring it included, is in memory alone. Of a
    volume one slice at a time is in memory, and what is kept of them. One that is damaged anywhere
    is a problem as a whole: nobody knows what half a head shows.

    Args:
        names: files of `archive`, see `layout.arrange`.
        keep: what is kept of a slice, called in several threads; an InputError makes its file a
            problem.
        progress: called with (done, total).

    Raises:
        DataError: more than MAX_SLICES slices.
    """
    memory, files = Budget(MEMORY), frozenset(names)

    def work(name: str) -> _File[Kept] | Problem:
        with memory.taken(archive.size(name) + SMALL) as reserved:
            try:
                return _read(archive, name, files, keep, reserved)
            except InputError as error:
                return Problem(name, _for_training(one_line(error)))

    reading: Reading[Kept] = Reading()
    lacking: dict[tuple[str, str], list[str]] = defaultdict(list)
    results = zip(names, in_order(work, names, workers()), strict=True)
    for done, (name, result) in enumerate(results, 1):
        if isinstance(result, _File):
            reading.kept.extend(result.kept)
            if result.empty:
                reading.notes.append(_left_out(name, result))
        elif PACKAGE in result.reason:  # told once, not for each of thousands of files
            lacking[PurePosixPath(name).suffix.lower(), result.reason].append(name)
        else:
            reading.problems.append(result)
        if len(reading.kept) > MAX_SLICES:
            raise DataError(f"more than {MAX_SLICES:,} slices; {name} is beyond what is read")
        if progress is not None:
            progress(done, len(names))
    reading.passed_over.extend(
        PassedOver(kind or "files", reason, tuple(paths))
        for (kind, reason), paths in sorted(lacking.items())
    )
    return reading


def read_again(
    archive: ImageArchive, names: Iterable[str]
) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The slices (uint8 H×W) of such names as `Picture.path`, one at a time, each file read once;
    what is gone or cannot be read any more is left out.

    Raises:
        DataError: the archive cannot be listed any more.
    """
    files = frozenset(archive.names())
    wanted: dict[str, set[int | None]] = defaultdict(set)
    for name in names:
        file, number = file_and_number(name, files)
        wanted[file].add(number)
    for file, numbers in wanted.items():
        try:
            for number, gray in numbered(open_slices(archive.read(file))):
                if number in numbers:
                    numbers.remove(number)
                    yield slice_name(file, number), gray
                if not numbers:
                    break
        except (InputError, KeyError, OSError):  # KeyError: no such member in the zip
            continue


def nothing_readable(
    name: str, problems: Sequence[tuple[str, str]], passed_over: Sequence[PassedOver]
) -> DataError:
    """The error of a data set (called `name`) of which no picture can be read."""
    return DataError(
        f"{name}: no readable image in class folders "
        f"({len(problems)} unreadable{and_passed_over(passed_over)}); "
        "need CLASS/image.jpg or Training/CLASS/image.jpg"
    )


def _read(
    archive: ImageArchive,
    name: str,
    files: Collection[str],
    keep: Callable[[Picture], Kept],
    reserved: Reservation,
) -> _File[Kept]:
    """What is kept of a file for which its size and SMALL are reserved.

    Args:
        files: the names that no slice may have.
    """
    label, split = class_and_split(name)
    encoded = archive.read(name)
    # A gzip file last: nothing but unpacking tells what it is.
    kind = kind_of(encoded) or gzipped_kind(encoded)
    volume = None if kind is None or kind.is_picture else kind.name
    begin = _begin(encoded, volume)
    if (needed := _memory(begin)) > SMALL:
        del encoded, begin  # nobody holds memory while waiting for more
        reserved.become(archive.size(name) + needed)
        encoded = archive.read(name)
        begin = _begin(encoded, volume)
    kept: list[Kept] = []
    empty = 0
    if isinstance(begin, Stack):
        slices = _slices(name, volume or "", encoded, begin, files)
    else:
        slices = iter([_picture(name, encoded, begin)])
    for each in slices:
        if each is None:
            empty += 1
            continue
        gray = each.gray
        kept.append(
            keep(
                Picture(
                    each.path,
                    label,
                    split,
                    encoded,
                    each.header,
                    gray,
                    each.sha256,
                    hashlib.sha256(gray.data).hexdigest()[:16],
                    thumbnail(gray),
                    file_statistics(each.share, each.header, gray),
                    each.owner,
                )
            )
        )
    if not kept:
        raise InputError(f"none of its {empty:,} slices shows a head")
    return _File(kept, empty)


class _Decoded(NamedTuple):
    """A slice, and what its file says of it."""

    path: str
    share: float  # bytes of the file
    header: Header
    gray: npt.NDArray[np.uint8]
    sha256: bytes
    owner: Owner


def _begin(encoded: bytes, volume: str | None) -> Header | Stack | None:
    """What a picture's first bytes say, or where a volume's slices come from."""
    return read_header(encoded) if volume is None else open_slices(encoded)


def _memory(begin: Header | Stack | None) -> int:
    """Bytes that a slice takes at most, beside its file, to be decoded and measured; 0 where its
    first bytes do not tell."""
    if begin is None:
        return 0
    if isinstance(begin, Stack):  # which counts 4 of the PER_PIXEL bytes, and what else it takes
        return begin.memory * 3 // 2
    return max(decode_memory(begin), PER_PIXEL * begin.width * begin.height)


def _picture(name: str, encoded: bytes, header: Header | None) -> _Decoded:
    if len(encoded) > MAX_MEMBER_BYTES:  # a volume may be larger, by whatever name
        raise InputError(f"larger than the limit of {MAX_MEMBER_BYTES // MIB} MiB")
    gray = decode(encoded)
    header = header or Header("", *gray.shape[::-1])
    return _Decoded(name, len(encoded), header, gray, hashlib.sha256(encoded).digest(), Owner(name))


def _slices(
    name: str, kind: str, encoded: bytes, stack: Stack, files: Collection[str]
) -> Iterator[_Decoded | None]:
    """The slices of a DICOM or NIfTI file; None for each that shows no head. An only slice was
    put there by somebody, as a picture is."""
    owner = read_owner(name, encoded) if kind == "dicom" else Owner(name)
    whole = hashlib.sha256(encoded).digest()
    for number, gray in numbered(stack):
        path = slice_name(name, number)
        if number is None:
            digest = whole
        elif not shows_head(gray):
            yield None
            continue
        elif path in files:
            raise InputError(f"its slice {number} is called as the file {path} is: rename that")
        else:
            digest = hashlib.sha256(whole + number.to_bytes(4, "big")).digest()
        height, width = gray.shape
        header = Header(kind, width, height, 1)
        # A volume may have its pixels in any order.
        plain = np.ascontiguousarray(gray)
        yield _Decoded(path, len(encoded) / stack.length, header, plain, digest, owner)


_CHOICE = re.compile(r": choose one with --volume.*")


def _for_training(reason: str) -> str:
    """Why a file cannot be used, where the device would tell an option that is not here."""
    return _CHOICE.sub(": save the one that counts as a file of its own", reason)


def _left_out(name: str, file: _File[Kept]) -> str:
    of = len(file.kept) + file.empty
    return f"{name}: {file.empty:,} of {of:,} slices show no head and are left out"


def label_warning(
    slices: Iterable[tuple[str, str]], tumour_free: Collection[str] = (NO_TUMOR,)
) -> list[str]:
    """A sentence on slices of volumes in classes with tumours; none where there are none.

    Args:
        slices: the label and the format of each, see `Picture.header`.
        tumour_free: the classes without a tumour.
    """
    count = sum(kind in VOLUMES and label not in tumour_free for label, kind in slices)
    if not count:
        return []
    return [
        f"{count:,} slices of DICOM and NIfTI files take the class of their folder, whether they "
        "show the tumour or not; where there are masks, btc-data volumes --masks takes those that "
        "do"
    ]
