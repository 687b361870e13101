"""From a file's bytes to its gray slices: pictures hold one, DICOM and NIfTI files often many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.decode import (
    DEFAULT_LIMITS,
    MIB,
    SAMPLE,
    SUFFIXES,
    ImageLimits,
    as_gray,
    decode,
    decode_memory,
    read_source,
)
from edge_runtime.imaging.headers import read_header, volume_format

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from edge_runtime.imaging.decode import Encoded

    Gray = npt.NDArray[np.uint8]

PLANES = ("axial", "coronal", "sagittal")
MAX_STRETCHED = 8_000_000  # pixels
PAIR_SUFFIXES = (".hdr", ".img")
FILE_SUFFIXES = (*SUFFIXES, ".dcm", ".dicom", ".nii", ".nii.gz", *PAIR_SUFFIXES)
BAND = 1 << 18  # pixels that are converted at a time


class Slice(NamedTuple):
    """A gray slice (uint8, H×W) and its number in the file, from 0; None where it is the only
    one."""

    number: int | None
    gray: npt.NDArray[np.uint8]


class Stack(NamedTuple):
    """The slices of one file, not yet decoded.

    `length` is how many the file says there are, `memory` the bytes that decoding one of them and
    what follows takes beyond the file itself (from the headers), `grays` yields them (uint8, H×W)
    one at a time and may raise InputError after any of them.
    """

    length: int
    memory: int
    grays: Iterator[Gray]


def read_any(source: Encoded, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a source; of a path to half of a NIfTI pair, those of both halves as one file.

    Raises:
        InputError: see `images.read_source` and `pairs.read_pair`.
    """
    if isinstance(source, (str, os.PathLike)) and os.fspath(source)[-4:].lower() in PAIR_SUFFIXES:
        from edge_runtime.imaging.nifti_pair import read_pair

        return read_pair(source, limits)
    return read_source(source, limits)


def size_of(source: Encoded, limits: ImageLimits = DEFAULT_LIMITS) -> int:
    """Bytes that `read_any` will take, at most; bytes are there already."""
    if isinstance(source, bytes):
        return 0
    try:
        if isinstance(source, (bytearray, memoryview)):  # is copied
            return memoryview(source).nbytes
        if isinstance(source, (str, os.PathLike)):
            return min(_size_of_files(source), limits.max_bytes)
        here = source.tell()
        end = source.seek(0, os.SEEK_END)
        source.seek(here)
        return max(0, min(end - here, limits.max_bytes))
    except Exception:  # a stream may raise anything; one that cannot be sought does not tell
        return 0 if isinstance(source, (str, os.PathLike)) else limits.max_bytes


def _size_of_files(path: str | os.PathLike[str]) -> int:
    """Of a file, or of both halves of a pair.

    Raises:
        OSError, ValueError: whatever reading it will say.
    """
    size = os.stat(path).st_size  # noqa: PTH116
    if os.fspath(path)[-4:].lower() in PAIR_SUFFIXES:
        from edge_runtime.imaging.nifti_pair import other_half

        other = other_half(path)
        size += other.stat().st_size if other else 0
    return size


def open_slices(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    plane: str = "axial",
    volume: int | None = None,
) -> Stack:
    """Read the headers of an encoded picture, a DICOM or a NIfTI file; no pixel is decoded yet.

    Args:
        plane: one of PLANES: how a NIfTI volume is cut.
        volume: which volume of a NIfTI file of several is meant, from 0.

    Raises:
        InputError: not a supported format, one whose package is not installed, over the limits,
            truncated or damaged.
    """
    kind = volume_format(data)
    if kind is None:
        header = read_header(data)
        memory = decode_memory(header) if header else 0
        return Stack(1, memory, (decode(part, limits) for part in (data,)))
    try:
        if kind == "dicom":
            from edge_runtime.imaging.dicom import read_dicom

            stack = read_dicom(data, limits)
        else:
            from edge_runtime.imaging.nifti import read_nifti

            stack = read_nifti(data, limits, plane, volume)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind.upper()} files need the package {error.name}: pip install 'btc-edge[{kind}]'"
        ) from None
    if stack.memory > limits.max_memory:
        raise InputError(
            f"needs {stack.memory / MIB:,.0f} MiB of memory to decode: over the limit of "
            f"{limits.max_memory / MIB:,.0f} MiB"
        )
    return stack


def slices_of(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    plane: str = "axial",
    volume: int | None = None,
) -> Iterator[Slice]:
    """The slices of an encoded picture, a DICOM or a NIfTI file, decoded one at a time.

    Args:
        plane: one of PLANES: how a NIfTI volume is cut.
        volume: which volume of a NIfTI file of several is meant, from 0.

    Raises:
        InputError: not a supported format, one whose package is not installed, over the limits,
            truncated or damaged. Slices before the damage are yielded.
    """
    if volume_format(data) is None:
        yield Slice(None, decode(data, limits))
    else:
        yield from numbered(open_slices(data, limits, plane, volume))


def numbered(stack: Stack) -> Iterator[Slice]:
    """The slices of a stack with their numbers.

    Raises:
        InputError: there is none; a file must not be passed over without a word.
    """
    number = None
    for number, gray in enumerate(stack.grays):
        yield Slice(number if stack.length > 1 else None, gray)
    if number is None:
        raise InputError("no slice in this file")


def shown_memory(pixels: int, values: int) -> int:
    """Bytes that a decoded slice takes at most to become gray levels and a model's input.

    Args:
        pixels: of the slice: its gray levels, stretched, turned and cut out.
        values: of all slices that the range of values is taken from; a sample of them is sorted.
    """
    return 4 * pixels + 40 * min(values, SAMPLE) + 32 * BAND


def in_bands(picture: npt.NDArray[Any], to_gray: Callable[[npt.NDArray[Any]], Gray]) -> Gray:
    """`to_gray(picture)`, some rows at a time: the float values of a whole picture would take
    eight times its pixels.

    Args:
        picture: H×W or H×W×3.
        to_gray: gives gray levels (uint8, H×W) of such rows, each pixel from its own value alone.
    """
    rows = max(1, BAND // picture.shape[1])
    if len(picture) <= rows:
        return to_gray(picture)
    gray = np.empty(picture.shape[:2], np.uint8)
    for top in range(0, len(picture), rows):
        gray[top : top + rows] = to_gray(picture[top : top + rows])
    return gray


def within(values: npt.NDArray[Any], value_range: tuple[float, float]) -> Gray:
    """Gray levels of values (H×W) between two that are black and white; black where those are
    one."""
    if value_range[0] == value_range[1]:
        return np.zeros(values.shape, np.uint8)
    return as_gray(values, value_range)


def square_pixels(gray: npt.NDArray[np.uint8], tall: float, wide: float) -> npt.NDArray[np.uint8]:
    """A slice whose pixels are `tall`×`wide` mm, stretched so that they are square.

    Sides that differ by less than 1 %, or impossibly, leave it as it is. A picture that would
    become too large is shrunk along its finer side instead.
    """
    ratio = tall / wide if tall > 0 and wide > 0 else 1.0
    if not 0.05 <= ratio <= 20 or 0.99 <= ratio <= 1.01:
        return gray
    import cv2

    height, width = gray.shape
    how = cv2.INTER_LINEAR_EXACT
    if gray.size * max(ratio, 1 / ratio) > MAX_STRETCHED:
        ratio, how = 1 / ratio, cv2.INTER_AREA
        size = (
            (max(1, round(width * ratio)), height)
            if ratio < 1
            else (width, max(1, round(height / ratio)))
        )
    else:
        size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    stretched: npt.NDArray[np.uint8] = cv2.resize(gray, size, interpolation=how)
    return stretched
