"""Intervals: by hand at the edges, and their coverage on drawn groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.intervals import (
    NOT_ESTIMABLE,
    auc_interval,
    bca_intervals,
    design_effect,
    difference_interval,
    effective_size,
    in_words,
    mean_interval,
    mean_of_shares,
    share_interval,
)


def names(count: int, size: int = 1) -> list[str]:
    return [f"g{i // size}" for i in range(count * size)]


def test_one_group_tells_nothing() -> None:
    hits = np.array([1, 1, 1, 0])
    assert share_interval(hits, ["g"] * 4) is None
    assert difference_interval(hits, ["g"] * 4) is None
    assert mean_interval(hits, ["g"] * 4) is None
    assert in_words(None, str) == NOT_ESTIMABLE


def test_nothing_seen_is_not_nothing_there() -> None:
    low, high = share_interval(np.zeros(80), names(80)) or []
    assert low == 0
    assert high == pytest.approx(0.0465, abs=0.002)  # Wilson's of 0 of 80
    # The same slices in eight groups are worth eight.
    low, high = share_interval(np.zeros(80), names(8, 10)) or []
    assert low == 0
    assert 0.3 < high < 0.5
    low, high = share_interval(np.ones(80), names(8, 10)) or []
    assert high == 1
    assert 0.5 < low < 0.7
    low, high = difference_interval(np.zeros(80), names(80)) or []
    assert -0.05 < low < -0.02 < 0.02 < high < 0.05


def test_design_effect_by_hand() -> None:
    member = np.repeat(np.arange(10), 8)
    # Groups that agree with themselves: all of a group's 8 say what one says.
    alike = np.repeat([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0], 8)
    assert design_effect(alike, member) == pytest.approx((10 / 9 * 160 + 64) / (20 + 8))
    assert design_effect(np.zeros(80), member) == 8
    assert design_effect(np.tile([1.0, 0], 40), member) == pytest.approx(64 / 28)
    assert effective_size(np.zeros(80), names(8, 10)) < 8


def test_balanced_accuracy_of_shares_that_are_all_right() -> None:
    low, high = mean_of_shares([1.0, 1.0], [[0.9, 1.0], [0.8, 1.0]]) or []
    assert high == 1
    assert low == pytest.approx(1 - np.hypot(0.1, 0.2) / 2)
    assert mean_of_shares([1.0, 1.0], [[0.9, 1.0], None]) is None


def test_resamples_that_do_not_differ_or_are_few_tell_nothing() -> None:
    assert mean_interval(np.ones(40), names(40)) is None
    assert mean_interval(np.arange(4.0), names(4)) is None
    low, high = mean_interval(np.arange(40.0), names(40)) or []
    assert low < 19.5 < high


def test_bca_of_a_mean_is_near_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = mean_interval(values, names(400)) or []
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_what_no_resample_defines_is_not_estimable() -> None:
    sums = np.column_stack([np.arange(8.0), np.ones(8)])
    found = bca_intervals(sums, lambda s: {"never": s[..., 0] * np.nan, "mean": s[..., 0]})
    assert found["never"] is None
    assert found["mean"] is not None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 8), st.floats(0, 1))
def test_intervals_hold_the_figure_and_stay_within_bounds(
    seed: int, groups: int, size: int, p: float
) -> None:
    rng = np.random.default_rng(seed)
    hits = (rng.random(groups * size) < p).astype(float)
    low, high = share_interval(hits, names(groups, size)) or []
    assert 0 <= low <= hits.mean() <= high <= 1
    gain = hits - (rng.random(groups * size) < p)
    low, high = difference_interval(gain, names(groups, size)) or []
    assert -1 <= low <= gain.mean() <= high <= 1


def draw_rates(rng: np.random.Generator, groups: int, p: float, alike: float) -> np.ndarray:
    """A rate for each group, beta about `p` with the intra-class correlation `alike`."""
    if alike == 0:
        return np.full(groups, p)
    return rng.beta(p * (1 - alike) / alike, (1 - p) * (1 - alike) / alike, groups)


@pytest.mark.parametrize("groups", [8, 30, 100])
@pytest.mark.parametrize(("p", "alike"), [(0.5, 0.3), (0.9, 0.0), (0.9, 0.7), (0.98, 0.3)])
def test_a_share_is_covered(groups: int, p: float, alike: float) -> None:
    """Groups of 1 to some 20 slices. The percentile bootstrap over groups covers 55 to 75 % of
    the time at 8 groups and a share of 98 %."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        member = np.repeat(np.arange(groups), rng.geometric(1 / 5, groups))
        hits = rng.random(member.size) < draw_rates(rng, groups, p, alike)[member]
        low, high = share_interval(hits, member.astype(str).tolist()) or []
        held += low <= p <= high
    assert held / 300 >= 0.915  # 95 % less 2.8 standard errors


@pytest.mark.parametrize("groups", [10, 60])
def test_a_paired_difference_is_covered(groups: int) -> None:
    """Of two models that differ on one slice in 50, alike within a group."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(300):
        member = np.repeat(np.arange(groups), rng.integers(1, 9, groups))
        differs = rng.random(member.size) < draw_rates(rng, groups, 0.04, 0.3)[member]
        gain = differs * np.where(rng.random(member.size) < 0.75, 1, -1)
        low, high = difference_interval(gain, member.astype(str).tolist()) or []
        held += low <= 0.02 <= high
    assert held / 300 >= 0.915


def test_a_mean_of_losses_is_covered() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        member = np.repeat(np.arange(40), 4)
        losses = rng.exponential(1, 40)[member] + rng.exponential(1, member.size)
        low, high = mean_interval(losses, member.astype(str).tolist()) or []
        held += low <= 2 <= high
    assert held / 200 >= 0.9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 20), st.integers(2, 20), st.integers(1, 6))
def test_an_area_is_scikit_learns_and_in_its_interval(
    seed: int, positives: int, negatives: int, size: int
) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    positive = np.repeat(np.arange(positives + negatives) < positives, size)
    scores = np.round(rng.normal(size=positive.size) + positive, 1)
    groups = names(positives + negatives, size)
    area, interval = auc_interval(scores, positive, groups)
    assert area == pytest.approx(roc_auc_score(positive, scores))
    low, high = interval or []
    assert 0 <= low <= area <= high <= 1
    back, turned = auc_interval(-scores, ~positive, groups)
    assert back == pytest.approx(area)
    assert turned == pytest.approx(interval)


def test_an_area_of_few_groups_is_wide_or_not_estimable() -> None:
    positive = np.arange(80) < 40
    scores = positive.astype(float)
    assert auc_interval(scores, positive, ["a"] * 40 + names(40)) == (1.0, None)
    area, interval = auc_interval(scores, positive, names(80))
    assert (area, interval) == (1.0, pytest.approx([1 - 0.165, 1.0], abs=0.01))
    few = auc_interval(scores, positive, names(8, 10))[1] or []
    assert few[0] < 0.6, "ten slices of each of four groups are worth four"


@pytest.mark.parametrize(("positives", "negatives"), [(60, 8), (60, 60), (200, 30)])
@pytest.mark.parametrize("apart", [1.0, 2.5, 4.0])
def test_an_area_is_covered(positives: int, negatives: int, apart: float) -> None:
    """Groups of 1 to some 20 slices of which half of the variance is the group's."""
    from scipy.stats import norm

    rng, held = np.random.default_rng(1), 0
    truth = norm.cdf(apart / np.sqrt(2))
    for _ in range(200):
        count = positives + negatives
        member = np.repeat(np.arange(count), rng.geometric(1 / 5, count))
        positive = member < positives
        noise = rng.normal(size=count)[member] + rng.normal(size=member.size)
        scores = noise / np.sqrt(2) + apart * positive
        low, high = auc_interval(scores, positive, member.astype(str).tolist())[1] or []
        held += low <= truth <= high
    assert held / 200 > 0.9
