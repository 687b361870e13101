"""Slices of a NIfTI volume, as a radiologist sees them.

nibabel reads the header; the voxels are a view of the file's bytes, cut where the plane wants it.
Orientation: NIfTI-1, section "3D image (volume) orientation and location in space"; a slice is
shown in the radiological convention (the patient's right on the left, anterior or superior at the
top, anterior on the left in a sagittal one). Of the header nothing but the geometry is used.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.images import MIB, ImageLimits, as_gray, robust_range
from edge_runtime.slices import PLANES, square_pixels

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]

# What nibabel and NumPy have to say of odd headers is of no use on stderr.
logging.getLogger("nibabel.global").disabled = True
warnings.filterwarnings("ignore", module=r"nibabel\b")


def read_nifti(data: bytes, limits: ImageLimits, plane: str) -> Iterator[Gray]:
    """The slices of one volume in the file's order, gray levels alike over all of them.

    Raises:
        InputError: no single volume of real numbers, over the limits, truncated or damaged.
    """
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data, limits)
    try:
        header = _header(data)
        voxels = _voxels(data, header, limits)
        slope, intercept = header.get_slope_inter()
        places = nibabel.io_orientation(header.get_best_affine())
        sides = [abs(float(side)) for side in header.get_zooms()[:3]]
    except InputError:
        raise
    except Exception:  # nibabel raises many kinds on a damaged header
        raise InputError("truncated or damaged NIFTI file") from None
    if np.isnan(places).any() or len(places) != 3:
        raise InputError("a NIFTI file whose orientation cannot be told")
    order = [int(np.flatnonzero(places[:, 0] == axis)[0]) for axis in range(3)]
    turned = [bool(places[order[axis], 1] > 0) for axis in range(3)]
    voxels = voxels.transpose(order)  # right, anterior, superior
    through = len(PLANES) - 1 - PLANES.index(plane)
    across, down = (axis for axis in range(3) if axis != through)
    return _cut(
        np.moveaxis(voxels, (through, down, across), (0, 1, 2)),
        (turned[down], turned[across]),
        (sides[order[down]], sides[order[across]]),
        (1.0 if slope is None else slope, 0.0 if intercept is None else intercept),
    )


def _cut(
    stack: npt.NDArray[Any],
    turned: tuple[bool, bool],
    sides: tuple[float, float],
    scaling: tuple[float, float],
) -> Iterator[Gray]:
    slope, intercept = scaling
    low, high = robust_range(stack)
    if slope < 0:
        low, high = high, low
    limits = (low * slope + intercept, high * slope + intercept)
    for raw in stack:
        with np.errstate(all="ignore"):  # a hostile slope: what overflows becomes white or black
            values = np.nan_to_num(raw * slope + intercept, nan=limits[0])
        values = values[:: -1 if turned[0] else 1, :: -1 if turned[1] else 1]
        gray = as_gray(values, limits if limits[0] < limits[1] else None)
        yield square_pixels(gray, *sides)


def _header(data: bytes) -> Any:
    kind = nibabel.Nifti2Header if data[4:8] == b"n+2\x00" else nibabel.Nifti1Header
    return kind.from_fileobj(io.BytesIO(data), check=False)


def _voxels(data: bytes, header: Any, limits: ImageLimits) -> npt.NDArray[Any]:
    shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise InputError(f"a NIFTI file of {shape[3]} volumes: split it and give one of them")
    if len(shape) < 2 or min(shape) < 1 or dtype.kind not in "buif":
        raise InputError("not a NIFTI volume of real numbers")
    shape = (*shape, 1)[:3]
    if max(shape) > limits.max_slices or sorted(shape)[1] * max(shape) > limits.max_pixels:
        raise InputError(f"{'x'.join(map(str, shape))} voxels: over the limit")
    count = shape[0] * shape[1] * shape[2]
    flat = np.frombuffer(data, dtype, count, int(header.get_data_offset()))
    return flat.reshape(shape, order="F")


def _unpack(data: bytes, limits: ImageLimits) -> bytes:
    """Gunzip up to the limit; a small file may unpack to anything."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(data, limits.max_bytes)
    except zlib.error:
        raise InputError("truncated or damaged gzip file") from None
    if unpacker.unconsumed_tail:
        raise InputError(f"unpacks to more than the limit of {limits.max_bytes // MIB} MiB")
    if not unpacker.eof:
        raise InputError("truncated or damaged gzip file")
    if unpacked[344:348] != b"n+1\x00" and unpacked[4:8] != b"n+2\x00":
        raise InputError("a gzip file that holds no NIFTI volume")
    return unpacked
