"""Ten low-level statistics of an image file: what a model could use without seeing a tumour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.imaging.headers import Header

FILE_STATISTICS = (
    "channels",  # stored colour components
    "width",
    "height",
    "bytes per pixel",  # of the file: compression and noise
    "background",  # share of pixels at gray level 10 or below
    "mean",
    "deviation",
    "skewness",
    "entropy",  # of the histogram, bits
    "edges",  # mean gradient, gray levels per pixel
)


def file_statistics(
    size: float, header: Header, gray: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """The values of FILE_STATISTICS, float32 array of 10.

    Args:
        size: of the encoded file in bytes; of one of several slices, its share of them.
        header: of the file; 0 channels where that is unknown.
        gray: the decoded slice, uint8 H×W.
    """
    import cv2

    height, width = gray.shape
    counts = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel() / gray.size
    levels = np.arange(256)
    mean = float(counts @ levels)
    deviation = float(np.sqrt(counts @ (levels - mean) ** 2))
    skewness = float(counts @ (levels - mean) ** 3) / max(deviation, 1e-3) ** 3
    present = counts[counts > 0]
    across = cv2.Sobel(gray, cv2.CV_16S, 1, 0, scale=1)
    down = cv2.Sobel(gray, cv2.CV_16S, 0, 1, scale=1)
    edges = (cv2.norm(across, cv2.NORM_L1) + cv2.norm(down, cv2.NORM_L1)) / (8 * gray.size)
    values = (
        header.channels,
        width,
        height,
        size / gray.size,
        float(counts[:11].sum()),
        mean,
        deviation,
        skewness,
        float(-(present * np.log2(present)).sum()),
        edges,
    )
    return np.asarray(values, dtype=np.float32)
