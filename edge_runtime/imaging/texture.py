"""Two measures of texture: gray-level co-occurrence and local binary patterns.

Both work on whole slices at once with numpy alone; what they give is the same, to the bit, each
time and in any thread. `edge_runtime.imaging.handcrafted` lists them among the sets of features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

LEVELS = 32  # of the co-occurrence matrices; a level holds 256 / LEVELS gray levels
BACKGROUND = 256 // LEVELS  # darker pixels are level 0, the black around the head
DISTANCES = (1, 2, 4)
MEASURES = (
    "angular second moment", "contrast", "correlation", "variance", "inverse difference moment",
    "sum average", "sum variance", "sum entropy", "entropy", "difference variance",
    "difference entropy", "information correlation 1", "information correlation 2",
)  # fmt: skip
PATTERNS = ((8, 1), (16, 2), (24, 3))  # points on a circle, its radius in pixels
GRID = 3  # regions a side, each with its own histogram of patterns


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
