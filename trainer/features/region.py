"""Regions of the head: a feature set that needs the workstation's libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.imaging.handcrafted import BACKGROUND, FeatureSet

Gray = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

CLASSES = 4  # of brightness within the head
COUNTED = 32  # segments; more count as so many
LEAST = 0.002  # share of the head that a segment must cover
REGION_NAMES = (
    "head:share", "head:width", "head:brightness",
    "segment:share", "segment:eccentricity", "segment:solidity", "segment:extent",
    "segment:circularity", "segment:brightness difference", "segment:brightness ratio",
    "place:off midline", "place:below middle", "place:off middle", "place:depth",
    "segments:number", "segments:share", "segments:largest", "segments:second", "segments:third",
    *(f"classes:share {i}" for i in range(CLASSES)),
    *(f"classes:threshold {i}" for i in range(1, CLASSES)),
    "symmetry:difference", "symmetry:unlikeness", "symmetry:brightness", "symmetry:area",
)  # fmt: skip


def region_names(size: int) -> tuple[str, ...]:
    """Names of what `region` gives, e.g. `region:segment:solidity`; the size does not matter."""
    return tuple(f"region:{name}" for name in REGION_NAMES)


def region(pixels: Gray) -> Floats:
    """Shapes of what is bright in the head, classes of brightness, and symmetry.

    The head is the largest connected area above an eighth of the 99th percentile of brightness
    (as `preprocess.head_box` counts), with its holes. All shares are of its area.

    - head: share of the slice, width as w / (w + h), mean brightness / 255.
    - segments: within the head without its rim (a twentieth of the slice: most of skull and
      scalp), the brightest of three classes by multi-level Otsu thresholds (Otsu, 1979; Liao,
      Chen & Chung, 2001): with two, fluid would stand against all the rest. Opened with a 3×3
      cross and split where it narrows (watershed of the distance to the segment's edge;
      Meyer, 1994). Those of at least 0.2 % of the head count: their number / 32, the share of
      all and of the largest three.
    - segment: the brightest compact one, that with the largest product of mean brightness and
      circularity. Its share, eccentricity (of the ellipse with the same second moments),
      solidity (area / convex hull), extent (area / bounding box), circularity 4πA / P² (at most
      1), and its brightness against the rest of the head: difference / 255, and as s / (s + r).
    - place: its middle's distance from the midline and its signed height below the head's
      middle, each as a share of the head's half width or height; the distance from the middle in
      these units / √2; and its depth, the distance to the head's edge as a share of the largest.
    - classes: the shares of 4 such classes of the whole head, and their thresholds / 255.
    - symmetry: of the head and its mirror image at the middle of its bounding box, where both
      are: mean absolute difference / 255, and (1 - correlation) / 2 (0 where either has one
      level only); difference of the halves' mean brightness / 255, and of their areas as a share.

    What does not exist (no head, no segment) gives 0.

    Args:
        pixels: uint8 S×S.

    Returns:
        float32 of 30 values, -1 to 1.
    """
    values = dict.fromkeys(REGION_NAMES, 0.0)
    head = _head(pixels)
    if head.any():
        rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        tall, wide = len(head[box]), len(head[box][0])
        values["head:share"] = head.mean()
        values["head:width"] = wide / (wide + tall)
        values["head:brightness"] = pixels[head].mean() / 255
        values |= _segment_values(pixels, head)
        values |= _class_values(pixels[head])
        values |= _symmetry_values(pixels[box], head[box])
    return np.clip(np.array([*values.values()], np.float64), -1, 1).astype(np.float32)


def _head(pixels: Gray) -> Mask:
    """The head's pixels, none where hardly any are bright."""
    from scipy import ndimage
    from skimage.measure import label

    above = pixels > max(float(np.percentile(pixels, 99)) / 8, BACKGROUND / 2)
    parts = label(above, connectivity=1)
    areas = np.bincount(parts.ravel())
    areas[0] = 0  # what is not above
    if areas.max() < 0.01 * pixels.size:
        return np.zeros(pixels.shape, np.bool_)
    filled: Mask = ndimage.binary_fill_holes(parts == areas.argmax())
    return filled


def _segment_values(pixels: Gray, head: Mask) -> dict[str, float]:
    """The parts `segments`, `segment` and `place`."""
    from scipy import ndimage
    from skimage.measure import regionprops

    # Outside the slice is no head: a head that fills the slice has a rim all the same.
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    area = int(head.sum())
    parts = _split(pixels, depth > len(pixels) / 20)
    found = [part for part in regionprops(parts, pixels) if part.area >= max(LEAST * area, 2)]
    if not found:
        return {}
    sizes = sorted((float(part.area) for part in found), reverse=True) + [0.0, 0.0]
    values = {
        "segments:number": min(len(found), COUNTED) / COUNTED,
        "segments:share": sum(sizes) / area,
        "segments:largest": sizes[0] / area,
        "segments:second": sizes[1] / area,
        "segments:third": sizes[2] / area,
    }
    best = max(found, key=lambda part: float(part.intensity_mean) * _circularity(part))
    own, rest = float(best.intensity_mean), head & (parts != best.label)
    other = float(pixels[rest].mean()) if rest.any() else own
    values |= {
        "segment:share": float(best.area) / area,
        "segment:eccentricity": float(best.eccentricity),
        "segment:solidity": float(best.solidity),
        "segment:extent": float(best.extent),
        "segment:circularity": _circularity(best),
        "segment:brightness difference": (own - other) / 255,
        "segment:brightness ratio": own / max(own + other, 1.0),
    }
    rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
    off = [
        2 * (float(at) - (line[0] + line[-1]) / 2) / len(range(line[0], line[-1] + 1))
        for at, line in zip(best.centroid, (rows, columns), strict=True)
    ]
    middle = tuple(round(float(at)) for at in best.centroid)
    return values | {
        "place:off midline": abs(off[1]),
        "place:below middle": off[0],
        "place:off middle": math.hypot(*off) / math.sqrt(2),
        "place:depth": float(depth[middle] / depth.max()),
    }


def _split(pixels: Gray, inside: Mask) -> npt.NDArray[np.int32]:
    """The bright segments inside, numbered from 1."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    none = np.zeros(pixels.shape, np.int32)
    if not inside.any():
        return none
    bright = inside & (pixels > _limits(pixels[inside], 3)[-1])
    bright = ndimage.binary_opening(bright)
    far = ndimage.distance_transform_edt(bright)
    peaks = peak_local_max(far, min_distance=max(len(pixels) // 24, 1), exclude_border=False)
    markers = none.copy()
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parts: npt.NDArray[np.int32] = watershed(-far, markers, mask=bright)
    return parts


def _circularity(part: Any) -> float:
    """4π times the area over the square of the perimeter; discs of few pixels reach 1."""
    around = float(part.perimeter)
    return min(4 * math.pi * float(part.area) / around**2, 1.0) if around > 0 else 0.0


def _class_values(levels: Gray) -> dict[str, float]:
    """The part `classes`, of the head's pixels."""
    limits = _limits(levels, CLASSES)
    classes = np.searchsorted(limits, levels)  # a limit is the last level of its class
    shares = np.bincount(classes, minlength=CLASSES) / levels.size
    values = {f"classes:share {i}": float(shares[i]) for i in range(CLASSES)}
    return values | {f"classes:threshold {i + 1}": limits[i] / 255 for i in range(CLASSES - 1)}


def _limits(levels: Gray, classes: int) -> list[int]:
    """The last gray level of each of the classes but the brightest.

    Counted in steps of 4 gray levels: 4 classes of 256 levels take 40 ms.
    """
    from skimage.filters import threshold_multiotsu

    counts = np.bincount(levels >> 2, minlength=64)
    there = np.flatnonzero(counts)
    if len(there) < classes:  # each step is a class
        steps = [int(step) for step in there[:-1]]
        steps += [63] * (classes - 1 - len(steps))
    else:
        steps = [
            int(step) for step in threshold_multiotsu(hist=(counts, np.arange(64)), classes=classes)
        ]
    return [4 * step + 3 for step in steps]


def _symmetry_values(pixels: Gray, head: Mask) -> dict[str, float]:
    """The part `symmetry`, of the head's bounding box."""
    both = head & head[:, ::-1]
    half = head.shape[1] // 2
    left, right = (slice(None), slice(half)), (slice(None), slice(head.shape[1] - half, None))
    areas = [int(head[side].sum()) for side in (left, right)]
    values = {"symmetry:area": abs(areas[0] - areas[1]) / max(sum(areas), 1)}
    if min(areas) > 0:
        means = [float(pixels[side][head[side]].mean()) for side in (left, right)]
        values["symmetry:brightness"] = abs(means[0] - means[1]) / 255
    if both.any():
        own = pixels[both].astype(np.float64)
        mirrored = pixels[:, ::-1][both].astype(np.float64)
        values["symmetry:difference"] = float(np.abs(own - mirrored).mean()) / 255
        # The mirrored pixels are the same ones in another order: one mean and variance.
        away = own - own.mean()
        spread = float((away**2).sum())
        together = float((away * (mirrored - own.mean())).sum())
        values["symmetry:unlikeness"] = (1 - together / spread) / 2 if spread > 0 else 0.0
    return values


REGION = FeatureSet(
    "region",
    "Size, shape, brightness and place of the brightest compact segment, the other "
    "segments, classes of brightness, and symmetry: Otsu thresholds, watershed, moments. "
    "Otsu, IEEE Trans. SMC, 1979; Meyer, Signal Processing, 1994.",
    "-1 to 1",
    region_names,
    region,
)
