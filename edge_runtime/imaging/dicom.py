"""Slices of a DICOM file, through its rescale, window and photometric interpretation.

What is shown follows PS3.3 (C.7.6.3, C.11.1, C.11.2): the first window or lookup table of the
values of interest. Frames without one share the range of `gray.robust_range` over the values of at
most SAMPLED frames, evenly spaced; what the file marks as padding is black and does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom

from edge_runtime.errors import InputError
from edge_runtime.imaging.dicom_frames import StoredFrames
from edge_runtime.imaging.dicom_head import COLOURS, DAMAGED, read_head, refuse_large
from edge_runtime.imaging.geometry import square_pixels
from edge_runtime.imaging.gray import (
    SAMPLE,
    as_gray,
    in_bands,
    levels,
    rising,
    robust_range,
    shown_memory,
    within,
)
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.stack import Stack

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Gray = npt.NDArray[np.uint8]
    Range = tuple[float, float]

INVERSE = "MONOCHROME1"
GRAY = (INVERSE, "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
SAMPLED = 16  # frames that a value range is taken from


def read(data: bytes, limits: ImageLimits, plane: str, volume: int | None) -> Stack:
    """The frames in their order.

    Args:
        plane, volume: of NIfTI files; they tell a DICOM file nothing.

    Raises:
        InputError: no pixels, over the limits, a compression without decoder, truncated, damaged.
    """
    frames = Frames(data, limits)
    return Stack(frames.count, frames.memory, frames.grays())


class Frames:
    """The frames of a file, as they are shown and as values.

    Args:
        value_range: gives the values that become black and white in frames without a window;
            asked for when such a frame comes. Default: `gray.robust_range` of the file's own.

    Attributes:
        count: how many there are.
        pixels: of each, as stored.
        memory: bytes that decoding and showing one takes beyond the file itself.
        inverse: whether the least values are shown white.

    Raises:
        InputError: as `read`.
    """

    def __init__(
        self, data: bytes, limits: ImageLimits, value_range: Callable[[], Range] | None = None
    ) -> None:
        with _one_kind_of_error():
            self._head, self.count, at = read_head(data, limits)
            self._stored = StoredFrames(data, at, self._head, self.count)
            pixels = int(self._head.Rows) * int(self._head.Columns)
            sampled = pixels * min(self.count, SAMPLED) if self._head.SamplesPerPixel == 1 else 0
            self.pixels = pixels
            self.memory = self._stored.memory + shown_memory(pixels, sampled)
            self.inverse = str(self._head.PhotometricInterpretation) == INVERSE
        self._value_range = value_range

    def grays(self, numbers: Sequence[int] | None = None) -> Iterator[Gray]:
        """The frames in their order (uint8, H×W, pixels square).

        Args:
            numbers: of the frames that are wanted, rising; default: all.
        """
        wanted = range(self._stored.count) if numbers is None else numbers
        with _one_kind_of_error():
            for number, raw in self._stored.frames(wanted):
                yield self._rules.gray(number, raw)

    def values(self, numbers: Sequence[int]) -> Iterator[Array]:
        """The modality's values of these rising frames (float32, H×W, pixels as stored); NaN where
        the file marks padding.

        Raises:
            InputError: damaged, or colours.
        """
        with _one_kind_of_error():
            for number, raw in self._stored.frames(numbers):
                yield self._rules.values(number, raw)

    @cached_property
    def _rules(self) -> _Rules:
        return _Rules(self._head, self._stored, self._value_range)


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    """What pydicom and the decoders raise, which is whatever they like, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception:
        raise InputError(DAMAGED) from None


class _Rules:
    """How the stored values of a file's frames become gray levels."""

    def __init__(
        self,
        head: pydicom.Dataset,
        stored: StoredFrames,
        value_range: Callable[[], Range] | None,
    ) -> None:
        self._head, self._stored, self._given_range = head, stored, value_range
        self._shared = _first(head, "SharedFunctionalGroupsSequence")
        self._own = head.get("PerFrameFunctionalGroupsSequence") or []
        self._photometric = str(head.PhotometricInterpretation)
        if self._photometric not in (*GRAY, *COLOUR, "PALETTE COLOR"):
            raise InputError("not supported: a DICOM file of another colour space than RGB and YBR")
        self._palette = _palette(head) if self._photometric == "PALETTE COLOR" else None
        self._range: Range | None = None

    def gray(self, number: int, raw: Array) -> Gray:
        """A frame as it is shown; `raw` are its stored values (H×W, or H×W×3 in RGB)."""
        if raw.ndim == 3:
            gray = self._luma(raw)
        elif self._palette is not None:
            first, table = self._palette
            gray = in_bands(raw, lambda part: table[_places(part, first, len(table))])
        else:
            gray = self._monochrome(number, raw)
        spacing = _spacing(self._layer(number, "PixelMeasuresSequence"), self._head)
        return square_pixels(gray, *spacing)

    @np.errstate(all="ignore")  # rescaled values may be no numbers; who shows them refuses those
    def values(self, number: int, raw: Array) -> Array:
        """A frame's values, see `Frames.values`."""
        if raw.ndim != 2 or self._photometric not in GRAY:
            raise InputError("a colour picture")
        layer = self._layer(number, "PixelValueTransformationSequence")
        values: Array = _modality(layer, self._head)(raw).astype(np.float32)
        padded = _padding(raw, self._head)
        if padded is not None:
            values[padded] = np.nan
        return values

    def _luma(self, raw: Array) -> Gray:
        if raw.shape[2] != 3:
            raise InputError(f"not supported: a DICOM file of {raw.shape[2]} values a pixel")
        if raw.dtype == np.uint8:
            return as_gray(raw)
        white = 2.0 ** int(self._head.BitsStored) - 1
        return as_gray(raw, (0, white))

    @np.errstate(all="ignore")  # rescaled values may be no numbers; `levels` refuses those
    def _monochrome(self, number: int, raw: Array) -> Gray:
        to_values = _modality(self._layer(number, "PixelValueTransformationSequence"), self._head)
        to_gray = _interest(self._layer(number, "FrameVOILUTSequence"), self._head)
        if to_gray is None:
            to_gray = partial(within, value_range=self._range_of(number, raw))
        gray = in_bands(raw, lambda part: to_gray(to_values(part)))
        if self._photometric == INVERSE:
            np.subtract(255, gray, out=gray)
        padded = _padding(raw, self._head)
        if padded is not None and not padded.all():
            gray[padded] = 0
        return gray

    def _range_of(self, number: int, raw: Array) -> Range:
        """The range of the frames that have no window, found with the first of them."""
        if self._range is None and self._given_range is not None:
            self._range = self._given_range()
        if self._range is None:
            wanted = np.linspace(0, self._stored.count - 1, SAMPLED).round().astype(int)
            some = sorted({number, *wanted.tolist()}) if self._stored.count > 1 else [number]
            sample = [
                self._sample(at, found, len(some))
                for at, found in (
                    self._stored.frames(some, damaged=False) if len(some) > 1 else [(number, raw)]
                )
            ]
            self._range = robust_range(np.concatenate(sample) if len(sample) > 1 else sample[0])
        return self._range

    def _sample(self, number: int, raw: Array, of: int) -> Array:
        """Some of a frame's values, without padding."""
        step = int(np.ceil(np.sqrt(raw.size * of / SAMPLE)))
        some = raw[::step, ::step]
        layer = self._layer(number, "PixelValueTransformationSequence")
        values = _modality(layer, self._head)(some)
        padded = _padding(some, self._head)
        return values.ravel() if padded is None or padded.all() else values[~padded]

    def _layer(self, number: int, sequence: str) -> Any:
        """Where a frame's values stand: its own functional group, the shared one, or the head."""
        own = self._own[number] if number < len(self._own) else {}
        return _first(own, sequence) or _first(self._shared, sequence) or self._head


def _modality(layer: pydicom.Dataset, head: pydicom.Dataset) -> Callable[[Array], Array]:
    """From stored values to those of the modality (PS3.3, C.11.1), float64 or a table's."""
    table = _table(layer, "ModalityLUTSequence", head)
    if table is not None:
        first, entries, _ = table
        return lambda raw: entries[_places(raw, first, len(entries))]
    slope, intercept = (_number(layer.get(f"Rescale{name}")) for name in ("Slope", "Intercept"))
    if slope is None or intercept is None:
        return lambda raw: raw
    return lambda raw: raw.astype(np.float64) * slope + intercept


def _interest(layer: pydicom.Dataset, head: pydicom.Dataset) -> Callable[[Array], Gray] | None:
    """From values to gray levels by the first lookup table or window (PS3.3, C.11.2.1); None
    where there is none."""
    table = _table(layer, "VOILUTSequence", head)
    if table is not None:
        first, entries, bits = table
        shown = levels(entries, (0, max(2**bits - 1, int(entries.max()))))
        return lambda values: shown[_places(values, first, len(shown))]
    center, width = (_number(layer.get(f"Window{name}")) for name in ("Center", "Width"))
    shape = str(layer.get("VOILUTFunction") or "LINEAR").strip().upper()
    if center is None or width is None or width <= 0 or (shape == "LINEAR" and width < 1):
        return None
    if shape == "SIGMOID":
        return lambda values: levels(
            1 / (1 + np.exp(np.clip(-4 * (values.astype(np.float64) - center) / width, -50, 50))),
            (0, 1),
        )
    if shape == "LINEAR_EXACT":
        return partial(levels, value_range=rising((center - width / 2, center + width / 2)))
    low = center - 0.5 - (width - 1) / 2
    return partial(levels, value_range=rising((low, low + max(width - 1, 1e-3))))


def _table(
    layer: pydicom.Dataset, sequence: str, head: pydicom.Dataset
) -> tuple[int, npt.NDArray[np.uint16], int] | None:
    """The first value that a lookup table maps, its entries and their bits; None without one.

    Some programs write a sequence whose item is empty: no table. pydicom's own functions wrap
    where a value lies more than 16 bits beyond the table, and know fewer depths.
    """
    for item in layer.get(sequence) or []:
        refuse_large(item)
        descriptor = item.get("LUTDescriptor")
        entries = _entries(item.get("LUTData"), head)
        if descriptor and len(descriptor) == 3 and entries.size:
            count, first, bits = (int(number) for number in descriptor)
            return first, entries[: count or 1 << 16], min(max(bits, 1), 16)
    return None


def _entries(stored: Any, head: pydicom.Dataset) -> npt.NDArray[np.uint16]:
    """The entries of a lookup table, which pydicom gives as bytes or as numbers."""
    if isinstance(stored, bytes):
        order = "<" if head.original_encoding[1] else ">"
        return np.frombuffer(stored[: len(stored) // 2 * 2], f"{order}u2").astype(np.uint16)
    numbers = np.atleast_1d([] if stored is None else stored).astype(np.int64)
    return (numbers & 0xFFFF).astype(np.uint16)


def _places(values: Array, first: int, count: int) -> npt.NDArray[np.int64]:
    """Places in a table: values before the first take its first entry, those behind its last."""
    whole = values if values.dtype.kind == "f" else values.astype(np.int64)
    places: npt.NDArray[np.int64] = np.clip(whole, first, first + count - 1).astype(np.int64)
    return places - first


def _palette(head: pydicom.Dataset) -> tuple[int, Gray]:
    """The first stored value that a palette (PS3.3, C.7.6.3.1.5) maps, and the gray levels of its
    entries."""
    count, first, bits = (int(number) for number in head.RedPaletteColorLookupTableDescriptor)
    count = count or 1 << 16
    order = "<" if head.original_encoding[1] else ">"
    tables = []
    for colour in COLOURS:
        whole = head.get(f"{colour}PaletteColorLookupTableData")
        if whole:
            # Entries of 8 bits may stand in 8 bits or in 16.
            kind = f"{order}u2" if len(whole) >= 2 * count else "u1"
            tables.append(np.frombuffer(whole, kind, count))
        else:
            kind = f"{order}u2" if bits > 8 else "u1"
            parts = np.frombuffer(head[f"Segmented{colour}PaletteColorLookupTableData"].value, kind)
            tables.append(_segments(parts.astype(np.int64), bits > 8, count))
    entries = np.stack(tables, axis=-1)[None]
    deep = bits > 8 or int(entries.max()) > 255
    return first, as_gray(entries, (0, 65535 if deep else 255))[0]


def _segments(parts: npt.NDArray[np.int64], wide: bool, count: int) -> npt.NDArray[np.int64]:
    """The entries that a segmented palette (PS3.3, C.7.9.2) stands for, `count` at most: a few
    bytes may ask for millions.

    Segments are discrete (0: how many entries, then these), linear (1: how many, then the last
    one of a ramp) or indirect (2: how many segments to repeat, then where the first of them
    begins, in bytes).

    Args:
        parts: the values as they are stored.
        wide: they are 16 bits wide, not 8.
    """
    entries: list[int] = []
    places = [(0, len(parts))]  # where segments stand and how many of them count, innermost last
    for _ in range(4 * (count + len(parts))):
        at, segments = places.pop()
        if len(entries) >= count or not (segments and at + 2 < len(parts)):
            if len(entries) >= count or not places:
                break
            continue
        kind, length = int(parts[at]), int(parts[at + 1])
        if kind in (0, 1) and length < 1:
            break
        if kind == 0:
            entries += parts[at + 2 : at + 2 + length].tolist()
            places.append((at + 2 + length, segments - 1))
        elif kind == 1 and entries:
            ramp = np.linspace(entries[-1], int(parts[at + 2]), length + 1)[1:]
            entries += np.around(ramp).astype(int).tolist()
            places.append((at + 3, segments - 1))
        elif kind == 2 and entries and not places:
            digits = parts[at + 2 : at + (4 if wide else 6)].tolist()
            begin = sum(digit << (16 if wide else 8) * i for i, digit in enumerate(digits))
            places.append((at + 2 + len(digits), segments - 1))
            places.append((begin // (2 if wide else 1), length))
        else:
            break
    if len(entries) < count:
        raise InputError(DAMAGED)
    return np.array(entries[:count])


def _first(of: Mapping[Any, Any] | pydicom.Dataset, sequence: str) -> Any:
    items = of.get(sequence)
    if not items:
        return {}
    refuse_large(items[0])
    return items[0]


def _number(value: Any) -> float | None:
    """The first of one or several values."""
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)


def _spacing(layer: pydicom.Dataset, head: pydicom.Dataset) -> tuple[float, float]:
    """Height and width of a pixel, in mm or as a ratio."""
    spacing: Any = layer.get("PixelSpacing") or head.get("PixelAspectRatio") or ()
    if len(spacing) != 2 or None in spacing:
        return 1.0, 1.0
    return float(spacing[0]), float(spacing[1])


def _padding(raw: Array, head: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """The pixels outside the picture, where the file marks them."""
    mark = head.get("PixelPaddingValue")
    if not isinstance(mark, int) or raw.dtype.kind not in "iu":
        return None
    other = head.get("PixelPaddingRangeLimit")
    marks = [mark, other if isinstance(other, int) else mark]
    if raw.dtype.kind == "i":  # often written as if it were unsigned
        most = np.iinfo(raw.dtype).max
        marks = [number - 2 * (most + 1) if number > most else number for number in marks]
    padded: npt.NDArray[np.bool_] = (raw >= min(marks)) & (raw <= max(marks))
    return padded
