"""The elements of a DICOM file that tell how its pixels are stored and shown, read within bounds.

pydicom reads the elements of group 0028 and the functional groups of enhanced images; every other
element, the patient's among them, is skipped unread. It does not bound what it makes of a file: a
few megabytes of empty parts would take minutes, or gigabytes.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pydicom
from pydicom.filereader import read_sequence

from edge_runtime.errors import InputError
from edge_runtime.imaging.limits import ImageLimits

# All that is read beside the pixels themselves (and what pydicom needs of group 0028 to decode
# them). The functional groups hold the same, frame by frame, for enhanced images.
COLOURS = ("Red", "Green", "Blue")
ELEMENTS = [
    *("Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "PixelRepresentation"),
    *("SamplesPerPixel", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelSpacing", "PixelAspectRatio"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in COLOURS),
    *(f"{colour}PaletteColorLookupTableData" for colour in COLOURS),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in COLOURS),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
OFFSETS = ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"]  # read before the pixels, too
DEFLATED = b"1.2.840.10008.1.2.1.99"
ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # in either order of bytes
ITEMS_A_FRAME = 16  # in functional groups; each costs pydicom tens of microseconds
# By how deep they stand.
SEQUENCES = (
    ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
     "ModalityLUTSequence", "VOILUTSequence"),
    ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"),
    ("ModalityLUTSequence", "VOILUTSequence"),
)  # fmt: skip
MAX_READS = 200_000  # by pydicom, which needs one to three, and microseconds, for an element
MAX_READ = 1 << 24  # bytes of a value that is kept: groups of 4 KiB for each of 4096 frames
MAX_ELEMENT = 1 << 18  # bytes of one that is used: the largest lookup table takes half
MOST_TEXT = 1024  # characters of an element that are kept: none may have more than 64 by the book
DAMAGED = "truncated or damaged DICOM file"
TOO_MANY = "a DICOM file of too many or too large parts"

# What pydicom has to say of odd values quotes them, and a value may be a name.
logging.getLogger("pydicom").disabled = True
warnings.filterwarnings("ignore", module=r"(pydicom|PIL)\b")
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


class Head(NamedTuple):
    """What stands before the pixels: the elements, how many frames they tell of, and where the
    element of the pixels begins."""

    elements: pydicom.Dataset
    frames: int
    end: int


def read_head(data: bytes, limits: ImageLimits) -> Head:
    """Read a file up to its pixels.

    Raises:
        InputError: no picture, over the limits, too many parts, damaged; pydicom raises many
            other kinds on a damaged file.
    """
    elements, end = read_elements(data, limits, [*ELEMENTS, *OFFSETS])
    if "Rows" not in elements and end > len(data):
        raise InputError(DAMAGED)
    return Head(elements, count_frames(elements, limits), end)


def read_elements(
    data: bytes,
    limits: ImageLimits,
    names: Sequence[str],
    sequences: Sequence[Sequence[str]] = SEQUENCES,
) -> tuple[pydicom.Dataset, int]:
    """Some elements of a file, and where the element of its pixels begins (or the file ends).

    Args:
        names: keywords of the elements at the top; all others are skipped unread.
        sequences: keywords of those that may be asked for, by how deep they stand.

    Raises:
        InputError: too many parts; pydicom raises many other kinds on a damaged file.
    """
    if DEFLATED in data:  # pydicom would inflate it whole, to any size
        raise InputError("not supported: a deflated DICOM file; save it without that compression")
    if sum(map(data.count, ITEMS)) > ITEMS_A_FRAME * limits.max_slices:
        raise InputError(TOO_MANY)
    reads = iter(range(MAX_READS))
    stream = Bounded(data, reads)
    elements = pydicom.dcmread(
        stream, specific_tags=list(names), stop_before_pixels=True, force=True
    )
    refuse_large(elements)
    _open_sequences(elements, reads, sequences)
    return elements, stream.tell()


class Bounded(io.BytesIO):
    """What pydicom may read, which does not bound how much it makes of a file.

    Args:
        data: a file or a part of it.
        reads: one for each time that it may still read of the file.
    """

    def __init__(self, data: bytes, reads: Iterator[int]) -> None:
        super().__init__(data)
        self._reads = reads

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_READ or next(self._reads, None) is None:
            raise InputError(TOO_MANY)
        return super().read(size)


def refuse_large(of: pydicom.Dataset) -> None:
    """Refuse a list of numbers that is megabytes long: it would take pydicom gigabytes, an object
    for each.

    Raises:
        InputError: there is one.
    """
    for tag in of.keys():  # noqa: SIM118 - iterating over a Dataset makes those objects
        value = of.get_item(tag).value
        sequence = pydicom.datadict.keyword_for_tag(tag).endswith("Sequence")
        if isinstance(value, bytes) and len(value) > MAX_ELEMENT and not sequence:
            raise InputError(DAMAGED)


def _open_sequences(
    of: pydicom.Dataset, reads: Iterator[int], sequences: Sequence[Sequence[str]]
) -> None:
    """Read the sequences that are used; pydicom would do it unbounded when it is asked for them."""
    for name in sequences[0]:
        if name not in of:
            continue
        raw = of.get_item(name)
        if isinstance(raw.value, bytes):
            stream, size = Bounded(raw.value, reads), len(raw.value)
            items = read_sequence(stream, raw.is_implicit_VR, raw.is_little_endian, size, "ascii")
            of[name] = pydicom.DataElement(raw.tag, "SQ", items)
        if len(sequences) > 1:
            for item in of[name].value or []:
                _open_sequences(item, reads, sequences[1:])


def count_frames(head: pydicom.Dataset, limits: ImageLimits) -> int:
    """The number of frames, once sizes are known to be bearable.

    Raises:
        InputError: no picture, none of its size, or over the limits.
    """
    if "Rows" not in head or "Columns" not in head:
        raise InputError("a DICOM file without an image")
    rows, columns = int(head.Rows), int(head.Columns)
    if rows * columns > limits.max_pixels:
        raise InputError(f"{columns}x{rows} pixels: over the limit of {limits.max_pixels:,} pixels")
    if rows < 1 or columns < 1:
        raise InputError(DAMAGED)
    frames = int(head.get("NumberOfFrames") or 1)
    if frames < 1:
        raise InputError(DAMAGED)
    if frames > limits.max_slices:
        raise InputError(f"{frames} frames: over the limit of {limits.max_slices:,} slices")
    return frames


def identifier(head: pydicom.Dataset, name: str) -> str:
    """What an element calls a patient or a study, the same in every character set; empty where it
    is blank or missing."""
    raw = head.get_item(name)
    stored = None if raw is None else raw.value
    text = text_of(head, name)
    if "\ufffd" in text and isinstance(stored, bytes):
        return stored.hex()  # not in the character set that the file tells: two could look alike
    return text


def text_of(head: pydicom.Dataset, name: str) -> str:
    """An element's text in one form; of several values all, as DICOM writes them."""
    value = head.get(name)
    if value is None:
        return ""
    parts = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    text = "\\".join(str(part) for part in parts)[:MOST_TEXT]
    return unicodedata.normalize("NFC", re.sub(r"[\s\0]+", " ", text).strip())
