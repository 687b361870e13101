"""A stack of DICOM slices as one volume, which can be cut in planes that it was not acquired in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.imaging.geometry import FEW, FEWEST, THICK, is_thick
from edge_runtime.imaging.gray import shown_memory
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.nifti import Cut, View, Volume, view_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.studies.frames import SeriesFrames
    from edge_runtime.studies.series import Place, Stack

    Array = npt.NDArray[Any]
    Gray = npt.NDArray[np.uint8]

# Why a stack of DICOM slices is not cut in another plane, beside `geometry.cut_refusal`.
UNEVEN = "slices that make no even volume are not cut in other planes"
VALUE = 4  # bytes of a voxel (float32)
LARGE = "too large to be cut in other planes"


def stack_refusal(stack: Stack, limits: ImageLimits) -> tuple[str, str]:
    """Why no volume can be made of a stack, and more of it in words; empty where it can."""
    sides = sorted((*stack.lie.shape, len(stack.places)))
    if sides[0] < FEWEST:
        return FEW, ""
    if stack.unevenness:
        return UNEVEN, stack.unevenness
    widest = max(stack.distance, *stack.lie.spacing)  # pixels lie as slices do in other planes
    if is_thick(widest):
        return THICK, f"{widest:.1f} mm"
    if math.prod(sides) * VALUE > limits.max_bytes:
        return LARGE, ""
    return "", ""


def stack_memory(stack: Stack) -> int:
    """Bytes that its volume and a slice of it take at most."""
    sides = sorted((*stack.lie.shape, len(stack.places)))
    voxels = math.prod(sides)
    return voxels * VALUE + shown_memory(sides[1] * sides[2], voxels)


def stack_view(stack: Stack) -> View:
    """How its volume (column, row, slice) is shown."""
    down, across = stack.lie.spacing
    return view_of(stack.affine, [across, down, stack.distance])


def places_by_file(stack: Stack) -> dict[str, list[Place]]:
    """The places that each file holds, by rising frames."""
    files: dict[str, list[Place]] = defaultdict(list)
    for place in stack.places:
        files[place.file].append(place)
    return {name: sorted(places, key=_frame) for name, places in files.items()}


def read_values(frames: SeriesFrames, stack: Stack) -> tuple[Array, set[Place]]:
    """The values of a stack (float32, slice, row, column), padding as NaN, and the places that
    could be read; why others could not stands in `frames.damaged`."""
    rows, columns = stack.lie.shape
    values = np.empty((len(stack.places), rows, columns), np.float32)
    numbers = {place: number for number, place in enumerate(stack.places)}
    read = set()
    for file, places in places_by_file(stack).items():
        try:
            opened = frames.open(file)
            found = opened.values([place.frame for place in places])
            for place, raw in zip(places, found, strict=True):
                np.multiply(raw, -1 if opened.inverse else 1, out=values[numbers[place]])
                read.add(place)
        except InputError as error:
            frames.damaged.setdefault(file, str(error))
    return values, read


def volume_of(values: Array, stack: Stack) -> Volume:
    """The volume (column, row, slice) of the values of a whole stack."""
    return Volume(values.transpose(2, 1, 0), stack_view(stack), stack.affine)


def stack_cut(frames: SeriesFrames, stack: Stack, plane: str) -> Iterator[Gray]:
    """The slices of a stack in a plane, to the right, the front or the head.

    Raises:
        InputError: a file is damaged, so that one is missing, or no finite value.
    """
    values, read = read_values(frames, stack)
    if len(read) < len(stack.places):
        raise InputError(UNEVEN)
    volume = volume_of(values, stack)
    cut = Cut(volume.voxels, volume.view, plane)
    for number in range(len(cut)):
        yield cut.gray(number if cut.rising else len(cut) - 1 - number)


def _frame(place: Place) -> int:
    return place.frame
