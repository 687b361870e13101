"""Slices of a DICOM file, through its rescale, window and photometric interpretation.

pydicom reads the elements of group 0028 (how pixels are stored), the functional groups of enhanced
images and the pixels; every other element, the patient's among them, is skipped unread.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels
from pydicom.pixels.utils import as_pixel_options

from edge_runtime.errors import InputError
from edge_runtime.headers import read_header
from edge_runtime.images import MAX_SCANS, ImageLimits, as_gray
from edge_runtime.slices import square_pixels

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]

# All that is read beside the pixels themselves (and what pydicom needs of group 0028 to decode
# them). The functional groups hold the same, frame by frame, for enhanced images.
ELEMENTS = [
    *("Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "PixelRepresentation"),
    *("SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelSpacing", "PixelAspectRatio"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor"),
    *("BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
DEFLATED = b"1.2.840.10008.1.2.1.99"
ITEM = b"\xfe\xff\x00\xe0"
ITEMS_A_FRAME = 16  # in functional groups; each costs pydicom tens of microseconds

# What pydicom has to say of odd values quotes them, and a value may be a name.
logging.getLogger("pydicom").disabled = True
warnings.filterwarnings("ignore", module=r"(pydicom|PIL)\b")
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_dicom(data: bytes, limits: ImageLimits) -> Iterator[Gray]:
    """The frames in their order.

    Raises:
        InputError: no pixels, over the limits, a compression without decoder, truncated, damaged.
    """
    if DEFLATED in data:  # pydicom would inflate it whole, to any size
        raise InputError("a deflated DICOM file: save it without that compression")
    if data.count(ITEM) > ITEMS_A_FRAME * limits.max_slices:
        raise InputError("a DICOM file of too many parts")
    try:
        head = pydicom.dcmread(
            io.BytesIO(data), specific_tags=list(ELEMENTS), stop_before_pixels=True
        )
        frames = _check(head, limits)
    except InputError:
        raise
    except Exception:  # pydicom raises many kinds on a damaged file
        raise InputError("truncated or damaged DICOM file") from None
    return _frames(data, head, frames)


def _check(head: pydicom.Dataset, limits: ImageLimits) -> int:
    """The number of frames, once sizes and compression are known to be bearable."""
    if "Rows" not in head or "Columns" not in head:
        raise InputError("a DICOM file without an image")
    rows, columns = int(head.Rows), int(head.Columns)
    if rows * columns > limits.max_pixels:
        raise InputError(f"{columns}x{rows} pixels: over the limit of {limits.max_pixels:,} pixels")
    frames = int(head.get("NumberOfFrames") or 1)
    if frames > limits.max_slices:
        raise InputError(f"{frames} frames: over the limit of {limits.max_slices:,} slices")
    syntax = head.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        raise InputError(
            f"compressed as {syntax.name}, for which no decoder is installed: "
            "pip install 'btc-edge[dicom]' (pillow), pyjpegls or python-gdcm"
        )
    return frames


def _frames(data: bytes, head: pydicom.Dataset, frames: int) -> Iterator[Gray]:
    try:
        shared = _first(head, "SharedFunctionalGroupsSequence")
        own = head.get("PerFrameFunctionalGroupsSequence") or []
        pixels = _pixels(data, head, frames)
        for number in range(frames):
            groups = [shared, own[number] if number < len(own) else {}]
            yield _gray(next(pixels), head, groups)
    except InputError:
        raise
    except Exception:  # decoders raise whatever they like; StopIteration: fewer frames than told
        raise InputError("truncated or damaged DICOM file") from None


def _pixels(data: bytes, head: pydicom.Dataset, frames: int) -> Iterator[npt.NDArray[Any]]:
    """The stored values of each frame; a compressed one is looked at before it is decoded."""
    syntax = head.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        yield from iter_pixels(io.BytesIO(data))
        return
    tags = ["PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
    stored = pydicom.dcmread(io.BytesIO(data), specific_tags=list(tags))
    offsets = (stored.get(tags[1]), stored.get(tags[2])) if tags[1] in stored else None
    options = as_pixel_options(
        head, number_of_frames=1, transfer_syntax_uid=syntax, pixel_keyword=tags[0]
    )
    for frame in generate_frames(
        stored.PixelData, number_of_frames=frames, extended_offsets=offsets
    ):
        if not _is_bearable(frame, int(head.Rows), int(head.Columns), syntax):
            raise InputError("truncated or damaged DICOM file")
        # Exactly these bytes are decoded, whatever the file's tables say.
        yield next(get_decoder(syntax).iter_array(encapsulate([frame]), **options))[0]


def _is_bearable(frame: bytes, rows: int, columns: int, syntax: pydicom.uid.UID) -> bool:
    """Whether a compressed frame unpacks to the size that the file tells, not to gigabytes."""
    if syntax == pydicom.uid.RLELossless:
        count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
        bounds = [*starts[:count], len(frame)]
        return all(
            _run_length(frame[begin:end], 2 * rows * columns + 64)
            for begin, end in pairwise(bounds)
        )
    if frame.startswith(b"\xff\xd8"):
        header = read_header(frame)
        told = header is not None and (header.height, header.width) == (rows, columns)
        return told and frame.count(b"\xff\xda") <= MAX_SCANS
    # JPEG 2000: SOC and SIZ markers, then sizes and offsets (ITU T.800, A.5.1).
    places = [found.end() for found in re.finditer(rb"\xff\x4f\xff\x51", frame)]
    sizes = [struct.unpack_from(">4xIIII", frame, place) for place in places]
    return bool(sizes) and all((h - y, w - x) == (rows, columns) for w, h, x, y in sizes)


def _run_length(segment: bytes, most: int) -> bool:
    """Whether a run-length coded segment (PS3.5, G.3.1) unpacks to at most so many bytes."""
    if len(segment) > most:
        return False
    at = size = 0
    while at < len(segment) and size <= most:
        head = segment[at]
        size += head + 1 if head < 128 else 257 - head if head > 128 else 0
        at += head + 2 if head < 128 else 2 if head > 128 else 1
    return size <= most


@np.errstate(all="ignore")  # rescaled values may be no numbers; `as_gray` refuses those
def _gray(raw: npt.NDArray[Any], head: pydicom.Dataset, groups: list[Any]) -> Gray:
    if head.get("PhotometricInterpretation") == "PALETTE COLOR":
        raw = apply_color_lut(raw, head)
    if raw.ndim == 3:
        depth = 255 if raw.dtype == np.uint8 else 65535
        return as_gray(raw, (0, depth))
    scale = _layer(head, groups, "PixelValueTransformationSequence")
    values = np.asarray(apply_modality_lut(raw, scale), np.float64)
    padded = _padding(raw, head)
    if padded is not None and not padded.all():
        values[padded] = values[~padded].min()
    gray = _windowed(values, _layer(head, groups, "FrameVOILUTSequence"))
    if head.get("PhotometricInterpretation") == "MONOCHROME1":
        gray = 255 - gray
    spacing = _layer(head, groups, "PixelMeasuresSequence").get("PixelSpacing")
    spacing = spacing or head.get("PixelAspectRatio") or (1, 1)
    return square_pixels(gray, float(spacing[0]), float(spacing[1]))


def _windowed(values: npt.NDArray[np.float64], rule: pydicom.Dataset) -> Gray:
    """Apply the first window (PS3.3, C.11.2.1.2) or lookup table of the values of interest."""
    if rule.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        return as_gray(apply_voi(values.astype(np.int64), rule))
    center, width = (_number(rule.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width < 1:
        return as_gray(values)
    shape = str(rule.get("VOILUTFunction") or "LINEAR")
    if shape == "SIGMOID":
        return as_gray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50))), (0, 1))
    if shape == "LINEAR_EXACT":
        return as_gray(values, (center - width / 2, center + width / 2))
    low = center - 0.5 - (width - 1) / 2
    return as_gray(values, (low, low + max(width - 1, 1e-3)))


def _layer(head: pydicom.Dataset, groups: list[Any], sequence: str) -> Any:
    """Where a frame's values stand: its own functional group, the shared one, or the head."""
    for group in reversed(groups):
        found = _first(group, sequence)
        if found:
            return found
    return head


def _first(of: Mapping[Any, Any] | pydicom.Dataset, sequence: str) -> Any:
    items = of.get(sequence)
    return items[0] if items else {}


def _number(value: Any) -> float | None:
    """The first of one or several values."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) else value[0])


def _padding(raw: npt.NDArray[Any], head: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """The pixels outside the picture, where the file marks them."""
    mark = head.get("PixelPaddingValue")
    if not isinstance(mark, int):
        return None
    other = head.get("PixelPaddingRangeLimit", mark)
    low, high = min(mark, other), max(mark, other)
    padded: npt.NDArray[np.bool_] = (raw >= low) & (raw <= high)
    return padded
