"""Which images the quantiser sees."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from trainer.run import Images


def choose_calibration(images: Images, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Up to `count` images, as even over classes and sources as they allow.

    Args:
        images: of the training side.
        count: how many.
        seed: the same seed gives the same images.

    Returns:
        uint8 array of N×size×size.

    Raises:
        DataError: no images.
    """
    if len(images.labels) == 0:
        raise DataError("the run holds no calibration images")
    order = np.random.default_rng(seed).permutation(len(images.labels))
    turns: dict[tuple[int, str], int] = {}
    rank = np.empty(len(order), dtype=np.int64)
    for i in order:
        stratum = (int(images.labels[i]), images.sources[i])
        rank[i] = turns[stratum] = turns.get(stratum, -1) + 1
    # First one of each stratum, then a second of each, and so on.
    chosen = sorted(order.tolist(), key=lambda i: int(rank[i]))[:count]
    pixels: npt.NDArray[np.uint8] = images.pixels[np.sort(chosen)]
    return pixels


def digest(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the images' bytes, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
