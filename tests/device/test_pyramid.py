"""Scaling by halves: what its words say, by hand."""

from __future__ import annotations

import hashlib
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.hostile.pictures import draw_slice
from edge_runtime.imaging.preprocess import Preprocess, crop_box, preprocess

HEAD = Preprocess(window=None, resize="pyramid")
MIB = 1 << 20


def averaged(gray: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """Means of tall×wide pixels, halves rounded up, in whole numbers."""
    height, width = gray.shape[0] // tall, gray.shape[1] // wide
    blocks = gray[: height * tall, : width * wide].reshape(height, tall, width, wide)
    count = tall * wide
    return ((2 * blocks.sum(axis=(1, 3), dtype=np.int64) + count) // (2 * count)).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 48), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.data())
def test_whole_powers_are_means_of_means(
    size: int, down: int, across: int, odd: bool, data: st.DataObject
) -> None:
    """The whole slice, each side halved by itself; what an odd side has too much is left out."""
    shape = (size << down) + (odd and down > 0), (size << across) + (odd and across > 0)
    gray = data.draw(hnp.arrays(np.uint8, shape))
    by_hand = gray
    while max(by_hand.shape) > size:
        by_hand = averaged(by_hand, *(2 if side >= 2 * size else 1 for side in by_hand.shape))
    options = Preprocess(size, "none", None, resize="pyramid")
    np.testing.assert_array_equal(preprocess(gray, options), by_hand)


@pytest.mark.parametrize("shape", [(100, 100), (130, 170), (191, 96)])
def test_below_twice_the_size_the_whole_slice_is_scaled_as_by_area(shape: tuple[int, int]) -> None:
    gray = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    rules = [Preprocess(96, "none", None, resize=rule) for rule in ("area", "pyramid")]
    np.testing.assert_array_equal(*(preprocess(gray, options) for options in rules))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([64, 96, 128]),
    st.tuples(st.integers(64, 1100), st.integers(64, 1100)),
    st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(["head", "none"]),
)
def test_a_place_of_the_slice_is_where_the_box_says(
    size: int,
    shape: tuple[int, int],
    share: tuple[float, float],
    place: tuple[float, float],
    crop: str,
) -> None:
    """The middle of a bright patch in a head of any shape and place, to less than a pixel of the
    input; the longer side of the head fills the input, whatever the slice's size."""
    gray = np.zeros(shape, np.uint8)
    head = [max(8, round(side * part)) for side, part in zip(shape, share, strict=True)]
    top, left = (round((s - h) * p) for s, h, p in zip(shape, head, place, strict=True))
    gray[top : top + head[0], left : left + head[1]] = 90
    wide = [max(1, side // 3) for side in head]
    y, x = top + wide[0], left + wide[1]
    gray[y : y + wide[0], x : x + wide[1]] = 255
    options = Preprocess(size, crop, None, resize="pyramid")
    box = crop_box(gray, options)
    bright = preprocess(gray, options).astype(float) - 90
    bright[bright < 0] = 0
    for axis, at, side in ((0, x + wide[1] / 2, shape[1]), (1, y + wide[0] / 2, shape[0])):
        weights = bright.sum(axis=axis)
        seen = (weights * (np.arange(size) + 0.5)).sum() / weights.sum() / size
        pixel = (box[axis + 2] - box[axis]) / size
        assert abs(box[axis] + seen * (box[axis + 2] - box[axis]) - at / side) < 0.75 * pixel
    if crop == "head":
        spans = ((box[2] - box[0]) * shape[1], (box[3] - box[1]) * shape[0])
        longer = max(spans)
        assert min(spans) >= longer * (1 - 1.5 / (size * min(head) / max(head)))


def test_a_small_head_in_a_large_slice_keeps_its_detail() -> None:
    """Stripes of two pixels in a head of 0.3 of the side; half the slice would wash them out."""
    gray = np.zeros((400, 400), np.uint8)
    gray[100:220, 100:220] = np.where(np.arange(120) % 4 < 2, 60, 200)
    done = preprocess(gray, Preprocess(96, window=None, resize="pyramid"))
    assert done[20:76, 20:76].std() > 40


def test_the_same_head_looks_the_same_at_every_size() -> None:
    large = draw_slice(5, 1024)
    seen = [
        preprocess(cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA), HEAD).astype(int)
        for side in (256, 300, 512, 1024)
    ]
    assert max(np.abs(one - seen[-1]).mean() for one in seen) < 5


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (3, 2000), (1, 1), (17, 4096)])
@pytest.mark.parametrize("crop", ["head", "none"])
def test_a_thin_slice_takes_no_room(shape: tuple[int, int], crop: str) -> None:
    gray = np.full(shape, 77, np.uint8)
    tracemalloc.start()
    try:
        done = preprocess(gray, Preprocess(96, crop, None, resize="pyramid"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.shape == (96, 96)
    assert done.max() == 77
    assert peak < MIB


def test_golden() -> None:
    """Slices made of integers only; a change of these values changes what models see."""
    digests = {}
    for size, side in GOLDEN:
        y, x = np.mgrid[0:side, 0:side]
        inside = ((x - side // 2) ** 2 * 4 + (y - side // 2) ** 2 * 3) * 5 < 3 * side**2
        gray = np.where(inside, (x * 3 + y * 5) % 128 + 60, (x + y) % 4).astype(np.uint8)
        done = preprocess(gray, Preprocess(size, resize="pyramid"))
        digests[size, side] = hashlib.sha256(done.tobytes()).hexdigest()[:16]
    assert digests == GOLDEN


GOLDEN = {
    (96, 180): "4d3ff357e04db9bf",
    (96, 224): "0f59121e77bfa6e1",
    (96, 512): "d8bd60a5c1802635",
    (96, 1023): "683e64ef8db7ec52",
    (128, 224): "81e330a182eadfe9",
}
