"""Random changes of a slice that keep its class: of place and of style.

Each slice gets its own generator from (seed, epoch, index), so a picture does not depend on the
order of work and a resumed training sees what an unbroken one would have seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]


def augment(image: Gray, rng: np.random.Generator) -> Gray:
    """A changed copy of a preprocessed slice.

    Args:
        image: uint8 array of size×size.
        rng: the slice's generator for this epoch.
    """
    import cv2

    side = image.shape[0]
    centre = (side / 2 - 0.5, side / 2 - 0.5)
    turn, zoom = rng.uniform(-15, 15), rng.uniform(0.88, 1.12)
    matrix = cv2.getRotationMatrix2D(centre, turn, zoom)
    matrix[:, :2] = matrix[:, :2] @ np.array([[1, rng.uniform(-0.08, 0.08)], [0, 1]])
    matrix[:, 2] += rng.uniform(-0.06, 0.06, 2) * side
    if rng.random() < 0.5:  # heads are nearly symmetric
        matrix[0] = [-matrix[0, 0], -matrix[0, 1], side - 1 - matrix[0, 2]]
    changed = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    changed = cv2.LUT(changed, _tone_curve(rng))
    return _texture(changed, rng).astype(np.uint8, copy=False)


def _tone_curve(rng: np.random.Generator) -> Gray:
    """A random monotone tone curve: gamma, contrast, brightness and a bend."""
    levels = np.linspace(0, 1, 256, dtype=np.float32) ** float(np.exp(rng.uniform(-0.5, 0.5)))
    bend = rng.uniform(-0.08, 0.08)
    levels = levels + bend * np.sin(2 * np.pi * levels)
    levels = (levels - 0.5) * rng.uniform(0.75, 1.3) + 0.5 + rng.uniform(-0.1, 0.1)
    levels[0] = max(levels[0], 0.0) if rng.random() < 0.3 else 0.0  # mostly, black stays black
    curve: Gray = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    return curve


def _texture(image: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Blur, sharpening, coarse resolution, noise or a bias field: at most two of them."""
    import cv2

    side = image.shape[0]
    if rng.random() < 0.5:
        kind = rng.integers(4)
        if kind == 0:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
        elif kind == 1:
            soft = cv2.GaussianBlur(image, (0, 0), 1.0)
            amount = rng.uniform(0.3, 1.0)
            image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
        elif kind == 2:
            small = int(side * rng.uniform(0.5, 0.9))
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
        else:
            coarse = rng.uniform(0.8, 1.2, (3, 3)).astype(np.float32)
            field = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
            image = np.clip(image * field, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        noise = rng.standard_normal((side, side), dtype=np.float32) * rng.uniform(2, 10)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image
