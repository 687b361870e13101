"""Which slices a training draws, and what it sets onto them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.augmentation.copy_paste import beside, erase, paste
from trainer.models import sampler
from trainer.models.recipes import RECIPES, Recipe
from trainer.models.sampler import NO_BOX, Feed, Samples, sampling_weights

SIZE = 64
BOX = np.array([0.15, 0.3, 0.3, 0.45])  # in the left half of the head
fractions = st.floats(0, 1)
boxes = st.tuples(fractions, fractions, fractions, fractions).map(
    lambda ends: np.array([*np.minimum(ends[:2], ends[2:]), *np.maximum(ends[:2], ends[2:])])
)


def samples_of(labels: list[int], sources: list[str], tumour_free: int = 1) -> Samples:
    """Noise of two classes; every tumour has its box."""
    rng = np.random.default_rng(0)
    n = len(labels)
    return Samples(
        images=rng.integers(0, 256, (n, SIZE, SIZE), dtype=np.uint8),
        labels=np.array(labels),
        boxes=np.stack([NO_BOX if label == tumour_free else BOX for label in labels]),
        groups=tuple(f"g{i}" for i in range(n)),
        sources=tuple(sources),
        tumour_free=np.arange(2) == tumour_free,
        partial_images=np.zeros((0, SIZE, SIZE), np.uint8),
        partial_targets=np.zeros((0, 2), np.float32),
    )


@settings(max_examples=200, deadline=None)
@given(boxes)
def test_beside_is_the_mirrored_box_unless_the_grown_one_reaches_over_the_midline(
    box: np.ndarray,
) -> None:
    left, top, right, bottom = box
    grow = 0.15 * (right - left) + 0.02
    assume(min(abs(right + grow - 0.5), abs(left - grow - 0.5)) > 1e-9)
    before, other = box.copy(), beside(box)
    np.testing.assert_array_equal(box, before)
    if left - grow < 0.5 < right + grow:
        assert other is None
        return
    assert other is not None
    np.testing.assert_allclose(other, [1 - right, top, 1 - left, bottom], atol=1e-12)
    again = beside(other)
    assert again is not None
    np.testing.assert_allclose(again, box, atol=1e-12)
    assert other[0] > right or other[2] < left, "apart from the tumour"


def test_nothing_lies_beside_an_unknown_box() -> None:
    assert beside(NO_BOX) is None


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 10_000))
def test_a_patch_from_beside_a_tumour_shows_none_of_it(box: np.ndarray, seed: int) -> None:
    other = beside(box)
    left, top, right, bottom = np.rint(box * SIZE).astype(int)
    assume(other is not None and right - left >= 4 and bottom - top >= 4)
    assert other is not None
    donor, host = np.full((SIZE, SIZE), 100, np.uint8), np.full((SIZE, SIZE), 100, np.uint8)
    donor[top:bottom, left:right] = 255
    clean = paste(np.full_like(donor, 100), other, host, np.random.default_rng(seed))[0]
    np.testing.assert_array_equal(paste(donor, other, host, np.random.default_rng(seed))[0], clean)


def test_covering_asks_for_the_same_place() -> None:
    symmetric = np.full((SIZE, SIZE), 100, np.uint8)
    symmetric[:8] = 0
    rng = np.random.default_rng(0)
    for left in np.arange(0, 0.8, 0.05):
        box = np.array([left, 0.4, left + 0.2, 0.6])
        assert (erase(symmetric, box, rng) is None) == (beside(box) is None)


def test_half_of_the_patches_are_of_a_tumours_own_slice_from_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = samples_of([0] * 4 + [1] * 4, ["a"] * 8)
    taken: list[tuple[int, tuple[float, ...]]] = []

    def watched(donor: np.ndarray, box: np.ndarray, host: np.ndarray, rng: np.random.Generator):  # type: ignore[no-untyped-def]
        same = (samples.images == donor).all(axis=(1, 2))
        taken.append((int(np.flatnonzero(same)[0]), tuple(box)))
        return paste(donor, box, host, rng)

    monkeypatch.setattr(sampler, "paste", watched)
    feed = Feed(samples, 2, Recipe(augment=0.0, patch=1.0), seed=3)
    for number in range(400):
        _, target, box = feed.example(0, number, 5)
        assert target.tolist() == [0, 1], "a patch brings no tumour"
        assert np.isnan(box).all()
    other = beside(BOX)
    assert other is not None
    own = [box for chosen, box in taken if samples.labels[chosen] == 0]
    assert set(own) == {tuple(other)}, "never the tumour itself"
    assert {box for chosen, box in taken if samples.labels[chosen] == 1} == {tuple(BOX)}
    assert len(own) == pytest.approx(200, abs=60)
    # Over the midline there is no such place: all are of tumour-free slices.
    taken.clear()
    middle = np.where(np.isnan(samples.boxes), np.nan, [0.4, 0.4, 0.6, 0.6])
    feed = Feed(replace(samples, boxes=middle), 2, Recipe(augment=0.0, patch=1.0), seed=3)
    for number in range(50):
        feed.example(0, number, 5)
    assert len(taken) == 50
    assert all(samples.labels[chosen] == 1 for chosen, _ in taken)


def test_hosts_follow_the_balanced_weights() -> None:
    """A source of a hundred tumour-free slices against one of four: ten to two, not 25 to 1."""
    samples = samples_of([0] * 4 + [1] * 104, ["far"] * 4 + ["large"] * 100 + ["small"] * 4)
    for balance, expected in ((True, 2 / 12), (False, 4 / 104)):
        feed = Feed(samples, 2, replace(RECIPES["robust"], balance=balance), seed=1)
        rng = np.random.default_rng(0)
        drawn = np.bincount([feed._host(rng) for _ in range(6000)], minlength=108)
        assert not drawn[:4].any(), "no tumour receives one"
        assert drawn[104:].sum() / 6000 == pytest.approx(expected, abs=0.02)
        weights = sampling_weights(samples, balance)[4:]
        np.testing.assert_allclose(drawn[4:] / 6000, weights / weights.sum(), atol=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(0, 9), st.integers(0, 99), st.integers(0, 7))
def test_an_example_follows_from_seed_epoch_and_number(
    seed: int, epoch: int, number: int, start: int
) -> None:
    recipe = replace(RECIPES["robust"], paste=0.5, erase=0.3, patch=0.5)
    samples = samples_of([0] * 4 + [1] * 4, list("aabbaabb"))
    one, two = Feed(samples, 2, recipe, seed), Feed(samples, 2, recipe, seed)
    for other in range(3):
        two.example(epoch, number + 1 + other, 7 - start)  # what was drawn before says nothing
    np.testing.assert_array_equal(one.order(epoch), two.order(epoch))
    for mine, theirs in zip(
        one.example(epoch, number, start), two.example(epoch, number, start), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
