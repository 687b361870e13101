"""Tumour heads that are made: one patient's tumour, set into the slices of a healthy head.

Whole heads with a tumour are rare. A made one shows what a study's rule needs: slices without a
tumour, then several neighbouring ones with it, small at its ends and largest in its middle, as an
ellipsoid is cut. It is no real head: the tumour has no mass effect, no oedema and no contrast but
its own, and its edge is that of `copy_paste`, which a network may have learned from. Of whatever
type, it lies in the brain: between air and bone nobody could tell it. One that is made in a whole
volume, to be cut in any plane, has one slice of the tumour all through, scaled: the slices of a
patient lie too far apart to be put side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.imaging.gray import robust_range
from edge_runtime.imaging.head import head_box, shows_head
from edge_runtime.imaging.nifti import Cut, Volume, upright
from trainer.augmentation.brain import Mask, brain_of
from trainer.augmentation.copy_paste import SOFT, Box, Gray, move

SMALLEST = 0.25  # of the largest cross-section's half axes: what is smaller shows nothing
LEVEL = 0.5  # of the brain's largest cross-section: the tumour's middle lies in no smaller one
INSIDE = 0.9  # of the tumour lie in the brain, where a place for that is found
TRIES = 20  # places, nearer to the brain's middle each time


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


class Host(NamedTuple):
    """A healthy head that a tumour is set into.

    Attributes:
        slices: those that show the head, in order, alike in size.
        brain: N×H×W, see `brain_of`.
        depth: pixels between two slices.
    """

    slices: Sequence[Gray]
    brain: Mask
    depth: float


class MadeHead(NamedTuple):
    """Slices that were changed, by number, with the box in each as fractions of its sides; and the
    share of the tumour that lies in the brain."""

    slices: dict[int, Gray]
    boxes: dict[int, Box]
    inside: float


class _Place(NamedTuple):
    """Where a tumour is set: slice, x and y (pixels) of its middle; its half axes in pixels of the
    slice, across and down, and in slices."""

    middle: int
    goal: npt.NDArray[np.float64]
    half: npt.NDArray[np.float64]
    along: float


def host_of(slices: Sequence[Gray], distance: float, pixel: float) -> Host:
    """A head with its brain.

    Args:
        slices: see `Host`.
        distance: mm between two slices.
        pixel: mm of a pixel.
    """
    return Host(slices, brain_of(slices, distance, pixel), distance / pixel)


def make_head(host: Host, tumour: Tumour, rng: np.random.Generator) -> MadeHead:
    """Set a tumour into a head.

    Its half axis along the stack is the mean of those in the plane. It keeps its size against the
    head, and its place in its own head where that lies in the brain of the other; else it moves
    towards the brain's middle.

    Args:
        tumour: taken from slices of the same plane.
        rng: random generator.
    """
    head = host.slices
    order = tumour.ordered()
    flip, soft = bool(rng.random() < 0.5), float(rng.uniform(*SOFT))
    (middle, goal, half, along), inside = _place(
        host, tumour.boxes[order[len(order) // 2]], flip, rng
    )
    made = MadeHead({}, {}, inside)
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


def _place(host: Host, box: Box, flip: bool, rng: np.random.Generator) -> tuple[_Place, float]:
    """A place for a tumour of this box, and the share of it that lies in the brain there: the first
    of `TRIES` with `INSIDE`, else the best."""
    areas = host.brain.sum(axis=(1, 2))
    levels = np.flatnonzero(areas >= max(LEVEL * areas.max(), 1))
    best: tuple[_Place, float] | None = None
    for tried in range(TRIES):
        middle = int(rng.choice(levels)) if levels.size else len(host.slices) // 2
        rows, columns = head_box(host.slices[middle])
        side = max(rows.stop - rows.start, columns.stop - columns.start)
        half = (box[2:] - box[:2]) / 2 * side
        x, y = (box[:2] + box[2:]) / 2
        own = np.array([1 - x if flip else x, y]) + rng.uniform(-0.06, 0.06, 2)
        corner = np.array([columns.start + columns.stop - side, rows.start + rows.stop - side]) / 2
        goal = corner + np.clip(own, 0.2, 0.8) * side
        if levels.size:
            centre = np.argwhere(host.brain[middle]).mean(axis=0)[::-1] + 0.5
            goal = goal + tried / (TRIES - 1) * (centre - goal)
        place = _Place(middle, goal, half, max(float(half.mean()), 2.0) / host.depth)
        inside = _inside(host.brain, place)
        if best is None or inside > best[1]:
            best = place, inside
        if inside >= INSIDE:
            break
    assert best is not None
    return best


def _inside(brain: Mask, place: _Place) -> float:
    """The share of an ellipsoid that lies in the brain."""
    centre = (place.middle + 0.5, place.goal[1], place.goal[0])
    half = (place.along, max(place.half[1], 1.0), max(place.half[0], 1.0))
    axes = [
        np.arange(math.floor(c - h), math.ceil(c + h)) for c, h in zip(centre, half, strict=True)
    ]
    z, y, x = np.ix_(*axes)
    apart = [(at + 0.5 - c) / h for at, c, h in zip((z, y, x), centre, half, strict=True)]
    within = apart[0] ** 2 + apart[1] ** 2 + apart[2] ** 2 <= 1
    known = [(a >= 0) & (a < size) for a, size in zip(axes, brain.shape, strict=True)]
    shown = np.zeros(within.shape, bool)
    shown[np.ix_(*known)] = brain[np.ix_(*(a[k] for a, k in zip(axes, known, strict=True)))]
    return float((shown & within).sum() / max(within.sum(), 1))


def make_volumes(
    volume: Volume, tumours: Sequence[Tumour], rng: np.random.Generator
) -> Iterator[Volume]:
    """Set tumours into the axial slices of a volume, so that they show in all planes, each into a
    volume of its own; what it does not reach stays as it is.

    Args:
        tumours: taken from axial slices.
        rng: random generator.

    Yields:
        One volume for each tumour; none where the pixels of axial slices are not square.

    Raises:
        InputError: no finite value.
    """
    cut = Cut(volume.voxels, volume.view, "axial")
    grays = [cut.gray(number) for number in range(len(cut))]
    slices, _ = upright(volume.voxels, volume.view, "axial")
    if grays[0].shape != slices.shape[1:]:
        return
    order = list(range(len(cut)))[:: 1 if cut.rising else -1]
    shown = [place for place, number in enumerate(order) if shows_head(grays[number])]
    if not shown:
        return
    order = order[shown[0] : shown[-1] + 1]
    pixel = max(volume.view.spacing[0], 1e-6)
    host = host_of([grays[number] for number in order], cut.distance, pixel)
    low, high = robust_range(slices)
    if volume.view.slope < 0:
        low, high = high, low
    for tumour in tumours:
        voxels = volume.voxels.copy()
        changed, _ = upright(voxels, volume.view, "axial")
        for place, gray in make_head(host, tumour.middle(), rng).slices.items():
            number = order[place]
            new = gray != grays[number]
            values = low + gray[new] / 255 * (high - low)
            whole = np.issubdtype(voxels.dtype, np.integer)
            changed[number][new] = np.rint(values) if whole else values
        yield volume._replace(voxels=voxels)
