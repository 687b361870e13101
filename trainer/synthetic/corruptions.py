"""Changes of stated strength that a slice may undergo on its way: another window, another export,
another margin. A model should answer as before.

They act on the whole picture, before preprocessing, and are the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]


def _tone(change: Callable[[npt.NDArray[np.float32]], Any]) -> Callable[[Gray], Gray]:
    """A change of gray levels; 0 stays 0, since what surrounds the head stays black."""
    levels = change(np.linspace(0, 1, 256, dtype=np.float32))
    table = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    table[0] = 0

    def apply(gray: Gray) -> Gray:
        import cv2

        changed: Gray = cv2.LUT(gray, table)
        return changed

    return apply


def _blur(gray: Gray) -> Any:
    import cv2

    return cv2.GaussianBlur(gray, (0, 0), 1.5 * max(gray.shape) / 224)


def _noise(gray: Gray) -> Any:
    noise = np.random.default_rng(gray.shape).normal(0, 15, gray.shape)
    return np.rint(np.clip(gray + noise, 0, 255)).astype(np.uint8)


def _coarse(gray: Gray) -> Any:
    import cv2

    small = cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, gray.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _jpeg(gray: Gray) -> Any:
    import cv2

    coded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 15])[1]
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)


def _bias(gray: Gray) -> Any:
    field = np.linspace(0.6, 1.4, gray.shape[1])
    return np.rint(np.clip(gray * field, 0, 255)).astype(np.uint8)


def _equalise(gray: Gray) -> Any:
    import cv2

    return cv2.createCLAHE(4.0, (8, 8)).apply(gray)


def _cut(gray: Gray) -> Any:
    height, width = gray.shape
    return np.ascontiguousarray(
        gray[height // 10 : height - height // 10, width // 10 : width - width // 10]
    )


def _margin(gray: Gray) -> Any:
    import cv2

    height, width = gray.shape
    rows, columns = height // 4, width // 4
    return cv2.copyMakeBorder(gray, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=0)


def _turn(gray: Gray) -> Any:
    import cv2

    height, width = gray.shape
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), 15, 1.0)
    return cv2.warpAffine(gray, matrix, (width, height), flags=cv2.INTER_LINEAR)


CORRUPTIONS: Mapping[str, tuple[str, Callable[[Gray], Gray]]] = {
    "darker": ("gamma 1.6", _tone(lambda x: x**1.6)),
    "brighter": ("gamma 0.6", _tone(lambda x: x**0.6)),
    "flatter": ("contrast 0.6 about the middle", _tone(lambda x: (x - 0.5) * 0.6 + 0.5)),
    "steeper": ("contrast 1.5 about the middle", _tone(lambda x: (x - 0.5) * 1.5 + 0.5)),
    "bias field": ("gain 0.6 to 1.4 from left to right", _bias),
    "equalised": ("CLAHE, clip limit 4, 8×8 tiles", _equalise),
    "blur": ("Gaussian, sigma 1.5 pixels at 224", _blur),
    "noise": ("Gaussian, sigma 15 of 255 levels", _noise),
    "coarse": ("64×64 pixels and back", _coarse),
    "JPEG": ("quality 15", _jpeg),
    "cut": ("a tenth of each side cut off", _cut),
    "margin": ("a quarter of black added on each side", _margin),
    "turn": ("15 degrees", _turn),
}
