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

# When figures are not to be believed, and why:
MAX_SPREAD = 1.5  # p90 / p50 of the graph alone, whose work is the same on every image
MAX_DRIFT = 0.10  # between the quarters of a run: a clock that changed, or a job that came or went
MIN_QUARTER = 10  # the median of fewer queries wanders by itself
MAX_LOAD = 0.5  # processes per core before the start: the benchmark would share a core
MAX_WARMING = 15.0  # K during the run: a device that goes on so will lower its clock


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


def noise_warnings(
    invoke_ms: Sequence[float],
    load: float | None,
    cores: int | None,
    before: float | None,
    after: float | None,
) -> list[str]:
    """Why the figures may not be believed.

    Args:
        invoke_ms: times of one subject's graph in the order of the run. Not the total: that
            differs from image to image, on a quiet machine too.
        load: load average before the start, over `cores` cores.
        before, after: temperature in °C.
    """
    warnings = []
    middle, high = np.percentile(invoke_ms, [50, 90])
    if high > MAX_SPREAD * middle:
        warnings.append(f"p90 of the graph alone is {high / middle:.1f} times its p50")
    if len(invoke_ms) >= 4 * MIN_QUARTER:
        quarters = [float(np.median(q)) for q in np.array_split(np.asarray(invoke_ms), 4)]
        drift = max(quarters) / min(quarters) - 1
        if drift > MAX_DRIFT:
            warnings.append(f"the graph's median drifted by {100 * drift:.0f} % during the run")
    if load is not None and cores and load / cores > MAX_LOAD:
        warnings.append(f"the load average was {load:.1f} on {cores} cores before the start")
    if before is not None and after is not None and after - before > MAX_WARMING:
        warnings.append(f"it warmed from {before:.0f} to {after:.0f} °C")
    return [f"noisy machine: {warning}" for warning in warnings]
