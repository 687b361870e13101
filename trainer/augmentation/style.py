"""Random changes of a slice that keep its class: of place and of style.

Each slice gets its own generator from (seed, epoch, index), so a picture does not depend on the
order of work and a resumed training sees what an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]  # left, top, right, bottom as fractions of the side; NaN: none


def augment(
    image: Gray, box: Box, rng: np.random.Generator, style: Gray | None = None
) -> tuple[Gray, Box]:
    """A changed copy of a preprocessed slice, and where its box went.

    Args:
        image: uint8 array of size×size.
        box: four fractions of the side, or NaN.
        rng: the slice's generator for this epoch.
        style: a slice of any class whose gray levels this one may take on.

    Returns:
        The changed slice, uint8 of size×size, and the upright hull of the moved box.
    """
    import cv2

    side = image.shape[0]
    matrix = _placement(side, rng)
    changed = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    if style is not None and rng.random() < 0.25:
        changed = match_levels(changed, style, rng.uniform(0.4, 1.0))
    if rng.random() < 0.15:
        tiles = int(rng.integers(2, 7))
        changed = cv2.createCLAHE(rng.uniform(1.0, 4.0), (tiles, tiles)).apply(changed)
    changed = cv2.LUT(changed, _tone_curve(rng))
    for change in rng.choice(len(_CHANGES), size=int(rng.integers(3)), replace=False):
        changed = _CHANGES[change](changed, rng)
    return np.ascontiguousarray(changed, dtype=np.uint8), move_box(box, matrix, side)


def match_levels(image: Gray, style: Gray, share: float) -> Gray:
    """Give `image` the histogram of `style`, blended with its own by `share` (0 to 1)."""
    import cv2

    def ranks(picture: Gray) -> npt.NDArray[np.float64]:
        counts = cv2.calcHist([picture], [0], None, [256], [0, 256]).ravel()
        return np.cumsum(counts, dtype=np.float64) / picture.size

    levels = np.interp(ranks(image), ranks(style), np.arange(256))
    levels = share * levels + (1 - share) * np.arange(256)
    table: Gray = np.rint(levels).astype(np.uint8)
    matched: Gray = cv2.LUT(image, table)
    return matched


def move_box(box: Box, matrix: npt.NDArray[np.float64], side: int) -> Box:
    """The upright hull of a box under an affine map of pixel centres (2×3), cut to the picture."""
    if np.isnan(box).any():
        return box
    left, top, right, bottom = box * side - 0.5
    corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    moved = (corners @ matrix.T + 0.5) / side
    hull: Box = np.clip(np.concatenate([moved.min(axis=0), moved.max(axis=0)]), 0.0, 1.0)
    return hull


def _placement(side: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A turn, zoom, shear, shift and mirroring, as an affine map of pixel centres."""
    import cv2

    centre = (side / 2 - 0.5, side / 2 - 0.5)
    matrix = np.asarray(
        cv2.getRotationMatrix2D(centre, rng.uniform(-20, 20), rng.uniform(0.8, 1.15))
    )
    stretch = rng.uniform(0.9, 1.1)
    shape = np.array([[stretch, rng.uniform(-0.08, 0.08)], [0, 1 / stretch]])
    matrix[:, :2] = matrix[:, :2] @ shape
    # Turn and stretch about the middle: bring the centre back to itself, then shift.
    matrix[:, 2] = centre - matrix[:, :2] @ np.array(centre) + rng.uniform(-0.07, 0.07, 2) * side
    for axis, chance in ((0, 0.5), (1, 0.1)):  # heads are nearly symmetric left to right
        if rng.random() < chance:
            matrix[axis] = [-matrix[axis, 0], -matrix[axis, 1], side - 1 - matrix[axis, 2]]
    return matrix


def _tone_curve(rng: np.random.Generator) -> Gray:
    """A random tone curve: gamma, contrast, brightness and a bend that may turn levels around."""
    levels = np.linspace(0, 1, 256, dtype=np.float32) ** float(np.exp(rng.uniform(-0.6, 0.6)))
    bend = rng.uniform(-0.1, 0.1)
    levels = levels + bend * np.sin(2 * np.pi * levels)
    if rng.random() < 0.15:  # another sequence: a smooth curve that need not rise
        knots = np.concatenate([[0.0], np.sort(rng.uniform(0.1, 1.0, 5))])
        knots[1:] += rng.uniform(-0.35, 0.35, 5)
        levels = np.interp(levels, np.linspace(0, 1, 6), np.clip(knots, 0, 1)).astype(np.float32)
    levels = (levels - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.15, 0.15)
    levels[0] = max(levels[0], 0.0) if rng.random() < 0.3 else 0.0  # mostly, black stays black
    curve: Gray = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    return curve


def _blur(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))


def _sharpen(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    amount = rng.uniform(0.3, 1.2)
    soft = cv2.GaussianBlur(image, (0, 0), 1.0)
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0)


def _coarsen(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    side = image.shape[0]
    small = int(side * rng.uniform(0.4, 0.9))
    image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


def _bias(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    side = image.shape[0]
    coarse = rng.uniform(0.7, 1.3, (3, 3)).astype(np.float32)
    field = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.multiply(image, field, dtype=cv2.CV_8U)


def _noise(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(2, 14)
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def _jpeg(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))]
    return cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_GRAYSCALE)


def _hole(image: Gray, rng: np.random.Generator) -> Any:
    """A strip along one edge goes black, as where the field of view ends."""
    image = np.rot90(image.copy(), int(rng.integers(4)))
    image[: int(image.shape[0] * rng.uniform(0.02, 0.12))] = 0
    return np.ascontiguousarray(image)


_CHANGES: tuple[Callable[[Gray, np.random.Generator], Any], ...] = (
    _blur,
    _sharpen,
    _coarsen,
    _bias,
    _noise,
    _jpeg,
    _hole,
)
