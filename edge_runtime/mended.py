"""Pictures that OpenCV reads wrongly or not at all although they are valid, written anew so that
it reads them right. Each function gives the bytes back as they are where nothing is to be done."""

from __future__ import annotations

import struct

from edge_runtime.headers import PNG_KEPT, gif_frames, webp_chunks


def mended(data: bytes, format: str) -> bytes | bytearray:
    """A picture whose header has been read, as OpenCV is to get it.

    Args:
        format: as `headers.Header` tells it.
    """
    change = {"png": plain_png, "bmp": plain_bmp, "webp": bare_exif, "gif": opaque_gif}
    return change[format](data) if format in change else data


def plain_png(data: bytes) -> bytes:
    """A PNG without the chunks that change how it is read: colour would be turned to gray in
    linear light where gAMA, sRGB or iCCP say how it is meant, which no other format does; of an
    animated one the still picture is left."""
    view = memoryview(data)  # so that one copy is made, not two
    at, parts, all_kept = 8, [view[:8]], True
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind in PNG_KEPT:
            parts.append(view[at:end])
        else:
            all_kept = False
        if kind == b"IEND":
            break
        at = end
    return data if all_kept else b"".join(parts)


def plain_bmp(data: bytes) -> bytes:
    """A BMP of 16 bits a pixel with one of the longer headers (BITMAPV2INFOHEADER to V5) in the
    first one, behind which OpenCV looks for the colours' masks."""
    header, depth = struct.unpack_from("<I", data, 14)[0], data[28:30]
    if header <= 40 or depth != b"\x10\x00" or data[30:34] != b"\x03\x00\x00\x00":
        return data
    pixels = memoryview(data)[struct.unpack_from("<I", data, 10)[0] :]
    begin = 14 + 40 + 12
    head = struct.pack("<2sIII", b"BM", begin + len(pixels), 0, begin)
    return b"".join([head, struct.pack("<I", 40), data[18:66], pixels])


def bare_exif(data: bytes) -> bytes:
    """A WebP whose EXIF begins with the prefix that belongs to JPEG, without it: OpenCV looks for
    the turn at the very beginning."""
    if data[12:16] != b"VP8X" or not data[20] & 0x08:
        return data
    for kind, begin, size in webp_chunks(data):
        if kind == b"EXIF" and data.startswith(b"Exif\0\0", begin):
            body = data[begin + 6 : begin + size]
            end = begin + size + size % 2
            chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
            length = len(data) - (end - begin + 8) + len(chunk)
            view = memoryview(data)
            head = data[:4] + struct.pack("<I", length - 8)
            return b"".join([head, view[8 : begin - 8], chunk, view[end:]])
    return data


def opaque_gif(data: bytes) -> bytes | bytearray:
    """A GIF without transparency, which is ignored in every format."""
    _, controls = gif_frames(data)
    if not any(data[place] & 1 for place in controls):
        return data
    changed = bytearray(data)
    for place in controls:
        changed[place] &= 0xFE
    return changed
