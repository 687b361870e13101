"""Which images the quantiser sees."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.batch import Unusable
from edge_runtime.commands.inputs import expand
from edge_runtime.errors import DataError, InputError
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.imaging.readers import numbered, open_slices, read_any
from trainer.run import Images


def choose_calibration_images(images: Images, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Up to `count` images, as even over classes and sources as they allow, and within each over
    groups: a second slice of a group is taken when every group of its kind has given one.

    Args:
        images: of the training side.
        count: how many.
        seed: the same seed gives the same images.

    Returns:
        uint8 array of N×size×size.

    Raises:
        DataError: no images.
    """
    n = len(images.labels)
    if n == 0:
        raise DataError("the run holds no calibration images")
    order = np.random.default_rng(seed).permutation(n).tolist()
    group_of = [images.groups[i] or f"image {i}" for i in range(n)]
    strata: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i in _turns(order, group_of):
        strata[int(images.labels[i]), images.sources[i]].append(i)
    # First one of each stratum, then a second of each, and so on.
    rounds = chain.from_iterable(zip_longest(*strata.values()))
    chosen = [i for i in rounds if i is not None][:count]
    pixels: npt.NDArray[np.uint8] = images.pixels[np.sort(chosen)]
    return pixels


def _turns(order: Sequence[int], group_of: Sequence[str]) -> list[int]:
    """The first of each group in the given order, then the second of each, and so on."""
    seen: dict[str, int] = defaultdict(int)
    rank = {}
    for i in order:
        rank[i] = seen[group_of[i]]
        seen[group_of[i]] += 1
    return sorted(order, key=rank.__getitem__)


def read_calibration_images(folder: Path, options: Preprocess, count: int) -> npt.NDArray[np.uint8]:
    """Up to `count` images of a folder of one's own, spread over its files in order: pictures, and
    of a DICOM or NIfTI file the slice in its middle.

    Raises:
        DataError: a file that is no slice, or none at all.
    """
    found = [name for name in expand([str(folder)], True, io.StringIO()) if name is not None]
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    pixels = []
    for name in (found[i] for i in chosen):
        if isinstance(name, Unusable):
            raise DataError(f"{name.name}: {name.error}")
        try:
            pixels.append(preprocess(_middle(name), options))
        except InputError as error:
            raise DataError(f"{name}: {error}") from None
    return np.stack(pixels)


def _middle(path: str) -> npt.NDArray[np.uint8]:
    """The slice in the middle of a file: uint8 H×W.

    Raises:
        InputError: the file is no slice, or damaged before it.
    """
    stack = open_slices(read_any(path))
    return next(islice(numbered(stack), stack.length // 2, None)).gray


def digest(pixels: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the images' bytes, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def record(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What export.json says of the images: how many, and the digest of all and of each."""
    return {
        "images": len(pixels),
        "sha256": digest(pixels),
        "each_sha256": [digest(image) for image in pixels],
    }
