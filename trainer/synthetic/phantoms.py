"""Synthetic head slices of the four classes, for the demo and the tests.

They show what the real classes differ in (a bright mass on the midline below, a ragged ring, a
round mass at the skull, none) and nothing of what makes real slices hard. No figure measured on
them says anything about patients.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from edge_runtime.files import replacing

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
SIZE = 160
Picture = npt.NDArray[np.float32]


def draw_phantom(label: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A slice of SIZE×SIZE gray levels that shows `label`.

    Raises:
        ValueError: not one of CLASSES.
    """
    import cv2

    if label not in CLASSES:
        raise ValueError(f"no phantom for {label!r}")
    picture = np.zeros((SIZE, SIZE), np.float32)
    centre = np.array([SIZE / 2, SIZE / 2]) + rng.uniform(-5, 5, 2)
    half = np.array([rng.uniform(48, 58), rng.uniform(58, 68)])
    tilt = float(rng.uniform(-8, 8))
    brain = float(rng.uniform(70, 110))
    _ellipse(picture, centre, half, tilt, brain + rng.uniform(60, 100))
    _ellipse(picture, centre, half - 6, tilt, 25.0)
    _ellipse(picture, centre, half - 9, tilt, brain)
    for side in (-1, 1):  # ventricles
        place = centre + [side * rng.uniform(7, 10), rng.uniform(-8, 2)]
        _ellipse(picture, place, np.array([4, rng.uniform(12, 18)]), side * 12.0, brain * 0.45)
    inside = np.zeros_like(picture)
    _ellipse(inside, centre, half - 9, tilt, 1.0)
    folds = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE), dtype=np.float32), (0, 0), 2.5)
    picture += inside * folds * 60
    _draw_tumor(picture, label, centre, half, brain, rng)
    picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 1.1)))
    picture += rng.standard_normal((SIZE, SIZE), dtype=np.float32) * rng.uniform(1, 4)
    gray: npt.NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return gray


def _draw_tumor(
    picture: Picture,
    label: str,
    centre: npt.NDArray[np.float64],
    half: npt.NDArray[np.float64],
    brain: float,
    rng: np.random.Generator,
) -> None:
    angle = rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)])
    bright = min(brain + float(rng.uniform(80, 120)), 250.0)
    if label == "glioma":  # ragged ring around a dark core, in the white matter
        place = centre + way * half * rng.uniform(0.3, 0.5)
        radius = rng.uniform(11, 17)
        for _ in range(7):
            lobe = place + rng.uniform(-0.45, 0.45, 2) * radius
            _ellipse(picture, lobe, np.array([radius, radius]) * rng.uniform(0.5, 0.8), 0, bright)
        _ellipse(picture, place, np.array([radius, radius]) * 0.55, 0, brain * 0.3)
    elif label == "meningioma":  # round and even, at the skull
        place = centre + way * (half - 16)
        radius = rng.uniform(9, 14)
        _ellipse(picture, place, np.array([radius, radius * rng.uniform(0.85, 1.1)]), 0, bright)
    elif label == "pituitary":  # small, on the midline below
        place = centre + [rng.uniform(-3, 3), half[1] * rng.uniform(0.42, 0.52)]
        _ellipse(picture, place, np.array([rng.uniform(7, 10), rng.uniform(6, 8)]), 0, bright)


def _ellipse(
    picture: Picture,
    centre: npt.NDArray[np.float64],
    half: npt.NDArray[np.float64],
    tilt: float,
    level: float,
) -> None:
    import cv2

    place = (float(centre[0]), float(centre[1]))
    cv2.ellipse(picture, (place, (2 * float(half[0]), 2 * float(half[1])), tilt), level, -1)


def phantom_files(per_class: int, testing: float, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names (Training|Testing/CLASS/phantom_0000.jpg) and JPEG bytes of a whole data set."""
    import cv2

    for c, label in enumerate(CLASSES):
        for i in range(per_class):
            split = "Testing" if i < round(per_class * testing) else "Training"
            gray = draw_phantom(label, np.random.default_rng([seed, c, i]))
            encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            yield f"{split}/{label}/phantom_{i:04d}.jpg", encoded.tobytes()


def write_phantoms(path: Path, per_class: int, testing: float = 0.25, seed: int = 1) -> None:
    """Write a data set as a zip; the same arguments give the same bytes."""
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, data in phantom_files(per_class, testing, seed):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--per-class", type=click.IntRange(4, 100_000), default=200, show_default=True)
@click.option("--testing", type=click.FloatRange(0, 0.9), default=0.25, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
def main(out: Path, per_class: int, testing: float, seed: int) -> None:
    """Write a zip of synthetic slices in Training/ and Testing/ to OUT."""
    write_phantoms(out, per_class, testing, seed)
    click.echo(f"{out}: {len(CLASSES) * per_class} synthetic slices")


if __name__ == "__main__":
    main()
