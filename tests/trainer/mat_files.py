"""MATLAB v7.3 files as those of Cheng's collection: HDF5 behind a block of 512 bytes of MATLAB's
own, arrays column by column, texts as numbers of 16 bits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

USER_BLOCK = 512


def mat_file(**fields: Any) -> bytes:
    """A file with the struct `cjdata`.

    Args:
        fields: by name, as MATLAB shows them: arrays (a truth value is MATLAB's logical), numbers,
            texts; None leaves a field out, a function gets the group and the name to write it.
    """
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=USER_BLOCK, libver=("earliest", "v110")) as file:
        group = file.create_group("cjdata")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, value in fields.items():
            if callable(value):
                value(group, name)
            elif value is not None:
                _write(group, name, value)
    data = bytearray(stream.getvalue())
    data[:USER_BLOCK] = _header()
    return bytes(data)


def cheng_file(
    label: int = 1,
    patient: str = "100360",
    image: npt.NDArray[Any] | None = None,
    mask: npt.NDArray[Any] | None = None,
    **other: Any,
) -> bytes:
    """A file of the collection; see `mat_file` for `other`."""
    image = picture() if image is None else image
    mask = disc(image.shape) if mask is None else mask
    fields = {"PID": patient, "image": image, "label": float(label)}
    fields |= {"tumorBorder": border_of(mask), "tumorMask": mask}
    return mat_file(**(fields | other))


def picture(seed: int = 0, height: int = 48, width: int = 40) -> npt.NDArray[np.int16]:
    """A blob that is brighter to the left and above, so that no turned copy looks like it."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    head = np.hypot((rows / height - 0.5) / 0.45, (columns / width - 0.5) / 0.4) < 1
    shade = 900 - 500 * rows / height - 300 * columns / width
    noise = np.random.default_rng(seed).normal(0, 40, (height, width))
    return np.where(head, shade + noise, 0).clip(0).astype(np.int16)


def disc(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A tumour's mask, right of the middle and below it."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = np.hypot(rows - 0.6 * shape[0], columns - 0.65 * shape[1]) < shape[0] / 10
    return inside.astype(np.uint8)


def border_of(mask: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The corners of a mask's box as a border, x before y, counted from 1 as MATLAB does."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return np.zeros((1, 0))
    left, right = columns.min() + 1, columns.max() + 1
    top, bottom = rows.min() + 1, rows.max() + 1
    return np.array([[left, top, right, top, right, bottom, left, bottom]], np.float64)


def _write(group: Any, name: str, value: Any) -> None:
    if isinstance(value, str):
        array = np.array([[ord(letter) for letter in value]], np.uint16)
        kind = "char"
    else:
        array = np.atleast_2d(np.asarray(value))
        kind = {"bool": "logical", "float64": "double"}.get(str(array.dtype), str(array.dtype))
        array = array.astype(np.uint8) if kind == "logical" else array
    if array.size == 0:  # MATLAB writes the shape of what is empty
        written = group.create_dataset(name, data=np.array(array.shape, np.uint64))
        written.attrs["MATLAB_empty"] = np.uint8(1)
    else:
        large = {"chunks": array.T.shape, "compression": 3} if array.nbytes > 1000 else {}
        written = group.create_dataset(name, data=array.T, **large)
    written.attrs["MATLAB_class"] = np.bytes_(kind)
    if kind in ("char", "logical"):
        written.attrs["MATLAB_int_decode"] = np.int32(2 if kind == "char" else 1)


def _header() -> bytes:
    """What MATLAB writes before the HDF5 file: a text of 116 bytes, an offset, the version."""
    text = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Thu Jan 01 00:00:00 2015"
    text += b" HDF5 schema 1.00 ."
    return (text.ljust(116) + bytes(8) + b"\x00\x02IM").ljust(USER_BLOCK, b"\0")
