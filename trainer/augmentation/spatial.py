"""Random changes of where a slice lies in its picture: turned, stretched, mirrored, moved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]  # left, top, right, bottom as fractions of the side; NaN: none


def change_place(image: Gray, box: Box, rng: np.random.Generator) -> tuple[Gray, Box]:
    """A copy of a slice in another place, and where its box went.

    Args:
        image: uint8 array of size×size.
        box: four fractions of the side, or NaN.
        rng: random generator.

    Returns:
        The changed slice, uint8 of size×size, and the upright hull of the moved box.
    """
    import cv2

    size = image.shape[0]
    matrix = _placement(size, rng)
    changed: Gray = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return changed, move_box(box, matrix, size)


def move_box(box: Box, matrix: npt.NDArray[np.float64], size: int) -> Box:
    """The upright hull of a box under an affine map of pixel centres (2×3), cut to the picture."""
    if np.isnan(box).any():
        return box
    left, top, right, bottom = box * size - 0.5
    corners = np.array([[left, top, 1], [right, top, 1], [left, bottom, 1], [right, bottom, 1]])
    moved = (corners @ matrix.T + 0.5) / size
    hull: Box = np.clip(np.concatenate([moved.min(axis=0), moved.max(axis=0)]), 0.0, 1.0)
    return hull


def _placement(size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A turn, zoom, shear, shift and mirroring, as an affine map of pixel centres."""
    import cv2

    centre = (size / 2 - 0.5, size / 2 - 0.5)
    matrix = np.asarray(
        cv2.getRotationMatrix2D(centre, rng.uniform(-20, 20), rng.uniform(0.8, 1.15))
    )
    stretch = rng.uniform(0.9, 1.1)
    shape = np.array([[stretch, rng.uniform(-0.08, 0.08)], [0, 1 / stretch]])
    matrix[:, :2] = matrix[:, :2] @ shape
    # Turn and stretch about the middle: bring the centre back to itself, then shift.
    matrix[:, 2] = centre - matrix[:, :2] @ np.array(centre) + rng.uniform(-0.07, 0.07, 2) * size
    for axis, chance in ((0, 0.5), (1, 0.1)):  # heads are nearly symmetric left to right
        if rng.random() < chance:
            matrix[axis] = [-matrix[axis, 0], -matrix[axis, 1], size - 1 - matrix[axis, 2]]
    return matrix
