"""From values of any depth to gray levels of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Range = tuple[float, float]

SAMPLE = 1_000_000  # values that a value range is taken from
PERCENTILES = (0.1, 99.9)  # of the values, that become black and white
BAND = 1 << 18  # values that are converted at a time


def as_gray(array: npt.NDArray[Any], value_range: Range | None = None) -> Gray:
    """An array as a gray slice.

    Args:
        array: H×W, H×W×1, or H×W×3 in RGB order, of any real dtype.
        value_range: the values that become black and white; what lies outside is clipped.
            Without it uint8 is taken as gray levels 0-255, and any other dtype is mapped so that
            `robust_range` becomes black and white.

    Raises:
        InputError: another shape, an empty array, a dtype that is no number, masked values, NaN
            or infinity, or a range that is not two rising numbers.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"{type(array).__name__} is no array")
    if isinstance(array, np.ma.MaskedArray):
        raise InputError("a masked array is not a slice: fill it first")
    if array.dtype.kind not in "buif":
        raise InputError(f"an array of {array.dtype} is not a slice; need real numbers")
    array = np.asarray(array)  # np.matrix has rules of its own
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colour = array.ndim == 3 and array.shape[2] == 3
    if (array.ndim != 2 and not colour) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is not a slice; need HxW or HxWx3")
    if array.dtype == np.uint8 and value_range is None:
        gray = np.ascontiguousarray(array)
        return _luma(gray) if colour else gray
    if value_range is not None:
        limits = rising(value_range)
    else:
        ranges = [robust_range(array[:, :, i]) for i in range(3)] if colour else []
        ranges = ranges or [robust_range(array)]
        limits = min(one[0] for one in ranges), max(one[1] for one in ranges)
    if colour:
        return in_bands(array, lambda part: _luma(levels(part, limits)))
    return in_bands(array, lambda part: levels(part, limits))


def _luma(colour: Gray) -> Gray:
    import cv2

    gray: Gray = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    return gray


@np.errstate(all="ignore")
def robust_range(values: npt.NDArray[Any]) -> Range:
    """The values that become black and white where nothing says which: two PERCENTILES of a
    sample, so that one bright pixel does not darken all others; the smallest and the largest
    value where the two are the same, as in a mostly empty picture.

    Args:
        values: a picture (H×W) or a whole volume (N×H×W), of any real dtype; what is not finite
            does not count.

    Raises:
        InputError: no finite value.
    """
    step = max(1, round((values.size / SAMPLE) ** (1 / values.ndim)))
    sample = values[(slice(None, None, step),) * values.ndim].ravel()
    if values.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise InputError("pixels that are not finite numbers")
    low, high = _percentiles(sample)
    if low < high:
        return low, high
    ends = [_ends(values[band]) for band in _bands(values)]
    return min(end[0] for end in ends), max(end[1] for end in ends)


def _percentiles(sample: npt.NDArray[Any]) -> Range:
    """The PERCENTILES of N values, linear between two neighbours as `np.percentile` has it; whole
    numbers of 16 bits are counted, which is ten times as fast."""
    if sample.dtype.kind == "f" or sample.dtype.itemsize > 2:
        low, high = np.percentile(sample.astype(np.float64), PERCENTILES)
        return float(low), float(high)
    least = int(sample.min())
    reached = np.cumsum(np.bincount(sample.astype(np.intp) - least))
    places = np.array(PERCENTILES) / 100 * (sample.size - 1)
    below, above = (reached.searchsorted(f(places), side="right") for f in (np.floor, np.ceil))
    low, high = least + below + (above - below) * (places % 1)
    return float(low), float(high)


def _ends(values: npt.NDArray[Any]) -> Range:
    """The smallest and the largest finite value; inf and -inf where there is none."""
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite, wide = np.isfinite(values), values.dtype.type
    return (
        float(values.min(where=finite, initial=wide(np.inf))),
        float(values.max(where=finite, initial=wide(-np.inf))),
    )


def rising(value_range: Range) -> Range:
    """A range of values as two floats.

    Raises:
        InputError: it is not two rising numbers.
    """
    try:
        low, high = (float(limit) for limit in value_range)
    except (TypeError, ValueError, OverflowError):
        low = high = np.nan
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"the value range {value_range} is not two rising numbers")
    return low, high


@np.errstate(all="ignore")  # odd floats; what is no number is refused
def levels(values: npt.NDArray[Any], value_range: Range) -> Gray:
    """Gray levels of values of any shape and real dtype.

    Args:
        values: few, since their floats take up to eight times their number; see `in_bands`.
        value_range: the finite values that become black and white; all is black where they are
            one.

    Raises:
        InputError: NaN or infinity.
    """
    low, high = value_range
    wide: npt.NDArray[Any] = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
    if values.dtype.kind == "f" and not np.isfinite(wide).all():
        raise InputError("pixels that are not finite numbers")
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    np.clip(wide, low, high, out=wide)
    # The half first: the span of large floats is not a float itself.
    scaled = np.rint((wide / 2 - low / 2) / (high / 2 - low / 2) * 255.0)
    # Its ends, as rounded to float32, may lie outside.
    gray: Gray = np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)
    return gray


def within(values: npt.NDArray[Any], value_range: Range) -> Gray:
    """`levels` of a range that the values themselves gave: black where its ends are one, whatever
    the values.

    Raises:
        InputError: as `levels` and `rising`.
    """
    if value_range[0] == value_range[1]:
        return np.zeros(values.shape, np.uint8)
    return levels(values, rising(value_range))


def in_bands(picture: npt.NDArray[Any], to_gray: Callable[[npt.NDArray[Any]], Gray]) -> Gray:
    """`to_gray(picture)`, some rows at a time: the float values of a whole picture would take
    eight times its pixels.

    Args:
        picture: H×W or H×W×3.
        to_gray: gives gray levels (uint8, H×W) of such rows, each pixel from its own value alone.
    """
    bands = _bands(picture)
    if len(bands) == 1:
        return to_gray(picture)
    gray = np.empty(picture.shape[:2], np.uint8)
    for band in bands:
        gray[band] = to_gray(picture[band])
    return gray


def _bands(values: npt.NDArray[Any]) -> list[slice]:
    """Rows (or slices of a volume) of some BAND values together."""
    rows = max(1, BAND // max(1, values[0].size))
    return [slice(first, first + rows) for first in range(0, len(values), rows)]


def shown_memory(pixels: int, values: int) -> int:
    """Bytes that a decoded slice takes at most to become gray levels and a model's input.

    Args:
        pixels: of the slice: its gray levels, stretched, turned and cut out.
        values: of all slices that the range of values is taken from; a sample of them is sorted.
    """
    return 4 * pixels + 40 * min(values, SAMPLE) + 32 * BAND
