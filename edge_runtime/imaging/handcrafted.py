"""The only code that measures a slice by hand-made features that a device can compute: brightness,
gray-level co-occurrence, local binary patterns, oriented gradients.

With numpy alone; what a set gives is the same, to the bit, each time and in any thread. Training
and the device call `extract` on what `preprocess` gives; which sets it measures, and in
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

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

BACKGROUND = 8  # gray levels: what is darker is the black around the head
BINS = 32  # of the brightness histogram
PERCENTILES = (5, 25, 50, 75, 95)
LEVELS = 256 // BACKGROUND  # of the co-occurrence matrices; level 0 is the background
DISTANCES = (1, 2, 4)
MEASURES = (
    "angular second moment", "contrast", "correlation", "variance", "inverse difference moment",
    "sum average", "sum variance", "sum entropy", "entropy", "difference variance",
    "difference entropy", "information correlation 1", "information correlation 2",
)  # fmt: skip
PATTERNS = ((8, 1), (16, 2), (24, 3))  # points on a circle, its radius in pixels
GRID = 3  # regions a side, each with its own histogram of patterns
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


def glcm_names(size: int) -> tuple[str, ...]:
    """Names of what `glcm` gives, e.g. `glcm:contrast d1:mean`; the size does not matter."""
    return tuple(
        f"glcm:{measure} d{distance}:{kind}"
        for distance in DISTANCES
        for measure in MEASURES
        for kind in ("mean", "range")
    )


def glcm(pixels: Gray) -> Floats:
    """Haralick's measures of the gray-level co-occurrence matrices.

    For each distance of DISTANCES: the mean and the range (largest minus smallest) of each of
    the MEASURES over the angles 0, 45, 90 and 135 degrees.

    Args:
        pixels: uint8 S×S, S at least 16.

    Returns:
        float32 of 78 values, finite.
    """
    values = haralick(cooccurrence(pixels)).reshape(len(DISTANCES), 4, len(MEASURES))
    spread = values.max(axis=1) - values.min(axis=1)
    both = np.stack([values.mean(axis=1), spread], axis=2)
    return both.astype(np.float32).ravel()


def cooccurrence(pixels: Gray) -> npt.NDArray[np.int64]:
    """How often which two levels lie how far apart.

    A pixel's level is its gray level >> 3. The neighbour at distance d and angle a lies
    round(d sin a) rows below and round(d cos a) columns to the right, as in scikit-image: on the
    diagonals these are 1, 1 and 3 pixels for the distances 1, 2 and 4. Each pair is counted both
    ways. Pairs with level 0, the background, are left out unless no others exist: their number
    tells the size of the head and would drown its texture.

    Args:
        pixels: uint8 S×S, S at least 16.

    Returns:
        int64 12×32×32: distances, each with four angles; levels; levels. Symmetric, none empty.
    """
    level = (pixels >> 3).astype(np.intp)
    first = level * LEVELS
    height, width = level.shape
    counts = np.empty((4 * len(DISTANCES), LEVELS, LEVELS), np.int64)
    for at, (down, right) in enumerate(_offsets()):
        rows = height - down
        here = slice(max(-right, 0), width - max(right, 0))
        there = slice(max(right, 0), width + min(right, 0))
        pairs = first[:rows, here] + level[down:, there]
        one_way = np.bincount(pairs.ravel(), minlength=LEVELS * LEVELS)
        one_way = one_way.reshape(LEVELS, LEVELS)
        counts[at] = one_way + one_way.T
    within = counts[:, 1:, 1:].any(axis=(1, 2))
    counts[within, 0, :] = 0
    counts[within, :, 0] = 0
    return counts


def _offsets() -> list[tuple[int, int]]:
    """Rows down and columns to the right, by distance and angle."""
    found = []
    for distance in DISTANCES:
        slant = round(distance * 0.5**0.5)
        found += [(0, distance), (slant, slant), (distance, 0), (slant, -slant)]
    return found


def haralick(counts: npt.NDArray[np.int64]) -> Doubles:
    """The first 13 measures of Haralick, Shanmugam & Dinstein (IEEE Trans. SMC, 1973).

    With p(i, j) the share of the pairs of levels i and j (counted from 0), m and v mean and
    variance of a level, s(k) the share of the pairs with i + j = k, d(k) that of the pairs with
    |i - j| = k, and H(q) = -Σ q ln q:

    - angular second moment Σ p²; contrast Σ k² d(k); correlation 1 - contrast / 2v, which is
      Σ (i - m)(j - m) p / v for symmetric matrices (1 where v is 0); variance v;
    - inverse difference moment Σ p / (1 + (i - j)²);
    - sum average a = Σ k s(k); sum variance Σ (k - a)² s(k), with the average where the paper
      prints the entropy by mistake; sum entropy H(s); entropy H(p);
    - difference variance, that of |i - j| as a random number: Σ (k - Σ k d(k))² d(k);
      difference entropy H(d);
    - information correlation 1, (H(p) - 2 H(x)) / H(x), and 2, √(1 - exp(-2 (2 H(x) - H(p)))),
      where H(x) is the entropy of a level: for symmetric matrices, the paper's HXY1 and HXY2
      both equal 2 H(x). Both are 0 where H(x) is 0.

    Pairs of one single level l so give 1, 0, 1, 0, 1, 2 l and 0 for all the rest.

    Args:
        counts: int64 M×L×L, symmetric, none empty.

    Returns:
        float64 M×13 in the order of MEASURES, finite.
    """
    many, size = counts.shape[:2]
    shares = counts / counts.sum(axis=(1, 2), keepdims=True)
    level = np.arange(size)
    apart = np.abs(level[:, None] - level)
    matrix = np.arange(many)[:, None, None]
    sums = _gather(shares, matrix * (2 * size - 1) + (level[:, None] + level), 2 * size - 1)
    differences = _gather(shares, matrix * size + apart, size)
    one = shares.sum(axis=2)
    variance = _variance(one)
    contrast = (differences * level**2).sum(axis=1)
    flat = shares.reshape(many, -1)
    entropy, alone = _entropy(flat), _entropy(one)
    shared = 2.0 * alone - entropy  # the information that one level of a pair has of the other
    return np.stack(
        [
            (flat**2).sum(axis=1),
            contrast,
            1.0 - _ratio(contrast, 2.0 * variance),
            variance,
            (shares / (1.0 + apart**2)).sum(axis=(1, 2)),
            (sums * np.arange(2 * size - 1)).sum(axis=1),
            _variance(sums),
            _entropy(sums),
            entropy,
            _variance(differences),
            _entropy(differences),
            -_ratio(shared, alone),
            np.sqrt(np.maximum(1.0 - np.exp(-2.0 * shared), 0.0)),
        ],
        axis=1,
    )


def _gather(shares: Doubles, place: npt.NDArray[np.intp], length: int) -> Doubles:
    """Sums of the shares with the same place, M×length."""
    sums = np.bincount(place.ravel(), weights=shares.ravel(), minlength=len(shares) * length)
    found: Doubles = sums.reshape(len(shares), length).astype(np.float64, copy=False)
    return found


def _entropy(shares: Doubles) -> Doubles:
    """In nats, of each row."""
    total: Doubles = (shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return 0.0 - total


def _variance(shares: Doubles) -> Doubles:
    """Of the column's number, by each row's shares; exactly 0 where one share is everything."""
    number = np.arange(shares.shape[1])
    mean = (shares * number).sum(axis=1, keepdims=True)
    spread: Doubles = (shares * (number - mean) ** 2).sum(axis=1)
    return spread


def _ratio(top: Doubles, bottom: Doubles) -> Doubles:
    """`top / bottom`, 0 where the bottom is 0."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def lbp_names(size: int) -> tuple[str, ...]:
    """Names of what `lbp` gives, e.g. `lbp:radius 2:region 0,1 code 5`; any size."""
    return tuple(
        f"lbp:radius {radius}:region {row},{column} code {code}"
        for points, radius in PATTERNS
        for row in range(GRID)
        for column in range(GRID)
        for code in range(points + 2)
    )


def lbp(pixels: Gray) -> Floats:
    """Histograms of uniform, rotation-invariant local binary patterns.

    For each of PATTERNS: in each of 3×3 regions (row by row), the shares of its pixels with
    each code. A histogram by region as in Ahonen, Hadid & Pietikäinen (IEEE PAMI, 2006).

    Args:
        pixels: uint8 S×S.

    Returns:
        float32 of 486 values, 0 to 1.
    """
    third = np.arange(len(pixels)) * GRID // len(pixels)
    region = third[:, None] * GRID + third
    many = np.bincount(region.ravel())[:, None]
    parts = []
    for points, radius in PATTERNS:
        kinds = points + 2
        place = region * kinds + patterns(pixels, points, radius)
        counts = np.bincount(place.ravel(), minlength=GRID * GRID * kinds)
        parts.append((counts.reshape(-1, kinds) / many).astype(np.float32).ravel())
    return np.concatenate(parts)


def patterns(pixels: Gray, points: int, radius: int) -> Gray:
    """The code of each pixel's surroundings (Ojala, Pietikäinen & Mäenpää, IEEE PAMI, 2002).

    `points` places on the circle around the pixel are compared with it, 1 where they are at
    least as bright. With at most two changes between 0 and 1 along the circle the code is the
    number of ones, else `points + 1`. Between pixels, brightness is interpolated linearly;
    outside the slice it is 0. The arithmetic follows scikit-image step by step (offsets rounded
    to five decimals, weights from positions, columns before rows, float64): in even areas the
    last bit decides.

    Args:
        pixels: uint8 H×W.
        points: 8 to 254.
        radius: in pixels.

    Returns:
        uint8 H×W, 0 to points + 1.
    """
    height, width = pixels.shape
    angle = 2 * np.pi * np.arange(points, dtype=np.float64) / points
    down, across = np.round(-radius * np.sin(angle), 5), np.round(radius * np.cos(angle), 5)
    padded = np.pad(pixels, radius).astype(np.float64)
    centre = padded[radius : radius + height, radius : radius + width]
    columns = {right: _between(padded.T, right, radius, width).T for right in set(across.tolist())}
    ones, changes = np.zeros((2, height, width), np.uint8)
    before: npt.NDArray[np.bool_] | None = None
    for below, right in zip(down.tolist(), across.tolist(), strict=True):
        bit = _between(columns[right], below, radius, height) >= centre
        ones += bit
        if before is not None:
            changes += bit != before
        before = bit
    return np.where(changes <= 2, ones, np.uint8(points + 1))


def _between(lines: Doubles, offset: float, margin: int, many: int) -> Doubles:
    """`lines` at `offset` from each of the `many` lines behind the margin, interpolated."""
    whole = int(np.floor(offset))
    low = lines[margin + whole : margin + whole + many]
    if offset == whole:
        return low
    position = np.arange(many) + offset
    weight = (position - np.floor(position))[:, None]
    mixed: Doubles = (1 - weight) * low
    mixed += weight * lines[margin + whole + 1 : margin + whole + 1 + many]
    return mixed


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
