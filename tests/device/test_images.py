from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import (
    black_png,
    draw_slice,
    encode,
    exif_of,
    jpeg_segment,
    png_chunk,
    png_file,
    tiff_file,
    with_chunks,
)
from edge_runtime.errors import InputError
from edge_runtime.imaging.decode import decode, decode_memory, load_gray, read_header
from edge_runtime.imaging.gray import as_gray, robust_range
from edge_runtime.imaging.headers import MAX_CHUNKS, MAX_SEGMENTS
from edge_runtime.imaging.kinds import unsupported_format
from edge_runtime.imaging.limits import (
    DEFAULT_LIMITS,
    MIB,
    ImageLimits,
    first_bytes,
    read_file,
    read_source,
)
from edge_runtime.imaging.preprocess import Preprocess, preprocess

SUFFIXES = [".jpg", ".png", ".bmp", ".tiff", ".webp"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("colour", [False, True])
def test_header_agrees_with_the_decoder(suffix: str, colour: bool) -> None:
    picture = draw_slice(1)[:150, :181]
    if colour:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    data = encode(picture, suffix)
    header = read_header(data)
    assert header is not None
    assert (header.width, header.height) == (181, 150)
    assert decode(data).shape == (150, 181)


@pytest.mark.parametrize(
    ("suffix", "shape", "dtype", "channels", "bits"),
    [
        (".jpg", (40, 30), np.uint8, 1, 8),
        (".jpg", (40, 30, 3), np.uint8, 3, 8),
        (".png", (40, 30), np.uint8, 1, 8),
        (".png", (40, 30, 3), np.uint16, 3, 16),
        (".png", (40, 30, 4), np.uint8, 4, 8),
        (".tiff", (40, 30), np.uint16, 1, 16),
        (".tiff", (40, 30, 3), np.uint8, 3, 8),
        (".bmp", (40, 30, 3), np.uint8, 3, 8),
        (".webp", (40, 30, 3), np.uint8, 3, 8),
    ],
)
def test_header_tells_how_pixels_are_stored(
    suffix: str, shape: tuple[int, ...], dtype: type, channels: int, bits: int
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    header = read_header(encode(picture, suffix))
    assert header is not None
    assert (header.width, header.height, header.channels, header.bits) == (30, 40, channels, bits)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp"])
def test_lossless_formats_keep_every_level(suffix: str) -> None:
    picture = draw_slice(2)
    np.testing.assert_array_equal(decode(encode(picture, suffix)), picture)


def test_gray_and_rgb_of_one_picture_are_the_same_slice() -> None:
    picture = draw_slice(3)
    rgb = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    np.testing.assert_array_equal(decode(encode(rgb, ".png")), picture)


def test_twelve_bits_in_sixteen_do_not_collapse() -> None:
    deep = draw_slice(4).astype(np.uint16) * 16
    gray = decode(encode(deep, ".png"))
    assert len(np.unique(gray)) > 100
    assert (gray.min(), gray.max()) == (0, 255)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_a_file_is_refused(suffix: str) -> None:
    data = encode(draw_slice(5), suffix)
    with pytest.raises(InputError, match="truncated or damaged"):
        decode(data[: len(data) // 2])


def test_a_jpeg_without_its_end_is_refused_whatever_the_decoder_makes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenCV before 4.11 fills it up. A thumbnail has an end of its own, before the scan."""
    monkeypatch.setattr("edge_runtime.imaging.decode._fills_up", lambda: True)
    data = encode(draw_slice(5))
    thumbnail = b"Exif\0\0" + encode(draw_slice(6, 32))
    placed = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]
    for whole in (data, placed):
        np.testing.assert_array_equal(decode(whole), decode(data))
        np.testing.assert_array_equal(decode(whole + b"more"), decode(data))
        for cut in (len(data) // 2, 20, 2):
            with pytest.raises(InputError, match="truncated or damaged jpeg"):
                decode(whole[:-cut])


@pytest.mark.parametrize("data", [b"text, no image", b"\xff\xd8\xff", b"BM", b"II*\x00\xff"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data)


@pytest.mark.parametrize("text", [b"BMI,age\n", b"BMI,age,sex\n22.5,61,f\n24.0,33,m\n"])
def test_a_table_that_begins_like_a_bmp_is_no_image(text: bytes) -> None:
    assert read_header(text) is None


def test_huge_picture_is_refused_by_its_header() -> None:
    data = black_png(8_000, 6_251)
    assert len(data) < 100_000
    with pytest.raises(InputError, match="8000x6251 pixels: over the limit"):
        decode(data)


def tiff_bytes(side: int, *sizes: tuple[int, int, int]) -> bytes:
    """A black TIFF of side×side whose size tags are given as (tag, type, value)."""
    strip = zlib.compress(bytes(side * side), 9)
    rest = [(258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 0), (277, 3, 1), (278, 4, side),
            (279, 4, len(strip))]  # fmt: skip
    return tiff_file([*sizes, *rest], strip)


def test_a_tiff_cannot_hide_its_size() -> None:
    limits = ImageLimits(max_pixels=100_000)
    assert decode(tiff_bytes(64, (256, 4, 64), (257, 4, 64)), limits).shape == (64, 64)
    with pytest.raises(InputError, match="over the limit"):
        decode(tiff_bytes(900, (256, 4, 900), (257, 4, 900)), limits)
    for sizes in ([(256, 4, 900), (256, 4, 9), (257, 4, 900)], [(256, 16, 8), (257, 16, 8)]):
        with pytest.raises(InputError, match="damaged"):
            decode(tiff_bytes(900, *sizes), limits)


@pytest.mark.parametrize(("turn", "rotate"), [(3, cv2.ROTATE_180), (6, cv2.ROTATE_90_CLOCKWISE)])
def test_exif_turns_are_applied(turn: int, rotate: int) -> None:
    jpeg = encode(draw_slice(8)[:150, :181])
    turned = jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0" + exif_of(turn)) + jpeg[2:]
    np.testing.assert_array_equal(decode(turned), cv2.rotate(decode(jpeg), rotate))


def test_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    os.mkfifo(tmp_path / "fifo.jpg")
    big = tmp_path / "big.jpg"
    big.write_bytes(bytes(2000))
    cases = {"empty.jpg": "empty file", "nowhere.jpg": "no such file", ".": "cannot be read",
             "fifo.jpg": "not a regular file"}  # fmt: skip
    for name, reason in cases.items():
        with pytest.raises(InputError, match=f"{reason}|not a regular file"):
            read_file(tmp_path / name)
    with pytest.raises(InputError, match="larger than the limit"):
        read_file(big, ImageLimits(max_bytes=1000))
    with pytest.raises(InputError):
        read_file("a\0b")


def test_arrays() -> None:
    picture = draw_slice(6)
    np.testing.assert_array_equal(as_gray(picture), picture)
    np.testing.assert_array_equal(as_gray(picture[..., None]), picture)
    assert as_gray(picture / 255.0).max() == 255
    assert as_gray(np.zeros((8, 8))).max() == 0
    assert as_gray(picture, (0, 510)).max() == round(picture.max() / 2)
    bad = [np.zeros(3), np.zeros((2, 2, 5)), np.full((4, 4), np.nan), np.zeros((0, 4)),
           np.array([["a"]]), np.zeros((2, 2), complex)]  # fmt: skip
    for array in bad:
        with pytest.raises(InputError):
            as_gray(array)


def test_what_lies_beyond_a_narrow_range_does_not_wrap() -> None:
    """Its upper end, rounded to float32, once came out as 257, which is 1 in 8 bits."""
    beyond = as_gray(np.zeros((4, 4), np.bool_), (-65537.0, -65537.0 + 0.41796875))
    assert beyond.min() == 255
    assert as_gray(np.zeros((4, 4), np.int16), (65537.0, 65537.0 + 0.41796875)).max() == 0


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from([np.bool_, np.uint8, np.int8, np.uint16, np.int64, np.float16,
                           np.float32, np.float64]),
    low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_stated_range_means_the_same_in_every_dtype(
    dtype: type, low: float, span: float, seed: int
) -> None:
    values = np.random.default_rng(seed).uniform(-200, 200, (9, 7)).astype(dtype)
    by_hand = np.clip((values.astype(np.float64) - low) / span, 0, 1) * 255
    gray = as_gray(values, (low, low + span))
    # A difference of a billionth beside a large offset is lost in float32.
    assert np.abs(gray - by_hand).max() <= 0.51 + 255 * abs(low) * 1e-6 / span
    for nonsense in ((1, 1), (2, 1), (0, np.inf), (np.nan, 1)):
        with pytest.raises(InputError, match="two rising numbers"):
            as_gray(values, nonsense)


def palette_png(picture: np.ndarray) -> bytes:
    """The gray levels of `picture` as a PNG of palette entries, listed backwards."""
    height, width = picture.shape
    rows = b"".join(b"\0" + (255 - row).astype(np.uint8).tobytes() for row in picture)
    palette = bytes(level for level in range(255, -1, -1) for _ in range(3))
    chunks = png_chunk(b"PLTE", palette), png_chunk(b"IDAT", zlib.compress(rows))
    return png_file(width, height, 8, 3, *chunks)


def rgba(picture: np.ndarray) -> np.ndarray:
    return np.dstack([picture] * 3 + [np.full_like(picture, 7)])


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        (".png", rgba),
        (".png", lambda p: rgba(p).astype(np.uint16) * 257),
        (".png", lambda p: np.dstack([p] * 3).astype(np.uint16) * 257),
        (".png", lambda p: p.astype(np.uint16) * 257),
        (".tiff", rgba),
        (".tiff", lambda p: np.dstack([p] * 3).astype(np.uint16) * 257),
        (".tiff", lambda p: p.astype(np.uint16) * 257),
        (".tiff", lambda p: p.astype(np.float32) / 255),
        (".tiff", lambda p: p.astype(np.float64) * 1e6),
        (".bmp", rgba),
    ],
)
def test_depth_and_colour_do_not_change_the_slice(suffix: str, change: object) -> None:
    picture = draw_slice(2)
    picture[0, :100], picture[1, :100] = 0, 255  # what is deeper is mapped from its robust range
    assert callable(change)
    assert np.abs(decode(encode(change(picture), suffix)).astype(int) - picture).max() <= 1


def test_palette_is_followed() -> None:
    np.testing.assert_array_equal(decode(palette_png(draw_slice(2))), draw_slice(2))


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"RIFF"]),
    rest=st.binary(max_size=200),
)
def test_any_bytes_give_a_slice_or_an_input_error(start: bytes, rest: bytes) -> None:
    try:
        gray = decode(start + rest, ImageLimits(max_pixels=100_000))
    except InputError:
        return
    assert gray.dtype == np.uint8
    assert gray.ndim == 2


@settings(max_examples=100, deadline=None)
@given(suffix=st.sampled_from(SUFFIXES), at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_slice_or_an_input_error(suffix: str, at: int, value: int) -> None:
    data = bytearray(encode(draw_slice(7, 64), suffix))
    data[at % len(data)] = value
    try:
        gray = load_gray(bytes(data), ImageLimits(max_pixels=1_000_000))
    except InputError:
        return
    assert preprocess(gray, Preprocess()).shape == (128, 128)


GAMMA = png_chunk(b"gAMA", struct.pack(">I", 45455))
SRGB = png_chunk(b"sRGB", b"\0")


@pytest.mark.parametrize("chunks", [(GAMMA,), (SRGB,), (SRGB, GAMMA)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_is_the_same_luma_in_every_format(chunks: tuple[bytes, ...], dtype: type) -> None:
    """Each stored value counts as it stands, whatever a PNG says that it means."""
    bgr = np.dstack([draw_slice(1), draw_slice(2)[::-1], draw_slice(3).T])
    bgr[:4, :60] = [[0, 0, 0]]
    bgr[4:8, :60] = [[255, 255, 255]]
    expected = decode(encode(bgr, ".bmp")).astype(int)
    png = encode(bgr.astype(dtype) * (257 if dtype == np.uint16 else 1), ".png")
    assert np.abs(decode(with_chunks(png, *chunks)) - expected).max() <= 1
    np.testing.assert_array_equal(decode(with_chunks(png, *chunks)), decode(png))


def test_of_an_animated_png_the_still_picture_is_read() -> None:
    still, other = draw_slice(1), draw_slice(2)
    frame = struct.pack(">IIIIIHHBB", 0, 200, 200, 0, 0, 1, 10, 0, 0)
    rest = encode(other, ".png")
    at = rest.index(b"IDAT")
    (size,) = struct.unpack_from(">I", rest, at - 4)
    png = encode(still, ".png")
    moving = (
        with_chunks(png[:-12], png_chunk(b"acTL", struct.pack(">II", 1, 0)))
        + png_chunk(b"fcTL", frame)
        + png_chunk(b"fdAT", struct.pack(">I", 1) + rest[at + 4 : at + 4 + size])
        + png[-12:]
    )
    np.testing.assert_array_equal(decode(moving), still)


def webp_with_exif(picture: np.ndarray, body: bytes) -> bytes:
    height, width = picture.shape
    plain = encode(picture, ".webp")  # RIFF, size, WEBP, then one chunk
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<II", 10, 0x08) + sides + plain[12:]
    chunks += b"EXIF" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    0: lambda p: p, 1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud,
    5: lambda p: p.T, 6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).T, 8: np.rot90,
    9: lambda p: p,
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_turns_every_format_alike(turn: int, order: str, prefix: bytes) -> None:
    picture, exif = draw_slice(8)[:150, :181], exif_of(turn, order)
    for odd in (b"", b"\0"):
        webp = webp_with_exif(picture, prefix + exif + odd)
        plain = decode(encode(picture, ".webp"))
        np.testing.assert_array_equal(decode(webp), TURNS[turn](plain))
    for deep in (picture, picture.astype(np.uint16) * 257):
        png = encode(deep, ".png")
        turned = decode(with_chunks(png, png_chunk(b"eXIf", prefix + exif)))
        np.testing.assert_array_equal(turned, TURNS[turn](decode(png)))
    if prefix and 0 < turn < 9:
        jpeg = encode(picture)
        turned = decode(jpeg[:2] + jpeg_segment(0xE1, prefix + exif) + jpeg[2:])
        np.testing.assert_array_equal(turned, TURNS[turn](decode(jpeg)))


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"nonsense" * 9])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    picture = draw_slice(8)[:150, :181]
    png = with_chunks(encode(picture, ".png"), png_chunk(b"eXIf", exif))
    np.testing.assert_array_equal(decode(png), picture)
    plain = decode(encode(picture, ".webp"))
    np.testing.assert_array_equal(decode(webp_with_exif(picture, exif)), plain)


def gif_bytes(picture: np.ndarray, frames: int = 1, transparent: int | None = None) -> bytes:
    """A GIF whose codes are not compressed: a clear code before the table grows past 9 bits."""
    height, width = picture.shape
    bits = "".join(
        f"{code:09b}"[::-1]
        for at in range(0, picture.size, 250)
        for code in [256, *picture.ravel()[at : at + 250].tolist()]
    ) + f"{257:09b}"[::-1]  # fmt: skip
    packed = int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")
    blocks = b"".join(
        bytes([len(packed[at : at + 255])]) + packed[at : at + 255]
        for at in range(0, len(packed), 255)
    )
    control = b"!\xf9\x04" + bytes([int(transparent is not None), 0, 0, transparent or 0, 0])
    one = control + b"," + struct.pack("<HHHHBB", 0, 0, width, height, 0, 8) + blocks + b"\0"
    colours = bytes(level for level in range(256) for _ in range(3))
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + colours + one * frames + b";"
    )


READS_GIF = cv2.imdecode(np.frombuffer(gif_bytes(np.zeros((4, 4), int)), np.uint8), 0) is not None


@pytest.mark.skipif(not READS_GIF, reason="this OpenCV reads no GIF")
@pytest.mark.parametrize("transparent", [None, 0, 90])
def test_a_still_gif_is_read(transparent: int | None) -> None:
    picture = draw_slice(3, 64)
    np.testing.assert_array_equal(decode(gif_bytes(picture, transparent=transparent)), picture)


def test_animations_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"^not supported: an animated GIF of 3 frames$"):
        decode(gif_bytes(draw_slice(3, 64), frames=3))
    frame = b"ANMF" + struct.pack("<I", 4) + bytes(4)
    head = b"WEBPVP8X" + struct.pack("<II", 10, 0x02) + b"\x3f\0\0\x3f\0\0"
    moving = b"RIFF" + struct.pack("<I", len(head) + 24) + head + frame * 2
    with pytest.raises(InputError, match=r"^not supported: an animated WebP of 2 frames$"):
        decode(moving)


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)])
def test_sixteen_bits_a_pixel_in_a_bmp(header: int, masks: tuple[int, ...]) -> None:
    picture = draw_slice(4, 64)
    shifts = [m.bit_length() - m.bit_count() for m in masks]
    packed = sum((picture.astype(np.uint16) >> (8 - m.bit_count())) << s
                 for m, s in zip(masks, shifts, strict=True))  # fmt: skip
    body = np.asarray(packed, "<u2")[::-1].tobytes()
    header_bytes = struct.pack("<IiiHHIIiiII", header, 64, 64, 1, 16, 3, len(body), 0, 0, 0, 0)
    header_bytes = (header_bytes + struct.pack("<III", *masks)).ljust(header, b"\0")
    start = 14 + len(header_bytes)
    data = struct.pack("<2sIII", b"BM", start + len(body), 0, start) + header_bytes + body
    assert np.abs(decode(data).astype(int) - picture).max() <= 8
    odd = data.replace(struct.pack("<III", *masks), struct.pack("<III", 7, 56, 448))
    with pytest.raises(InputError, match="not supported: a BMP of 16 bits a pixel in an unusual"):
        decode(odd)


@pytest.mark.parametrize("kind", [0xE1, 0xE2])
def test_segments_that_a_jpeg_decoder_keeps_count(kind: int) -> None:
    """Metadata and colour profiles, also behind the scan, where their number has no limit."""
    jpeg = encode(draw_slice(5))
    full = jpeg[:-2] + jpeg_segment(kind, bytes(65_533)) * 50 + jpeg[-2:]
    np.testing.assert_array_equal(decode(full, ImageLimits(max_memory=4 * MIB)), decode(jpeg))
    with pytest.raises(InputError, match="over the limit of 3 MiB"):
        decode(full, ImageLimits(max_memory=3 * MIB))
    decode(jpeg[:-2] + bytes(4 * MIB) + jpeg[-2:], ImageLimits(max_memory=3 * MIB))


def test_stray_bytes_between_the_segments_of_a_jpeg() -> None:
    jpeg = encode(draw_slice(5))
    for stray in (b"\0", b"\xff\xff", b"\xff\0abc\xff\0"):
        dirty = jpeg[:20] + stray + jpeg[20:]
        np.testing.assert_array_equal(decode(dirty), decode(jpeg))


def test_kinds_of_jpeg_that_are_not_read_are_named() -> None:
    frame = struct.pack(">BHHB", 12, 40, 30, 1) + b"\1\x11\0"
    scan = jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + bytes(99)
    for marker, bits, words in (
        (0xC1, 12, "a JPEG of 12 bits a sample"),
        (0xF7, 8, "a JPEG-LS picture"),
        (0xC5, 8, "a hierarchical JPEG"),
    ):
        data = b"\xff\xd8" + jpeg_segment(marker, bytes([bits]) + frame[1:]) + scan
        with pytest.raises(InputError, match=f"^not supported: {words}$"):
            decode(data)


def test_a_kind_that_not_every_opencv_decodes_is_named() -> None:
    """Damage cannot be told from it, so both are said."""
    data = encode(draw_slice(5)).replace(b"\xff\xc0", b"\xff\xca", 1)
    with pytest.raises(InputError, match=r"not supported by OpenCV .*: an arithmetic-coded JPEG"):
        decode(data)


def many(data: bytes, at: int, piece: bytes, count: int) -> bytes:
    return data[:at] + piece * count + data[at:]


def test_the_walk_through_a_header_is_bounded() -> None:
    jpeg, png = encode(draw_slice(5)), encode(draw_slice(5), ".png")
    most = f"{MAX_SEGMENTS:,}"
    fine = many(jpeg, 2, jpeg_segment(0xFE, b"x"), MAX_SEGMENTS - 20)
    np.testing.assert_array_equal(decode(fine), decode(jpeg))
    cases = {
        f"a JPEG of more than {most} segments": many(jpeg, 2, b"\xff\xfe\0\2", MAX_SEGMENTS),
        f"a JPEG of more than {most} segments before": many(jpeg, 2, b"\xff\x01", MAX_SEGMENTS),
        f"a PNG of more than {MAX_CHUNKS:,}": many(png, 33, png_chunk(b"tEXt", b""), MAX_CHUNKS),
        f"a GIF of more than {MAX_CHUNKS:,}": many(
            gif_bytes(np.zeros((4, 4), int)), 781, b"!\xfe" + b"\1x" * 2 + b"\0", MAX_CHUNKS // 2
        ),
    }
    for words, data in cases.items():
        with pytest.raises(InputError, match=f"^not supported: {words}"):
            decode(data)
    with pytest.raises(InputError, match="damaged"):  # no marker for a long way
        decode(many(jpeg, 20, b"\0", 1 << 17))


def progressive(side: int) -> bytes:
    black = np.zeros((side, side, 3), np.uint8)
    return encode(black, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def memory_of(data: bytes) -> int:
    header = read_header(data)
    assert header is not None
    return decode_memory(header)


def test_memory_is_told_by_the_header() -> None:
    side = 3000
    black = np.zeros((side, side), np.uint8)
    gray = memory_of(encode(black))
    assert 2 * side * side <= gray < 4 * side * side
    # Coefficients of two bytes: all of the gray, a quarter of each colour.
    assert memory_of(progressive(side)) >= 4 * side * side
    assert memory_of(encode(black.astype(np.float64), ".tiff")) >= 9 * side * side
    assert memory_of(encode(black, ".webp")) >= 3 * side * side


def test_too_much_memory_is_refused_by_the_header() -> None:
    small = ImageLimits(max_memory=20 * MIB)
    for data in (progressive(3000), encode(np.zeros((2000, 2000), np.float32), ".tiff")):
        assert memory_of(data) < DEFAULT_LIMITS.max_memory
        with pytest.raises(InputError, match="MiB to decode: over the limit of 20 MiB"):
            decode(data, small)


FOREIGN = {
    "a JPEG 2000 picture": b"\xff\x4f\xff\x51",
    "a JPEG XL picture": b"\xff\x0a\0\0",
    "an AVIF picture": b"\0\0\0 ftypavif\0\0\0\0",
    "a HEIC picture": b"\0\0\0 ftypheic\0\0\0\0",
    "an MP4 or QuickTime video": b"\0\0\0 ftypisom\0\0\0\0",
    "a Photoshop document": b"8BPS\0\1",
    "a PDF document": b"%PDF-1.7",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="x"/>',
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "a MATLAB file": b"MATLAB 5.0 MAT-file",
    "a ZIP archive: unpack it first": b"PK\3\4",
    "a Netpbm picture": b"P5\n4 4\n255\n",
    "an HTML page": b"\n<!DOCTYPE html><html>",
    "a gzip file: unpack it first": b"\x1f\x8b\x08",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_named(name: str) -> None:
    assert unsupported_format(FOREIGN[name]) == name
    with pytest.raises(InputError, match=f"^not supported: {name}$"):
        decode(FOREIGN[name])


def test_the_list_of_formats_is_the_whole_one() -> None:
    with pytest.raises(InputError, match=r"\(jpeg, png, bmp, tiff, webp, gif, dicom, nifti\b.*\)$"):
        decode(b"nothing that anyone knows")


def test_a_volume_is_no_picture() -> None:
    for data in (bytes(128) + b"DICM", bytes(344) + b"n+1\0"):
        with pytest.raises(InputError, match=r"(DICOM|NIfTI) file; btc-edge and Classifier read"):
            decode(data)


def with_a_hot_pixel(dtype: type) -> np.ndarray:
    picture = draw_slice(6).astype(dtype)
    picture[50, 50] = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1e6
    return picture


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_one_hot_pixel_does_not_flatten_the_head(dtype: type) -> None:
    hot = with_a_hot_pixel(dtype)
    calm = as_gray(draw_slice(6).astype(dtype))
    assert np.abs(as_gray(hot).astype(int) - calm)[hot == draw_slice(6)].max() <= 2
    if dtype in (np.uint16, np.float32):
        suffix = ".png" if dtype == np.uint16 else ".tiff"
        np.testing.assert_array_equal(decode(encode(hot, suffix)), as_gray(hot))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_mostly_empty_picture_keeps_what_it_shows(dtype: type) -> None:
    empty = np.full((200, 200), 7, dtype)
    assert as_gray(empty).max() == 0
    empty[5, 5:9] = 107, 207, 307, 407
    assert robust_range(empty) == (7, 407)
    assert as_gray(empty)[5, 5:9].tolist() == [64, 128, 191, 255]


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int16, np.bool_, np.float32])
@pytest.mark.parametrize("size", [1, 2, 9, 1000, 12_345])
def test_the_range_is_two_percentiles(dtype: type, size: int) -> None:
    values = np.random.default_rng(size).normal(20, 30, (1, size)).astype(dtype)
    expected = np.percentile(values.astype(np.float64), (0.1, 99.9))
    if expected[0] < expected[1]:
        np.testing.assert_allclose(robust_range(values), expected, rtol=1e-12, atol=1e-9)


def test_a_large_array_is_converted_in_pieces() -> None:
    """In floats it would take four to thirty times its size."""
    values = np.zeros((3000, 3000), np.int16)
    tracemalloc.start()
    try:
        as_gray(values, (0, 100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < values.size + 8 * MIB


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 0)), "shape"),
        (np.zeros((3, 0, 3), np.uint8), "shape"),
        (np.zeros((0, 0, 1)), "shape"),
        (np.array(7.0), "shape"),
        (np.zeros(0, "M8[s]"), "real numbers"),
        (np.zeros((4, 4), "M8[D]"), "real numbers"),
        (np.zeros((4, 4), "m8[s]"), "real numbers"),
        (np.zeros((4, 4), complex), "real numbers"),
        (np.full((4, 4), None), "real numbers"),
        (np.full((4, 4), "a"), "real numbers"),
        (np.full((4, 4), b"a"), "real numbers"),
        (np.zeros((4, 4), [("a", "u1")]), "real numbers"),
        (np.ma.masked_less(np.arange(16.0).reshape(4, 4), 3), "masked"),
        ([[1, 2], [3, 4]], "no array"),
        (np.full((4, 4), np.inf), "finite"),
    ],
)
def test_no_array_raises_anything_else(array: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_gray(array)


@pytest.mark.parametrize("nonsense", [("a", 1), (None, 1), (1,), 5, (0, 10**400)])
def test_a_range_of_something_else_is_an_input_error(nonsense: Any) -> None:
    with pytest.raises(InputError, match="two rising numbers"):
        as_gray(np.zeros((4, 4), np.uint8), nonsense)


SOURCES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "a view of words": lambda data: memoryview(data + bytes(-len(data) % 4)).cast("I"),
    "every second byte": lambda data: memoryview(bytes(b for a in data for b in (a, 0)))[::2],
    "stream": io.BytesIO,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources(kind: str) -> None:
    data = encode(draw_slice(1))
    np.testing.assert_array_equal(load_gray(SOURCES[kind](data)), decode(data))
    with pytest.raises(InputError, match="larger than the limit"):
        read_source(SOURCES[kind](data), ImageLimits(max_bytes=1000))
    with pytest.raises(InputError, match="empty file"):
        read_source(SOURCES[kind](b""))


def test_a_file_that_is_open_is_read_from_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "two.bin"
    path.write_bytes(b"before" + encode(draw_slice(1)))
    with path.open("rb") as stream:
        stream.seek(6)
        np.testing.assert_array_equal(load_gray(stream), decode(encode(draw_slice(1))))
        stream.close()
        with pytest.raises(InputError, match="cannot be read"):
            read_source(stream)
    with path.open("rb") as stream, pytest.raises(InputError, match="larger"):
        read_source(stream, ImageLimits(max_bytes=100))


class Fails:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int) -> bytes:
        raise self.error


def cut_gzip() -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(encode(draw_slice(1)))[:-20]))


def damaged_member() -> IO[bytes]:
    """A file inside a zip whose checksum is another."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("a.jpg", encode(draw_slice(1)))
    damaged = bytearray(whole.getvalue())
    damaged[100] ^= 1
    return zipfile.ZipFile(io.BytesIO(bytes(damaged))).open("a.jpg")


def released() -> memoryview:
    view = memoryview(b"some bytes")
    view.release()
    return view


@pytest.mark.parametrize(
    ("source", "words"),
    [(io.StringIO("text"), "binary mode"), (7, "int is no path"), (None, "NoneType is no path"),
     ([1], "list is no path"), (Fails(OSError(5, "the line is cut")), "the line is cut"),
     (Fails(KeyError()), "cannot be read: KeyError"), (released(), "cannot be read: .* released"),
     (cut_gzip(), "cannot be read: .* ended"), (damaged_member(), "cannot be read: Bad CRC")],
)  # fmt: skip
def test_what_is_no_source_is_an_input_error(source: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_source(source)


class Endless:
    """A stream without an end, that remembers how much it was asked for."""

    def __init__(self) -> None:
        self.given, self.most = 0, 0

    def read(self, size: int) -> bytes:
        self.given, self.most = self.given + size, max(self.most, size)
        return bytes(size)


def test_a_stream_is_read_to_the_limit_and_no_further() -> None:
    stream = Endless()
    with pytest.raises(InputError, match="larger than the limit of 3 MiB"):
        read_source(stream, ImageLimits(max_bytes=3 * MIB))  # type: ignore[arg-type]
    assert stream.given == 3 * MIB + 1
    assert stream.most <= MIB


def test_a_stream_is_kept_once() -> None:
    stream = io.BytesIO(bytes(16 * MIB))
    tracemalloc.start()
    try:
        assert len(read_source(stream)) == 16 * MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB


def test_a_small_file_needs_no_room_for_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        assert len(read_file(path)) == 1000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB


def test_a_file_that_says_nothing_of_its_size_is_read_to_the_limit() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc")
    assert maps.stat().st_size == 0
    assert len(read_file(maps)) > 1000
    with pytest.raises(InputError, match="larger than the limit"):
        read_file(maps, ImageLimits(max_bytes=1000))


@pytest.mark.parametrize("size", [0, 1, 999, 1001, 5000])
@pytest.mark.parametrize("part", [7, 1 << 20])
def test_a_file_is_read_whole_whatever_its_size_says(
    size: int, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may grow or shrink meanwhile, or come in parts."""
    data, read, status = bytes(range(250)) * 4, os.read, os.stat_result
    (tmp_path / "file").write_bytes(data)
    monkeypatch.setattr(os, "read", lambda descriptor, most: read(descriptor, min(most, part)))
    mode = (tmp_path / "file").stat().st_mode
    told = status((mode, 0, 0, 1, 0, 0, size, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda descriptor: told)
    assert read_file(tmp_path / "file") == data
    with pytest.raises(InputError, match="larger than the limit"):
        read_file(tmp_path / "file", ImageLimits(max_bytes=998))


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("no /proc")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    before = len(list(open_files.iterdir()))
    for name in (".", "empty", "fifo", "nowhere"):
        with suppress(InputError):
            read_file(tmp_path / name)
        with suppress(InputError):
            first_bytes(tmp_path / name)
    assert len(list(open_files.iterdir())) == before
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_file(tmp_path)


NOISY = """
import sys, threading
from edge_runtime.errors import InputError
from edge_runtime.imaging.decode import decode
def one(path):
    try:
        decode(open(path, "rb").read())
    except InputError:
        pass
for path in sys.argv[1:]:
    threads = [threading.Thread(target=one, args=[path]) for _ in range(4)]
    for thread in threads:
        thread.start()
    print("ours", file=sys.stderr)
    for thread in threads:
        thread.join()
import ctypes, os
ctypes.CDLL(None).perror(b"theirs")
"""


def test_decoders_say_nothing_on_stderr(tmp_path: Path) -> None:
    """And what Python and others write there in the meantime arrives."""
    png, jpeg = encode(draw_slice(1), ".png"), encode(draw_slice(1))
    broken = bytearray(png)
    broken[60] ^= 0xFF
    files = {
        "broken.png": bytes(broken),
        "profile.png": with_chunks(png, png_chunk(b"iCCP", b"x\0\0nothing")),
        "cut.png": png[: len(png) // 2] + png[-12:],
        "stray.jpg": jpeg[:20] + b"\0" + jpeg[20:],
        "ended.jpg": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "lzw.tiff": encode(draw_slice(1), ".tiff").replace(b"\x05", b"\x06"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", NOISY, *(tmp_path / name for name in files)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[:-1] == ["ours"] * len(files)
    assert lines[-1].startswith("theirs")


def test_quiet_may_be_entered_by_several_threads() -> None:
    from edge_runtime.quiet import quiet_c_stderr

    if quiet_c_stderr._variable is None:
        pytest.skip("this C library has no variable for stderr")
    before = quiet_c_stderr._variable.value

    def often() -> None:
        for _ in range(2000):
            with quiet_c_stderr:
                assert quiet_c_stderr._variable is not None
                assert quiet_c_stderr._variable.value != before

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert quiet_c_stderr._variable.value == before


def test_a_long_slice_is_padded_to_no_giant_square() -> None:
    """50 megapixels of 16 to 1 would be padded to 800."""
    long = np.zeros((1000, 16_000), np.uint8)
    long[100:900, 500:15_500] = 200
    tracemalloc.start()
    try:
        wide = preprocess(long, Preprocess())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert wide.shape == (128, 128)
    assert peak < 40 * MIB
    small = preprocess(np.ascontiguousarray(long[::8, ::8]), Preprocess())
    assert np.abs(wide.astype(int) - small).mean() < 3
