"""From a file's bytes to its gray slices: pictures hold one, DICOM and NIfTI files often many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.errors import InputError
from edge_runtime.headers import volume_format
from edge_runtime.images import DEFAULT_LIMITS, SUFFIXES, ImageLimits, decode

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PLANES = ("axial", "coronal", "sagittal")
MAX_STRETCHED = 8_000_000  # pixels
FILE_SUFFIXES = (*SUFFIXES, ".dcm", ".dicom", ".nii", ".nii.gz")


class Slice(NamedTuple):
    """A gray slice (uint8, H×W) and its number in the file, from 0; None where it is the only
    one."""

    number: int | None
    gray: npt.NDArray[np.uint8]


def slices_of(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, plane: str = "axial"
) -> Iterator[Slice]:
    """The slices of an encoded picture, a DICOM or a NIfTI file, decoded one at a time.

    Args:
        plane: one of PLANES: how a NIfTI volume is cut.

    Raises:
        InputError: not a supported format, one whose package is not installed, over the limits,
            truncated or damaged.
    """
    kind = volume_format(data)
    if kind is None:
        yield Slice(None, decode(data, limits))
        return
    try:
        if kind == "dicom":
            from edge_runtime.dicom import read_dicom

            frames = read_dicom(data, limits)
        else:
            from edge_runtime.nifti import read_nifti

            frames = read_nifti(data, limits, plane)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind.upper()} files need the package {error.name}: pip install 'btc-edge[{kind}]'"
        ) from None
    first = next(frames, None)
    if first is None:
        raise InputError(f"no slice in this {kind.upper()} file")
    second = next(frames, None)
    if second is None:
        yield Slice(None, first)
        return
    yield Slice(0, first)
    yield Slice(1, second)
    for number, gray in enumerate(frames, 2):
        yield Slice(number, gray)


def square_pixels(gray: npt.NDArray[np.uint8], tall: float, wide: float) -> npt.NDArray[np.uint8]:
    """A slice whose pixels are `tall`×`wide` mm, stretched so that they are square.

    Sides that differ by less than 1 %, or impossibly, leave it as it is. A picture that would
    become too large is shrunk along its finer side instead.
    """
    ratio = tall / wide if tall > 0 and wide > 0 else 1.0
    if not 0.05 <= ratio <= 20 or 0.99 <= ratio <= 1.01:
        return gray
    import cv2

    height, width = gray.shape
    how = cv2.INTER_LINEAR_EXACT
    if gray.size * max(ratio, 1 / ratio) > MAX_STRETCHED:
        ratio, how = 1 / ratio, cv2.INTER_AREA
        size = (
            (max(1, round(width * ratio)), height)
            if ratio < 1
            else (width, max(1, round(height / ratio)))
        )
    else:
        size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    stretched: npt.NDArray[np.uint8] = cv2.resize(gray, size, interpolation=how)
    return stretched
