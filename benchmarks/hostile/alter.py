"""Ways to alter a file, each decided by a seed alone."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from benchmarks.hostile.bombs import BOMBS
from benchmarks.hostile.files import MAKERS
from benchmarks.hostile.pictures import PNG_SIGNATURE
from edge_runtime.imaging.kinds import GZIP

Rng = np.random.Generator
BOMB_SHARE = 0.04  # of the images; most are large


class Case(NamedTuple):
    """An altered file: the seed that makes it again, what it was, and what was done to it."""

    seed: int
    base: str
    kind: str
    data: bytes

    @property
    def name(self) -> str:
        """A file name; the suffix is the one of the unaltered file."""
        words = f"{self.seed:06d}-{self.base}-{self.kind}".replace(" ", "_")
        return f"{words}.{self.base.split()[0]}"


def _place(rng: Rng, data: bytes) -> int:
    """A place in the file, every other time near its beginning, where the headers are."""
    return int(rng.integers(min(len(data), 512) if rng.random() < 0.5 else len(data)))


def flip_bits(rng: Rng, data: bytes, other: bytes) -> bytes:
    """1 to 64 bits flipped."""
    out = bytearray(data)
    for _ in range(2 ** int(rng.integers(7))):
        out[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut_off(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The end missing; now and then nearly all of it."""
    return data[: int(rng.integers(64 if rng.random() < 0.2 else len(data)))]


def insert(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Random bytes added in one place."""
    at = _place(rng, data)
    return data[:at] + rng.bytes(2 ** int(rng.integers(9))) + data[at:]


def remove(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Some bytes taken out."""
    at = _place(rng, data)
    return data[:at] + data[at + 2 ** int(rng.integers(9)) :]


def zero(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A block of zeros."""
    at, size = _place(rng, data), 2 ** int(rng.integers(2, 11))
    size = min(size, len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def overwrite(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A block of random bytes."""
    at, size = _place(rng, data), 2 ** int(rng.integers(2, 11))
    size = min(size, len(data) - at)
    return data[:at] + rng.bytes(size) + data[at + size :]


def splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: _place(rng, data)] + other[int(rng.integers(len(other))) :]


Alteration = Callable[[Rng, bytes, bytes], bytes]
GENERAL: dict[str, Alteration] = {
    "bits flipped": flip_bits,
    "cut off": cut_off,
    "bytes inserted": insert,
    "bytes removed": remove,
    "block zeroed": zero,
    "block overwritten": overwrite,
    "two spliced": splice,
}

EDGES: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    8,
    255,
    256,
    4095,
    4096,
    20_000,
    32767,
    32768,
    65535,
    65536,
)
EDGES += (10**6, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
FLOATS = (0.0, -1.0, 1e-45, 1e30, -1e38, 3e38, 5e-324, 1e300, -1e308, *map(float, ("nan", "inf")))
# Numbers of NIfTI headers: dimensions, type, bits, pixel sizes, offset, scaling, orientation.
NIFTI_1 = [(40 + 2 * i, "<h") for i in range(8)] + [(70, "<h"), (72, "<h"), (252, "<h")]
NIFTI_1 += [(at, "<f") for at in (*range(76, 108, 4), 108, 112, 116, *range(256, 328, 4))]
NIFTI_2 = [(16 + 8 * i, "<q") for i in range(8)] + [(12, "<h"), (14, "<h"), (168, "<q")]
NIFTI_2 += [(at, "<d") for at in (*range(104, 168, 8), 176, 184, *range(352, 496, 8))]


def header_fields(data: bytes) -> list[tuple[int, str]]:
    """Where the numbers of a file's header stand and how they are stored."""
    if data.startswith(PNG_SIGNATURE):
        return [(16, ">I"), (20, ">I"), (24, ">B"), (25, ">B"), (28, ">B"), (8, ">I"), (33, ">I")]
    if data.startswith(b"\xff\xd8"):
        found = re.search(rb"\xff[\xc0-\xc2]", data)
        at = found.start() if found else 2
        return [(at + 2, ">H"), (at + 4, ">B"), (at + 5, ">H"), (at + 7, ">H"), (at + 9, ">B")]
    if data.startswith(b"BM"):
        return [(at, "<I") for at in (2, 10, 14, 18, 22, 30, 34, 46, 50)] + [(28, "<H")]
    if data.startswith(b"II*"):
        (at,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, at)
        entries = [at + 2 + 12 * i for i in range(count)]
        values = [(e + 8, "<I") for e in entries] * 3  # more often than the rest
        return values + [(e + k, f) for e in entries for k, f in ((2, "<H"), (4, "<I"))]
    if data.startswith(b"RIFF"):
        return [(4, "<I"), (16, "<I"), (21, "<I"), (26, "<H"), (28, "<H"), (24, "<I")]
    if data[128:132] == b"DICM":
        return _dicom_fields(data)
    if data[344:348] == b"n+1\0":
        return NIFTI_1
    return NIFTI_2 if data[4:8] == b"n+2\0" else [(4 * i, "<I") for i in range(16)]


def _dicom_fields(data: bytes) -> list[tuple[int, str]]:
    """Values and lengths of the elements of group 0028 and of the pixels'."""
    fields = []
    for found in re.finditer(rb"\x28\x00..(US|SS|IS|DS|OW)|\xe0\x7f\x10\x00", data, re.DOTALL):
        at = found.start()
        fields += [(at + 6, "<H"), (at + 8, "<H"), (at + 8, "<I")]
        if found[1] in (b"IS", b"DS"):
            fields += [(at + 8, "text")] * 2
    return fields


def change_header(rng: Rng, data: bytes, other: bytes) -> bytes:
    """One to three numbers of the header set to values at which programs break."""
    fields, out = header_fields(data), bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, stored = fields[int(rng.integers(len(fields)))]
        if stored == "text":  # a number in decimal digits, of the length that stands before it
            (size,) = struct.unpack_from("<H", out, at - 2)
            text = str((EDGES + FLOATS)[int(rng.integers(len(EDGES + FLOATS)))])[:size]
            out[at : at + size] = text.ljust(size).encode("ascii")
        elif at + struct.calcsize(stored) <= len(out):
            struct.pack_into(stored, out, at, _edge(rng, stored))
    return bytes(out)


def _edge(rng: Rng, stored: str) -> float | int:
    kind, bits = stored[1], 8 * struct.calcsize(stored)
    if kind in "fd":
        value = FLOATS[int(rng.integers(len(FLOATS)))]
        return 3e38 if kind == "f" and 3.4e38 < abs(value) < float("inf") else float(value)
    number = EDGES[int(rng.integers(len(EDGES)))] & ((1 << bits) - 1)
    return number - (1 << bits) if kind in "hq" and number >> (bits - 1) else number


def mend_png(data: bytes) -> bytes:
    """The checksums of a PNG's chunks set right, so that the decoder reads on."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


IMAGE_KINDS: dict[str, Alteration] = {**GENERAL, "header changed": change_header}


@lru_cache(maxsize=256)
def _base(name: str, seed: int) -> bytes:
    return MAKERS[name](seed)


def alter(seed: int) -> Case:
    """The altered image with this seed."""
    rng = np.random.default_rng(seed)
    if rng.random() < BOMB_SHARE:
        name = sorted(BOMBS)[int(rng.integers(len(BOMBS)))]
        return Case(seed, name, "bomb", BOMBS[name](rng))
    base, second = (sorted(MAKERS)[i] for i in rng.integers(len(MAKERS), size=2))
    kind = sorted(IMAGE_KINDS)[int(rng.integers(len(IMAGE_KINDS)))]
    data, other = _base(base, int(rng.integers(4))), _base(second, 9)
    inside = data.startswith(GZIP) and rng.random() < 0.5  # else its checksum hides the rest
    plain = gzip.decompress(data) if inside else data
    altered = plain
    while altered == plain:
        altered = IMAGE_KINDS[kind](rng, plain, other)
        if altered.startswith(PNG_SIGNATURE) and rng.random() < 0.7:
            altered = mend_png(altered)
    return Case(seed, base, kind, gzip.compress(altered, mtime=0) if inside else altered)
