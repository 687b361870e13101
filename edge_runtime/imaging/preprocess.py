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
from edge_runtime.imaging.head import head_box, percentiles
from edge_runtime.imaging.pyramid import box_of_input, scale_by_halves

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]

CROPS = ("none", "head")
RESIZE = ("area", "pyramid")
DENOISE = (None, "median", "non-local-means")
CONTRAST = (None, "clahe")
MAX_RATIO = 16  # of the sides: the padding to a square grows with it …
NARROW = 4096  # … pixels of the longer side, from which on that counts; larger ones are shrunk
MEDIAN = 3  # pixels: side of the neighbourhood
# Non-local means: patches that differ by noise of h gray levels count as alike. Noise of that
# deviation is nearly gone afterwards, noise of twice it stays.
NLM_H, NLM_PATCH, NLM_SEARCH = 10.0, 5, 15
CLAHE_CLIP = 2.0  # times the height of a flat histogram
# The usual 8 tiles a side are for large pictures: OpenCV counts and cuts in whole pixels of 256
# levels, and tiles of hardly more pixels than that invent bright and dark clouds in flat areas.
CLAHE_TILES, CLAHE_TILE = 8, 32  # at most so many a side, of so many pixels a side at least


@dataclass(frozen=True)
class Preprocess:
    """What to do with a slice before the model sees it.

    Attributes:
        size: side of the square result, in pixels.
        crop: `head` cuts to the head's bounding box and pads it to a square with black, so that
            field of view and margins tell nothing; `none` squeezes the whole picture.
        window: lower and upper percentile mapped linearly to 0 and 255, or None.
        denoise: `median` (over 3×3 pixels: specks), `non-local-means` (averages patches that
            look alike: grain; Buades, Coll & Morel 2005), or None. Non-local means costs about
            6 ms at 96×96 and 9 ms at 128×128 on one core of a workstation, ten to twenty times
            the rest of the preprocessing, and several times that on a small board; the median
            costs 0.05 ms at most.
        contrast: `clahe` (histogram equalisation in tiles, with limited slope; Zuiderveld
            1994), or None. It costs 0.1 ms.
        resize: `area` averages the pixels under each pixel of the result (from a factor of two
            on; bilinear weights below); `pyramid` halves the slice to about the size and takes
            bilinear weights from there, which costs less, the less the larger the slice (see
            `imaging.pyramid`).

    The order is crop, size, window, denoise, contrast: the window puts every scanner on one
    scale, on which the strength of a filter and the limit of the slope have one meaning, and at
    the model's size the filters are cheap.
    """

    size: int = 128
    crop: str = "head"
    window: tuple[float, float] | None = (1.0, 99.5)
    denoise: str | None = None
    contrast: str | None = None
    resize: str = "area"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not 16 <= self.size <= 1024:
            raise ModelError(f"preprocessing size {self.size!r} is not between 16 and 1024")
        if self.crop not in CROPS:
            raise ModelError(f"unknown crop {self.crop!r}; this version knows {CROPS}")
        if self.window is not None and not 0 <= self.window[0] < self.window[1] <= 100:
            raise ModelError(f"window {self.window!r} is not two rising percentiles")
        # A model that needs a step which this version lacks would see what it never learned.
        if self.denoise not in DENOISE:
            raise ModelError(f"unknown denoise {self.denoise!r}; this version knows {DENOISE}")
        if self.contrast not in CONTRAST:
            raise ModelError(f"unknown contrast {self.contrast!r}; this version knows {CONTRAST}")
        if self.resize not in RESIZE:
            raise ModelError(f"unknown resize {self.resize!r}; this version knows {RESIZE}")

    def to_json(self) -> dict[str, Any]:
        """The shape that `model.json` and `run.json` hold."""
        shape = asdict(self)
        shape["window"] = list(self.window) if self.window else None
        return shape

    @classmethod
    def from_json(cls, shape: Mapping[str, Any]) -> Preprocess:
        """Read what `to_json` wrote, or a former version, which knew one `resize` and did not say.

        Raises:
            ModelError: a missing, unknown or unusable field: guessing would be worse.
        """
        shape = {"resize": "area"} | dict(shape)
        known = {field.name for field in fields(cls)}
        if set(shape) != known:
            raise ModelError(f"preprocessing fields {sorted(shape)} are not {sorted(known)}")
        window = shape["window"]
        if window is not None:
            if not (
                isinstance(window, (list, tuple))
                and len(window) == 2
                # Before float(), which a whole number may be too large for.
                and all(type(p) in (int, float) and 0 <= p <= 100 for p in window)
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

    size = options.size
    if max(gray.shape) > max(MAX_RATIO * min(gray.shape), NARROW):
        raise InputError(f"{gray.shape[1]}x{gray.shape[0]} pixels: too narrow for a slice")
    if options.resize == "pyramid":
        gray = scale_by_halves(gray, size, options.crop)
    else:
        gray = _scale_by_area(gray, size, options.crop)
    if options.window is not None:
        gray = cv2.LUT(gray, _window_table(*percentiles(gray, options.window)))
    if options.denoise == "median":
        gray = cv2.medianBlur(gray, MEDIAN)
    elif options.denoise == "non-local-means":
        gray = cv2.fastNlMeansDenoising(gray, None, NLM_H, NLM_PATCH, NLM_SEARCH)
    if options.contrast == "clahe":
        # One object a call, which costs nothing: it holds buffers, so threads must not share it.
        gray = cv2.createCLAHE(CLAHE_CLIP, (_tiles(size), _tiles(size))).apply(gray)
    return gray if gray.flags.c_contiguous else gray.copy()


def steps_in_words(options: Preprocess) -> list[str]:
    """What is done to a slice, one step a line, in the order in which it is done."""
    tiles = _tiles(options.size)
    return [
        "cut to the box around the head, padded to a square with black"
        if options.crop == "head"
        else "the whole picture, squeezed to a square",
        f"scaled to {options.size}x{options.size} pixels"
        + (", by halves first" if options.resize == "pyramid" else ""),
        "brightness as in the file"
        if options.window is None
        else "brightness stretched: percentile {:g} to black, percentile {:g} to white".format(
            *options.window
        ),
        {
            "median": f"noise removed by the median of {MEDIAN}x{MEDIAN} pixels",
            "non-local-means": f"noise removed by non-local means (strength {NLM_H:g} gray "
            f"levels, patches of {NLM_PATCH}x{NLM_PATCH} pixels, sought within "
            f"{NLM_SEARCH}x{NLM_SEARCH})",
        }.get(options.denoise or "", "noise left as it is"),
        {
            "clahe": f"local contrast evened out by CLAHE ({tiles}x{tiles} tiles, clip "
            f"limit {CLAHE_CLIP:g})",
        }.get(options.contrast or "", "local contrast left as it is"),
    ]


def crop_box(gray: Gray, options: Preprocess) -> tuple[float, float, float, float]:
    """Where the model's square input lies in the slice: left, top, right and bottom, each as a
    fraction of the slice's width or height (below 0 or above 1 where black was added).

    A point (x, y) of the input, as fractions of its side, is the point
    (left + x * (right - left), top + y * (bottom - top)) of the slice.
    """
    if options.resize == "pyramid":
        return box_of_input(gray, options.size, options.crop)
    height, width = gray.shape
    if options.crop != "head":
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = head_box(gray)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    size = max(tall, wide)
    top, left = rows.start - (size - tall) // 2, columns.start - (size - wide) // 2
    return left / width, top / height, (left + size) / width, (top + size) / height


def _scale_by_area(gray: Gray, size: int, crop: str) -> Gray:
    """The square input of a model whose `resize` is `area`."""
    import cv2

    if crop == "head":
        gray = _square(_shrunk(gray[head_box(gray)]))
    height, width = gray.shape
    if (height, width) == (size, size):
        return gray
    # Averaging an area keeps detail from aliasing, but is slow at fractional scales; below a
    # factor of two, bilinear weights cover every pixel, and this variant is bit-exact.
    coarse = height >= 2 * size or width >= 2 * size
    how = cv2.INTER_AREA if coarse else cv2.INTER_LINEAR_EXACT
    scaled: Gray = cv2.resize(gray, (size, size), interpolation=how)
    return scaled


def _shrunk(gray: Gray) -> Gray:
    """Halve (or third, ...) a large slice whose sides differ: padded to a square it would need the
    square of its longer side."""
    import cv2

    height, width = gray.shape
    times = -(-max(height, width) // NARROW)
    if times == 1 or height == width:
        return gray
    size = (max(1, width // times), max(1, height // times))
    shrunk: Gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return shrunk


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


def _tiles(size: int) -> int:
    """Tiles along each side of a picture, for its contrast."""
    return min(CLAHE_TILES, max(1, size // CLAHE_TILE))


@lru_cache(maxsize=1024)  # the levels of one scanner's slices are much alike
def _window_table(low: int, high: int) -> Gray:
    levels = np.arange(256, dtype=np.float32)
    if high <= low:
        return np.zeros(256, np.uint8)
    table: Gray = np.rint(np.clip((levels - low) * (255.0 / (high - low)), 0, 255)).astype(np.uint8)
    return table
