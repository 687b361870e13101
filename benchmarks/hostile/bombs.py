"""Small files made to cost much: sizes and counts that a decoder may take at their word."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from benchmarks.hostile.files import dicom_bytes, draw, nifti_bytes, pillow_bytes
from benchmarks.hostile.pictures import (
    black_png,
    png_chunk,
    tiff_file,
    with_chunks,
    zeros_packed,
)

Rng = np.random.Generator
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def _pick(rng: Rng, *choices: int) -> int:
    return choices[int(rng.integers(len(choices)))]


@lru_cache(maxsize=32)
def png_chunks(count: int) -> bytes:
    """A small PNG with so many empty chunks behind its header."""
    return with_chunks(black_png(64, 64), png_chunk(b"teXt") * count)


def jpeg_segments(segment: bytes, count: int) -> bytes:
    """A small JPEG with a segment, or bytes between segments, so many times."""
    data = pillow_bytes(draw(1), "JPEG")
    return data[:20] + segment * count + data[20:]  # behind its first segment, JFIF


def gif_blocks(count: int) -> bytes:
    """A small GIF with a comment of so many blocks of one byte."""
    data = pillow_bytes(draw(1), "GIF")
    at = data.index(b",\0\0\0\0")
    return data[:at] + b"!\xfe" + b"\1x" * count + b"\0" + data[at:]


@lru_cache(maxsize=16)
def full_tiff(side: int, bits: int, kind: int, samples: int = 1) -> bytes:
    """A black TIFF that holds all it claims in one strip: `kind` 1 unsigned, 2 signed, 3 float."""
    strip = zeros_packed(side * side * samples * bits // 8)
    colour = 2 if samples > 1 else 1
    return tiff(side, side, strip, t258=bits, t262=colour, t277=samples, t339=kind)


@lru_cache(maxsize=8)
def encoded(side: int, how: str, colour: bool, **options: Any) -> bytes:
    """A black picture, encoded by Pillow."""
    shape = (side, side, 3) if colour else (side, side)
    return pillow_bytes(np.zeros(shape, np.uint8), how, **options)


def tiff(width: int, height: int, strip: bytes = zlib.compress(bytes(4096)), **tags: int) -> bytes:
    """A TIFF of a few bytes that claims anything; `tags` are `t` and the number of the tag."""
    fields = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 0, 277: 1, 278: height,
            279: len(strip)}  # fmt: skip
    fields |= {int(name[1:]): value for name, value in tags.items()}
    if 322 in fields:  # tiles instead of strips
        fields |= {324: 0, 325: fields.pop(279)}
        del fields[273], fields[278]
    return tiff_file(((tag, 4, value) for tag, value in sorted(fields.items())), strip)


def _tiled(rng: Rng) -> bytes:
    side = _pick(rng, 8192, 16384, 32768, 2**31 - 16)
    return tiff(64, 64, t322=side, t323=_pick(rng, 16, side), t258=_pick(rng, 8, 16, 32))


def _deep_tiff(rng: Rng) -> bytes:
    """All within the limit of pixels, and eight or more times their number in bytes."""
    side, samples = _pick(rng, 1000, 3900, 7000), _pick(rng, 1, 3)
    return full_tiff(side, _pick(rng, 16, 32, 64), _pick(rng, 1, 3), samples)


def _deep_png(rng: Rng) -> bytes:
    return black_png(_pick(rng, 4000, 7000), _pick(rng, 4000, 7000), 16, _pick(rng, 0, 2, 6))


def _jpeg_walk(rng: Rng) -> bytes:
    walk = (b"\xff\xfe\x00\x02", b"\xff\x01", b"\xff\xff", b"\x00")[int(rng.integers(4))]
    return jpeg_segments(walk, _pick(rng, 900, 100_000, 5_000_000))


def _large(rng: Rng) -> bytes:
    """A progressive JPEG of more coefficients than the memory may hold, or just as many."""
    return encoded(_pick(rng, 3000, 7000), "JPEG", rng.random() < 0.5, progressive=True)


def _tiff(rng: Rng) -> bytes:
    many = _pick(rng, 1, 4, 60_000)
    return tiff(_pick(rng, 64, 1990, 65_000), _pick(rng, 64, 2000, 2**31 - 1), t277=many)


@lru_cache(maxsize=8)
def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = pillow_bytes(np.zeros((side, side), np.uint8), "JPEG", progressive=True)
    at = data.rfind(b"\xff\xda")
    return data[:at] + data[at:-2] * scans + data[-2:]


@lru_cache(maxsize=8)
def _zeros(mebibytes: int) -> bytes:
    return gzip.compress(bytes(mebibytes << 20), mtime=0)


def _gzip(rng: Rng) -> bytes:
    return _zeros(_pick(rng, 65, 300, 1200))


@lru_cache(maxsize=8)
def _gzip_volume(side: int, depth: int) -> bytes:
    return gzip.compress(nifti_bytes(np.zeros((side, side, depth), np.uint8)), mtime=0)


def _deflated(rng: Rng) -> bytes:
    side = _pick(rng, 64, 1900)
    return dicom_bytes(
        np.zeros((side, side), np.uint8), TransferSyntaxUID=DeflatedExplicitVRLittleEndian
    )


def _encoded(frame: bytes, syntax: str, **elements: Any) -> bytes:
    return dicom_bytes(
        draw(1), TransferSyntaxUID=syntax, PixelData=encapsulate([frame]), **elements
    )


def _rle(rng: Rng) -> bytes:
    """Runs that unpack to 64 times their size, or take a step for each byte."""
    pair = (b"\x81\x00", b"\x00\x00", b"\x80\x80")[int(rng.integers(3))]
    header = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    return _encoded(header + pair * (1 << _pick(rng, 10, 16, 22)), RLELossless)


@lru_cache(maxsize=16)
def _black(side: int, how: str) -> bytes:
    return pillow_bytes(np.zeros((side, side), np.uint8), how)


def _jpeg_inside(rng: Rng) -> bytes:
    """A frame that is much larger, or a little larger or smaller, than the file says."""
    side = _pick(rng, 8, 95, 97, 3000, 8000)
    if rng.random() < 0.5:
        return _encoded(_black(side, "JPEG"), JPEGBaseline8Bit)
    return _encoded(_black(side, "JPEG2000"), JPEG2000Lossless)


def _scans_inside(rng: Rng) -> bytes:
    sides = {"Rows": 1900, "Columns": 1900}
    return _encoded(many_scans(1900, _pick(rng, 3, 2000)), JPEGBaseline8Bit, **sides)


def _frames(rng: Rng) -> bytes:
    count = _pick(rng, 2, 4096, 65536, 2**31 - 1)
    return dicom_bytes(draw(1), NumberOfFrames=count)


def _dicom_side(rng: Rng) -> bytes:
    return dicom_bytes(
        draw(1), Rows=_pick(rng, 0, 1, 2000, 65535), Columns=_pick(rng, 1, 2000, 65535)
    )


def _parts(rng: Rng) -> bytes:
    """A hundred thousand empty items, or items inside items."""
    data = dicom_bytes(draw(1))
    at = data.find(b"\xe0\x7f\x10\x00")
    if rng.random() < 0.5:
        items = ITEM * _pick(rng, 1000, 100_000)
        part = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(items)) + items
    else:
        opened = struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, 2**32 - 1)
        part = (opened + struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1)) * 5000
    return data[:at] + part + data[at:]


def _stretched(rng: Rng) -> bytes:
    """Pixels of 20 to 1: square ones need 20 times the memory."""
    height, width = (1900, 2000) if rng.random() < 0.5 else (60, 60_000)
    picture = np.zeros((height, width), np.uint8)
    spacing = [20, 1] if rng.random() < 0.5 else [1, 20]
    return dicom_bytes(picture, PixelSpacing=spacing)


def _rescaled(rng: Rng) -> bytes:
    """Values that overflow on the way to gray levels."""
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], b"\0\0\1\0\2\0\3\0"
    table["LUTData"].VR = "OW"
    slope = float(_pick(rng, 1, 10**30, 10**300, -(10**308)))
    extra: dict[str, Any] = {"VOILUTSequence": [table]} if rng.random() < 0.5 else {}
    return dicom_bytes(draw(1).astype(np.int16), RescaleSlope=slope, RescaleIntercept=1, **extra)


def _scaled(rng: Rng) -> bytes:
    volume = np.stack([draw(1, 48, 40)] * 3).transpose(2, 1, 0).astype(np.float32)
    data = bytearray(nifti_bytes(volume * np.float32(1e35)))
    struct.pack_into("<ff", data, 112, _pick(rng, 1, 10**30, -(10**38)), _pick(rng, 0, 10**38))
    return bytes(data)


def _thin(rng: Rng) -> bytes:
    depth = _pick(rng, 512, 4096)
    return nifti_bytes(np.arange(depth, dtype=np.int16).reshape(1, 1, depth))


@lru_cache(maxsize=4)
def _pages(suffix: str) -> bytes:
    """One file of many pictures."""
    first, *rest = (Image.fromarray(draw(i)).convert("RGB") for i in range(40))
    out = io.BytesIO()
    first.save(out, suffix, save_all=True, append_images=rest)
    return out.getvalue()


# By suffix and a word; each takes a random generator.
BOMBS: dict[str, Callable[[Rng], bytes]] = {
    "png gigapixel": lambda r: black_png(_pick(r, 20_000, 2_500), _pick(r, 20_000, 1)),
    "png narrow": lambda r: black_png(_pick(r, 60_000, 9000, 1), _pick(r, 1, 10, 40)),
    "png pages": lambda r: _pages("PNG"),
    "webp pages": lambda r: _pages("WEBP"),
    "tiff pages": lambda r: _pages("TIFF"),
    "tiff tiles": _tiled,
    "tiff sizes": _tiff,
    "png 16": _deep_png,
    "png chunks": lambda r: png_chunks(_pick(r, 1000, 60_000, 1_000_000)),
    "webp large": lambda r: encoded(_pick(r, 2000, 5000), "WEBP", True, lossless=True, method=0),
    "gif large": lambda r: encoded(_pick(r, 3000, 5000), "GIF", False),
    "gif blocks": lambda r: gif_blocks(_pick(r, 1000, 60_000, 5_000_000)),
    "tiff deep": _deep_tiff,
    "jpg progressive": _large,
    "jpg walk": _jpeg_walk,
    "jpg scans": lambda r: many_scans(1900, _pick(r, 3, 90, 2000)),
    "nii.gz zeros": _gzip,
    "nii.gz volume": lambda r: _gzip_volume(_pick(r, 64, 1900), _pick(r, 3, 16)),
    "nii scaling": _scaled,
    "nii thin": _thin,
    "dcm deflated": _deflated,
    "dcm runs": _rle,
    "dcm other size": _jpeg_inside,
    "dcm scans": _scans_inside,
    "dcm frames": _frames,
    "dcm sides": _dicom_side,
    "dcm parts": _parts,
    "dcm stretched": _stretched,
    "dcm rescaled": _rescaled,
}
