"""How a slice lies and what its pixels measure: planes, turns and square pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Values = npt.NDArray[Any]

PLANES = ("axial", "coronal", "sagittal")
MAX_STRETCHED = 8_000_000  # pixels


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
