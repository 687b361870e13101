"""Pictures that are no upright brain slice: what a model ought to refuse.

They measure the check for out-of-distribution inputs and are never fitted on. Drawn ones need
nothing; changed ones are made from real slices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]
Draw = Callable[[np.random.Generator], Gray]
SIZE = 224


def _noise(rng: np.random.Generator) -> Gray:
    values = rng.normal(128, rng.uniform(20, 80), (SIZE, SIZE))
    picture: Gray = np.clip(values, 0, 255).astype(np.uint8)
    return picture


def _speckle(rng: np.random.Generator) -> Gray:
    return rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)


def _cloud(rng: np.random.Generator) -> Gray:
    """Noise with a spectrum that falls with frequency, as natural pictures have."""
    across, down = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE))
    frequency = np.hypot(across, down)
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) / frequency ** rng.uniform(0.8, 2)
    values = np.real(np.fft.ifft2(spectrum))
    values = (values - values.min()) / (values.max() - values.min())
    picture: Gray = np.rint(255 * values).astype(np.uint8)
    return picture


def _stripes(rng: np.random.Generator) -> Gray:
    y, x = np.mgrid[:SIZE, :SIZE]
    angle = rng.uniform(0, np.pi)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.05, 0.8))
    picture: Gray = ((wave > 0) * rng.integers(80, 255)).astype(np.uint8)
    return picture


def _checks(rng: np.random.Generator) -> Gray:
    y, x = np.mgrid[:SIZE, :SIZE]
    size = int(rng.integers(4, 60))
    picture: Gray = (((x // size + y // size) % 2) * rng.integers(80, 255)).astype(np.uint8)
    return picture


def _shapes(rng: np.random.Generator) -> Gray:
    import cv2

    picture = np.full((SIZE, SIZE), rng.integers(0, 80), np.uint8)
    for _ in range(int(rng.integers(3, 15))):
        one, two = ([int(v) for v in rng.integers(0, SIZE, 2)] for _ in range(2))
        level = int(rng.integers(60, 255))
        if rng.random() < 0.5:
            cv2.circle(picture, one, int(rng.integers(5, 60)), level, -1)
        else:
            cv2.rectangle(picture, one, two, level, -1)
    return picture


def _text(rng: np.random.Generator) -> Gray:
    import cv2

    picture = np.full((SIZE, SIZE), 255, np.uint8)
    for y in range(20, SIZE, int(rng.integers(14, 30))):
        line = "".join(rng.choice(list("abcdefghij klmno"), 25))
        cv2.putText(picture, line, (5, y), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.3, 0.7), 0, 1)
    return picture if rng.random() < 0.5 else 255 - picture


def _blank(rng: np.random.Generator) -> Gray:
    picture = np.full((SIZE, SIZE), rng.choice([0, 1, 30, 128, 254]), np.uint8)
    if rng.random() < 0.5:
        picture += rng.integers(0, 2, picture.shape, dtype=np.uint8)  # a dead camera's flicker
    return picture


def _photograph(rng: np.random.Generator) -> Gray:
    """A piece of one of the two photographs that come with scikit-learn."""
    import cv2
    from sklearn.datasets import load_sample_image

    colour = load_sample_image(("china.jpg", "flower.jpg")[int(rng.integers(2))])
    gray = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    size = int(rng.integers(100, min(gray.shape)))
    y, x = (int(rng.integers(0, n - size + 1)) for n in gray.shape)
    return np.ascontiguousarray(gray[y : y + size, x : x + size])


DRAWN: dict[str, Draw] = {
    "noise": _noise,
    "speckle": _speckle,
    "clouds": _cloud,
    "stripes": _stripes,
    "checks": _checks,
    "shapes": _shapes,
    "text": _text,
    "blank frames": _blank,
    "photographs": _photograph,
}
CHANGED: dict[str, Callable[[Gray], Gray]] = {
    "inverted": lambda gray: 255 - gray,
    "quarter turn left": lambda gray: np.ascontiguousarray(np.rot90(gray)),
    "quarter turn right": lambda gray: np.ascontiguousarray(np.rot90(gray, 3)),
}


def tilt(gray: Gray, degrees: float) -> Gray:
    """A slice turned about its centre, small enough to stay in the picture."""
    import cv2

    height, width = gray.shape
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 0.75)
    turned: Gray = cv2.warpAffine(gray, matrix, (width, height))
    return turned


def draw_ood_pictures(kind: str, count: int, seed: int = 0) -> list[Gray]:
    """`count` pictures of a kind of DRAWN; the same seed draws the same."""
    return [DRAWN[kind](np.random.default_rng([seed, i])) for i in range(count)]
