"""The one reader of a data set's pictures: each file is hashed and decoded once.

A training (`trainer.data.dataset`) and an audit (`trainer.audit.files`) keep different things of a
picture; what both need is measured here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.batch import Budget, Reservation, in_order
from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.decode import decode, decode_memory, read_header
from edge_runtime.imaging.headers import Header
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB
from trainer.data.archive import MAX_MEMBER_BYTES, ImageArchive
from trainer.data.file_statistics import file_statistics
from trainer.data.layout import PassedOver, and_passed_over, class_and_split
from trainer.data.near_duplicates import Thumbnails, thumbnail
from trainer.data.workers import workers

Progress = Callable[[int, int], None]  # called with (done, total)
Kept = TypeVar("Kept")

# Bytes that the files in work and their decoding may take together: what a single one may.
MEMORY = MAX_MEMBER_BYTES + DEFAULT_LIMITS.max_memory
SMALL = 16 * MIB  # what decoding gets before the file's header is known
PER_PIXEL = 8  # bytes that what is measured of a decoded picture takes at most


@dataclass(frozen=True)
class Picture:
    """A readable picture of a data set.

    Attributes:
        path: its name within the data set.
        label: the class that its folder names.
        split: `training`, `testing` or empty.
        encoded: the file.
        header: what the file's first bytes say; sizes alone where they say nothing.
        gray: the decoded picture, uint8 H×W.
        sha256: 32 bytes, of the file.
        pixels: digest of `gray`, 16 hexadecimal digits.
        thumbnail: uint8 32×32, see `near_duplicates`.
        file_statistics: float32 array of 10, see `file_statistics`.
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


class Problem(NamedTuple):
    """A file that cannot be used, and why in one line."""

    path: str
    reason: str


def read_pictures(
    archive: ImageArchive,
    names: Sequence[str],
    keep: Callable[[Picture], Kept],
    progress: Progress | None = None,
) -> tuple[list[Kept], list[Problem]]:
    """Read and decode each file in one of several threads, which share MEMORY.

    A file of which decoding takes more than SMALL lets go of what it has until there is room, and
    is read again; one that takes more than MEMORY, measuring it included, is in memory alone.

    Args:
        names: files of `archive`, see `layout.arrange`.
        keep: what is kept of a picture, called in several threads; an InputError makes it a
            problem.
        progress: called with (done, total).

    Returns:
        What was kept, and the files that cannot be used, both in the order of names.
    """

    memory = Budget(MEMORY)

    def work(name: str) -> Kept | Problem:
        with memory.taken(archive.size(name) + SMALL) as reserved:
            try:
                return keep(_measure(archive, name, reserved))
            except InputError as error:
                return Problem(name, one_line(error))

    kept: list[Kept] = []
    problems: list[Problem] = []
    for done, result in enumerate(in_order(work, names, workers()), 1):
        if isinstance(result, Problem):
            problems.append(result)
        else:
            kept.append(result)
        if progress is not None:
            progress(done, len(names))
    return kept, problems


def nothing_readable(
    name: str, problems: Sequence[tuple[str, str]], passed_over: Sequence[PassedOver]
) -> DataError:
    """The error of a data set (called `name`) of which no picture can be read."""
    return DataError(
        f"{name}: no readable image in class folders "
        f"({len(problems)} unreadable{and_passed_over(passed_over)}); "
        "need CLASS/image.jpg or Training/CLASS/image.jpg"
    )


def _measure(archive: ImageArchive, name: str, reserved: Reservation) -> Picture:
    """Read and decode a file for which its size and SMALL are reserved."""
    label, split = class_and_split(name)
    encoded = archive.read(name)
    header = read_header(encoded)
    if header is not None and (needed := _memory(header)) > SMALL:
        del encoded  # nobody holds memory while waiting for more
        reserved.become(archive.size(name) + needed)
        encoded = archive.read(name)
        header = read_header(encoded)
    gray = decode(encoded)
    header = header or Header("", *gray.shape[::-1])
    return Picture(
        name,
        label,
        split,
        encoded,
        header,
        gray,
        hashlib.sha256(encoded).digest(),
        hashlib.sha256(gray.data).hexdigest()[:16],
        thumbnail(gray),
        file_statistics(len(encoded), header, gray),
    )


def _memory(header: Header) -> int:
    """Bytes that a picture takes at most, beside its file, to be decoded and measured."""
    return max(decode_memory(header), PER_PIXEL * header.width * header.height)
