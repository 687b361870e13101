"""The search for near-duplicates against its plain definition, and what groups are made of it."""

from __future__ import annotations

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


def by_definition(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Correlation of two thumbnails in each turn of the first."""
    if first.min() == first.max() or second.min() == second.max():
        return dict.fromkeys(TURN_NAMES, 0.0)
    return {
        name: float(np.corrcoef(turned(first).ravel(), second.ravel())[0, 1])
        for name, turned in TURNS.items()
    }


def as_dict(found: list[Pairs]) -> dict[tuple[int, int], tuple[float, str]]:
    columns = [(p.first, p.second, p.correlation, p.turn) for p in found]
    entries = [entry for column in columns for entry in zip(*column, strict=True)]
    pairs = {(int(i), int(j)): (float(c), TURN_NAMES[t]) for i, j, c, t in entries}
    assert len(pairs) == len(entries), "each pair once"
    return pairs


@pytest.mark.parametrize("rows_columns", [(1024, 4096), (3, 5), (4, 4), (1, 1), (7, 2)])
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 14), st.integers(0, 9), st.integers(0, 10_000), st.floats(0.5, 0.99))
def test_search_equals_the_definition(
    rows_columns: tuple[int, int], n: int, m: int, seed: int, threshold: float
) -> None:
    one, two = draw_smooth(n, seed), draw_smooth(m, seed + 1)
    with pytest.MonkeyPatch.context() as patch:  # small blocks, so that borders are met
        patch.setattr(near_duplicates, "ROWS", rows_columns[0])
        patch.setattr(near_duplicates, "COLUMNS", rows_columns[1])
        alone = as_dict(list(find_pairs(one, threshold=threshold)))
        between = as_dict(list(find_pairs(one, two, threshold)))
    for found, others in ((alone, one), (between, two)):
        expected = {
            (i, j): by_definition(one[i], others[j])
            for i in range(n)
            for j in range(i + 1 if others is one else 0, len(others))
        }
        assume(all(abs(max(c.values()) - threshold) > 1e-4 for c in expected.values()))
        assert set(found) == {pair for pair, c in expected.items() if max(c.values()) > threshold}
        for pair, (correlation, turn) in found.items():
            assert correlation == pytest.approx(max(expected[pair].values()), abs=1e-4)
            assert expected[pair][turn] == pytest.approx(correlation, abs=1e-4)


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
