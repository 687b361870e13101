"""How a slice lies and what its pixels measure: planes, turns and square pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Values = npt.NDArray[Any]

PLANES = ("axial", "coronal", "sagittal")
MAX_STRETCHED = 8_000_000  # pixels
THICKEST = 3.0  # mm between slices that other planes can be cut of: thicker ones smear
FEWEST = 16  # voxels along each side of such a volume

# Why a volume is not cut in a plane.
THICK = f"slices more than {THICKEST:g} mm apart are not cut in other planes"
FEW = f"fewer than {FEWEST} slices are not cut in other planes"


def own_plane(spacing: Sequence[float]) -> str:
    """The plane through a volume's widest distance between voxels: that it was acquired in.

    Args:
        spacing: mm between voxels to the right, anterior and superior.
    """
    return PLANES[len(PLANES) - 1 - max(range(3), key=lambda axis: (spacing[axis], axis))]


def cut_refusal(shape: Sequence[int], spacing: Sequence[float], plane: str) -> str:
    """Why a volume of so many voxels cannot be cut in a plane; empty where it can.

    Args:
        spacing: as of `own_plane`.
    """
    if plane == own_plane(spacing):
        return ""
    if min(shape) < FEWEST:
        return FEW
    return THICK if is_thick(max(spacing)) else ""


def is_thick(distance: float) -> bool:
    """Whether slices lie more than THICKEST apart; places and sizes in files are rounded."""
    return round(distance, 2) > THICKEST


def turned(values: Values, turn: int) -> Values:
    """A view of a picture as the tag Orientation (TIFF 6.0, page 36) says: where row 0 and
    column 0 are. What it does not know is not turned."""
    if turn in (5, 6, 7, 8):
        values = values.T
    rows = -1 if turn in (3, 4, 7, 8) else 1
    columns = -1 if turn in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]


def square_pixels(gray: Gray, tall: float, wide: float) -> Gray:
    """A slice whose pixels are `tall`×`wide` mm, stretched so that they are square.

    Sides that differ by less than 1 %, or impossibly, leave it as it is. A picture that would
    become too large is shrunk along its finer side instead.
    """
    ratio = tall / wide if tall > 0 and wide > 0 else 1.0
    if not 0.05 <= ratio <= 20 or 0.99 <= ratio <= 1.01:
        return gray
    import cv2

    height, width = gray.shape
    how = cv2.INTER_LINEAR_EXACT
    if gray.size * max(ratio, 1 / ratio) > MAX_STRETCHED:
        ratio, how = 1 / ratio, cv2.INTER_AREA
        size = (
            (max(1, round(width * ratio)), height)
            if ratio < 1
            else (width, max(1, round(height / ratio)))
        )
    else:
        size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    stretched: Gray = cv2.resize(gray, size, interpolation=how)
    return stretched
