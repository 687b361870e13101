"""Tumour heads that are made: one patient's tumour, set into the slices of a healthy head.

Whole heads with a tumour are rare. A made one shows what a study's rule needs: slices without a
tumour, then several neighbouring ones with it, small at its ends and largest in its middle, as an
ellipsoid is cut. It is no real head: the tumour has no mass effect, no oedema and no contrast but
its own, and its edge is that of `copy_paste`, which a network may have learned from. One that is
made in a whole volume, to be cut in any plane, has one slice of the tumour all through, scaled: the
slices of a patient lie too far apart to be put side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.imaging.gray import robust_range
from edge_runtime.imaging.head import head_box, shows_head
from edge_runtime.imaging.nifti import Cut, Volume, upright
from trainer.augmentation.copy_paste import SOFT, Box, Gray, move

SMALLEST = 0.25  # of the largest cross-section's half axes: what is smaller shows nothing
MIDDLE = (
    0.42,
    0.75,
)  # where along a head the tumour's middle may lie; below is the neck
TISSUE = 0.35  # of a head's brightness in its middle: where it is darker there is no brain


@dataclass(frozen=True)
class Tumour:
    """The slices of one patient's tumour.

    Attributes:
        patient, label: whose and which.
        slices: as a model sees them: squares that the head fills.
        boxes: of the tumour in each, left, top, right, bottom as fractions of the side.
    """

    patient: str
    label: str
    slices: tuple[Gray, ...]
    boxes: tuple[Box, ...]

    def ordered(self) -> list[int]:
        """Its slices as they may lie one behind the other: the largest in the middle, smaller ones
        to both ends. Where they truly lay no table says."""
        areas = [float(np.prod(box[2:] - box[:2])) for box in self.boxes]
        rising = sorted(range(len(areas)), key=areas.__getitem__)
        return rising[::2] + rising[1::2][::-1]

    def middle(self) -> Tumour:
        """The tumour with its largest slice only."""
        order = self.ordered()
        largest = order[len(order) // 2]
        return replace(self, slices=(self.slices[largest],), boxes=(self.boxes[largest],))


class MadeHead(NamedTuple):
    """Slices that were changed, by number, with the box in each as fractions of its sides."""

    slices: dict[int, Gray]
    boxes: dict[int, Box]


def make_head(
    head: Sequence[Gray], depth: float, tumour: Tumour, rng: np.random.Generator
) -> MadeHead:
    """Set a tumour into a head.

    Its half axis along the stack is the mean of those in the plane; it keeps its place in its own
    head and its size against that head.

    Args:
        head: the slices that show the head, in order, alike in size.
        depth: pixels between two slices.
        tumour: taken from slices of the same plane.
        rng: random generator.
    """
    middle = round(rng.uniform(*MIDDLE) * (len(head) - 1))
    rows, columns = head_box(head[middle])
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    order = tumour.ordered()
    largest = tumour.boxes[order[len(order) // 2]]
    half = (largest[2:] - largest[:2]) / 2 * side
    along = max(float(half.mean()), 2.0) / depth  # slices from the middle to an end
    flip, soft = bool(rng.random() < 0.5), float(rng.uniform(*SOFT))
    x, y = (largest[:2] + largest[2:]) / 2
    place = np.array([1 - x if flip else x, y]) + rng.uniform(-0.06, 0.06, 2)
    corner = np.array([columns.start + columns.stop - side, rows.start + rows.stop - side]) / 2
    goal = _inside(head[middle], corner + np.clip(place, 0.2, 0.8) * side)
    made = MadeHead({}, {})
    reach = along * math.sqrt(1 - SMALLEST**2)
    for number in range(max(0, math.ceil(middle - reach)), min(len(head), int(middle + reach) + 1)):
        offset = (number - middle) / along  # -1 to 1
        donor = order[min(int((offset + 1) / 2 * len(order)), len(order) - 1)]
        box = tumour.boxes[donor]
        wanted = math.sqrt(max(1 - offset**2, 0)) * float(half.mean())
        own = float(((box[2:] - box[:2]) / 2).mean()) * tumour.slices[donor].shape[0]
        made.slices[number], made.boxes[number] = move(
            tumour.slices[donor], box, head[number], goal, wanted / max(own, 3.0), flip, soft
        )
    return made


def make_volume(volume: Volume, tumour: Tumour, rng: np.random.Generator) -> Volume | None:
    """Set a tumour into the axial slices of a volume, so that it shows in all planes; what it does
    not reach stays as it is.

    Args:
        tumour: taken from axial slices.
        rng: random generator.

    Returns:
        None where the pixels of axial slices are not square.

    Raises:
        InputError: no finite value.
    """
    plane = "axial"
    cut = Cut(volume.voxels, volume.view, plane)
    grays = [cut.gray(number) for number in range(len(cut))]
    voxels = volume.voxels.copy()
    slices, _ = upright(voxels, volume.view, plane)
    if grays[0].shape != slices.shape[1:]:
        return None
    order = list(range(len(cut)))[:: 1 if cut.rising else -1]
    shown = [place for place, number in enumerate(order) if shows_head(grays[number])]
    if not shown:
        return None
    order = order[shown[0] : shown[-1] + 1]
    depth = cut.distance / max(volume.view.spacing[0], 1e-6)
    made = make_head([grays[number] for number in order], depth, tumour.middle(), rng)
    low, high = robust_range(upright(volume.voxels, volume.view, plane)[0])
    if volume.view.slope < 0:
        low, high = high, low
    for place, gray in made.slices.items():
        number = order[place]
        changed = gray != grays[number]
        values = low + gray[changed] / 255 * (high - low)
        whole = np.issubdtype(voxels.dtype, np.integer)
        slices[number][changed] = np.rint(values) if whole else values
    return volume._replace(voxels=voxels)


def _inside(gray: Gray, goal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A place moved towards the middle of the slice until it is tissue."""
    height, width = gray.shape
    middle = np.array([width, height]) / 2
    bright = TISSUE * float(gray[height // 4 : -height // 4, width // 4 : -width // 4].mean())
    at = goal
    for step in np.linspace(0, 1, 9).tolist():
        at = goal + step * (middle - goal)
        left, top = (int(v) - 2 for v in at)
        part = gray[max(top, 0) : top + 5, max(left, 0) : left + 5]
        if part.size and float(part.mean()) >= bright:
            break
    return at
