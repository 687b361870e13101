"""Format and size of an image, read from its first bytes without decoding it.

OpenCV decides by content and decodes at once; an 80 KB PNG may then become a gigabyte. These
readers look at the header only, so that the size can be refused before any decoder runs.
Layouts: PNG (W3C, 11.2.2), JPEG (ITU T.81, B.2.2), BMP (BITMAPINFOHEADER), WebP (RFC 9649),
TIFF 6.0 (section 2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple


class Header(NamedTuple):
    """What the first bytes of an image say: `format` in lower case, sizes in pixels."""

    format: str
    width: int
    height: int


def _png(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


# Start-of-frame markers; C4 (tables), C8 (reserved) and CC (arithmetic conditioning) are not.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
            continue
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == 0xDA:  # the scan begins and no frame was seen
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _bmp(data: bytes) -> tuple[int, int] | None:
    header_size = struct.unpack_from("<I", data, 14)[0]
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height means top-down rows


def _webp(data: bytes) -> tuple[int, int] | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    size: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * min(count, 512), 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):  # ImageWidth, ImageLength
            if kind not in (3, 4) or tag in size:  # SHORT or LONG, once: else libtiff may
                return None  # read another size than this
            (size[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return (size[256], size[257]) if len(size) == 2 else None


_READERS: tuple[tuple[str, bytes, Callable[[bytes], tuple[int, int] | None]], ...] = (
    ("jpeg", b"\xff\xd8\xff", _jpeg),
    ("png", b"\x89PNG\r\n\x1a\n", _png),
    ("bmp", b"BM", _bmp),
    ("tiff", b"II*\x00", _tiff),
    ("tiff", b"MM\x00*", _tiff),
    ("webp", b"RIFF", _webp),
)
FORMATS = ("jpeg", "png", "bmp", "tiff", "webp")


def read_header(data: bytes) -> Header | None:
    """The header of an image in one of `FORMATS`; None where the bytes are something else.

    A known signature with a damaged header gives a size of 0×0.
    """
    for name, signature, read in _READERS:
        if data.startswith(signature) and (name != "webp" or data[8:12] == b"WEBP"):
            try:
                size = read(data)
            except (struct.error, IndexError):
                size = None
            return Header(name, *(size or (0, 0)))
    return None
