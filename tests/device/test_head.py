"""The quick forms of percentiles and of the head's box say what their plain definitions say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.imaging.head import EXACT, head_box, percentiles

SHARES = (0.0, 1.0, 50.0, 99.0, 99.5, 100.0)


def percentiles_by_definition(gray: np.ndarray, wanted: tuple[float, ...]) -> list[int]:
    below = np.cumsum(np.bincount(gray.ravel(), minlength=256), dtype=np.int64)
    return [int(np.argmax(below >= share / 100.0 * gray.size)) for share in wanted]


def head_box_by_definition(gray: np.ndarray) -> tuple[slice, slice]:
    step = max(1, min(gray.shape) // 64)
    bright = percentiles_by_definition(gray[::step, ::step], (99.0,))[0]
    mask = gray > max(bright / 8.0, 4.0)
    box = []
    for axis in (0, 1):
        along, across = gray.shape[axis], gray.shape[1 - axis]
        margin = along // 50
        counts = mask.sum(axis=1 - axis)[margin : along - margin]
        inside = margin + np.flatnonzero(counts >= max(1.0, 0.05 * across))
        if not inside.size or inside[-1] + 1 - inside[0] < along / 4:
            return slice(0, gray.shape[0]), slice(0, gray.shape[1])
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return box[0], box[1]


@st.composite
def slices(draw: Callable) -> np.ndarray:
    """Noise of any shape, or patches of brightness upon a dark slice, as views or whole arrays."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=300))
    if draw(st.booleans()):
        gray = draw(hnp.arrays(np.uint8, shape))
    else:
        gray = np.zeros(shape, np.uint8)
        for _ in range(draw(st.integers(0, 3))):
            (top, bottom), (left, right) = (
                sorted(draw(st.tuples(st.integers(0, side), st.integers(0, side))))
                for side in shape
            )
            gray[top:bottom, left:right] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        gray = np.pad(gray, 1)[1:-1, 1:-1]
    return gray


@settings(max_examples=300, deadline=None)
@given(slices())
def test_quick_forms_are_their_definitions(gray: np.ndarray) -> None:
    assert percentiles(gray, SHARES) == percentiles_by_definition(gray, SHARES)
    assert head_box(gray) == head_box_by_definition(gray)


@pytest.mark.parametrize("last", [0, 1])
def test_percentiles_are_exact_where_float32_is_not(last: int) -> None:
    """Added up as float32, one pixel more than 2^24 would not be seen."""
    gray = np.zeros(EXACT + 2, np.uint8)
    gray[: EXACT // 2] = 0
    gray[EXACT // 2 : EXACT] = 1
    gray[EXACT:] = (2, 3)
    share = 100.0 * (EXACT + last) / gray.size
    shares = (50.0, share, 100.0)
    assert percentiles(gray[None], shares) == percentiles_by_definition(gray, shares)
