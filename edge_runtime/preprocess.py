"""The only code that turns a gray slice into a model's input.

Training, calibration, export, benchmarks and the device call `preprocess`; what it does is data
(`Preprocess`) that travels inside the model file. Scaling is a layer of the model, so the output
is plain pixel values 0-255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]

CROPS = ("none", "head")
MAX_RATIO = 16  # of the sides: the padding to a square grows with it …
NARROW = 4096  # … pixels of the longer side, from which on that counts


@dataclass(frozen=True)
class Preprocess:
    """What to do with a slice before the model sees it.

    Attributes:
        size: side of the square result, in pixels.
        crop: `head` cuts to the head's bounding box and pads it to a square with black, so that
            field of view and margins tell nothing; `none` squeezes the whole picture.
        window: lower and upper percentile mapped linearly to 0 and 255, or None.
        denoise, contrast: reserved names; None is the only value this version knows.
    """

    size: int = 128
    crop: str = "head"
    window: tuple[float, float] | None = (1.0, 99.5)
    denoise: None = None
    contrast: None = None

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not 16 <= self.size <= 1024:
            raise ModelError(f"preprocessing size {self.size!r} is not between 16 and 1024")
        if self.crop not in CROPS:
            raise ModelError(f"unknown crop {self.crop!r}; this version knows {CROPS}")
        if self.window is not None and not 0 <= self.window[0] < self.window[1] <= 100:
            raise ModelError(f"window {self.window!r} is not two rising percentiles")
        if self.denoise is not None or self.contrast is not None:
            raise ModelError("the model needs a preprocessing step that this version lacks")

    def to_json(self) -> dict[str, Any]:
        """The shape that `model.json` and `run.json` hold."""
        shape = asdict(self)
        shape["window"] = list(self.window) if self.window else None
        return shape

    @classmethod
    def from_json(cls, shape: Mapping[str, Any]) -> Preprocess:
        """Read what `to_json` wrote.

        Raises:
            ModelError: a missing, unknown or unusable field: guessing would be worse.
        """
        known = {field.name for field in fields(cls)}
        if set(shape) != known:
            raise ModelError(f"preprocessing fields {sorted(shape)} are not {sorted(known)}")
        window = shape["window"]
        if window is not None:
            if not (
                isinstance(window, (list, tuple))
                and len(window) == 2
                and all(isinstance(p, (int, float)) for p in window)
            ):
                raise ModelError(f"window {window!r} is not two percentiles")
            window = (float(window[0]), float(window[1]))
        return cls(**{**shape, "window": window})


def preprocess(gray: Gray, options: Preprocess) -> Gray:
    """Apply `options` to a slice.

    Args:
        gray: uint8 array of H×W, gray levels 0-255.
        options: what to do.

    Returns:
        uint8 array of size×size, C-contiguous.

    Raises:
        InputError: a large picture of which one side is many times the other.
    """
    import cv2

    if max(gray.shape) > max(MAX_RATIO * min(gray.shape), NARROW):
        raise InputError(f"{gray.shape[1]}x{gray.shape[0]} pixels: too narrow for a slice")
    if options.crop == "head":
        gray = _square(gray[head_box(gray)])
    height, width = gray.shape
    side = options.size
    if (height, width) != (side, side):
        # Averaging an area keeps detail from aliasing, but is slow at fractional scales; below a
        # factor of two, bilinear weights cover every pixel, and this variant is bit-exact.
        coarse = height >= 2 * side or width >= 2 * side
        how = cv2.INTER_AREA if coarse else cv2.INTER_LINEAR_EXACT
        gray = cv2.resize(gray, (side, side), interpolation=how)
    if options.window is not None:
        gray = cv2.LUT(gray, _window_table(*_percentiles(gray, options.window)))
    return np.ascontiguousarray(gray)


def frame_of(gray: Gray, options: Preprocess) -> tuple[float, float, float, float]:
    """Where the model's square input lies in the slice: left, top, right and bottom, each as a
    fraction of the slice's width or height (below 0 or above 1 where black was added).

    A point (x, y) of the input, as fractions of its side, is the point
    (left + x * (right - left), top + y * (bottom - top)) of the slice.
    """
    height, width = gray.shape
    if options.crop != "head":
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = head_box(gray)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    side = max(tall, wide)
    top, left = rows.start - (side - tall) // 2, columns.start - (side - wide) // 2
    return left / width, top / height, (left + side) / width, (top + side) / height


def head_box(gray: Gray) -> tuple[slice, slice]:
    """Rows and columns that hold the head.

    A pixel counts as head above an eighth of the 99th percentile of brightness. The box reaches
    from the first to the last row (column) in which 5 % of the pixels count; the outermost 2 %
    of the slice are ignored, so that frames, specks and thin text do not widen it. A box under
    a quarter of either side is no head: then the whole slice is kept.
    """
    import cv2

    height, width = gray.shape
    step = max(1, min(height, width) // 64)  # a sample is enough for one percentile
    bright = _percentiles(np.ascontiguousarray(gray[::step, ::step]), (99.0,))[0]
    mask = cv2.threshold(gray, max(bright / 8.0, 4.0), 1, cv2.THRESH_BINARY)[1]
    box = []
    for axis, across, along in ((1, width, height), (0, height, width)):
        counts = cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
        margin = along // 50
        inside = counts[margin : along - margin] >= max(1.0, 0.05 * across)
        first, beyond = int(inside.argmax()), inside.size - int(inside[::-1].argmax())
        if not inside[first] or beyond - first < along / 4:
            return slice(0, height), slice(0, width)
        box.append(slice(margin + first, margin + beyond))
    return box[0], box[1]


def _square(gray: Gray) -> Gray:
    """Pad the shorter side with black, evenly on both ends."""
    import cv2

    height, width = gray.shape
    if height == width:
        return gray
    rows, columns = max(width - height, 0), max(height - width, 0)
    top, left = rows // 2, columns // 2
    padded: Gray = cv2.copyMakeBorder(
        gray, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=0
    )
    return padded


def _percentiles(gray: Gray, wanted: tuple[float, ...]) -> list[int]:
    """The gray levels below or at which the wanted shares (in percent) of the pixels lie."""
    import cv2

    histogram = cv2.calcHist([gray], [0], None, [256], [0, 256])
    cumulative = np.cumsum(histogram, dtype=np.float64)
    levels = cumulative.searchsorted([share / 100.0 * gray.size for share in wanted])
    return [min(level, 255) for level in levels.tolist()]


@lru_cache(maxsize=1024)  # the levels of one scanner's slices are much alike
def _window_table(low: int, high: int) -> Gray:
    levels = np.arange(256, dtype=np.float32)
    if high <= low:
        return np.zeros(256, np.uint8)
    table: Gray = np.rint(np.clip((levels - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)
    return table
