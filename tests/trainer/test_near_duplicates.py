"""The search for near-duplicates against its plain definition, and what groups are made of it."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.data import near_duplicates
from trainer.data.near_duplicates import (
    THRESHOLD,
    TURN_NAMES,
    TURNS,
    Pairs,
    clusters,
    find_pairs,
    merge_groups,
    thumbnail,
)
from trainer.synthetic.phantoms import CLASSES, draw_phantom


def draw_slice(seed: int) -> np.ndarray:
    """A phantom with coarse shading of its own: plain phantoms are nearly symmetric, and some
    look alike by chance."""
    rng = np.random.default_rng([11, seed])
    slice_ = draw_phantom(CLASSES[seed % 4], rng).astype(np.float32)
    coarse = rng.uniform(0.3, 1.0, (4, 4)).astype(np.float32)
    shading = cv2.resize(coarse, slice_.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(slice_ * shading, 0, 255).astype(np.uint8)


def as_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(TURN_NAMES),
    st.floats(0.6, 1.25),
    st.floats(0, 30),
    st.integers(40, 95),
)
def test_every_turned_copy_is_found(
    seed: int, turn: str, contrast: float, brightness: float, quality: int
) -> None:
    original = draw_slice(seed)
    changed = np.clip(contrast * TURNS[turn](original) + brightness, 0, 255).astype(np.uint8)
    copy = as_jpeg(np.ascontiguousarray(changed), quality)
    (pairs,) = find_pairs(np.stack([thumbnail(original), thumbnail(copy)]))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [1])
    assert TURN_NAMES[pairs.turn[0]] == turn


def test_unrelated_slices_are_not_alike() -> None:
    thumbnails = np.stack([thumbnail(draw_slice(seed)) for seed in range(120)])
    assert not list(find_pairs(thumbnails))
    assert len(set(clusters(thumbnails))) == 120


def draw_smooth(n: int, seed: int) -> np.ndarray:
    """Pictures of few degrees of freedom, so that chance makes pairs at every level."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, 2, 2)).astype(np.float32)
    fine = rng.normal(0, rng.choice([0, 8, 40]), (n, 32, 32))
    smooth = np.zeros((n, 32, 32), np.float32)
    for picture, corners in zip(smooth, coarse, strict=True):
        cv2.resize(corners, (32, 32), dst=picture, interpolation=cv2.INTER_LINEAR)
    smooth[rng.random(n) < 0.1] = 77  # flat: like nothing
    return np.clip(smooth + fine * (smooth != 77), 0, 255).astype(np.uint8)


def by_definition(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The correlation of each of N thumbnails with each of M in each turn of the first, N×M×8;
    0 for flat ones."""

    def standard(pictures: np.ndarray) -> np.ndarray:
        rows = pictures.reshape(len(pictures), -1).astype(np.float64)
        rows -= rows.mean(axis=1, keepdims=True)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    turned = [standard(turn(one)) @ standard(two).T for turn in TURNS.values()]
    return np.stack(turned, axis=-1)


def as_dict(found: list[Pairs]) -> dict[tuple[int, int], tuple[float, str]]:
    columns = [(p.first, p.second, p.correlation, p.turn) for p in found]
    entries = [entry for column in columns for entry in zip(*column, strict=True)]
    pairs = {(int(i), int(j)): (float(c), TURN_NAMES[t]) for i, j, c, t in entries}
    assert len(pairs) == len(entries), "each pair once"
    return pairs


def nearly(picture: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """A picture of the correlation `level` with another, but for rounding."""
    unit = (picture - picture.mean()) / max(float(np.linalg.norm(picture - picture.mean())), 1.0)
    other = rng.standard_normal(picture.shape)
    other -= other.mean() + (other * unit).sum() * unit
    other /= np.linalg.norm(other)
    return np.clip(128 + 1200 * (level * unit + np.sqrt(1 - level**2) * other), 0, 255).round()


def add_kin(pictures: np.ndarray, threshold: float, seed: int) -> np.ndarray:
    """The pictures and, shuffled among them, a turned copy of each, one that correlates about as
    far as the threshold, pictures without any variance, and the least that is not flat."""
    rng = np.random.default_rng(seed)
    turns = [TURNS[name] for name in rng.choice(TURN_NAMES, len(pictures))]
    copies = [turn(picture) for turn, picture in zip(turns, pictures, strict=True)]
    close = [nearly(copy, threshold + rng.normal(0, 1e-3), rng) for copy in copies]
    flat = [np.full((32, 32), level) for level in (0, 0, 200)]
    odd = np.full((2, 32, 32), 90)
    odd[0, 3, 5], odd[1, 3, -6] = 91, 89
    every = np.stack([*pictures, *copies, *close, *flat, *odd, 255 - odd[0]]).astype(np.uint8)
    return every[rng.permutation(len(every))]


@pytest.mark.parametrize("rows_columns", [(512, 2048), (3, 5), (4, 4), (1, 1), (7, 2)])
@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 9), st.integers(0, 6), st.integers(0, 10_000), st.floats(0.5, 0.99),
    st.integers(1, 9),
)  # fmt: skip
def test_search_equals_the_definition(
    rows_columns: tuple[int, int], n: int, m: int, seed: int, threshold: float, batch: int
) -> None:
    one, two = draw_smooth(n, seed), draw_smooth(m, seed + 1)
    one = add_kin(one, threshold, seed)
    two = np.concatenate([two, one[::5]])
    with pytest.MonkeyPatch.context() as patch:  # small blocks, so that borders are met
        patch.setattr(near_duplicates, "ROWS", rows_columns[0])
        patch.setattr(near_duplicates, "COLUMNS", rows_columns[1])
        patch.setattr(near_duplicates, "BATCH", batch)
        alone = as_dict(list(find_pairs(one, threshold=threshold)))
        between = as_dict(list(find_pairs(one, two, threshold)))
    for found, others in ((alone, one), (between, two)):
        expected = by_definition(one, others)
        best = expected.max(axis=-1)
        assume(np.all(np.abs(best - threshold) > 1e-12))
        near = np.triu(best > threshold, 1) if others is one else best > threshold
        assert set(found) == {(int(i), int(j)) for i, j in np.argwhere(near)}
        for pair, (correlation, turn) in found.items():
            assert correlation == pytest.approx(best[pair], abs=1e-7)
            # Of turns that are equal the first one.
            assert turn == TURN_NAMES[np.argmax(expected[pair] > best[pair] - 1e-12)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_no_bound_is_below_what_it_bounds(seed: int) -> None:
    pictures = add_kin(draw_smooth(4, seed), 0.98, seed)
    n = len(pictures)
    sketches = near_duplicates._sketches(pictures)
    folded = near_duplicates._folded(sketches)
    first, second = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
    turned = near_duplicates._turned_bounds(sketches[first], sketches[second]).reshape(n, n, 8)
    assert np.all(by_definition(pictures, pictures) <= turned + 1e-5)
    assert np.all(turned.max(axis=-1) <= folded @ folded.T + 1e-5)


def test_many_copies_take_memory_for_a_few_blocks() -> None:
    """800 copies make 319,600 pairs, 7 MB; those of the blocks at work are there at a time."""
    copies = np.repeat(thumbnail(draw_slice(3))[None], 800, axis=0)
    pairs = largest = 0
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ROWS": 64, "COLUMNS": 64, "BATCH": 256}.items():
            patch.setattr(near_duplicates, name, value)
        list(find_pairs(copies[:2]))  # loads what is loaded once
        tracemalloc.start()
        try:
            for found in find_pairs(copies):
                pairs, largest = pairs + len(found), max(largest, len(found))
                assert found.turn.max() == 0
                assert found.correlation.min() == 1
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert pairs == 800 * 799 // 2
    assert largest <= 256
    assert peak < 5.5e6, "under what the pairs alone would take"


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 40))
def test_merging_splits_neither_group_nor_cluster(data: st.DataObject, n: int) -> None:
    few = st.integers(0, n // 2 + 1)
    groups = [f"g{data.draw(few)}" for _ in range(n)]
    labels = np.array([data.draw(few) for _ in range(n)], dtype=np.int64)
    merged = merge_groups(groups, labels)
    for keys in (groups, labels.tolist()):
        for key in set(keys):
            assert len({m for m, k in zip(merged, keys, strict=True) if k == key}) == 1
    assert set(merged) <= set(groups)
    # Not coarser than it must be: what shares a name is tied by groups and clusters.
    names = {("g", g) for g in groups} | {("c", c) for c in labels.tolist()}
    parent = {name: name for name in names}

    def root(name: tuple[str, object]) -> tuple[str, object]:
        while parent[name] != name:
            name = parent[name]
        return name

    for g, c in zip(groups, labels.tolist(), strict=True):
        parent[root(("g", g))] = root(("c", c))
    assert len(set(merged)) == len({root(name) for name in names})


def test_threshold_is_the_documented_one() -> None:
    assert THRESHOLD == 0.98
