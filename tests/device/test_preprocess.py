from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import ModelError
from edge_runtime.preprocess import Preprocess, head_box, preprocess
from tests.device.conftest import draw_slice

PLAIN = Preprocess(crop="none", window=None)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=300)),
    st.sampled_from(["head", "none"]),
    st.sampled_from([None, (1.0, 99.5)]),
)
def test_any_slice_becomes_a_square_of_bytes(
    gray: np.ndarray, crop: str, window: tuple[float, float] | None
) -> None:
    options = Preprocess(size=64, crop=crop, window=window)
    before = gray.copy()
    done = preprocess(gray, options)
    assert done.shape == (64, 64)
    assert done.dtype == np.uint8
    assert done.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(gray, before)
    np.testing.assert_array_equal(done, preprocess(gray, options))


def test_nothing_to_do_changes_nothing() -> None:
    gray = draw_slice(1, side=128)
    np.testing.assert_array_equal(preprocess(gray, PLAIN), gray)


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


@pytest.mark.parametrize("shift", [(-30, 12), (25, 40), (0, -50)])
def test_the_place_of_the_head_does_not_matter(shift: tuple[int, int]) -> None:
    head = draw_slice(2, side=256)
    rows, columns = head_box(head)
    tight = head[rows, columns]
    placed = []
    for down, right in ((0, 0), shift):
        canvas = np.zeros((400, 400), np.uint8)
        top, left = 80 + down, 100 + right
        canvas[top : top + tight.shape[0], left : left + tight.shape[1]] = tight
        placed.append(preprocess(canvas, Preprocess()).astype(int))
    assert np.abs(placed[0] - placed[1]).mean() < 2


def test_a_white_frame_does_not_defeat_the_crop() -> None:
    head = draw_slice(3, side=256)
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


def test_options_survive_json() -> None:
    for options in (Preprocess(), PLAIN, Preprocess(size=96, window=(0.0, 100.0))):
        assert Preprocess.from_json(options.to_json()) == options


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": "128"}, {"crop": "face"}, {"window": [99, 1]}, {"window": "1"},
     {"denoise": "median"}, {"contrast": "clahe"}, {"rotate": 90}],
)  # fmt: skip
def test_unknown_options_are_refused_not_guessed(change: dict) -> None:
    with pytest.raises(ModelError):
        Preprocess.from_json(Preprocess().to_json() | change)
