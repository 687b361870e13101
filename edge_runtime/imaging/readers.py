"""From a file's bytes to its gray slices: pictures hold one, DICOM and NIfTI files often many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError
from edge_runtime.imaging.kinds import gzipped_kind, halves_of, kind_of, refusal
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB, ImageLimits, read_source
from edge_runtime.imaging.stack import Slice, Stack

if TYPE_CHECKING:
    from types import ModuleType

    from edge_runtime.imaging.kinds import Kind
    from edge_runtime.imaging.limits import Encoded


def read_any(source: Encoded, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a source; of a path to half of a NIfTI pair, those of both halves as one file.

    Raises:
        InputError: see `limits.read_source` and `nifti_pair.read_pair`.
    """
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        if halves_of(path):
            from edge_runtime.imaging.nifti_pair import read_pair

            return read_pair(path, limits)
    return read_source(source, limits)


def size_of(source: Encoded, limits: ImageLimits = DEFAULT_LIMITS) -> int:
    """Bytes that `read_any` will take, at most; bytes are there already."""
    if isinstance(source, bytes):
        return 0
    try:
        if isinstance(source, (bytearray, memoryview)):  # is copied
            return memoryview(source).nbytes
        if isinstance(source, (str, os.PathLike)):
            return min(_size_of_files(os.fsdecode(source)), limits.max_bytes)
        here = source.tell()
        end = source.seek(0, os.SEEK_END)
        source.seek(here)
        return max(0, min(end - here, limits.max_bytes))
    except Exception:  # a stream may raise anything; one that cannot be sought does not tell
        return 0 if isinstance(source, (str, os.PathLike)) else limits.max_bytes


def _size_of_files(path: str) -> int:
    """Of a file, or of both halves of a pair.

    Raises:
        OSError, ValueError: whatever reading it will say.
    """
    size = os.stat(path).st_size  # noqa: PTH116
    if halves_of(path):
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
        plane: one of `geometry.PLANES`: how a NIfTI volume is cut.
        volume: which volume of a NIfTI file of several is meant, from 0.

    Raises:
        InputError: not a supported format, one whose package is not installed, over the limits,
            truncated or damaged.
    """
    kind = kind_of(data) or gzipped_kind(data)
    if kind is None:
        raise InputError(refusal(data))
    module = reader_of(kind)
    stack: Stack = module.read(data, limits, plane, volume)
    if stack.memory > limits.max_memory:
        raise InputError(
            f"needs {stack.memory / MIB:,.0f} MiB of memory to decode: over the limit of "
            f"{limits.max_memory / MIB:,.0f} MiB"
        )
    return stack


def reader_of(kind: Kind) -> ModuleType:
    """The module that reads files of a kind.

    Raises:
        InputError: it needs a package that is not installed.
    """
    try:
        # Not what stands in sys.modules: another thread may be importing it just now.
        return import_module(f"edge_runtime.imaging.{kind.module}")
    except ModuleNotFoundError as error:
        if not kind.extra:
            raise
        raise InputError(
            f"{kind.title} files need the package {error.name}: "
            f"pip install 'btc-edge[{kind.extra}]'"
        ) from None


def slices_of(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    plane: str = "axial",
    volume: int | None = None,
) -> Iterator[Slice]:
    """The slices of an encoded picture, a DICOM or a NIfTI file, decoded one at a time.

    Args:
        plane, volume: as of `open_slices`.

    Raises:
        InputError: as `open_slices`; slices before a damage are yielded.
    """
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
