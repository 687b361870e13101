"""A slice scaled by halves to about a model's size, and from there by bilinear weights.

Each level of the pyramid (Williams, "Pyramidal Parametrics", 1983) is the level before it averaged
over 2×2 pixels; an odd last row or column is left out. The head is sought on the coarsest level,
which is cheap, and taken from the coarsest on which it has the pixels that the model wants. Every
step is OpenCV's INTER_LINEAR_EXACT, which counts in whole numbers: the same bytes everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.imaging.head import head_box

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]


class _Part(NamedTuple):
    """What of a level becomes the input."""

    pixels: Gray
    top: int  # of the level's pixels …
    left: int
    down: int  # … of which each averages so many rows …
    across: int  # … and columns of the slice


def scale_by_halves(gray: Gray, size: int, crop: str) -> Gray:
    """The square input of a model.

    Args:
        gray: uint8 array of H×W.
        size: side of the result, in pixels.
        crop: `head`: the box around the head, the longer side of which becomes `size` pixels, in
            the middle of a black square; `none`: the whole slice, squeezed.

    Returns:
        uint8 array of size×size.
    """
    import cv2

    pixels = _part_of(gray, size, crop).pixels
    height, width = _inner_size(pixels.shape, size, crop)
    scaled: Gray = pixels
    if pixels.shape != (height, width):
        scaled = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    if height == width:
        return scaled
    top, left = (size - height) // 2, (size - width) // 2
    bottom, right = size - height - top, size - width - left
    square: Gray = cv2.copyMakeBorder(
        scaled, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0
    )
    return square


def box_of_input(gray: Gray, size: int, crop: str) -> tuple[float, float, float, float]:
    """Where the square of `scale_by_halves` lies in the slice: left, top, right and bottom, as
    fractions of its width and height."""
    part = _part_of(gray, size, crop)
    ends = []
    for at, pixels, inner, step, side in zip(
        (part.left, part.top),
        part.pixels.shape[::-1],
        _inner_size(part.pixels.shape, size, crop)[::-1],
        (part.across, part.down),
        gray.shape[::-1],
        strict=True,
    ):
        scale = pixels / inner  # of the level's pixels for one of the input
        first = at - (size - inner) // 2 * scale
        ends.append((first * step / side, (first + size * scale) * step / side))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def _part_of(gray: Gray, size: int, crop: str) -> _Part:
    if crop != "head":
        return _whole(gray, size)
    levels = [gray]
    while max(levels[-1].shape) >= 2 * size and min(levels[-1].shape) > 1:
        levels.append(_averaged(levels[-1], 2, 2))
    rows, columns = head_box(levels[-1])
    box = [rows.start, rows.stop, columns.start, columns.stop]
    while len(levels) > 1 and max(box[1] - box[0], box[3] - box[2]) < size:
        levels.pop()
        box = [2 * at for at in box]
    top, bottom, left, right = box
    step = 1 << len(levels) - 1
    return _Part(levels[-1][top:bottom, left:right], top, left, step, step)


def _whole(gray: Gray, size: int) -> _Part:
    """Each side halved by itself, since the slice is squeezed."""
    down = across = 1
    while max(gray.shape) >= 2 * size:
        tall, wide = (2 if side >= 2 * size else 1 for side in gray.shape)
        gray = _averaged(gray, tall, wide)
        down, across = down * tall, across * wide
    return _Part(gray, 0, 0, down, across)


def _averaged(gray: Gray, tall: int, wide: int) -> Gray:
    """The means of `tall`×`wide` pixels (1 or 2 each), halves rounded up."""
    import cv2

    height, width = gray.shape[0] // tall, gray.shape[1] // wide
    whole = gray[: height * tall, : width * wide]
    means: Gray = cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return means


def _inner_size(shape: tuple[int, ...], size: int, crop: str) -> tuple[int, int]:
    """Height and width in the input of a part of this shape; rounded, and a pixel at least."""
    if crop != "head":
        return size, size
    longer = max(shape)
    height, width = (max(1, (2 * side * size + longer) // (2 * longer)) for side in shape)
    return height, width
