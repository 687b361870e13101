from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import InputError
from edge_runtime.headers import read_header
from edge_runtime.images import ImageLimits, as_gray, decode, load_gray, read_file
from edge_runtime.preprocess import Preprocess, preprocess
from tests.device.conftest import draw_slice, encode, png_bytes

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


@pytest.mark.parametrize("data", [b"text, no image", b"\xff\xd8\xff", b"BM", b"II*\x00\xff"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data)


def test_huge_picture_is_refused_by_its_header() -> None:
    data = png_bytes(20_000, 20_000)
    assert len(data) < 1_000_000
    with pytest.raises(InputError, match="20000x20000 pixels: over the limit"):
        decode(data)


def tiff_bytes(side: int, *sizes: tuple[int, int, int]) -> bytes:
    """A black TIFF of side×side whose size tags are given as (tag, type, value)."""
    strip = zlib.compress(bytes(side * side), 9)
    rest = [(258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 0), (277, 3, 1), (278, 4, side),
            (279, 4, len(strip))]  # fmt: skip
    tags = [*sizes, *rest]
    start = 10 + 12 * len(tags) + 4
    entries = (struct.pack("<HHII", t, k, 1, start if t == 273 else v) for t, k, v in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(4) + strip


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
    exif = b"Exif\0\0" + struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x0112, 3, 1, turn, 0)
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
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

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width = picture.shape
    rows = b"".join(b"\0" + (255 - row).astype(np.uint8).tobytes() for row in picture)
    palette = bytes(level for level in range(255, -1, -1) for _ in range(3))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


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
    data = bytearray(encode(draw_slice(7, side=64), suffix))
    data[at % len(data)] = value
    try:
        gray = load_gray(bytes(data), ImageLimits(max_pixels=1_000_000))
    except InputError:
        return
    assert preprocess(gray, Preprocess()).shape == (128, 128)
