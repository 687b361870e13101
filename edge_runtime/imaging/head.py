"""Where the head lies in a slice, and how bright its pixels are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]

# Of the pixels, above an eighth of white. The slices of one file share their gray levels, so air is
# darker; what shows less is air, or the last of the scalp.
HEAD_SHARE = 0.02
HEAD_LEVEL = 255 // 8
EXACT = 1 << 24  # float32 holds every whole number up to here
# Tuples, and no lists made for each call: OpenCV unpacks them sooner.
_CHANNEL, _BINS, _RANGE = (0,), (256,), (0, 256)


def percentiles(gray: Gray, wanted: Sequence[float]) -> list[int]:
    """The gray levels below or at which the wanted shares of the pixels lie.

    Args:
        gray: uint8 array of H×W.
        wanted: shares in percent.
    """
    import cv2

    counts = cv2.calcHist((gray,), _CHANNEL, None, _BINS, _RANGE).ravel()
    # The counts are float32; adding them up as another type costs five times as much.
    dtype = np.float32 if gray.size < EXACT else np.float64
    cumulative = np.add.accumulate(counts, dtype=dtype)
    size = gray.size
    # Whole numbers are compared, which no type rounds; numpy's own search costs twice as much.
    return [min(bisect_left(cumulative, ceil(share / 100.0 * size)), 255) for share in wanted]


def head_share(gray: Gray) -> float:
    """The share of a slice's pixels (uint8 H×W) that show a head, 0-1, where the slices of a file
    share their gray levels."""
    return int(np.count_nonzero(gray > HEAD_LEVEL)) / gray.size


def shows_head(gray: Gray) -> bool:
    """Whether a slice of a volume (uint8 H×W) shows a head, rather than the air beyond it."""
    return int(np.count_nonzero(gray > HEAD_LEVEL)) >= HEAD_SHARE * gray.size


def head_box(gray: Gray) -> tuple[slice, slice]:
    """Rows and columns that hold the head.

    A pixel counts as head above an eighth of the 99th percentile of brightness. The box reaches
    from the first to the last row (column) in which 5 % of the pixels count; the outermost 2 %
    of the slice are ignored, so that borders, specks and thin text do not widen it. A box under
    a quarter of either side is no head: then the whole slice is kept.
    """
    import cv2

    height, width = gray.shape
    step = max(1, min(height, width) // 64)  # a sample is enough for one percentile
    bright = percentiles(gray[::step, ::step].copy(), (99.0,))[0]
    mask = cv2.threshold(gray, max(bright / 8.0, 4.0), 1, cv2.THRESH_BINARY)[1]
    rows = _extent(cv2.reduce(mask, 1, cv2.REDUCE_SUM, None, cv2.CV_32S), width)
    if rows is not None:
        columns = _extent(cv2.reduce(mask, 0, cv2.REDUCE_SUM, None, cv2.CV_32S), height)
        if columns is not None:
            return rows, columns
    return slice(0, height), slice(0, width)


def _extent(sums: npt.NDArray[Any], across: int) -> slice | None:
    """Where the head begins and ends along one axis, or None where there is none.

    Args:
        sums: pixels that count in each row (column), which has `across` pixels.
    """
    # A list: few are looked at, and each call of numpy would cost as much as the whole search.
    counts = sums.ravel().tolist()
    margin, least = len(counts) // 50, max(1.0, 0.05 * across)
    first, last = margin, len(counts) - margin - 1
    while first <= last and counts[first] < least:
        first += 1
    while first < last and counts[last] < least:
        last -= 1
    if first > last or last + 1 - first < len(counts) / 4:
        return None
    return slice(first, last + 1)
