"""Format, size and cost of an image, read from its first bytes without decoding it.

OpenCV decides by content and decodes at once; an 80 KB PNG may then become a gigabyte. These
readers look at the header only, so that the size can be refused before any decoder runs. Their
loops are bounded, since a header may hold millions of segments.
Layouts: PNG (W3C, 11.2.2), JPEG (ITU T.81, B.2.2), BMP (BITMAPINFOHEADER), WebP (RFC 9649),
GIF89a (section 17 on); TIFF in `edge_runtime.imaging.tiff`.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

MAX_SCANS = 100  # a progressive JPEG has about ten; each costs a pass over the whole picture
MAX_SEGMENTS = 1000  # of a JPEG before its picture; one with every kind of metadata has some 300
MAX_CHUNKS = 65_536  # of a PNG, a WebP or a GIF; a PNG of 100 MB has 13,000
LARGE = 1 << 20  # bytes of a JPEG
STRAY = 65_536  # bytes between two segments of a JPEG that are passed over

# What reading numbers raises where they are missing, or point nowhere.
TOO_SHORT = (struct.error, IndexError, ValueError, OverflowError)


class Header(NamedTuple):
    """What the first bytes of an image say: `format` in lower case, sizes in pixels.

    Attributes:
        channels: stored colour components (a palette counts as 3); 0 where the header does not
            tell.
        bits: of each component; 0 where the header does not tell.
        memory: bytes that a decoder takes at most to make it gray, beside the file.
        depth: bytes of each of the values that it then has.
        unsupported: the feature, in words, for which it cannot be decoded; empty where none is
            known.
        rare: a feature that not every OpenCV decodes.
        scans: passes over a JPEG's picture, at most.
        segments: of a JPEG before its picture.
        ranged: whether values of 8 bits may be without a range, too.
        scan: where the first scan of a JPEG begins.
    """

    format: str
    width: int
    height: int
    channels: int = 0
    bits: int = 0
    memory: int = 0
    depth: int = 1
    unsupported: str = ""
    rare: str = ""
    scans: int = 1
    segments: int = 0
    ranged: bool = False
    scan: int = 0


_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type
PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))  # see `repairs.plain_png`


def png_header(data: bytes) -> Header | None:
    if data[12:16] != b"IHDR":
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    depth = 2 if bits > 8 else 1
    size = width * height * depth
    at, turned, more, unsupported = 8, False, False, ""
    for _ in range(MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if at + 12 > len(data):  # OpenCV would make room for all that a chunk claims to hold
            return None
        if kind == b"IEND":
            break
        turned, more = turned or kind == b"eXIf", more or kind not in PNG_KEPT
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    else:
        unsupported = f"a PNG of more than {MAX_CHUNKS:,} chunks"
    memory = size * (2 if turned else 1) + 32 * width + (len(data) if more else 0)
    channels = _PNG_CHANNELS.get(colour, 0)
    return Header("png", width, height, channels, bits, memory, depth, unsupported)


# Start-of-frame markers; C4 (tables), C8 (reserved) and CC (arithmetic conditioning) are not.
# F7 is the one of JPEG-LS, which stands in DICOM files.
_SOF = (frozenset(range(0xFFC0, 0xFFD0)) | {0xFFF7}) - {0xFFC4, 0xFFC8, 0xFFCC}
# Tables, comments and metadata, of which nothing is read; E1 may turn the picture.
_PASSED = frozenset({0xFFC4, 0xFFDB, 0xFFDD, 0xFFFE, *range(0xFFE0, 0xFFF0)}) - {0xFFE1}
_SEGMENT = struct.Struct(">HH").unpack_from  # its marker and its length
_FRAME = struct.Struct(">BHHB").unpack_from
_MARKER = re.compile(rb"\xff[^\x00\xff]")  # as libjpeg finds it; fill bytes before it are FF
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # the others come in several passes, or whole
_JPEG_RARE = {0xC3: "a lossless JPEG", 0xC9: "an arithmetic-coded JPEG",
              0xCA: "an arithmetic-coded JPEG", 0xCB: "a lossless JPEG"}  # fmt: skip


def jpeg_header(data: bytes) -> Header | None:
    """The header of a JPEG; None where it is none, or damaged.

    Raises:
        TOO_SHORT: it ends too early.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    at, start, turned = 2, None, False
    for segments in range(MAX_SEGMENTS):
        marker, length = _SEGMENT(data, at)
        if marker in _PASSED:  # as most are
            at += 2 + length
            continue
        if not 0xFF00 < marker < 0xFFFF:
            found = _MARKER.search(data, at, at + STRAY)
            if found is None:
                return None
            at = found.start()
            marker, length = _SEGMENT(data, at)
        if marker in _SOF:
            if start is not None:
                return None
            start = (marker & 0xFF, at + 2)
        elif marker == 0xFFDA:  # the scan begins
            return None if start is None else _jpeg_start(data, *start, at + 2, turned, segments)
        elif marker == 0xFFE1 and data.startswith(b"Exif", at + 4):
            turned = True
        elif marker == 0xFF01 or 0xFFD0 <= marker <= 0xFFD8:  # markers without a length
            length = 0
        at += 2 + length
    words = f"a JPEG of more than {MAX_SEGMENTS:,} segments before the picture"
    return Header("jpeg", 1, 1, unsupported=words)


def _jpeg_start(
    data: bytes, marker: int, at: int, scan: int, turned: bool, segments: int
) -> Header | None:
    """What a start of frame (its marker and place) and the place of the first scan tell."""
    bits, height, width, channels = _FRAME(data, at + 2)
    if bits == 8 and marker in (0xC0, 0xC1, 0xC2) and channels in (1, 3, 4):
        unsupported = ""
    elif marker == 0xF7:
        unsupported = "a JPEG-LS picture"
    elif bits != 8:
        unsupported = f"a JPEG of {bits} bits a sample"
    elif channels not in (1, 3, 4):
        unsupported = f"a JPEG of {channels} components"
    else:
        unsupported = "" if marker in _JPEG_RARE else "a hierarchical JPEG"
    memory, scans = width * height * (2 if turned else 1) + 256 * width, 1
    # OpenCV keeps all metadata (APP1) and colour profiles (APP2), those behind a scan too. Only in
    # a large file is it worth the time to count them.
    kept = len(data)
    if kept > LARGE:
        kept = min(kept, (data.count(b"\xff\xe1") + data.count(b"\xff\xe2")) << 16)
    memory += kept
    if marker not in _SEQUENTIAL or data[scan + 2] < channels:
        factors = [divmod(data[at + 9 + 3 * i], 16) for i in range(channels)]
        across, down = (max((f[i] for f in factors), default=0) for i in (0, 1))
        if not across or not down:
            return None
        scans = data.count(b"\xff\xda")
        # Each block of 64 coefficients of 16 bits is kept until the last scan has been read.
        units = -(-width // (8 * across)) * -(-height // (8 * down))
        memory += units * 128 * sum(one * other for one, other in factors)
    rare = _JPEG_RARE.get(marker, "")
    return Header(
        "jpeg", width, height, channels, bits, memory, 1, unsupported, rare, scans, segments,
        scan=scan,
    )  # fmt: skip


_BMP_MASKS = {  # of a pixel's bits: red, green, blue
    16: ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)),
    32: ((0xFF0000, 0xFF00, 0xFF),),
}


def bmp_header(data: bytes) -> Header | None:
    header_size = struct.unpack_from("<I", data, 14)[0]
    how = 0
    if header_size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, depth, how = struct.unpack_from("<iiHHI", data, 18)
    unsupported = ""
    if how > 3:
        unsupported = {4: "a BMP that holds a JPEG", 5: "a BMP that holds a PNG"}.get(
            how, f"a BMP of compression {how}"
        )
    elif how == 3 and struct.unpack_from("<III", data, 54) not in _BMP_MASKS.get(depth, ()):
        unsupported = f"a BMP of {depth} bits a pixel in an unusual order"
    elif depth not in (1, 4, 8, 16, 24, 32):
        unsupported = f"a BMP of {depth} bits a pixel"
    # A negative height means top-down rows. Up to 8 bits a pixel is an index into a palette.
    pixels = max(width, 0) * abs(height)
    memory = pixels + 16 * max(width, 0) + (len(data) if how == 3 and depth == 16 else 0)
    return Header("bmp", width, abs(height), 4 if depth == 32 else 3, 8, memory, 1, unsupported)


def webp_header(data: bytes) -> Header | None:
    chunk = data[12:16]
    unsupported = ""
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        channels = 4 if data[20] & 0x10 else 3
        pictures = _webp_pictures(data) if data[20] & 0x02 else 1
        if pictures != 1:
            unsupported = f"an animated WebP of {pictures} frames"
    elif chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
        channels = 4 if bits >> 28 & 1 else 3
    elif chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        channels = 3
    else:
        return None
    # In colour first (3 or 4 bytes), then gray; a lossless one is unpacked to 4 bytes before.
    each = channels + 1 + (0 if chunk == b"VP8 " else 4)
    memory = width * height * each + 256 * width
    return Header("webp", width, height, channels, 8, memory, 1, unsupported)


def webp_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Kind, begin and length of the content of the first chunks of a WebP."""
    at = 12
    chunks: list[tuple[bytes, int, int]] = []
    while at + 8 <= len(data) and len(chunks) < MAX_CHUNKS:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], at + 8, size))
        at += 8 + size + size % 2
    return chunks


def _webp_pictures(data: bytes) -> int:
    return sum(kind == b"ANMF" for kind, _, _ in webp_chunks(data))


def gif_header(data: bytes) -> Header | None:
    width, height = struct.unpack_from("<HH", data, 6)
    pictures, controls = gif_pictures(data)
    unsupported = ""
    if pictures is None:
        unsupported = f"a GIF of more than {MAX_CHUNKS:,} blocks"
    elif pictures > 1:
        unsupported = f"an animated GIF of {pictures} frames"
    elif not pictures:
        return None
    # Indices, colour and gray; a copy of the file without the flag of transparency.
    memory = width * height * 7 + (len(data) if controls else 0)
    return Header("gif", width, height, 3, 8, memory, 1, unsupported)


def gif_pictures(data: bytes) -> tuple[int | None, list[int]]:
    """The pictures of a GIF, and where the flags of its control blocks stand; None for the pictures
    where there are too many blocks to know."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    pictures, controls, blocks = 0, [], 0
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:  # an extension
            if data[at + 1] == 0xF9:
                controls.append(at + 3)
            at += 2
        elif data[at] == 0x2C:  # a picture, perhaps with colours of its own
            pictures += 1
            at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
        else:
            break
        while data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_CHUNKS:
                return None, controls
        at += 1
    return pictures, controls
