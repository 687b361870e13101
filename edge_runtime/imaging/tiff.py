"""TIFF pictures: their tags, and their samples in the depth in which they are stored.

OpenCV reads TIFF through libtiff and gets many valid kinds wrong without a word, others in every
version: MinIsWhite above 8 bits inverted, planes read as pixels, black where a compression is
unknown. So OpenCV only unpacks a strip or a tile here (LZW, PackBits, JPEG), which all of its
versions do alike; what the samples mean is read from the tags, and what is not known is refused
by name.

TIFF 6.0 (Adobe 1992); the Photoshop TIFF technical notes (deflate, JPEG); TIFF technical note 3
(floating-point predictor); BigTIFF (libtiff).
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.geometry import turned
from edge_runtime.imaging.headers import TOO_SHORT, Header, jpeg_header

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = npt.NDArray[Any]

MAX_TAGS = 512
MAX_BLOCKS = 65_536  # strips and tiles; each costs some microseconds
MAX_SAMPLES = 8  # values of a tag that is told for each sample
MAX_JPEG_SEGMENTS = 10 * MAX_BLOCKS  # of all JPEGs in a file, the tables counted for each block
MAX_TABLES = 1 << 28  # bytes of the JPEG tables times blocks
AT_ONCE = 1 << 20  # bytes that are unpacked by one call, before or after, or turned to gray
NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
READ = (NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
COMPRESSIONS = {
    2: "CCITT run-length", 3: "CCITT group 3", 4: "CCITT group 4", 6: "old-style JPEG",
    9: "JBIG", 10: "JBIG", 22610: "JPEG XR", 32766: "NeXT", 32809: "ThunderScan",
    32909: "PixarLog", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000",
    34661: "JBIG", 34676: "SGI log", 34677: "SGI log", 34712: "JPEG 2000", 34887: "LERC",
    34892: "lossy DNG", 34925: "LZMA", 34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
PHOTOMETRICS = {4: "transparency mask", 5: "CMYK", 8: "CIE L*a*b*", 9: "ICC L*a*b*",
                10: "ITU L*a*b*", 32803: "colour filter array", 32844: "log luminance",
                32845: "log luminance", 34892: "linear raw"}  # fmt: skip
KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # SampleFormat; 4 is "undefined"
DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as everywhere in OpenCV


class Layout(NamedTuple):
    """What the tags say of the first picture in a file.

    Attributes:
        order: of the bytes, `<` or `>`.
        kind: of the samples: `u`, `i` or `f`; empty where it is another.
        planes: whether each sample of a pixel stands in a plane of its own.
        block: rows and columns of a tile, or of a strip.
        alpha: whether the last sample of a pixel is said to be its transparency.
    """

    order: str
    width: int
    height: int
    samples: int
    bits: int
    kind: str
    photometric: int
    planes: bool
    compression: int
    predictor: int
    turn: int
    block: tuple[int, int]
    tiled: bool
    offsets: list[int]
    counts: list[int]
    colours: Values
    tables: bytes
    alpha: bool
    unsupported: str


def tiff_header(data: bytes) -> Header | None:
    """The header of a TIFF; None where it is damaged.

    Raises:
        headers.TOO_SHORT: it ends too early, or a tag points outside.
    """
    layout = read_layout(data)
    if layout is None:
        return None
    channels = 3 if layout.photometric == PALETTE else layout.samples
    size = (layout.width, layout.height, channels, layout.bits)
    if layout.unsupported:
        return Header("tiff", *size, unsupported=layout.unsupported)
    return Header("tiff", *size, _memory(layout), _dtype(layout).itemsize, ranged=True)


def read_layout(data: bytes) -> Layout | None:
    """What the first directory of a TIFF says; None where it contradicts itself.

    Raises:
        headers.TOO_SHORT: as `tiff_header`.
    """
    order = "<" if data[:2] == b"II" else ">"
    tags = _tags(data, order)
    if tags is None:
        return None

    def number(tag: int, default: int) -> int:
        values = tags.get(tag)
        return values[0] if values else default

    width, height = number(256, 0), number(257, 0)
    samples, photometric = number(277, 1), number(262, -1)
    if photometric < 0:
        photometric = RGB if samples >= 3 else BLACK_IS_ZERO
    tiled = 322 in tags
    strip, tile = (min(number(278, height), height), width), (number(323, 0), number(322, 0))
    block = tile if tiled else strip
    if min(width, height, samples, *block) < 1 or max(block) > 1 << 24:
        return None
    bits, kinds = tags.get(258, [1]), tags.get(339, [1])
    if not bits or not kinds or min(bits) < 1:
        return None
    colours = np.array(tags.get(320, []), np.uint16)
    layout = Layout(
        order, width, height, samples, bits[0], KINDS.get(kinds[0], ""), photometric,
        number(284, 1) == 2 and samples > 1, number(259, NONE), number(317, 1), number(274, 1),
        block, tiled, tags.get(324 if tiled else 273, []), tags.get(325 if tiled else 279, []),
        colours, bytes(tags.get(347, [])), bool({1, 2} & set(tags.get(338, [])[-1:])), "",
    )  # fmt: skip
    unsupported = _unsupported(layout, len({*bits}) > 1 or len({*kinds}) > 1, tags)
    return layout._replace(unsupported=unsupported)


_TYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}  # those that whole numbers come in
# Tag and how many values it may have; others are passed over.
_TAGS = dict.fromkeys((256, 257, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323, 32997), 1)
_TAGS |= dict.fromkeys((258, 338, 339), MAX_SAMPLES)
_TAGS |= dict.fromkeys((273, 279, 324, 325), MAX_BLOCKS) | {320: 3 * 256, 347: 1 << 16}


def _tags(data: bytes, order: str) -> dict[int, list[int]] | None:
    """The values of the tags of the first directory that matter here; None where one comes twice,
    so that no two readers may take it for another picture."""
    (version,) = struct.unpack_from(order + "H", data, 2)
    big = version == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    entry, room = (20, 8) if big else (12, 4)
    tags: dict[int, list[int]] = {}
    for place in range(at, at + entry * min(count, MAX_TAGS), entry):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        if tag not in _TAGS:
            continue
        if tag in tags or kind not in _TYPES or (kind == 16 and not big):
            return None
        if _TAGS[tag] == 1 and values != 1:
            return None
        dtype = np.dtype(order + _TYPES[kind])
        start = place + entry - room
        if values * dtype.itemsize > room:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        # One more than allowed shows that there are too many.
        tags[tag] = np.frombuffer(data, dtype, min(values, _TAGS[tag] + 1), start).tolist()
    return tags


def _unsupported(layout: Layout, mixed: bool, tags: dict[int, list[int]]) -> str:
    """Why a picture cannot be read, in words; empty where it can."""
    bits, kind, photometric = layout.bits, layout.kind, layout.photometric
    colour = photometric == RGB or (photometric == YCBCR and layout.compression == JPEG)
    most = 4 if colour else 1 + layout.alpha
    words = {1: "unsigned", 2: "signed", 3: "float"}
    if layout.compression not in READ:
        name = COMPRESSIONS.get(layout.compression, f"the compression {layout.compression}")
        return f"a TIFF in {name}" + (" compression" if "compression" not in name else "")
    if not colour and photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE):
        name = PHOTOMETRICS.get(photometric, f"the photometric interpretation {photometric}")
        return f"a TIFF in {'uncompressed YCbCr' if photometric == YCBCR else name}"
    if mixed:
        return "a TIFF whose samples differ in depth or kind"
    if not kind:
        return "a TIFF of complex numbers"
    if layout.samples > most or (colour and layout.samples < 3):
        return f"a {'colour' if colour else 'gray'} TIFF of {layout.samples} samples a pixel"
    small = kind == "u" and bits in (1, 2, 4) and layout.samples == 1
    if not small and f"{kind}{bits / 8:g}" not in DTYPES:
        signs = {"u": words[1], "i": words[2], "f": words[3]}
        return f"a TIFF of {bits}-bit {signs[kind]} samples"
    if layout.compression == JPEG and (bits, kind) != (8, "u"):
        return f"a TIFF of {bits}-bit samples in JPEG compression"
    if photometric == PALETTE and (kind != "u" or bits > 8):
        return f"a TIFF of {bits}-bit indices to a palette"
    if layout.compression == JPEG and (layout.planes or photometric == PALETTE):
        return "a TIFF in JPEG compression with a palette or in planes"
    if layout.predictor not in (1, 2, 3):
        return f"a TIFF with the predictor {layout.predictor}"
    if layout.predictor > 1 and (small or (layout.predictor == 3) != (kind == "f")):
        return f"a TIFF with the predictor {layout.predictor} on {bits}-bit samples"
    if tags.get(266, [1])[0] != 1:
        return "a TIFF with reversed bits (FillOrder 2)"
    if tags.get(32997, [1])[0] != 1:
        return "a TIFF of volumes (ImageDepth)"
    if max(len(layout.offsets), len(layout.counts)) > MAX_BLOCKS:
        return f"a TIFF of more than {MAX_BLOCKS:,} strips or tiles"
    blocks = len(layout.offsets)
    if blocks * len(layout.tables) > MAX_TABLES:
        return f"a TIFF of {blocks:,} strips or tiles with JPEG tables as long as these"
    return ""


def _memory(layout: Layout) -> int:
    """Bytes that reading takes at most: the values, an unpacked block in each of its stages, and
    what is turned to gray at once."""
    size = layout.width * layout.height * _dtype(layout).itemsize
    pixels = layout.block[0] * layout.block[1]
    packed = max(layout.counts[:MAX_BLOCKS], default=0)
    # A row is the least that becomes gray at once.
    together = 8 * max(AT_ONCE, 8 * layout.block[1] * layout.samples)
    if layout.compression == JPEG:
        return size + 10 * pixels + packed + len(layout.tables) + together
    if layout.compression == NONE:
        return size + together
    samples = min(layout.samples, 3) if layout.planes else layout.samples
    unpacked = -(-pixels * samples * layout.bits // 8)
    # zlib's pieces and their sum; or what libtiff and OpenCV have, of 8 bits as RGBA besides.
    stages = 2 if layout.compression in (DEFLATE, OLD_DEFLATE) else 3 if unpacked % 2 == 0 else 7
    return size + stages * unpacked + 2 * packed + together


def _dtype(layout: Layout) -> np.dtype[Any]:
    """The type of the values that `read_tiff` gives."""
    if layout.photometric == PALETTE or (layout.bits <= 8 and layout.kind == "u"):
        return np.dtype(np.uint8)
    stored = np.dtype(f"{layout.kind}{layout.bits // 8}")
    if layout.samples < 3 or stored in (np.uint16, np.float32):
        return stored
    return np.dtype(np.float32 if stored == np.float16 else np.float64)


@np.errstate(all="ignore")  # odd floats; what is no number is refused when they become gray
def read_tiff(data: bytes) -> Values:
    """The first picture of a TIFF that `tiff_header` has found readable.

    Colour becomes luma, a palette is looked up, transparency is ignored, and the tag Orientation
    is obeyed.

    Returns:
        H×W values: uint8 gray levels where a sample has 8 unsigned bits or fewer, and else values
        in the stored depth, without a range. Black is low, whatever the file says of that.

    Raises:
        InputError: truncated or damaged; packed blocks that lie over each other, or JPEGs of too
            many segments.
    """
    layout = read_layout(data)
    if layout is None or layout.unsupported:
        raise InputError("truncated or damaged tiff image")
    values = np.empty((layout.height, layout.width), _dtype(layout))
    (tall, wide), across = layout.block, -(-layout.width // layout.block[1])
    try:
        for number, top, block in _blocks(data, layout):
            row, column = number // across * tall + top, number % across * wide
            room = values[row : row + len(block), column : column + wide]
            room[...] = block[: room.shape[0], : room.shape[1]]
    except (*TOO_SHORT, zlib.error):
        raise InputError("truncated or damaged tiff image") from None
    if layout.photometric == WHITE_IS_ZERO:
        _invert(values)
    return turned(values, layout.turn)


def _invert(values: Values) -> None:
    """Exchange black and white in place, whatever the range of the values."""
    if values.dtype.kind == "f":
        np.negative(values, out=values)
    else:
        np.invert(values, out=values)  # the largest of its type less the value, also if signed


def orientation(exif: bytes) -> int:
    """The tag Orientation of EXIF, which is a TIFF without a picture; 1 where it is not told."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    try:
        tags = _tags(exif, "<" if exif[:2] == b"II" else ">")
    except TOO_SHORT:
        return 1
    return (tags or {}).get(274, [1])[0]


def _blocks(data: bytes, layout: Layout) -> Iterator[tuple[int, int, Values]]:
    """The strips or tiles in gray, each in pieces: its number, its first row in it, the rows."""
    tall, wide = layout.block
    count = -(-layout.height // tall) * -(-layout.width // wide)
    planes = (1 if layout.samples < 3 else 3) if layout.planes else 1
    packed = _packed(data, layout, count * planes)
    if layout.compression == JPEG:
        segments = 0
        for number, piece in enumerate(packed):
            needed = _rows(layout, number)
            encoded, header = _whole_jpeg(piece, layout, needed)
            segments += header.segments
            if segments > MAX_JPEG_SEGMENTS:
                raise InputError(
                    f"not supported: a TIFF of more than {MAX_JPEG_SEGMENTS:,} JPEG segments"
                )
            yield number, 0, _jpeg(encoded, header)[:needed]
        return
    samples = 1 if layout.planes else layout.samples
    stride = -(-wide * samples * layout.bits // 8)
    step = max(1, AT_ONCE // (8 * wide * max(samples, planes)))
    costs = [sum(map(len, packed[number::count])) for number in range(count)]
    for numbers in _together(costs, max(1, AT_ONCE // (tall * stride))):
        sizes = [(_rows(layout, number), stride) for number in numbers]
        unpacked = [
            _unpacked([packed[plane * count + n] for n in numbers], sizes, layout.compression)
            for plane in range(planes)
        ]
        for place, number in enumerate(numbers):
            rows = [one[place].reshape(sizes[place]) for one in unpacked]
            for top in range(0, len(rows[0]), step):
                samples_of = [_samples(one[top : top + step], layout) for one in rows]
                yield number, top, _gray(np.concatenate(samples_of, axis=2), layout)


def _together(costs: list[int], most: int) -> Iterator[range]:
    """The numbers of blocks that are unpacked by one call: at most so many, and of AT_ONCE packed
    bytes where one alone has not more."""
    first = total = 0
    for number, cost in enumerate(costs):
        if number > first and (number - first == most or total + cost > AT_ONCE):
            yield range(first, number)
            first, total = number, 0
        total += cost
    yield range(first, len(costs))


def _rows(layout: Layout, number: int) -> int:
    """Rows of a block; the last strip has what is left."""
    tall = layout.block[0]
    return tall if layout.tiled else min(tall, layout.height - number * tall)


def _packed(data: bytes, layout: Layout, count: int) -> list[memoryview]:
    """The bytes of so many strips or tiles.

    Raises:
        InputError: packed blocks lie over each other, so that a small file would be unpacked
            without end.
    """
    offsets, counts = layout.offsets, layout.counts
    if not counts and layout.compression == NONE and len(offsets) == 1:
        counts = [len(data) - offsets[0]]  # older writers leave it out
    if len(offsets) < count or len(counts) < count:
        raise ValueError("fewer blocks than the size needs")
    view = memoryview(data)
    pairs = list(zip(offsets[:count], counts[:count], strict=True))
    if any(not size or offset + size > len(data) for offset, size in pairs):
        raise ValueError("a block that lies outside the file")
    if layout.compression != NONE and sum(counts[:count]) > len(data):
        raise InputError("not supported: a TIFF whose strips or tiles share their bytes")
    return [view[offset : offset + size] for offset, size in pairs]


def _unpacked(
    packed: list[memoryview], sizes: list[tuple[int, int]], compression: int
) -> list[Values]:
    """The bytes of blocks of so many rows and bytes a row."""
    if compression == NONE:
        return [np.frombuffer(p, np.uint8, r * s) for p, (r, s) in zip(packed, sizes, strict=True)]
    if compression in (DEFLATE, OLD_DEFLATE):
        return [
            np.frombuffer(zlib.decompressobj().decompress(piece, rows * stride), np.uint8,
                          rows * stride)
            for piece, (rows, stride) in zip(packed, sizes, strict=True)
        ]  # fmt: skip
    if sizes[-1] != sizes[0]:  # the last strip is shorter
        return _unpacked(packed[:-1], sizes[:-1], compression) + _alike(
            packed[-1:], *sizes[-1], compression
        )
    return _alike(packed, *sizes[0], compression)


def _alike(packed: list[memoryview], rows: int, stride: int, compression: int) -> list[Values]:
    """Blocks of one size, unpacked by OpenCV: as the strips of a picture whose pixels are their
    bytes."""
    import cv2

    # As pixels of 16 bits where that divides: in 8, OpenCV passes over what libtiff says of data
    # that ends too early, and gives black.
    if stride % 2 and rows % 2 == 0:
        rows, stride = rows // 2, stride * 2
    bits = 8 if stride % 2 else 16
    if bits == 8 and rows * stride > 2:
        # So all but their last bytes are tried in 16 bits, where it raises what 8 keep quiet of.
        size = rows * stride - 1
        lines = -(-size // (1 << 20))  # OpenCV takes rows of as many pixels
        _alike(packed, lines, size // lines // 2 * 2, compression)
    order = "<" if sys.byteorder == "little" else ">"
    height, count = rows * len(packed), len(packed)
    lists = 8 + 2 + 12 * 9 + 4  # where the offsets of the strips stand, then their sizes
    sizes = [len(piece) for piece in packed]
    starts = np.cumsum([lists + 8 * count, *sizes[:-1]]).tolist()
    places = (lists, lists + 4 * count) if count > 1 else (starts[0], sizes[0])
    tags = [(256, 1, stride * 8 // bits), (257, 1, height), (258, 1, bits), (259, 1, compression),
            (262, 1, 1), (273, count, places[0]), (277, 1, 1), (278, 1, rows),
            (279, count, places[1])]  # fmt: skip
    parts: list[bytes | memoryview] = [
        struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    ]
    # Type 4 is LONG; libtiff takes it for every number.
    parts += [struct.pack(order + "HHII", tag, 4, values, value) for tag, values, value in tags]
    parts += [bytes(4), struct.pack(f"{order}{2 * count}I", *starts, *sizes), *packed]
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    try:
        picture = cv2.imdecode(np.frombuffer(b"".join(parts), np.uint8), flags)
    except cv2.error:
        picture = None
    if picture is None or picture.nbytes != height * stride:
        raise ValueError("OpenCV cannot unpack it")
    return list(picture.view(np.uint8).reshape(count, -1))


def _whole_jpeg(piece: memoryview, layout: Layout, rows: int) -> tuple[bytes, Header]:
    """A strip or tile in JPEG compression as a JPEG that stands alone, and its header. Its tables
    may stand in a tag, and how colour is stored is told by the TIFF, not by the JPEG: an Adobe
    segment says it to the decoder."""
    if bytes(piece[:2]) != b"\xff\xd8":
        raise ValueError("no JPEG")
    adobe = b""
    if layout.samples >= 3:
        how = int(layout.photometric == YCBCR)
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([how])
    tables = layout.tables[2:-2] if layout.tables.startswith(b"\xff\xd8") else b""
    data = b"\xff\xd8" + adobe + tables + bytes(piece[2:])
    header = jpeg_header(data)
    wide, tall = layout.block[1], layout.block[0]
    if (
        header is None
        or header.unsupported
        or header.width != wide
        or not rows <= header.height <= tall
        or header.channels != layout.samples
        or data.count(b"\xff\xda") > header.channels + 10
    ):
        raise ValueError("another picture than the tags say")
    return data, header


def _jpeg(data: bytes, header: Header) -> Values:
    """A JPEG in gray."""
    import cv2

    try:
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        gray = None
    if gray is None or gray.shape != (header.height, header.width):
        raise ValueError("OpenCV cannot decode it")
    decoded: Values = gray
    return decoded


def _samples(rows: Values, layout: Layout) -> Values:
    """Rows of bytes as rows×columns×samples in this machine's byte order."""
    samples = 1 if layout.planes else layout.samples
    wide = layout.block[1]
    if layout.bits < 8:
        shifts = np.arange(8 - layout.bits, -1, -layout.bits, dtype=np.uint8)
        small = rows[:, :, None] >> shifts & ((1 << layout.bits) - 1)
        return small.reshape(len(rows), -1)[:, :wide, None]
    size = layout.bits // 8
    if layout.predictor == 3:
        return _float_predicted(rows, samples, size)
    stored = np.dtype(f"{layout.order}{layout.kind}{size}")
    values = rows.view(stored).reshape(len(rows), wide, samples)
    if layout.predictor == 2:
        whole = values.astype(stored.newbyteorder("=")).view(f"u{size}")
        np.add.accumulate(whole, axis=1, dtype=whole.dtype, out=whole)
        return whole.view(f"{layout.kind}{size}")
    return values.astype(stored.newbyteorder("="), copy=False)


def _float_predicted(rows: Values, samples: int, size: int) -> Values:
    """Undo the floating-point predictor: bytes of the same significance stand together in a row,
    and each is told by its difference from the one of the pixel before."""
    grouped = rows.reshape(len(rows), -1, samples)
    whole = np.add.accumulate(grouped, axis=1, dtype=np.uint8).reshape(len(rows), size, -1)
    values = np.ascontiguousarray(whole.transpose(0, 2, 1)).view(f">f{size}")
    return values.reshape(len(rows), -1, samples).astype(f"f{size}")


def _gray(values: Values, layout: Layout) -> Values:
    """Rows×columns×samples as rows×columns in the type of `_dtype`."""
    import cv2

    if layout.photometric == PALETTE:
        table: Values = _palette(layout)[values[:, :, 0]]
        return table
    if layout.photometric != RGB:
        gray = values[:, :, 0]
        return gray * np.uint8(255 // ((1 << layout.bits) - 1)) if layout.bits < 8 else gray
    dtype = _dtype(layout)
    if dtype == np.float64:
        weighed: Values = values[:, :, :3].astype(np.float64) @ np.array(LUMA)
        return weighed
    colour = np.ascontiguousarray(values[:, :, :3], dtype)
    luma: Values = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    return luma


def _palette(layout: Layout) -> Values:
    """The gray level of each index; the file has 16 bits, though some writers fill only 8."""
    import cv2

    count = 1 << layout.bits
    if layout.colours.size != 3 * count:
        raise ValueError("a palette of another size")
    colours = layout.colours.reshape(3, count)
    if colours.max(initial=0) > 255:
        colours = colours >> 8
    pixels = np.ascontiguousarray(colours.T[None].astype(np.uint8))
    levels: Values = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[0]
    return levels
