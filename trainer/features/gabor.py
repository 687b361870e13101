"""Gabor filters: a feature set that needs the workstation's libraries."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edge_runtime.imaging.handcrafted import FeatureSet

Gray = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FREQUENCIES = (0.05, 0.1, 0.2, 0.4)  # cycles a pixel
DIRECTIONS = (0, 30, 60, 90, 120, 150)  # degrees
REACH = 40  # pixels: from the middle of the largest Gabor kernel to its edge, at most


def gabor_names(size: int) -> tuple[str, ...]:
    """Names of what `gabor` gives, e.g. `gabor:frequency 0.1 angle 30:mean`; any size."""
    return tuple(
        f"gabor:frequency {frequency} angle {angle}:{kind}"
        for frequency in FREQUENCIES
        for angle in DIRECTIONS
        for kind in ("mean", "deviation")
    )


def gabor(pixels: Gray) -> Floats:
    """How strong edges and stripes of some width and direction are.

    The slice, scaled to 0 to 1 and mirrored at its edges, is filtered with scikit-image's
    complex Gabor kernels (bandwidth of one octave, cut off at three standard deviations) of 4
    frequencies and 6 directions; of each response's magnitude the mean and the standard
    deviation over the slice. Daugman, J. Opt. Soc. Am. A, 1985; Manjunath & Ma, IEEE PAMI, 1996.

    Args:
        pixels: uint8 S×S.

    Returns:
        float32 of 48 values, 0 to 1.
    """
    from scipy import fft

    kernels, reach = _kernels(len(pixels))
    wide = np.pad(pixels.astype(np.float32) / np.float32(255), reach, mode="symmetric")
    spectrum = fft.fft2(wide, s=kernels.shape[1:])
    end = 2 * reach + len(pixels)
    values = []
    for kernel in kernels:
        response = np.abs(fft.ifft2(spectrum * kernel)[2 * reach : end, 2 * reach : end])
        values += [response.mean(dtype=np.float64), response.std(dtype=np.float64)]
    return np.array(values, np.float32)


@lru_cache(maxsize=1)  # one size a job; computing them takes longer than a slice
def _kernels(size: int) -> tuple[npt.NDArray[np.complex64], int]:
    """Spectra of the kernels, for slices of `size`×`size`, and how far the largest reaches."""
    from scipy import fft
    from skimage.filters import gabor_kernel

    kernels = [
        gabor_kernel(frequency, theta=math.radians(angle))
        for frequency in FREQUENCIES
        for angle in DIRECTIONS
    ]
    reach = max(max(kernel.shape) // 2 for kernel in kernels)
    if reach > REACH:
        raise AssertionError(f"a Gabor kernel reaches {reach} pixels")
    side = fft.next_fast_len(size + 4 * reach)
    spectra = []
    for kernel in kernels:
        # All kernels with their middle at (reach, reach), so that all responses lie alike.
        down, right = reach - kernel.shape[0] // 2, reach - kernel.shape[1] // 2
        placed = np.zeros((side, side), np.complex128)
        placed[down : down + kernel.shape[0], right : right + kernel.shape[1]] = kernel
        spectra.append(fft.fft2(placed).astype(np.complex64))
    stack = np.stack(spectra)
    stack.setflags(write=False)
    return stack, reach


GABOR = FeatureSet(
    "gabor",
    "How strong edges and stripes of four widths and six directions are: Gabor filters. "
    "Daugman, J. Opt. Soc. Am. A, 1985; Manjunath & Ma, IEEE PAMI, 1996.",
    "0 to 1",
    gabor_names,
    gabor,
)
