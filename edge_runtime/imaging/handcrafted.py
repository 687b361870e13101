"""The only code that measures a slice by hand-made features that a device can compute.

Training and the device call `extract` on what `preprocess` gives; which sets it measures, and in
which order, is data that travels inside the model file. Every value has a name of the form
`set:part:detail`; a part is the unit whose importance reports tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.imaging.texture import BACKGROUND, glcm, glcm_names, lbp, lbp_names

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

BINS = 32  # of the brightness histogram
PERCENTILES = (5, 25, 50, 75, 95)
CELLS = 8  # a side, of the gradient histograms; more where the side is no multiple of 8
ANGLES = 9  # bins of 20 degrees; a gradient and its opposite count as one


@dataclass(frozen=True)
class FeatureSet:
    """A set of features of one slice.

    Attributes:
        name: as it stands in model files and on command lines.
        about: what it measures and its source.
        value_range: of its values, in words.
        names: from the side of the slice in pixels to the names of the values, in order.
        compute: from a slice, uint8 S×S with S from 16 to 1024, to the values: float32, finite,
            as many as names. Does not change the slice; the same slice gives the same bits, in
            whatever thread.
        version: raised with any change of what `compute` gives, or values that were stored
            before are taken for new ones.
    """

    name: str
    about: str
    value_range: str
    names: Callable[[int], tuple[str, ...]]
    compute: Callable[[Gray], Floats]
    version: int = 1


def names_of(sets: Sequence[str], size: int) -> tuple[str, ...]:
    """Names of what `extract` gives for slices of `size`×`size`.

    Raises:
        ModelError: a set that this version lacks.
    """
    return tuple(name for each in sets for name in _known(each).names(size))


def extract(pixels: Gray, sets: Sequence[str]) -> Floats:
    """The values of the sets, one set after the other.

    Args:
        pixels: uint8 S×S as `preprocess` gives it, S from 16 to 1024.
        sets: names out of DEVICE_SETS.

    Returns:
        float32, one value for each of `names_of(sets, S)`, finite.

    Raises:
        ModelError: a set that this version lacks.
    """
    found = [_known(each) for each in sets]
    pixels = np.ascontiguousarray(pixels)
    return np.concatenate([np.empty(0, np.float32), *(each.compute(pixels) for each in found)])


def _known(name: str) -> FeatureSet:
    try:
        return DEVICE_SETS[name]
    except KeyError:
        there = ", ".join(DEVICE_SETS)
        raise ModelError(f"unknown features {name!r}; this version knows {there}") from None


def histogram_names(size: int) -> tuple[str, ...]:
    """Names of what `histogram` gives; the size does not matter."""
    return (
        *(f"histogram:levels:bin {i}" for i in range(BINS)),
        *(f"histogram:moments:{m}" for m in ("mean", "deviation", "skewness", "kurtosis")),
        "histogram:entropy:bits",
        *(f"histogram:percentiles:{share}" for share in PERCENTILES),
        "histogram:background:share",
    )


def histogram(pixels: Gray) -> Floats:
    """How bright the slice is, without where.

    The shares of 32 bins of 8 gray levels; mean / 255; standard deviation / 127.5; skewness g as
    g / (1 + |g|) and kurtosis k (3 for a normal distribution, at least 1) as 1 - 1 / k, since a
    few bright pixels drive both to hundreds (both 0 for a slice of one level); entropy of the
    256 levels in bits / 8; the levels below or at which 5, 25, 50, 75 and 95 % of the pixels
    lie, / 255; the share of background, which is darker than 8.

    Args:
        pixels: uint8 S×S.

    Returns:
        float32 of 43 values, -1 to 1.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    shares = counts / pixels.size
    level = np.arange(256.0)
    mean = float((shares * level).sum())
    away = level - mean
    variance = float((shares * away**2).sum())
    skewness = kurtosis = 0.0
    if np.count_nonzero(counts) > 1:
        skew = float((shares * away**3).sum()) / variance**1.5
        skewness = skew / (1.0 + abs(skew))
        kurtosis = 1.0 - variance**2 / float((shares * away**4).sum())
    some = shares[shares > 0]
    entropy = 0.0 - float((some * np.log2(some)).sum())
    # In whole pixels: no rounding decides what is still below a percentile.
    ranks = counts.cumsum().searchsorted([-(-p * pixels.size // 100) for p in PERCENTILES])
    bins = counts.reshape(BINS, -1).sum(axis=1) / pixels.size
    moments = [mean / 255, variance**0.5 / 127.5, skewness, kurtosis, entropy / 8]
    background = float(counts[:BACKGROUND].sum()) / pixels.size
    return np.concatenate([bins, moments, ranks / 255, [background]]).astype(np.float32)


def _grid(size: int) -> tuple[int, int]:
    """Side of a cell in pixels, and cells a side."""
    side = size // CELLS
    return side, size // side


def hog_names(size: int) -> tuple[str, ...]:
    """Names of what `hog` gives for slices of `size`×`size`, e.g. `hog:block 3,4:cell 0,1 bin 5`.

    Blocks are counted from the upper left, row first; so are the four cells of a block.
    """
    blocks = range(_grid(size)[1] - 1)
    return tuple(
        f"hog:block {row},{column}:cell {below},{right} bin {angle}"
        for row in blocks
        for column in blocks
        for below in (0, 1)
        for right in (0, 1)
        for angle in range(ANGLES)
    )


def hog(pixels: Gray) -> Floats:
    """Histograms of oriented gradients (Dalal & Triggs, CVPR 2005).

    The variant of scikit-image's `hog` with 9 orientations, cells of S // 8 pixels a side,
    blocks of 2×2 cells and norm L2-Hys: in each cell, gradients (differences of the two
    neighbours, 0 at the slice's edge) are summed up by their direction in bins of 20 degrees,
    without smoothing; each block of cells, overlapping the next by one cell, is scaled to length
    1, cut off at 0.2 and scaled again. Sums are in float64, where scikit-image's are in float32.

    Args:
        pixels: uint8 S×S, S at least 16.

    Returns:
        float32 of 36 values a block, 0 to 1; 49 blocks where S is a multiple of 8.
    """
    side, cells = _grid(len(pixels))
    gray = pixels.astype(np.int32)
    down, right = np.zeros((2, *gray.shape), np.int32)
    np.subtract(gray[2:], gray[:-2], out=down[1:-1])
    np.subtract(gray[:, 2:], gray[:, :-2], out=right[:, 1:-1])
    length = np.sqrt((down * down + right * right).astype(np.float64))
    angle = _angle_table()[(down + 255) * 511 + (right + 255)]

    used = cells * side
    shape = (cells, side, cells, side)
    length, angle = length[:used, :used].reshape(shape), angle[:used, :used].reshape(shape)
    cell = np.arange(cells)[:, None, None, None] * cells + np.arange(cells)[:, None]
    summed = np.bincount(
        (cell * ANGLES + angle).ravel(), weights=length.ravel(), minlength=cells * cells * ANGLES
    )
    table = summed.reshape(cells, cells, ANGLES) / side**2
    corners = [table[:-1, :-1], table[:-1, 1:], table[1:, :-1], table[1:, 1:]]
    blocks = np.concatenate(corners, axis=2)
    return _unit(np.minimum(_unit(blocks), 0.2)).astype(np.float32).ravel()


def _unit(blocks: Doubles) -> Doubles:
    """Each block scaled to length 1; one without gradients stays 0."""
    length: Doubles = np.sqrt((blocks**2).sum(axis=2, keepdims=True) + 1e-5**2)
    return blocks / length


@lru_cache(maxsize=1)
def _angle_table() -> Gray:
    """The bin of every gradient: at (down + 255) * 511 + right + 255; some 30 times as fast as
    an arc tangent a pixel."""
    steps = np.arange(-255.0, 256.0)
    degrees = np.arctan2(steps[:, None], steps) * (180 / np.pi) % 180
    table: Gray = (degrees // (180 // ANGLES)).astype(np.uint8).ravel()
    table.setflags(write=False)
    return table


DEVICE_SETS: dict[str, FeatureSet] = {
    each.name: each
    for each in (
        FeatureSet(
            "histogram",
            "How bright the pixels are: histogram, moments, entropy, percentiles and share of "
            "background. First-order statistics, without place.",
            "-1 to 1",
            histogram_names,
            histogram,
        ),
        FeatureSet(
            "glcm",
            "Which gray levels lie next to each other: 13 measures of co-occurrence matrices at "
            "three distances. Haralick, Shanmugam & Dinstein, IEEE Trans. SMC, 1973.",
            "shares, entropies and correlations -1 to 7, squares of levels 0 to 961",
            glcm_names,
            glcm,
        ),
        FeatureSet(
            "lbp",
            "Which small patterns (edges, spots, corners) occur where: uniform local binary "
            "patterns of three radii in 3×3 regions. Ojala, Pietikäinen & Mäenpää, IEEE PAMI, "
            "2002; Ahonen, Hadid & Pietikäinen, IEEE PAMI, 2006.",
            "0 to 1",
            lbp_names,
            lbp,
        ),
        FeatureSet(
            "hog",
            "Which way edges run where: histograms of oriented gradients in overlapping blocks. "
            "Dalal & Triggs, CVPR 2005.",
            "0 to 1",
            hog_names,
            hog,
        ),
    )
}
