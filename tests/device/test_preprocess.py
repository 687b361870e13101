from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.hostile.pictures import draw_slice
from edge_runtime.errors import ModelError
from edge_runtime.imaging.head import head_box
from edge_runtime.imaging.preprocess import (
    CONTRAST,
    DENOISE,
    RESIZE,
    Preprocess,
    preprocess,
    steps_in_words,
)

PLAIN = Preprocess(crop="none", window=None)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=300)),
    st.sampled_from(["head", "none"]),
    st.sampled_from([None, (1.0, 99.5)]),
    st.sampled_from(DENOISE),
    st.sampled_from(CONTRAST),
    st.sampled_from(RESIZE),
    st.sampled_from([16, 64, 97]),
)
def test_any_slice_becomes_a_square_of_bytes(
    gray: np.ndarray,
    crop: str,
    window: tuple[float, float] | None,
    denoise: str | None,
    contrast: str | None,
    resize: str,
    size: int,
) -> None:
    options = Preprocess(size, crop, window, denoise, contrast, resize)
    before = gray.copy()
    done = preprocess(gray, options)
    assert done.shape == (size, size)
    assert done.dtype == np.uint8
    assert done.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(gray, before)
    np.testing.assert_array_equal(done, preprocess(gray, options))


@pytest.mark.parametrize("resize", RESIZE)
def test_nothing_to_do_changes_nothing(resize: str) -> None:
    gray = draw_slice(1, 128)
    np.testing.assert_array_equal(preprocess(gray, replace(PLAIN, resize=resize)), gray)


def test_shrinking_by_a_whole_factor_averages() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
    by_hand = gray.reshape(128, 4, 128, 4).mean(axis=(1, 3))
    assert np.abs(preprocess(gray, PLAIN) - by_hand).max() <= 0.5 + 1e-6


def test_window_maps_percentiles_by_hand() -> None:
    gray = np.repeat(np.arange(64, 192, dtype=np.uint8)[None], 128, axis=0)
    done = preprocess(gray, Preprocess(crop="none", window=(25.0, 75.0)))
    low, high = 64 + 32 - 1, 64 + 96 - 1  # 25 % and 75 % of 128 equal columns
    by_hand = np.rint(np.clip((gray.astype(float) - low) * 255 / (high - low), 0, 255))
    np.testing.assert_array_equal(done, by_hand)


# `pyramid` finds the head to a pixel of its coarsest level, here two of the slice.
@pytest.mark.parametrize(("resize", "levels"), [("area", 2), ("pyramid", 4)])
@pytest.mark.parametrize("shift", [(-30, 12), (25, 40), (0, -50)])
def test_the_place_of_the_head_does_not_matter(
    shift: tuple[int, int], resize: str, levels: int
) -> None:
    head = draw_slice(2, 256)
    rows, columns = head_box(head)
    tight = head[rows, columns]
    placed = []
    for down, right in ((0, 0), shift):
        canvas = np.zeros((400, 400), np.uint8)
        top, left = 80 + down, 100 + right
        canvas[top : top + tight.shape[0], left : left + tight.shape[1]] = tight
        placed.append(preprocess(canvas, Preprocess(resize=resize)).astype(int))
    assert np.abs(placed[0] - placed[1]).mean() < levels


def test_a_white_frame_does_not_defeat_the_crop() -> None:
    head = draw_slice(3, 256)
    framed = head.copy()
    framed[[0, 1, -2, -1]] = 255
    framed[:, [0, 1, -2, -1]] = 255
    assert head_box(framed) == head_box(head)


@pytest.mark.parametrize("gray", [np.zeros((50, 60), np.uint8), np.eye(90, dtype=np.uint8) * 255])
def test_what_holds_no_head_is_kept_whole(gray: np.ndarray) -> None:
    rows, columns = head_box(gray)
    assert gray[rows, columns].shape == gray.shape


def test_golden() -> None:
    """A slice made of integers only; a change of these values changes what every model sees."""
    y, x = np.mgrid[0:224, 0:224]
    inside = ((x - 112) ** 2 * 4 + (y - 112) ** 2 * 3) < 30_000
    gray = np.where(inside, (x * 3 + y * 5) % 128 + 60, (x + y) % 4).astype(np.uint8)
    done = preprocess(gray, Preprocess())
    assert done[64, 40:48].tolist() == GOLDEN_ROW
    assert hashlib.sha256(done.tobytes()).hexdigest()[:16] == GOLDEN_DIGEST


GOLDEN_ROW = [114, 121, 128, 134, 141, 148, 153, 160]
GOLDEN_DIGEST = "a566075a8f2a7521"


# Rows 40 and 60, columns 40 to 47 of the 96×96 result. A median counts; the other two multiply
# fractions, which other processors may round otherwise.
GOLDEN_STEPS = {
    (None, None): [
        [97, 103, 103, 118, 128, 137, 151, 151],
        [199, 206, 217, 223, 238, 249, 249, 207],
    ],
    ("median", None): [
        [114, 103, 114, 118, 128, 137, 145, 152],
        [199, 206, 217, 223, 234, 238, 234, 207],
    ],
    ("non-local-means", None): [
        [106, 100, 108, 118, 127, 139, 147, 152],
        [200, 208, 218, 225, 238, 247, 248, 204],
    ],
    (None, "clahe"): [[36, 44, 43, 66, 81, 94, 115, 115], [183, 192, 206, 214, 235, 249, 249, 194]],
    ("median", "clahe"): [
        [54, 40, 53, 59, 75, 89, 101, 111],
        [186, 197, 214, 222, 240, 247, 240, 198],
    ],
    ("non-local-means", "clahe"): [
        [33, 22, 35, 49, 62, 77, 90, 97],
        [177, 190, 202, 213, 233, 247, 249, 181],
    ],
}


@pytest.mark.parametrize("steps", list(GOLDEN_STEPS))
def test_golden_steps(steps: tuple[str | None, str | None]) -> None:
    """A grainy slice made of integers only."""
    y, x = np.mgrid[0:224, 0:224]
    inside = ((x - 112) ** 2 * 4 + (y - 112) ** 2 * 3) < 30_000
    grain = (x * 7_919 + y * 104_729 + x * y * 31) % 23 - 11
    gray = np.where(inside, (x * 3 + y * 5) % 128 + 60 + grain, (x + y) % 4).astype(np.uint8)
    done = preprocess(gray, Preprocess(96, denoise=steps[0], contrast=steps[1]))
    apart = np.abs(done[[40, 60], 40:48].astype(int) - GOLDEN_STEPS[steps]).max()
    assert apart <= (0 if steps in ((None, None), ("median", None)) else 2)


def test_median_removes_specks() -> None:
    gray = draw_slice(4, 128)
    specks = gray.copy()
    where = np.random.default_rng(0).random(gray.shape) < 0.02
    specks[where] = np.where(gray[where] > 127, 0, 255)
    left = np.abs(preprocess(specks, Preprocess(128, "none", None, "median")).astype(int) - gray)
    assert np.abs(specks.astype(int) - gray)[where].mean() > 150
    assert left[where].mean() < 15


@pytest.mark.parametrize("size", [96, 128])
def test_non_local_means_removes_grain_and_keeps_an_edge(size: int) -> None:
    flat = np.where(np.arange(size) < size // 2, 60, 180) * np.ones((size, 1))
    grainy = np.rint(flat + np.random.default_rng(1).normal(0, 8, flat.shape)).astype(np.uint8)
    done = preprocess(grainy, Preprocess(size, "none", None, "non-local-means"))
    for side in (slice(2, size // 2 - 2), slice(size // 2 + 2, -2)):
        assert grainy[:, side].std() > 7
        assert done[:, side].std() < 2
        assert done[:, side].mean() == pytest.approx(flat[:, side].mean(), abs=1)
    across = done.astype(float)[:, size // 2] - done[:, size // 2 - 1]
    assert across.mean() > 115
    blurred = preprocess(grainy, Preprocess(size, "none", None, "median"))
    assert done[:, : size // 2 - 2].std() < blurred[:, : size // 2 - 2].std()


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_clahe_raises_local_contrast_and_invents_no_clouds(size: int) -> None:
    """Faint stripes beside a bright half get stronger; a flat head stays flat, which OpenCV's
    8×8 tiles would not leave it at 96 pixels."""
    x = np.arange(size)
    faint = np.where(x < size // 2, 80 + x // 4 % 2 * 6, 240).astype(np.uint8)
    gray = np.repeat(faint[None], size, axis=0)
    done = preprocess(gray, Preprocess(size, "none", None, contrast="clahe"))
    left = slice(4, size // 2 - 8)
    assert done[:, left].std() > 1.2 * gray[:, left].std()
    head = preprocess(draw_slice(1), Preprocess(size, contrast="clahe"))
    middle = slice(size * 2 // 5, size * 3 // 5)
    coarse = cv2.resize(head[middle, middle], (4, 4), interpolation=cv2.INTER_AREA)
    assert coarse.std() < 8


@pytest.fixture
def threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("denoise", DENOISE)
@pytest.mark.parametrize("contrast", CONTRAST)
def test_threads_change_nothing(denoise: str | None, contrast: str | None) -> None:
    options = Preprocess(96, denoise=denoise, contrast=contrast)
    grays = [draw_slice(seed, 150 + seed) for seed in range(12)]
    cv2.setNumThreads(1)
    alone = [preprocess(gray, options) for gray in grays]
    cv2.setNumThreads(4)
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda gray: preprocess(gray, options), grays * 4))
    for one, other in zip(alone * 4, together, strict=True):
        np.testing.assert_array_equal(one, other)


EVERY = [Preprocess(96, denoise=d, contrast=c, resize=r)
         for d in DENOISE for c in CONTRAST for r in RESIZE]  # fmt: skip


def test_options_survive_json() -> None:
    for options in (*EVERY, PLAIN, Preprocess(size=96, window=(0.0, 100.0))):
        assert Preprocess.from_json(json.loads(json.dumps(options.to_json()))) == options


@pytest.mark.parametrize("resize", RESIZE)
def test_a_former_version_knew_one_way_to_scale(resize: str) -> None:
    """And did not say which."""
    shape = Preprocess(resize=resize).to_json()
    assert shape.pop("resize") == resize
    assert Preprocess.from_json(shape) == Preprocess() == Preprocess(resize="area")
    assert "resize" not in shape, "what is given stays as it is"


def test_words_tell_options_apart() -> None:
    worded = [tuple(steps_in_words(options)) for options in (*EVERY, PLAIN, Preprocess(96, "none"))]
    assert len(set(worded)) == len(worded)
    assert all(len(steps) == 5 for steps in worded)
    assert "scaled to 128x128 pixels" in steps_in_words(Preprocess())
    assert "percentile 1 to black, percentile 99.5 to white" in steps_in_words(Preprocess())[2]
    assert "4x4 tiles" in steps_in_words(Preprocess(contrast="clahe"))[4]


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": "128"}, {"crop": "face"}, {"window": [99, 1]}, {"window": "1"},
     {"window": [0, 10**400]}, {"window": [False, True]}, {"window": [float("nan"), 99]},
     {"window": [1, 50, 99]}, {"denoise": "wavelets"}, {"denoise": ""}, {"denoise": True},
     {"denoise": ["median"]}, {"denoise": {}}, {"contrast": "median"}, {"contrast": 2.0},
     {"contrast": ["clahe"]}, {"resize": "nearest"}, {"resize": None}, {"resize": True},
     {"resize": ["area"]}, {"rotate": 90}],
)  # fmt: skip
def test_unknown_options_are_refused_not_guessed(change: dict) -> None:
    with pytest.raises(ModelError):
        Preprocess.from_json(Preprocess().to_json() | change)


def test_a_step_of_another_version_is_named() -> None:
    with pytest.raises(ModelError, match=r"denoise 'wavelets'; this version knows .*median"):
        Preprocess(denoise="wavelets")
    with pytest.raises(ModelError, match=r"contrast 'retinex'; this version knows .*clahe"):
        Preprocess(contrast="retinex")
    with pytest.raises(ModelError, match=r"resize 'lanczos'; this version knows .*pyramid"):
        Preprocess(resize="lanczos")
