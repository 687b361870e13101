"""The stored values of a DICOM file's frames, decompressed one at a time.

A compressed frame is looked at before a decoder sees it: a few kilobytes may claim gigabytes.
What a decoder needs is told from the headers. The decoders are those that pydicom finds, in an
order of ours: its own for run-length coding, Pillow, pyjpegls, pylibjpeg, and python-gdcm last. A
damaged JPEG or JPEG 2000 makes gdcm end the whole process, so that it is never given one.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options

from edge_runtime.errors import InputError
from edge_runtime.imaging.dicom_head import DAMAGED, OFFSETS
from edge_runtime.imaging.headers import MAX_SCANS, TOO_SHORT, jpeg_header
from edge_runtime.quiet import quiet_c_stderr

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

REQUIRED = ("PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored",
            "PixelRepresentation")  # fmt: skip
KEYWORDS = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
MAX_SAMPLES = 4  # colours of a pixel
# Bytes for each byte of a stored value that decoding takes, and for each value besides: measured
# with files of 9 million pixels of every kind and every decoder, rounded up.
NATIVE, COMPRESSED = (2, 1), (3, 3)
COLOUR_CHANGE = 6  # bytes for each value that pydicom turns from YBR to RGB, as floats
UNTOLD = {(True, True): pydicom.uid.ImplicitVRLittleEndian,
          (False, True): pydicom.uid.ExplicitVRLittleEndian,
          (False, False): pydicom.uid.ExplicitVRBigEndian}  # fmt: skip
# What to install for a compression: tried with files of each.
PACKAGES = {
    pydicom.uid.JPEGBaseline8Bit: "pillow",
    pydicom.uid.JPEGExtended12Bit: "pillow",
    pydicom.uid.JPEG2000Lossless: "pillow",
    pydicom.uid.JPEG2000: "pillow",
    pydicom.uid.JPEGLossless: "python-gdcm",
    pydicom.uid.JPEGLosslessSV1: "python-gdcm",
    pydicom.uid.JPEGLSLossless: "pyjpegls",
    pydicom.uid.JPEGLSNearLossless: "pyjpegls",
    pydicom.uid.HTJ2KLossless: "pylibjpeg-openjpeg",
    pydicom.uid.HTJ2KLosslessRPCL: "pylibjpeg-openjpeg",
    pydicom.uid.HTJ2K: "pylibjpeg-openjpeg",
}
NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frames",
}
PREFERRED = ("pydicom", "pillow", "pyjpegls", "pylibjpeg", "gdcm")  # the best first
LOSSLESS_JPEG = (pydicom.uid.JPEGLossless, pydicom.uid.JPEGLosslessSV1)
JPEG2000 = (pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEG2000)
JPEG = pydicom.uid.JPEGTransferSyntaxes
JPEG_LS = (pydicom.uid.JPEGLSLossless, pydicom.uid.JPEGLSNearLossless)
# Of a JPEG 2000 picture (T.800, table A.2): what a program may find in its headers, and what is
# refused because OpenJPEG would take much memory or time for it. Code blocks of 16x16 count 4.
SIZ, COD, COC, SOT, SOD, EOC = (b"\xff" + bytes([code]) for code in b"\x51\x52\x53\x90\x93\xd9")
KNOWN = {SIZ, COD, COC, SOT} | {
    b"\xff" + bytes([code])
    for code in b"\x50\x55\x57\x58\x59\x5c\x5d\x5e\x5f\x60\x61\x63\x64\x74\x75\x77\x78"
}
MAX_TILES, MAX_PRECINCTS, SMALLEST_BLOCK, MAX_MARKERS = 1024, 1 << 14, 4, 1 << 16


class StoredFrames:
    """The frames of a file by their numbers.

    Args:
        data: the whole file.
        at: where its pixel element begins.
        head: the elements before it, with those of OFFSETS.
        count: how many frames it says there are.

    Raises:
        InputError: no pixels, something that decoding needs is not told, or no decoder.
    """

    def __init__(self, data: bytes, at: int, head: pydicom.Dataset, count: int) -> None:
        self._data, self.count = data, count
        self._syntax = _syntax(head)
        bits, samples = (int(head.get(name) or 0) for name in ("BitsStored", "SamplesPerPixel"))
        self._decoder, self._plugins = _decoder(self._syntax, bits, samples)
        keyword, vr, self._at = _element(data, at, self._syntax)
        for name in REQUIRED if keyword == "PixelData" else REQUIRED[:3]:
            if head.get(name) in (None, ""):
                raise InputError(f"damaged DICOM file: it does not tell {name}")
        self._offsets = tuple(head[name].value for name in OFFSETS) if OFFSETS[0] in head else None
        self._size = (int(head.Rows), int(head.Columns), samples)
        self._options = as_pixel_options(
            head, number_of_frames=count, transfer_syntax_uid=self._syntax, pixel_keyword=keyword,
            pixel_vr=vr,
        )  # fmt: skip
        self._options.pop("extended_offsets", None)

    @property
    def memory(self) -> int:
        """Bytes that decoding one frame takes beyond the file itself."""
        options = self._options
        samples = int(options["samples_per_pixel"])
        if samples > MAX_SAMPLES:
            raise InputError(f"not supported: a DICOM file of {samples} values a pixel")
        depth, each = COMPRESSED if self._syntax.is_encapsulated else NATIVE
        each += depth * max(1, int(options["bits_allocated"]) // 8)
        # A JPEG may be YBR although the file says RGB.
        if samples > 1 and (self._syntax in JPEG or "YBR" in options["photometric_interpretation"]):
            each += COLOUR_CHANGE
        return self._size[0] * self._size[1] * samples * each

    def frames(self, numbers: Sequence[int], damaged: bool = True) -> Iterator[tuple[int, Array]]:
        """The frames of these rising numbers (H×W, or H×W×colours), each with its number.

        Args:
            damaged: raise what a damaged frame raises; else leave it out.
        """
        coded = self._compressed(numbers) if self._syntax.is_encapsulated else None
        for number in numbers:
            try:
                if coded is None:
                    stream = io.BytesIO(self._data)
                    stream.seek(self._at)
                    options = self._options
                    raw, _ = self._decoder.as_array(stream, index=number, **options)
                else:
                    raw = self._decompressed(next(coded))
            except Exception:  # decoders raise whatever they like
                if damaged:
                    raise
                continue
            yield number, raw

    def _compressed(self, numbers: Sequence[int]) -> Iterator[bytes]:
        stream = io.BytesIO(self._data)
        stream.seek(self._at)
        wanted = set(numbers)
        coded = generate_frames(stream, number_of_frames=self.count, extended_offsets=self._offsets)
        for number, frame in enumerate(coded):
            if number in wanted:
                yield frame

    def _decompressed(self, frame: bytes) -> Array:
        bits = int(self._options["bits_allocated"])
        if not _is_bearable(frame, self._size, bits, self._syntax):
            raise InputError(DAMAGED)
        # Exactly these bytes are decoded, whatever the file's tables say. Not by `iter_array`: in
        # pydicom 3.0 it writes to a read-only array where a sign must be mended.
        raw: Array
        packed, options = encapsulate([frame]), self._options | {"number_of_frames": 1}
        for plugin in self._plugins:
            # The next one may know what this one does not.
            with quiet_c_stderr, suppress(Exception):
                raw, _ = self._decoder.as_array(packed, index=0, decoding_plugin=plugin, **options)
                return raw
        raise InputError(DAMAGED)


def _syntax(head: pydicom.Dataset) -> pydicom.uid.UID:
    """The transfer syntax; of a file that does not tell, the one that it could be read in."""
    stated = getattr(head, "file_meta", {}).get("TransferSyntaxUID")
    if stated:
        return pydicom.uid.UID(stated)
    return UNTOLD[head.original_encoding]


def _element(data: bytes, at: int, syntax: pydicom.uid.UID) -> tuple[str, str, int]:
    """Keyword and value representation of the pixel element (PS3.5, 7.1.2), and where its value
    begins."""
    order = "<" if syntax.is_little_endian else ">"
    try:
        group, element = struct.unpack_from(f"{order}HH", data, at)
    except struct.error:
        raise InputError("a DICOM file without an image") from None
    if group != 0x7FE0 or element not in KEYWORDS:
        raise InputError("a DICOM file without an image")
    vr = data[at + 4 : at + 6]
    if vr in (b"OB", b"OW", b"OF", b"OD", b"UN"):  # whatever the syntax says of it
        return KEYWORDS[element], vr.decode(), at + 12
    return KEYWORDS[element], "OW", at + 8


def _decoder(syntax: pydicom.uid.UID, bits: int, samples: int) -> tuple[Any, list[str]]:
    """pydicom's decoder of a transfer syntax, and the names of the plugins that may be used with
    it, the best first; none for values that are not compressed.

    Raises:
        InputError: there is none, or the package that it needs is not installed.
    """
    name = NAMES.get(syntax, syntax.name)
    if not re.fullmatch(r"[\w .,:/()&\-\[\]#@]{1,80}", name):  # text from the file
        name = "nothing that has a name"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(f"not supported: a DICOM file compressed as {name}") from None
    plugins, package = {*PREFERRED} & {*decoder.available_plugins}, PACKAGES.get(syntax)
    if syntax not in (*LOSSLESS_JPEG, *JPEG_LS):
        plugins -= {"gdcm"}
    # Some say that they are available and decode a part of the values only.
    if syntax == pydicom.uid.JPEGExtended12Bit and bits != 8:
        name, package = "JPEG Extended (12 bit)", "pylibjpeg-libjpeg"
        plugins -= {"pillow"}
    elif syntax in JPEG2000 and (bits > 16 or (bits > 8 and samples > 1)):
        name, package = f"{name} ({bits} bit, {samples} colours)", "pylibjpeg-openjpeg"
        plugins -= {"pillow"}
    elif syntax in JPEG_LS and bits < 8:
        plugins -= {"gdcm"}
    if not decoder.is_native and not plugins:
        both = "pylibjpeg " if str(package).startswith("pylibjpeg-") else ""
        raise InputError(
            f"not supported: compressed as {name}, for which no decoder is installed: "
            f"needs the package {package}: pip install {both}{package}"
        )
    return decoder, [plugin for plugin in PREFERRED if plugin in plugins]


def _is_bearable(
    frame: bytes, size: tuple[int, int, int], bits: int, syntax: pydicom.uid.UID
) -> bool:
    """Whether a compressed frame unpacks to the rows, columns and colours that the file tells, not
    to gigabytes.

    Raises:
        InputError: a JPEG 2000 picture of too many parts, or whose parts are not to be found.
    """
    rows, columns, samples = size
    if syntax == pydicom.uid.RLELossless:
        count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
        bounds = [*starts[:count], len(frame)]
        # A segment for each byte of a pixel, none twice (PS3.5, G.2, G.5).
        if count != samples * bits // 8 or bounds[0] < 64 or bounds != sorted(set(bounds)):
            return False
        return all(
            _run_length(frame[begin:end], 2 * rows * columns + 64)
            for begin, end in pairwise(bounds)
        )
    if frame.startswith(b"\xff\xd8"):
        try:
            header = jpeg_header(frame)
        except TOO_SHORT:
            return False
        fitting_size = header is not None and (header.height, header.width) == (rows, columns)
        few = header is not None and header.channels <= samples
        return fitting_size and few and frame.count(b"\xff\xda") <= MAX_SCANS
    # JPEG 2000: SOC and SIZ markers, then sizes, offsets, tiles and components (T.800, A.5.1).
    places = [found.end() for found in re.finditer(rb"\xff\x4f\xff\x51", frame)]
    sizes = [struct.unpack_from(">4xIIII16xH", frame, place) for place in places]
    fitting = all(
        (h - y, w - x) == (rows, columns) and components <= samples
        for w, h, x, y, components in sizes
    )
    if not sizes or not fitting:
        return False
    if not all(_is_coarse(frame, place - 2) for place in places):
        raise InputError("not supported: a JPEG 2000 picture of very many parts")
    return True


def _is_coarse(frame: bytes, at: int) -> bool:
    """Whether a JPEG 2000 picture comes in few parts: OpenJPEG takes some 9 KB for each tile and
    0.6 KB for each precinct and code block (T.800, A.5.1, A.6.1, A.6.2).

    Args:
        frame: of at most 256 colours.
        at: where the SIZ marker stands.

    Raises:
        InputError: as `_segments`.
    """
    width = height = 0
    for marker, segment in _segments(frame, at):
        if marker == SIZ:
            right, below, x, y, across, down = struct.unpack_from(">2xIIIIII", segment)
            width, height = right - x, below - y
            if not across or not down or -(-width // across) * -(-height // down) > MAX_TILES:
                return False
        elif marker in (COD, COC):
            style, begin = (segment[0], 5) if marker == COD else (segment[1], 2)
            levels, wide, tall = segment[begin : begin + 3]
            if wide + tall < SMALLEST_BLOCK:
                return False
            precincts = 0
            for level, sides in enumerate(segment[begin + 5 :] if style & 1 else b""):
                halved = max(levels - level, 0)
                sizes = (-width >> halved + (sides & 15)), (-height >> halved + (sides >> 4))
                precincts += sizes[0] * sizes[1]  # each is rounded up, and negative
            if precincts > MAX_PRECINCTS:
                return False
    return True


def _segments(frame: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Markers and parameters of a JPEG 2000 picture's main header and of those of its tile parts,
    where OpenJPEG finds them (T.800, A.3).

    Raises:
        InputError: they are not where they should be, or too many.
    """
    end = 0  # of the tile part, once in one
    for _ in range(MAX_MARKERS):
        marker = frame[at : at + 2]
        if marker == SOD and at < end:
            at, end = end, 0
            marker = frame[at : at + 2]
            if marker == EOC or len(marker) < 2:
                return
            if marker != SOT:
                break
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        segment = frame[at + 4 : at + 2 + length]
        # OpenJPEG looks for the next header inside of what it does not know.
        if marker not in KNOWN or len(segment) != length - 2 or (end and marker == SOT):
            break
        if marker == SOT:
            size = int.from_bytes(segment[2:6], "big")
            end = at + size if size else len(frame)
        yield marker, segment
        at += 2 + length
    raise InputError(DAMAGED)


def _run_length(segment: bytes, most: int) -> bool:
    """Whether a run-length coded segment (PS3.5, G.3.1) unpacks to at most so many bytes; what
    stands for nothing counts as one."""
    if len(segment) > most:
        return False
    at = size = 0
    while at < len(segment) and size <= most:
        head = segment[at]
        size += head + 1 if head < 128 else 257 - head if head > 128 else 1
        at += head + 2 if head < 128 else 2 if head > 128 else 1
    return size <= most
