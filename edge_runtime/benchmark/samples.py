"""The images that a benchmark asks about, encoded in memory so that no disk is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import DataError, InputError
from edge_runtime.files import is_hidden
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.kinds import PICTURE_SUFFIXES
from edge_runtime.imaging.limits import read_file
from edge_runtime.labels import normalise_label

MAX_IMAGES = 2000  # encoded images kept in memory


@dataclass(frozen=True)
class Samples:
    """Encoded images in the order of asking.

    Attributes:
        truths: the label of each, None where its folder is not named after one.
        warnings: what was left out.
    """

    data: list[bytes]
    truths: list[str | None]
    warnings: tuple[str, ...] = ()

    @property
    def labelled(self) -> int:
        """How many of the images have a label."""
        return sum(truth is not None for truth in self.truths)


def read_samples(folder: Path, labels: Sequence[str]) -> Samples:
    """The readable images in a folder and the folders below it, hidden ones apart.

    They are mixed (always alike): a run that ends before the last has still seen some of every
    folder, and its beginning is no other kind of work than its end.

    Args:
        labels: names that a folder can have to label the images in it.

    Raises:
        DataError: no readable image.
    """
    paths = sorted(
        path for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not any(map(is_hidden, path.relative_to(folder).parts))
    )  # fmt: skip
    warnings = []
    if len(paths) > MAX_IMAGES:
        warnings.append(f"an even sample of {MAX_IMAGES} of the {len(paths)} images was used")
        chosen = np.linspace(0, len(paths) - 1, MAX_IMAGES).astype(int)
        paths = [paths[i] for i in chosen]
    data: list[bytes] = []
    truths: list[str | None] = []
    for i in np.random.default_rng(0).permutation(len(paths)):
        try:
            encoded = read_file(paths[i])
            decode(encoded)
        except InputError:
            continue
        label = normalise_label(paths[i].parent.name)
        data.append(encoded)
        truths.append(label if label in labels else None)
    if not data:
        raise DataError(f"{folder}: no readable image")
    if unreadable := len(paths) - len(data):
        were = "image was" if unreadable == 1 else "images were"
        warnings.append(f"{unreadable} unreadable {were} left out")
    return Samples(data, truths, tuple(warnings))


def drawn_noise() -> Samples:
    """Blurred noise of 256×256 as JPEG; it serves timing only."""
    import cv2

    rng = np.random.default_rng(0)
    blurred = (cv2.GaussianBlur(rng.random((256, 256)) * 255, (0, 0), 3) for _ in range(16))
    pictures = (np.rint(np.clip(p * 2 - 128, 0, 255)).astype(np.uint8) for p in blurred)
    data = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    return Samples(data, [None] * len(data))
