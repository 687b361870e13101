"""Changes of style: what each leaves alone, and pictures that are hardly slices."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.augmentation import style
from trainer.augmentation.style import change_style, strip_skull
from trainer.synthetic.phantoms import CLASSES, draw_phantom

SIZE = 64
seeds = st.integers(0, 10_000)
shares = st.floats(0.04, 0.1)


def noise(seed: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (SIZE, SIZE), dtype=np.uint8)


def slice_of(seed: int) -> np.ndarray:
    drawn = draw_phantom(CLASSES[seed % len(CLASSES)], np.random.default_rng(seed))
    return cv2.resize(drawn, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def head(centre: tuple[int, int] = (32, 32)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ring of skull about darker tissue, and how deep in the head each pixel lies, as a
    share of its narrower half."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    outward = np.hypot((columns - centre[0]) / 22, (rows - centre[1]) / 28)
    picture = np.where(outward < 1, np.where(outward > 0.94, 230, 110), 0).astype(np.uint8)
    return picture, 1 - outward


@settings(max_examples=40, deadline=None)
@given(st.one_of(seeds.map(slice_of), seeds.map(noise)), shares)
def test_stripping_keeps_pixels_or_makes_them_black(image: np.ndarray, share: float) -> None:
    before = image.copy()
    stripped = strip_skull(image, share)
    np.testing.assert_array_equal(image, before)
    assert (stripped.shape, stripped.dtype) == (image.shape, np.uint8)
    assert ((stripped == image) | (stripped == 0)).all(), "so none is brighter"


@settings(max_examples=30, deadline=None)
@given(shares, st.integers(26, 38), st.integers(30, 34))
def test_the_rim_of_a_head_goes_and_its_middle_stays(share: float, left: int, top: int) -> None:
    picture, depth = head((left, top))
    stripped = strip_skull(picture, share)
    middle = depth > 2 * share + 0.1  # of its half; the share is one of the whole width
    np.testing.assert_array_equal(stripped[middle], picture[middle])
    assert not stripped[(picture > 0) & (depth < 0.02)].any()
    taken = [np.count_nonzero(strip_skull(picture, each)) for each in (0.02, share, 0.2)]
    assert taken[0] > taken[1] > taken[2], "a larger share takes more"


def test_a_head_at_the_edge_of_the_picture_is_stripped_there_too() -> None:
    picture, _ = head((16, 32))
    assert picture[32, 0], "the head is cut by the picture's edge"
    stripped = strip_skull(picture, 0.1)
    assert not stripped[:, 0].any()
    assert stripped[32, 16] == picture[32, 16]
    full = strip_skull(np.full((SIZE, SIZE), 100, np.uint8), 0.1)
    assert not full[:5].any()
    assert not full[:, -5:].any()
    assert (full[8:-8, 8:-8] == 100).all()


@pytest.mark.parametrize("level", [0, 1, 8, 9, 255])
def test_constant_pictures_and_single_pixels_are_survived(level: int) -> None:
    constant = np.full((SIZE, SIZE), level, np.uint8)
    stripped = strip_skull(constant, 0.05)
    assert stripped[32, 32] == level
    dot = np.zeros((SIZE, SIZE), np.uint8)
    dot[0, 5] = level
    np.testing.assert_array_equal(strip_skull(dot, 0.1), dot)
    for seed in range(20):
        changed = change_style(constant, np.random.default_rng(seed), dot)
        assert (changed.shape, changed.dtype) == ((SIZE, SIZE), np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.one_of(seeds.map(slice_of), seeds.map(noise)), seeds)
def test_a_random_filter_keeps_black_black(image: np.ndarray, seed: int) -> None:
    before = image.copy()
    filtered = style._filtered(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)
    assert (filtered.shape, filtered.dtype) == (image.shape, np.uint8)
    assert not filtered[image == 0].any()
    np.testing.assert_array_equal(filtered, style._filtered(image, np.random.default_rng(seed)))


@settings(max_examples=40, deadline=None)
@given(seeds, seeds, st.integers(80, 140))
def test_a_random_filter_keeps_the_mean_where_nothing_is_clipped(
    drawn: int, seed: int, low: int
) -> None:
    image = noise(drawn, low, low + 32)
    filtered = style._filtered(image, np.random.default_rng(seed))
    assert abs(float(filtered.mean()) - float(image.mean())) < 1
    constant = np.full((SIZE, SIZE), low, np.uint8)
    np.testing.assert_array_equal(style._filtered(constant, np.random.default_rng(seed)), constant)


@settings(max_examples=30, deadline=None)
@given(seeds, seeds)
def test_coarse_slices_lose_their_detail_and_keep_their_mean(drawn: int, seed: int) -> None:
    image = noise(drawn)
    coarse = style._coarsen(image, np.random.default_rng(seed))
    assert (coarse.shape, coarse.dtype) == (image.shape, np.uint8)
    assert abs(float(coarse.mean()) - float(image.mean())) < 4
    assert coarse.std() < image.std()


def test_about_a_fifth_of_all_slices_is_made_coarse_and_a_tenth_stripped_and_filtered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list of small changes, which may make them coarse too, has others only here."""
    counts = {"_coarsen": 0, "strip_skull": 0, "_filtered": 0}

    def counted(name: str) -> None:
        def count(image: np.ndarray, _: object) -> np.ndarray:
            counts[name] += 1
            return image

        monkeypatch.setattr(style, name, count)

    for name in counts:
        counted(name)
    kept = (style._noise, style._bias)
    monkeypatch.setattr(style, "_CHANGES", kept)
    image = slice_of(1)
    for seed in range(1500):
        change_style(image, np.random.default_rng(seed))
    assert counts["_coarsen"] == pytest.approx(300, abs=75)
    assert counts["strip_skull"] == pytest.approx(150, abs=55)
    assert counts["_filtered"] == pytest.approx(150, abs=55)
