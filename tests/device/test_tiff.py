"""TIFF files of every kind that tifffile writes, against tifffile's own reading."""

from __future__ import annotations

import io
import itertools
import struct
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime.errors import InputError
from edge_runtime.imaging import tiff
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.gray import as_gray, robust_range

tifffile = pytest.importorskip("tifffile", reason="tifffile writes the files")
pytest.importorskip("imagecodecs", reason="imagecodecs packs them")

HEIGHT, WIDTH = 75, 61  # neither fills the last strip or tile; rows of bytes are odd
Y, X = np.mgrid[:HEIGHT, :WIDTH]
HEAD = ((X - 30) ** 2 + (Y - 32) ** 2 < 25**2) * 0.5 + ((X - 40) ** 2 + (Y - 24) ** 2 < 36) * 0.4
HEAD = HEAD + (X % 7) / 100

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
STORED = [{"rowsperstrip": 16}, {"tile": (16, 32)}, {"rowsperstrip": HEIGHT}]
BYTES = [(order, big) for order in "<>" for big in (False, True)]
COMPRESSIONS = [None, "lzw", "deflate", "packbits"]


def values(dtype: str, colour: bool, seed: int = 0) -> np.ndarray:
    """A head in a depth: H×W, or H×W×3 whose channels differ."""
    kind = np.dtype(dtype)
    share = HEAD if not colour else np.dstack([HEAD, HEAD[::-1] * 0.9, HEAD[:, ::-1] * 0.7])
    if kind.kind == "f":
        return (share * 7.5 - 1).astype(kind)
    limits = np.iinfo(kind)
    span = min(int(limits.max), 1 << 40)
    offset = -span // 2 if kind.kind == "i" else 0
    return (share * span + offset).astype(kind)


def written(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def by_the_rule(data: bytes, white: bool = False) -> np.ndarray:
    """tifffile's values as the documentation of `decode` says they become gray."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        stored = page.asarray()
        if page.planarconfig == 2 and stored.ndim == 3:
            stored = np.moveaxis(stored, 0, 2)
    if stored.ndim == 3:
        luma = stored[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114]
        stored = np.rint(luma).astype(np.uint8) if stored.dtype == np.uint8 else luma
    gray = as_gray(stored, None if stored.dtype == np.uint8 else robust_range(stored))
    return 255 - gray if white else gray


def check(data: bytes, expected: np.ndarray) -> None:
    difference = np.abs(decode(data).astype(int) - expected)
    assert difference.max() <= 1
    assert expected.std() > 20, "the reference shows nothing"


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gray(dtype: str, compression: str | None) -> None:
    for (order, big), stored, white in itertools.product(BYTES, STORED, (False, True)):
        photometric = "miniswhite" if white else "minisblack"
        data = written(values(dtype, False), photometric=photometric, byteorder=order, bigtiff=big,
                       compression=compression, **stored)  # fmt: skip
        check(data, by_the_rule(data, white))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_colour(dtype: str, compression: str | None) -> None:
    picture = values(dtype, True)
    for (order, big), stored, planes in itertools.product(BYTES[1::2], STORED, (False, True)):
        config = "separate" if planes else "contig"
        array = np.moveaxis(picture, 2, 0) if planes else picture
        data = written(array, photometric="rgb", planarconfig=config, byteorder=order, bigtiff=big,
                       compression=compression, **stored)  # fmt: skip
        check(data, by_the_rule(data))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("compression", ["lzw", "deflate"])
def test_predictors(dtype: str, compression: str) -> None:
    for order, stored, colour in itertools.product("<>", STORED, (False, True)):
        photometric = "rgb" if colour else "minisblack"
        data = written(values(dtype, colour), photometric=photometric, byteorder=order,
                       compression=compression, predictor=True, **stored)  # fmt: skip
        assert tifffile.TiffFile(io.BytesIO(data)).pages[0].predictor in (2, 3)
        check(data, by_the_rule(data))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("white", [False, True])
def test_less_than_a_byte(bits: int, white: bool) -> None:
    levels = (values("u1", False) // (256 >> bits)).astype(np.uint8)
    photometric = "miniswhite" if white else "minisblack"
    expected = levels * (255 // ((1 << bits) - 1))
    for stored in STORED[::2]:
        data = written(levels, photometric=photometric, bitspersample=bits, **stored)
        np.testing.assert_array_equal(decode(data), 255 - expected if white else expected)


def test_palettes() -> None:
    indices = values("u1", False)
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype(np.uint16)
    data = written(indices, photometric="palette", colormap=colours, compression="lzw")
    luma = np.rint([0.299, 0.587, 0.114] @ (colours >> 8).astype(np.float64))
    assert np.abs(decode(data) - luma[indices]).max() <= 1


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("space", ["gray", "ycbcr", "rgb"])
def test_jpeg_inside(space: str, stored: dict[str, Any]) -> None:
    array = cv2.GaussianBlur(values("u1", space != "gray"), (0, 0), 1)
    args = {} if space == "gray" else {"outcolorspace": space}
    data = written(array, photometric="minisblack" if space == "gray" else "rgb",
                   compression="jpeg", compressionargs=args, **stored)  # fmt: skip
    difference = np.abs(decode(data).astype(int) - by_the_rule(data))
    assert difference.mean() < 1.5
    assert difference.max() < 12  # of luma itself: tifffile goes through RGB and back


@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha", "unspecified"])
def test_transparency_is_ignored(alpha: str) -> None:
    colour = np.dstack([values("u2", True), np.full((HEIGHT, WIDTH), 9, np.uint16)])
    data = written(colour, photometric="rgb", extrasamples=[alpha], compression="deflate")
    check(data, by_the_rule(data))
    gray = np.dstack([values("u1", False), np.full((HEIGHT, WIDTH), 9, np.uint8)])
    data = written(gray, photometric="minisblack", extrasamples=[alpha], planarconfig="contig")
    if alpha == "unspecified":  # a second channel as likely as not
        with pytest.raises(InputError, match="not supported: a gray TIFF of 2 samples"):
            decode(data)
    else:
        np.testing.assert_array_equal(decode(data), gray[..., 0])


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_orientation_is_obeyed(turn: int) -> None:
    picture = values("u1", False)
    data = written(picture, photometric="minisblack", extratags=[(274, 3, 1, turn, True)])
    rows, columns = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}.get(turn, (1, 1))
    expected = picture[::rows, ::columns]
    if turn > 4:
        expected = {5: picture.T, 6: np.rot90(picture, -1), 7: np.rot90(picture, 2).T,
                    8: np.rot90(picture)}[turn]  # fmt: skip
    np.testing.assert_array_equal(decode(data), expected)


REFUSED = [
    ({"compression": "zstd"}, "u1", "a TIFF in Zstandard compression"),
    ({"compression": "lzma"}, "u2", "a TIFF in LZMA compression"),
    ({"compression": "jpeg2000"}, "u1", "a TIFF in JPEG 2000 compression"),
    ({"compression": "jpegxl"}, "u1", "a TIFF in JPEG XL compression"),
    ({"compression": "jpegxr"}, "u1", "a TIFF in JPEG XR compression"),
    ({"compression": "png"}, "u1", "a TIFF in PNG compression"),
    ({"compression": "webp", "photometric": "rgb"}, "u1", "a TIFF in WebP compression"),
    ({"compression": "lerc"}, "f4", "a TIFF in LERC compression"),
    ({"bitspersample": 12}, "u2", "a TIFF of 12-bit unsigned samples"),
    ({"photometric": "separated", "planarconfig": "contig"}, "u1", "a TIFF in CMYK"),
    ({"photometric": "cielab"}, "u1", r"a TIFF in CIE L\*a\*b\*"),
    ({}, "c8", "a TIFF of complex numbers"),
]


@pytest.mark.parametrize(("options", "dtype", "words"), REFUSED)
def test_what_is_not_read_is_named(options: dict[str, Any], dtype: str, words: str) -> None:
    photometric = options.get("photometric", "minisblack")
    picture = values("f4" if dtype == "c8" else dtype, photometric in ("rgb", "cielab"))
    if photometric == "separated":
        picture = np.dstack([values(dtype, True), values(dtype, False)])
    if "bitspersample" in options:
        picture = picture >> 4
    data = written(picture.astype(dtype), **({"photometric": photometric} | options))
    with pytest.raises(InputError, match=f"^not supported: {words}$"):
        decode(data)


def test_channels_that_are_no_colour_are_refused() -> None:
    stack = np.moveaxis(values("u2", True), 2, 0)
    data = written(stack, photometric="minisblack", planarconfig="separate")
    with pytest.raises(InputError, match="not supported: a gray TIFF of 3 samples"):
        decode(data)


def test_the_first_page_is_read() -> None:
    first, second = values("u1", False), values("u1", False)[::-1]
    data = written(np.stack([first, second]), photometric="minisblack")
    np.testing.assert_array_equal(decode(data), first)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_data_that_ends_too_early_is_damaged(dtype: str, compression: str | None) -> None:
    """Not black rows at the bottom, in which nobody sees that something is missing."""
    for stored in STORED:
        data = bytearray(written(values(dtype, False), photometric="minisblack",
                                 compression=compression, **stored))  # fmt: skip
        page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0]
        tag = page.tags["TileByteCounts" if "tile" in stored else "StripByteCounts"]
        sizes = [size // 2 for size in page.databytecounts]
        form = {3: "<u2", 4: "<u4"}[int(tag.dtype)]
        data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = np.array(
            sizes, form
        ).tobytes()
        with pytest.raises(InputError, match="truncated or damaged tiff image"):
            decode(bytes(data))


def test_places_beyond_any_file_are_damage() -> None:
    data = bytearray(written(values("u1", False), photometric="minisblack", bigtiff=True))
    directory = int.from_bytes(data[8:16], "little")
    entries = range(directory + 8, directory + 8 + 20 * data[directory], 20)
    for place in [8, *(at + 12 for at in entries), *(at + 4 for at in entries)]:
        for number in (2**63 - 1, 2**64 - 1, 2**32, 0):
            altered = bytearray(data)
            altered[place : place + 8] = number.to_bytes(8, "little")
            with suppress(InputError):  # and nothing else
                decode(bytes(altered))


@pytest.mark.filterwarnings("error")
def test_odd_numbers_and_damaged_data_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    colour = values("f8", True)
    colour[3, 3], colour[4, 4] = np.inf, np.nan
    with pytest.raises(InputError, match="finite"):
        decode(written(colour, photometric="rgb"))
    for compression in ("jpeg", "lzw"):
        data = bytearray(written(values("u1", False), photometric="minisblack",
                                 compression=compression, rowsperstrip=HEIGHT))  # fmt: skip
        page = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0]
        middle = page.dataoffsets[0] + page.databytecounts[0] // 2
        data[middle : middle + 60] = b"\xff\xd9" * 30
        with suppress(InputError):
            decode(bytes(data))
    assert capfd.readouterr().err == ""


def strips(compression: int, pieces: list[bytes], offsets: list[int] | None = None,
           width: int = 16, rows: int = 1, tables: bytes = b"") -> bytes:  # fmt: skip
    """A gray TIFF of 8 bits of packed strips, one behind the other where no offsets are given."""
    blob, count = b"".join(dict.fromkeys(pieces) if offsets else pieces), len(pieces)
    starts = np.cumsum([8, *map(len, pieces)]).tolist()[:-1] if offsets is None else offsets
    tags = {256: [width], 257: [count * rows], 258: [8], 259: [compression], 262: [1],
            273: starts, 277: [1], 278: [rows], 279: list(map(len, pieces))}  # fmt: skip
    if tables:
        tags[347] = list(tables)
    directory, values = struct.pack("<H", len(tags)), b""
    behind = 8 + len(blob) + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        kind, dtype = (7, "B") if tag == 347 else (4, "I")
        packed = struct.pack(f"<{len(numbers)}{dtype}", *numbers)
        if len(packed) > 4:
            packed, values = struct.pack("<I", behind + len(values)), values + packed
        directory += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    return struct.pack("<2sHI", b"II", 42, 8 + len(blob)) + blob + directory + bytes(4) + values


SEVENS = bytes([0xF1, 7])  # PackBits for 16 times 7


@pytest.mark.parametrize("compression", [5, 7, 8, 32773])
def test_packed_blocks_that_share_their_bytes_are_refused(compression: int) -> None:
    """Else a small file is unpacked without end: each strip costs its own bytes again."""
    piece = SEVENS + bytes([0x80]) * 1000
    with pytest.raises(InputError, match="not supported: a TIFF whose strips or tiles share"):
        decode(strips(compression, [piece] * 20, [8] * 20))
    plain = strips(1, [bytes(range(16))] * 20, [8] * 20)  # costs no more than its picture
    assert (decode(plain) == np.arange(16)).all()


def test_few_packed_bytes_are_unpacked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    alike = tiff._alike

    def watched(packed: list[memoryview], *rest: Any) -> Any:
        sizes.append(sum(map(len, packed)))
        return alike(packed, *rest)

    monkeypatch.setattr(tiff, "_alike", watched)
    piece = SEVENS + bytes([0x80]) * (1 << 18)
    assert (decode(strips(32773, [piece] * 9)) == 7).all()
    assert max(sizes) <= tiff.AT_ONCE
    assert len(sizes) == 3


def test_many_segments_in_many_strips_are_refused() -> None:
    """In the tables that all strips share, and in the strips themselves."""
    jpeg = cv2.imencode(".jpg", np.full((8, 16), 90, np.uint8))[1].tobytes()
    comments = b"\xff\xfe\x00\x02" * 950
    segments = b"\xff\xd8" + comments + b"\xff\xd9"
    assert decode(strips(7, [jpeg] * 3, rows=8, tables=segments)).shape == (24, 16)
    many = "not supported: a TIFF of more than 655,360 JPEG segments"
    with pytest.raises(InputError, match=many):
        decode(strips(7, [jpeg] * 1000, rows=8, tables=segments))
    with pytest.raises(InputError, match=many):
        decode(strips(7, [jpeg[:2] + comments + jpeg[2:]] * 1000, rows=8))
    comment = b"\xff\xfe\xff\xf0" + bytes(0xFFEE)
    with pytest.raises(InputError, match="strips or tiles with JPEG tables as long as these"):
        decode(strips(7, [jpeg] * 5000, rows=8, tables=jpeg[:2] + comment + b"\xff\xd9"))


@pytest.mark.parametrize("rows", [1, 9, 63])
@pytest.mark.parametrize("compression", ["lzw", "packbits"])
def test_odd_rows_that_end_too_early_are_damaged(compression: str, rows: int) -> None:
    """Rows and bytes a row both odd: the case that OpenCV sees in 8 bits only."""
    array = np.random.default_rng(0).integers(1, 255, (63, 63), np.uint8)
    data = written(array, compression=compression, rowsperstrip=rows, photometric="minisblack")
    assert (decode(data) == array).all()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags[279]
        place, counts = tag.valueoffset, list(file.pages[0].databytecounts)
        size = {3: 2, 4: 4}[int(tag.dtype)]
    number = len(counts) // 2
    short = bytearray(data)
    begin = place + size * number
    short[begin : begin + size] = (counts[number] // 2).to_bytes(size, "little")
    with pytest.raises(InputError, match="truncated or damaged"):
        decode(bytes(short))


@pytest.mark.parametrize("dtype", ["f4", "u2"])
def test_one_wide_row_counts(dtype: str) -> None:
    """A row is the least that becomes gray at once, however wide its tile is."""
    data = written(np.zeros((16, 16, 4), dtype), photometric="rgb", tile=(16, 16))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags[322].valueoffset
    wide = bytearray(data)
    wide[place : place + 2] = (60_000).to_bytes(2, "little")
    needed, before = (tiff.tiff_header(bytes(one)).memory for one in (wide, data))
    assert needed - before >= 60_000 * 4 * 64 - 8 * tiff.AT_ONCE
