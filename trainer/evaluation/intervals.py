"""The one kind of interval behind every figure: 95 %, over groups, and honest at the edges.

Slices of one patient, and pictures that look alike, say less than as many independent ones. A
share is given Wilson's interval on its effective sample size: the number of independent slices
that would know it as well (Korn and Graubard, Confidence intervals for proportions with small
expected number of positive counts estimated from survey data, 1998). The mean of a paired
difference of hits is given Bonett and Price's interval on the same size. The area under a ROC
curve is the share of pairs that are ranked rightly: Wilson's interval on the size that both sides
of the pairs leave. Other figures (a mean of
losses, kappa, F1) are given the BCa bootstrap over whole groups (Efron, Better bootstrap
confidence intervals, 1987; Field and Welsh, Bootstrapping clustered data, 2007).

Where the data cannot tell an interval, it is None, "not estimable": one group says nothing of
another one, and resamples that all give the same value know no spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.benchmark.statistics import wilson

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Interval = list[float] | None

RESAMPLES = 2000
LEVEL = 0.95
FEWEST_GROUPS = 5  # resamples of fewer take a handful of values
NOT_ESTIMABLE = "not estimable"


def own_groups(groups: Sequence[str]) -> list[str]:
    """The groups, where a slice of unknown (empty) group stands for itself: one group of all those
    would have no spread."""
    return [group or f"slice {i}" for i, group in enumerate(groups)]


def design_effect(values: npt.NDArray[Any], member: Labels) -> float:
    """By how much groups make the mean of `values` less certain than independent values would.

    The linearised variance of the mean over groups (with G / (G - 1)) by that of independent
    values (Kish, Survey sampling, 1965), with one more group in which all of an average group's
    values miss the mean together, by 1. That group fades where many differ; where none does, it is
    all there is, and groups count as units.

    Args:
        values: N hits (0 or 1) or differences of two hits (-1, 0 or 1).
        member: N numbers of groups, from 0, none left out.

    Returns:
        At least 1.
    """
    sizes = np.bincount(member)
    gaps = values.astype(np.float64) - float(np.mean(values))
    together = float(np.square(np.bincount(member, weights=gaps)).sum())
    several = len(sizes) / max(len(sizes) - 1, 1)
    alone = float(np.square(gaps).sum())
    return float(pooled_effect(several * together, alone, np.float64(len(values) / len(sizes))))


def pooled_effect(together: float, alone: float, size: npt.NDArray[Any] | np.float64) -> Floats:
    """`design_effect` from its sums: squares of the groups' sums, squares of the values, and the
    mean size of a group, of which there may be several."""
    effect: Floats = np.maximum((together + size * size) / (alone + size), 1.0)
    return effect


def effective_size(values: npt.NDArray[Any], groups: Sequence[str]) -> float:
    """How many independent values would know the mean of `values` as well; see `design_effect`.

    Smaller by (z / t)² where few groups tell the spread, t with as many degrees of freedom as
    there are groups beside the first (Korn and Graubard). 0 for a single group.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max(initial=-1)) + 1
    if count < 2:
        return 0.0
    return _shrunk(count) * len(values) / design_effect(values, member)


def _shrunk(count: int) -> float:
    """By how much a size shrinks where `count` groups tell the spread."""
    from scipy.stats import norm, t

    tail = (1 + LEVEL) / 2
    return float(norm.ppf(tail) / t.ppf(tail, count - 1)) ** 2


def share_interval(hits: npt.NDArray[Any], groups: Sequence[str]) -> Interval:
    """Of the share of true `hits` (N): Wilson's on the effective size; None of one group."""
    size = effective_size(hits, groups)
    return wilson(float(np.mean(hits)), size) if size else None


def auc_interval(
    scores: Floats, positive: npt.NDArray[np.bool_], groups: Sequence[str]
) -> tuple[float, Interval]:
    """The area under a ROC curve, and Wilson's interval on the effective number of pairs.

    The variance of the area is that of DeLong et al. (Comparing the areas under two or more
    correlated ROC curves, 1988) with whole groups as its units (Obuchowski, Nonparametric analysis
    of clustered ROC curve data, 1997): of each positive the share of negatives that it stands
    above, of each negative the share of positives below which it stands. What a group with both
    has in common is left out, which makes the interval wider.

    Args:
        scores: N values that are higher for positives.
        positive: N; there must be some of either.
        groups: N names.

    Returns:
        The area, 0 to 1, ties counted half, and its interval; None where one side is one group.
    """
    sides = [scores[positive], scores[~positive]]
    above = [_share_below(sides[0], sides[1]), 1 - _share_below(sides[1], sides[0])]
    area = float(np.mean(above[0]))
    members = np.asarray(groups)
    sizes = [
        _size_of_ranks(shares, members[chosen].tolist(), area)
        for shares, chosen in zip(above, (positive, ~positive), strict=True)
    ]
    if not all(sizes):
        return area, None
    return area, wilson(area, 1 / sum(1 / size for size in sizes))


def _share_below(values: Floats, others: Floats) -> Floats:
    """Of each value the share of the others that are lower, ties counted half."""
    known = np.sort(others)
    below = np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")
    shares: Floats = below / (2 * len(known))
    return shares


def _size_of_ranks(shares: Floats, groups: Sequence[str], area: float) -> float:
    """How many independent pairs would know the area as well as one side's shares do, the other
    side being given; as `effective_size` does, with the variance of a hit in place of theirs."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max(initial=-1)) + 1
    if count < 2:
        return 0.0
    size = len(shares) / count
    sums = np.bincount(member, weights=shares - area)
    together = count / (count - 1) * float(np.square(sums).sum())
    pairs = len(shares) * area * (1 - area)
    return _shrunk(count) * len(shares) * (pairs + size) / (together + size * size)


def difference_interval(differences: npt.NDArray[Any], groups: Sequence[str]) -> Interval:
    """Of the mean of N paired differences of hits (-1, 0 or 1): Bonett and Price (Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data, 2012) on
    the effective size; None of one group."""
    from scipy.stats import norm

    size = effective_size(differences, groups)
    if not size:
        return None
    more, less = (
        (size * float((differences * sign > 0).mean()) + 1) / (size + 2) for sign in (1, -1)
    )
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt((more + less - (more - less) ** 2) / (size + 2))
    middle, mean = more - less, float(np.mean(differences))
    return [
        float(max(min(middle - half, mean), -1.0)),
        float(min(max(middle + half, mean), 1.0)),
    ]


def mean_of_shares(shares: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Of the mean of shares that are independent of each other, from their own intervals (Zou and
    Donner, Construction of confidence limits about effect measures, 2008): it holds where all are
    1 too. None where one of theirs is."""
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(shares) or not known:
        return None
    low, high = np.abs(np.asarray(known) - np.asarray(shares)[:, None]).T
    mean, count = float(np.mean(shares)), len(shares)
    return [
        mean - float(np.sqrt(np.square(low).sum())) / count,
        mean + float(np.sqrt(np.square(high).sum())) / count,
    ]


def mean_interval(values: npt.NDArray[Any], groups: Sequence[str], seed: int = 0) -> Interval:
    """Of the mean of any N values: BCa over groups, see `bca_intervals`."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    whole = values.astype(np.float64)
    each = (np.bincount(member, weights=v) for v in (whole, np.ones_like(whole)))
    sums: Floats = np.stack(list(each), axis=1).astype(np.float64)
    return bca_intervals(sums, lambda s: {"mean": s[..., 0] / s[..., 1]}, seed)["mean"]


def bca_intervals(
    sums: Floats, statistics: Callable[[Floats], dict[str, Floats]], seed: int = 0
) -> dict[str, Interval]:
    """BCa bootstrap intervals over groups of figures that follow from sums over the groups.

    Args:
        sums: G×K, what each group adds.
        statistics: from sums (…×K) to a value (…) by name; NaN where it is not defined.

    Returns:
        By the figures' names; None where fewer than FEWEST_GROUPS add anything, or where the
        resamples do not differ.
    """
    sums = sums[np.abs(sums).sum(axis=1) > 0]
    count = len(sums)
    whole = statistics(sums.sum(axis=0))
    if count < FEWEST_GROUPS:
        return dict.fromkeys(whole)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    resampled, left_out = statistics(drawn @ sums), statistics(sums.sum(axis=0) - sums)
    return {
        name: _bca(float(value), resampled[name], left_out[name]) for name, value in whole.items()
    }


def _bca(value: float, resampled: Floats, left_out: Floats) -> Interval:
    """The interval from a figure, its resamples and its jackknife values."""
    from scipy.stats import norm

    resampled = resampled[np.isfinite(resampled)]
    left_out = left_out[np.isfinite(left_out)]
    if not math.isfinite(value) or resampled.size < RESAMPLES // 2 or np.ptp(resampled) < 1e-12:
        return None
    below = (resampled < value).mean() + (resampled == value).mean() / 2
    bias = norm.ppf(min(max(float(below), 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    gaps = left_out.mean() - left_out
    spread = float(np.square(gaps).sum()) ** 1.5
    skew = float((gaps**3).sum()) / (6 * spread) if spread > 0 else 0.0
    ends = []
    for z in norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]):
        moved = bias + z
        ends.append(norm.cdf(bias + moved / max(1 - skew * moved, 1e-6)))
    low, high = np.quantile(resampled, ends)
    return [float(min(low, value)), float(max(high, value))]


def in_words(
    interval: Sequence[float] | None, style: Callable[[float], str], between: str = "–"
) -> str:
    """`low–high`, each end as `style` writes it, or NOT_ESTIMABLE."""
    return NOT_ESTIMABLE if interval is None else between.join(map(style, interval))
