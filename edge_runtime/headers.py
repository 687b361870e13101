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
    """What the first bytes of an image say: `format` in lower case, sizes in pixels.

    `channels` counts the stored colour components (a palette counts as 3), `bits` the bits of
    each; 0 where the header does not tell.
    """

    format: str
    width: int
    height: int
    channels: int = 0
    bits: int = 0


_Facts = tuple[int, int, int, int]  # width, height, channels, bits


_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type


def _png(data: bytes) -> _Facts | None:
    if data[12:16] != b"IHDR":
        return None
    at = 8
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    if at + 12 > len(data):  # OpenCV would make room for all that a chunk claims to hold
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    return width, height, _PNG_CHANNELS.get(colour, 0), bits


# Start-of-frame markers; C4 (tables), C8 (reserved) and CC (arithmetic conditioning) are not.
# F7 is the one of JPEG-LS, which stands in DICOM files.
_SOF = (frozenset(range(0xC0, 0xD0)) | {0xF7}) - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> _Facts | None:
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
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return width, height, channels, bits
        if marker == 0xDA:  # the scan begins and no frame was seen
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _bmp(data: bytes) -> _Facts | None:
    header_size = struct.unpack_from("<I", data, 14)[0]
    if header_size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, depth = struct.unpack_from("<iiHH", data, 18)
    # A negative height means top-down rows. Up to 8 bits a pixel is an index into a palette.
    return width, abs(height), 4 if depth == 32 else 3, 8


def _webp(data: bytes) -> _Facts | None:
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height, 4 if data[20] & 0x10 else 3, 8
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3, 8
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, 3, 8
    return None


def _tiff(data: bytes) -> _Facts | None:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    size: dict[int, int] = {}
    told = {258: 1, 277: 1}  # BitsPerSample, SamplesPerPixel and their defaults
    tile = {322: 0, 323: 0}  # TileWidth, TileLength: the decoder's buffer is a whole tile
    for entry in range(at + 2, at + 2 + 12 * min(count, 512), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
        if tag in (256, 257):  # ImageWidth, ImageLength
            if kind not in (3, 4) or tag in size:  # SHORT or LONG, once: else libtiff may
                return None  # read another size than this
            (size[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
        elif tag in tile:
            if kind not in (3, 4):
                return None
            (side,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
            tile[tag] = max(side, tile[tag])
        elif tag in told and kind == 3:
            place = entry + 8
            if values > 2:  # several values stand elsewhere
                (place,) = struct.unpack_from(order + "I", data, place)
            (told[tag],) = struct.unpack_from(order + "H", data, place)
    if len(size) < 2 or tile[322] * tile[323] > max(4 * size[256] * size[257], 1 << 22):
        return None
    return size[256], size[257], told[277], told[258]


_READERS: tuple[tuple[str, bytes, Callable[[bytes], _Facts | None]], ...] = (
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
                facts = read(data)
            except (struct.error, IndexError):
                facts = None
            return Header(name, *(facts or (0, 0)))
    return None


def volume_format(data: bytes) -> str | None:
    """`dicom` or `nifti` where the first kibibyte of a file says so, else None.

    DICOM PS3.10 (section 7.1): `DICM` behind a preamble of 128 bytes. NIfTI-1 and -2: the size of
    the header, then a magic; a compressed one is taken at the gzip magic's word.
    """
    if data[128:132] == b"DICM":
        return "dicom"
    if data[:2] == b"\x1f\x8b" or data[344:348] == b"n+1\x00" or data[4:8] == b"n+2\x00":
        return "nifti"
    return None
