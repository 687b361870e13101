"""Where the brain lies in a T1 head: roughly, and good enough to set a tumour into it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

TISSUE = 0.35  # of a head's brightness in its middle: darker is air, bone or fluid
CORES = (5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0)  # mm
MOST = 1.8e6  # cubic millimetres: more is a brain with the neck or the face
EDGE = 1.0  # mm


def brain_of(head: Sequence[npt.NDArray[np.uint8]], distance: float, pixel: float) -> Mask:
    """The brain with its ventricles.

    Bone is dark in T1, so the bright tissue farther from the dark than a core's depth falls into
    pieces, and the brain is the largest. It is grown back by that depth, and its holes are filled.
    The core is as shallow as it can be without the neck, which leaves more of the brain's edge.

    Args:
        head: its slices (uint8 H×W), in order, alike in size.
        distance: mm between two slices.
        pixel: mm of a pixel.

    Returns:
        N×H×W. Where no tissue is deep enough, all bright tissue.
    """
    from scipy import ndimage

    stack = np.stack(head)
    middle = stack[len(stack) // 2]
    height, width = middle.shape
    inner = middle[height // 4 : height - height // 4, width // 4 : width - width // 4]
    tissue: Mask = stack > TISSUE * float(inner.mean())
    spacing = (distance, pixel, pixel)
    depth = ndimage.distance_transform_edt(tissue, sampling=spacing)
    brain = tissue
    for core in CORES:
        pieces, count = ndimage.label(depth > core)
        if not count:
            break
        sizes = np.bincount(pieces.ravel())[1:]
        away = ndimage.distance_transform_edt(pieces != 1 + sizes.argmax(), sampling=spacing)
        brain = ndimage.binary_fill_holes(away <= core + EDGE)
        if np.count_nonzero(brain) * distance * pixel**2 <= MOST:
            break
    return brain
