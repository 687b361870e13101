"""Random changes of how a slice looks: gray levels of another one, tone, sharpness, noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]


def change_style(image: Gray, rng: np.random.Generator, reference: Gray | None = None) -> Gray:
    """A copy of a slice in another style.

    Args:
        image: uint8 array of size×size.
        rng: random generator.
        reference: a slice of any class whose gray levels this one may take on.

    Returns:
        uint8 array of size×size.
    """
    import cv2

    changed = strip_skull(image, rng.uniform(0.04, 0.1)) if rng.random() < 0.1 else image
    if reference is not None and rng.random() < 0.25:
        changed = match_levels(changed, reference, rng.uniform(0.4, 1.0))
    if rng.random() < 0.15:
        tiles = int(rng.integers(2, 7))
        changed = cv2.createCLAHE(rng.uniform(1.0, 4.0), (tiles, tiles)).apply(changed)
    changed = cv2.LUT(changed, _tone_curve(rng))
    if rng.random() < 0.2:  # some collections are coarse throughout: that must tell nothing
        changed = _coarsen(changed, rng)
    if rng.random() < 0.1:
        changed = _filtered(changed, rng)
    for change in rng.choice(len(_CHANGES), size=int(rng.integers(3)), replace=False):
        changed = _CHANGES[change](changed, rng)
    return np.ascontiguousarray(changed, dtype=np.uint8)


def strip_skull(image: Gray, share: float) -> Gray:
    """A slice without the outer rim of its head, as programs that cut out the brain leave it.

    Args:
        image: uint8 array of size×size.
        share: how much of the head's width goes on each side.
    """
    import cv2

    threshold, _ = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    head = (image > max(0.5 * threshold, 8)).astype(np.uint8)
    contours, _ = cv2.findContours(head, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return image
    filled = np.zeros_like(image)
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    cv2.fillPoly(filled, [hull], 1)
    filled = np.pad(filled, 1)  # the picture's edge is an edge of the head
    depth = cv2.distanceTransform(filled, cv2.DIST_L2, 3)[1:-1, 1:-1]
    width, height = cv2.boundingRect(hull)[2:]
    stripped: Gray = np.where(depth > share * min(width, height), image, 0).astype(np.uint8)
    return stripped


def _filtered(image: Gray, rng: np.random.Generator) -> Any:
    """A random convolution mixed with the slice (Xu et al., Robust and Generalizable Visual
    Representation Learning via Random Convolutions, 2021)."""
    import cv2

    kernel = rng.standard_normal((3, 3)) / 3
    mixed = cv2.filter2D(image, cv2.CV_32F, kernel)
    share = rng.uniform(0.1, 0.6)
    spread = float(image.std()) / max(float(mixed.std()), 1e-3)
    mixed = (mixed - mixed.mean()) * spread + image.mean()
    black = image == 0
    changed = np.clip((1 - share) * image + share * mixed, 0, 255)
    changed[black] = 0
    return np.rint(changed).astype(np.uint8)


def match_levels(image: Gray, reference: Gray, share: float) -> Gray:
    """Give `image` the histogram of `reference`, blended with its own by `share` (0 to 1)."""
    import cv2

    def ranks(picture: Gray) -> npt.NDArray[np.float64]:
        counts = cv2.calcHist([picture], [0], None, [256], [0, 256]).ravel()
        return np.cumsum(counts, dtype=np.float64) / picture.size

    levels = np.interp(ranks(image), ranks(reference), np.arange(256))
    levels = share * levels + (1 - share) * np.arange(256)
    table: Gray = np.rint(levels).astype(np.uint8)
    matched: Gray = cv2.LUT(image, table)
    return matched


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

    size = image.shape[0]
    small = int(size * rng.uniform(0.4, 0.9))
    image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _bias(image: Gray, rng: np.random.Generator) -> Any:
    import cv2

    size = image.shape[0]
    coarse = rng.uniform(0.7, 1.3, (3, 3)).astype(np.float32)
    field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
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
