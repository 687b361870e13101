"""Drawn slices, and picture files written by hand: small, valid, or claiming anything.

Needs numpy and OpenCV only, so that the tests of the device side draw with it too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = 33  # bytes up to the end of a PNG's first chunk


def draw_slice(seed: int = 0, height: int = 200, width: int | None = None) -> npt.NDArray[np.uint8]:
    """A head-like gray picture (uint8, height×width; square without a width): a bright ring,
    textured inside, a bright mass."""
    wide = height if width is None else width
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, wide), np.float32)
    centre = (wide // 2, height // 2)
    cv2.ellipse(picture, centre, (int(wide * 0.35), int(height * 0.42)), 0, 0, 360, 200, -1)
    cv2.ellipse(picture, centre, (int(wide * 0.31), int(height * 0.38)), 0, 0, 360, 90, -1)
    place = (int(rng.uniform(wide * 0.35, wide * 0.65)),
             int(rng.uniform(height * 0.35, height * 0.65)))  # fmt: skip
    cv2.circle(picture, place, int(wide * rng.uniform(0.04, 0.09)), 230, -1)
    picture += rng.normal(0, 6, picture.shape)
    drawn: npt.NDArray[np.uint8]
    drawn = np.clip(cv2.GaussianBlur(picture, (0, 0), 1), 0, 255).astype(np.uint8)
    return drawn


def encode(picture: Array, suffix: str = ".jpg", *options: int) -> bytes:
    """A picture encoded by OpenCV; `options` are its pairs of flag and value."""
    data: bytes = cv2.imencode(suffix, picture, list(options))[1].tobytes()
    return data


def zeros_packed(count: int) -> bytes:
    """So many zeros in zlib's format."""
    pack, block = zlib.compressobj(6), bytes(1 << 20)
    parts = [pack.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, pack.compress(bytes(count % (1 << 20))), pack.flush()])


def png_chunk(kind: bytes, body: bytes = b"") -> bytes:
    """A chunk with its length and check sum (W3C PNG, 5.3)."""
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def png_file(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of these chunks between its first and its last one.

    Args:
        colour: the format's colour type: 0 gray, 2 RGB, 3 palette, 6 RGBA.
    """
    first = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"".join([PNG_SIGNATURE, first, *chunks, png_chunk(b"IEND")])


@lru_cache(maxsize=32)
def black_png(width: int, height: int, bits: int = 8, colour: int = 0) -> bytes:
    """A valid black PNG of any size, small on disk; `colour` as of `png_file`, but no palette."""
    packed = zeros_packed(height * (1 + width * {0: 1, 2: 3, 6: 4}[colour] * bits // 8))
    return png_file(width, height, bits, colour, png_chunk(b"IDAT", packed))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    return b"".join([png[:PNG_HEADER], *chunks, png[PNG_HEADER:]])


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A segment with its marker and length (ITU T.81, B.1.1.4)."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def exif_of(turn: int, order: str = "<") -> bytes:
    """EXIF that says no more than how a picture is turned, in either order of bytes."""
    mark = b"II" if order == "<" else b"MM"
    return struct.pack(order + "2sHIHHHIHHI", mark, 42, 8, 1, 0x0112, 3, 1, turn, 0, 0)


def tiff_file(tags: Iterable[tuple[int, int, int]], strip: bytes) -> bytes:
    """A little-endian TIFF of one strip or tile behind its tags.

    Args:
        tags: number, type (3 SHORT, 4 LONG) and value of each, as they stand in the file; that of
            the strip's or the tile's offset (273, 324) is set here.
    """
    fields = list(tags)
    start = 10 + 12 * len(fields) + 4
    entries = (
        struct.pack("<HHII", tag, kind, 1, start if tag in (273, 324) else value)
        for tag, kind, value in fields
    )
    return struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + b"".join(entries) + bytes(4) + strip
