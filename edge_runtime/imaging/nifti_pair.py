"""NIfTI pairs: a header (`.hdr`) with the voxels (`.img`) beside it, read as the one file that they
could have been.

Layout: NIfTI-1 and NIfTI-2, whose pairs differ from single files in the magic and in where the
voxels begin. Analyze 7.5 headers look alike, but do not say which side of the patient is left.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edge_runtime.errors import InputError
from edge_runtime.imaging.kinds import halves_of, other_halves
from edge_runtime.imaging.limits import MIB, ImageLimits, read_file

DAMAGED = "truncated or damaged NIfTI file"
ANALYZE = (
    "not supported: an Analyze 7.5 pair, which does not say which side is left; convert it to NIfTI"
)


class _Layout(NamedTuple):
    """Of a header: its size, where its magic and the offset of the voxels stand, and how that is
    stored."""

    size: int
    magic_at: int
    magic: bytes
    single: bytes
    offset_at: int
    offset: str


_LAYOUTS = (
    _Layout(348, 344, b"ni1\0", b"n+1\0", 108, "f"),
    _Layout(540, 4, b"ni2\0", b"n+2\0", 168, "q"),
)


def other_half(path: str | os.PathLike[str]) -> Path | None:
    """The other file of a pair, where it exists."""
    half = Path(path)
    others = map(half.with_name, other_halves(half.name))
    return next((o for o in others if os.path.isfile(o)), None)  # noqa: PTH113 - a Path's own raises


def _is_header(half: Path) -> bool:
    return half.suffix.lower() == halves_of(half.name)[0]


def read_pair(path: str | os.PathLike[str], limits: ImageLimits) -> bytes:
    """The single NIfTI file that the pair of a path could have been; a file that is no half of a
    pair as it stands.

    Raises:
        InputError: as `limits.read_file`; half of a pair alone, or of an Analyze 7.5 pair.
    """
    other, given_header = other_half(path), _is_header(Path(path))
    if other is None and not given_header:
        return read_file(path, limits)
    header_path, image_path = (path, other) if given_header else (other or path, Path(path))
    header = read_file(header_path, limits)
    for layout in _LAYOUTS:
        if header[layout.magic_at : layout.magic_at + 4] == layout.magic:
            if image_path is None:
                raise InputError("the header of a NIfTI pair: its .img file is missing")
            try:
                with open(image_path, "rb", buffering=0) as image:
                    return _joined(header, layout, image, limits)
            except OSError as error:
                raise InputError(f"its .img file cannot be read: {error.strerror}") from None
    if _is_analyze(header):
        raise InputError(ANALYZE)
    return read_file(path, limits)


def join_pair(header: bytes, image: BinaryIO, limits: ImageLimits) -> bytes:
    """The single NIfTI file that the two files of a pair could have been.

    Raises:
        InputError: the first is no header of a pair; damaged or too large.
    """
    for layout in _LAYOUTS:
        if header[layout.magic_at : layout.magic_at + 4] == layout.magic:
            return _joined(header, layout, image, limits)
    raise InputError(ANALYZE if _is_analyze(header) else DAMAGED)


def _is_analyze(header: bytes) -> bool:
    """Whether it begins with its size, as NIfTI-1 does, and is no NIfTI file."""
    sized = header[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c")
    return len(header) >= 348 and sized and header[344:348] != b"n+1\0"


def _joined(header: bytes, layout: _Layout, image: BinaryIO, limits: ImageLimits) -> bytes:
    """Header and voxels in one buffer, without a second copy of the voxels."""
    if len(header) < layout.size:
        raise InputError(DAMAGED)
    begin = layout.size + 4  # behind it: that no extension follows
    order = "<" if struct.unpack("<i", header[:4])[0] == layout.size else ">"
    (offset,) = struct.unpack_from(order + layout.offset, header, layout.offset_at)
    if not 0 <= offset <= limits.max_bytes:  # no number, or one beyond every file
        raise InputError(DAMAGED)
    single = bytearray(header[: layout.size] + bytes(4))
    single[layout.magic_at : layout.magic_at + 4] = layout.single
    struct.pack_into(order + layout.offset, single, layout.offset_at, offset + begin)
    whole = io.BytesIO()
    whole.write(single)
    while block := image.read(MIB):
        whole.write(block)
        if whole.tell() > limits.max_bytes:
            raise InputError(f"larger than the limit of {limits.max_bytes // MIB} MiB")
    return whole.getvalue()
