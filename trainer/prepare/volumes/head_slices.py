"""Which slices of a volume are taken: evenly spaced ones that show the head, or the tumour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge_runtime.imaging.head import percentiles

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]

BRIGHT = 99.0  # percentile of a slice's gray levels that its tissue reaches
EMPTY = 0.02  # share of a slice's pixels: a volume that shows less in each of its slices is no head
VERTEX = 0.05  # share of the fullest slice that the topmost of a head shows
FULL = 0.4  # share of the fullest slice that a slice within the head shows
BRAIN = 130.0  # mm from the vertex down to where the brain ends: below lie face and neck


class Grays(Protocol):
    """Slices by number (uint8, H×W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Gray: ...


def within_head(grays: Grays, plane: str, distance: float) -> list[int]:
    """Numbers of the slices that show enough of the head; none where there is no head.

    A pixel counts from an eighth of the brightest slice's tissue on, as in `head.head_box`.

    Args:
        grays: from the left, the back or the feet on.
        distance: mm between two of them; 0 where it is not known.
    """
    levels = [_counts(grays[number]) for number in range(len(grays))]
    bright = max(level for level, _ in levels)
    least = max(bright // 8, 4)
    shares = np.array([above[least] for _, above in levels])
    if shares.max() < EMPTY:
        return []
    first = 0
    if plane == "axial" and distance > 0:
        top = int(np.flatnonzero(shares >= VERTEX * shares.max())[-1])
        first = max(0, int(np.ceil(top - BRAIN / distance)))
    full = np.flatnonzero(shares[first:] >= FULL * shares[first:].max()) + first
    return list(range(int(full[0]), int(full[-1]) + 1))


def _counts(gray: Gray) -> tuple[int, npt.NDArray[np.float64]]:
    """How bright a slice's tissue is, and the share of pixels above each gray level."""
    counts = np.bincount(gray.ravel(), minlength=256)
    return percentiles(gray, (BRIGHT,))[0], 1 - np.cumsum(counts) / gray.size


def evenly(numbers: Sequence[int], count: int | None) -> list[int]:
    """So many of rising numbers, each from the middle of an equal share of them; all for None."""
    if count is None or len(numbers) <= count:
        return list(numbers)
    middles = (np.arange(count) + 0.5) * len(numbers) / count
    return [numbers[int(middle)] for middle in middles]
