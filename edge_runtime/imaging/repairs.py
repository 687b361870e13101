"""Pictures that OpenCV reads wrongly or not at all although they are valid, in some of its versions
or in all, written anew so that it reads them right.

The rows of `kinds.KINDS` name these functions; each is given the bytes of a picture whose header
has been read."""

from __future__ import annotations

import struct
from typing import NamedTuple

from edge_runtime.imaging.headers import PNG_KEPT, gif_pictures, webp_chunks


class Repaired(NamedTuple):
    """A picture as OpenCV is to get it, and how what it then gives, unturned, has to be turned (as
    the tag Orientation of EXIF says; 1 is not at all)."""

    data: bytes | bytearray
    turn: int = 1


def plain_png(data: bytes) -> Repaired:
    """A PNG without the chunks that change how it is read: colour would be turned to gray in
    linear light where gAMA, sRGB or iCCP say how it is meant, which no other format does; of an
    animated one the still picture is left; and not every OpenCV looks for EXIF."""
    view = memoryview(data)  # so that one copy is made, not two
    at, parts, all_kept, turn = 8, [view[:8]], True, 1
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind in PNG_KEPT:
            parts.append(view[at:end])
        else:
            all_kept = False
        if kind == b"eXIf":
            turn = _turn(data[at + 8 : end - 4])
        if kind == b"IEND":
            break
        at = end
    return Repaired(data if all_kept else b"".join(parts), turn)


def turned_webp(data: bytes) -> Repaired:
    """A WebP with how it is turned: some versions of OpenCV look for that, and only in some
    files."""
    return Repaired(data, _webp_turn(data))


def _webp_turn(data: bytes) -> int:
    if data[12:16] != b"VP8X" or not data[20] & 0x08:
        return 1
    for kind, begin, size in webp_chunks(data):
        if kind == b"EXIF":
            return _turn(data[begin : begin + size])
    return 1


def _turn(exif: bytes) -> int:
    from edge_runtime.imaging.tiff import orientation

    return orientation(exif.removeprefix(b"Exif\0\0"))  # which belongs to JPEG only


def plain_bmp(data: bytes) -> Repaired:
    """A BMP of 16 bits a pixel with one of the longer headers (BITMAPV2INFOHEADER to V5) in the
    first one, behind which OpenCV looks for the colours' masks."""
    header, depth = struct.unpack_from("<I", data, 14)[0], data[28:30]
    if header <= 40 or depth != b"\x10\x00" or data[30:34] != b"\x03\x00\x00\x00":
        return Repaired(data)
    pixels = memoryview(data)[struct.unpack_from("<I", data, 10)[0] :]
    begin = 14 + 40 + 12
    head = struct.pack("<2sIII", b"BM", begin + len(pixels), 0, begin)
    return Repaired(b"".join([head, struct.pack("<I", 40), data[18:66], pixels]))


def opaque_gif(data: bytes) -> Repaired:
    """A GIF without transparency, which is ignored in every format."""
    _, controls = gif_pictures(data)
    if not any(data[place] & 1 for place in controls):
        return Repaired(data)
    changed = bytearray(data)
    for place in controls:
        changed[place] &= 0xFE
    return Repaired(changed)
