"""The slices that benchmarks of speed are made on: drawn, or read from a folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, InputError
from edge_runtime.imaging.decode import load_gray
from edge_runtime.imaging.kinds import PICTURE_SUFFIXES
from trainer.synthetic.phantoms import CLASSES, draw_phantom

Gray = npt.NDArray[np.uint8]


def draw_pictures(count: int, images: Path | None) -> list[Gray]:
    """Gray slices (uint8, H×W): from a folder, or drawn.

    Raises:
        DataError: no readable image in the folder.
    """
    if images is None:
        rngs = (np.random.default_rng([3, i]) for i in range(count))
        return [draw_phantom(CLASSES[i % len(CLASSES)], rng) for i, rng in enumerate(rngs)]
    names = sorted(p for p in images.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    chosen = np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)
    pictures = []
    for i in chosen:
        with suppress(InputError):
            pictures.append(load_gray(names[i]))
    if not pictures:
        raise DataError(f"{images}: no readable image")
    return pictures


def as_jpeg(picture: Gray, side: int) -> bytes:
    """A picture at another size, as a gray JPEG."""
    how = cv2.INTER_AREA if side < min(picture.shape) else cv2.INTER_CUBIC
    sized = cv2.resize(picture, (side, side), interpolation=how)
    return bytes(cv2.imencode(".jpg", sized, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def write_jpegs(folder: Path, pictures: list[Gray], side: int, count: int) -> list[Path]:
    """`count` JPEG files in a new folder; beyond the pictures they are links to the first ones."""
    folder.mkdir()
    paths = [folder / f"{i:06d}.jpg" for i in range(count)]
    for path, picture in zip(paths, pictures, strict=False):
        path.write_bytes(as_jpeg(picture, side))
    for i, path in enumerate(paths[len(pictures) :]):
        path.hardlink_to(paths[i % len(pictures)])
    return paths
