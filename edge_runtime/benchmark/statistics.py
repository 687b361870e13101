"""From the times and answers of a benchmark to its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

STEPS = ("decode", "preprocess", "invoke", "total")
PERCENTILES = (50, 90, 95, 99)
RESAMPLES = 1000
FEWEST = 6  # queries: the median of fewer lies beyond all of them in more than 5 % of cases


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Percentiles of all samples, none left out, in the unit of `times`."""
    return {f"p{p}": float(np.percentile(times, p)) for p in PERCENTILES}


def share(right: Sequence[bool]) -> float | None:
    """The share of True, None of nothing."""
    return float(np.mean(right)) if right else None


def wilson(share: float, n: float) -> list[float]:
    """Wilson's 95 % interval of a share of `n` independent images (Probable inference, the law of
    succession, and statistical inference, 1927); it holds at 0 and 1 too.

    Args:
        n: above 0; no whole number where it is an effective size.
    """
    z = 1.96
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return [max(0.0, min(low, share)), min(1.0, max(high, share))]  # rounding aside


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, list[float] | None]:
    """Median of b/a, query by query, with a 95 % bootstrap interval; None of fewer than FEWEST
    queries, whose resamples do not tell of another one."""
    ratios: npt.NDArray[Any] = np.asarray(b) / np.asarray(a)
    rng, n = np.random.default_rng(0), len(ratios)
    if n < FEWEST:
        return float(np.median(ratios)), None
    # One draw at a time: all at once would take gigabytes after a long run.
    medians = [np.median(ratios[rng.integers(n, size=n)]) for _ in range(RESAMPLES)]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), [float(low), float(high)]
