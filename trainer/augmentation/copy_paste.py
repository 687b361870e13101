"""Tumours moved to other heads, and taken out of their own.

Where every tumour comes from one source and every tumour-free slice from another, a network can
tell the sources apart and be done. Two changes of the training slices break that: a tumour with
its box is set onto a tumour-free slice of another source, which takes the tumour's class; and a
tumour is covered with the mirrored tissue of the other half of its own head, which makes the
slice tumour-free. Both have the same soft elliptical edge, and tumour-free slices also receive
patches of tumour-free tissue, so that the edge itself tells nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.data.near_duplicates import thumbnail

Gray = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]

SOFT = (0.25, 0.5)  # range of the edge's width, as a fraction of the patch's half axes
SYMMETRY = 0.80  # least correlation with its mirror image of a head whose halves can be swapped


def paste(donor: Gray, box: Box, host: Gray, rng: np.random.Generator) -> tuple[Gray, Box]:
    """Set the part of `donor` in `box` onto `host`, about where it was in its own head.

    The patch is scaled, mirrored at random, and its brightness and contrast are brought to those
    of the tissue that it lands on, measured in the ring about it.

    Args:
        donor, host: uint8 arrays of size×size.
        box: left, top, right, bottom as fractions of the side.
        rng: random generator.

    Returns:
        The changed host, and the box of the patch in it.
    """
    size = host.shape[0]
    zoom = rng.uniform(0.8, 1.3)
    flip = bool(rng.random() < 0.5)
    goal = (box[:2] + box[2:]) / 2 * size
    if flip:
        goal[0] = size - goal[0]
    goal += rng.uniform(-0.06, 0.06, 2) * size
    goal = np.clip(goal, 0.2 * size, 0.8 * size)
    return move(donor, box, host, goal, zoom, flip, rng.uniform(*SOFT))


def move(
    donor: Gray,
    box: Box,
    host: Gray,
    goal: npt.NDArray[np.float64],
    zoom: float,
    flip: bool,
    soft: float,
) -> tuple[Gray, Box]:
    """Set the part of `donor` in `box` onto `host`, at a given place and scale.

    Args:
        donor, host: uint8 arrays of H×W, each of its own size.
        box: left, top, right, bottom as fractions of the donor's sides.
        goal: x and y of the patch's centre in the host, in pixels.
        zoom: pixels of the host for one of the donor.
        flip: whether left and right are swapped.
        soft: width of the edge, as a fraction of the patch's half axes.

    Returns:
        The changed host, and the box of the patch in it.
    """
    import cv2

    sides = np.array(donor.shape[::-1], np.float64)
    centre = (box[:2] + box[2:]) / 2 * sides
    reach = np.maximum((box[2:] - box[:2]) / 2 * sides, 3.0) * zoom
    across = -zoom if flip else zoom
    matrix = np.array(
        [[across, 0, goal[0] - across * centre[0]], [0, zoom, goal[1] - zoom * centre[1]]]
    )
    moved = np.asarray(
        cv2.warpAffine(donor, matrix, host.shape[::-1], flags=cv2.INTER_LINEAR), np.uint8
    )
    inner = np.concatenate([goal - reach, goal + reach]) / np.tile(host.shape[::-1], 2)
    return _blend(host, moved, goal, reach, soft, match=True), np.clip(inner, 0, 1)


def beside(box: Box) -> Box | None:
    """The place of `box` in the other half of the head, or None where it reaches over the midline.

    It shows tissue of a tumour's own slice, with its vessels and its contrast, without the tumour.
    """
    left, top, right, bottom = box
    grow = 0.15 * (right - left) + 0.02
    if not (right + grow < 0.5 or left - grow > 0.5):
        return None
    return np.array([1 - right, top, 1 - left, bottom])


def erase(image: Gray, box: Box, rng: np.random.Generator) -> Gray | None:
    """Cover what is in `box` with the mirrored other half of the head.

    Args:
        image: uint8 array of size×size.
        box: left, top, right, bottom as fractions of the side.
        rng: random generator.

    Returns:
        The changed slice, or None where the head is not symmetric or the box reaches over the
        midline, so that the mirrored part would show tumour too.
    """
    if beside(box) is None or symmetry(image) < SYMMETRY:
        return None
    size = image.shape[0]
    centre = (box[:2] + box[2:]) / 2 * size
    reach = (box[2:] - box[:2]) / 2 * size * 1.3 + 2
    return _blend(
        image, np.ascontiguousarray(image[:, ::-1]), centre, reach, rng.uniform(*SOFT), False
    )


def symmetry(image: Gray) -> float:
    """Correlation of a slice with its mirror image, both coarse; -1 to 1."""
    small = thumbnail(image).astype(np.float64)
    small -= small.mean()
    power = float((small**2).sum())
    return float((small * small[:, ::-1]).sum()) / power if power else 0.0


def _blend(
    host: Gray,
    patch: Gray,
    centre: npt.NDArray[np.float64],
    reach: npt.NDArray[np.float64],
    soft: float,
    match: bool,
) -> Gray:
    """`patch` over `host` within an ellipse whose edge is soft; `match` brings its levels to those
    of the ring about it."""
    rows, columns = np.ogrid[: host.shape[0], : host.shape[1]]
    distance = np.sqrt(
        ((columns + 0.5 - centre[0]) / reach[0]) ** 2 + ((rows + 0.5 - centre[1]) / reach[1]) ** 2
    )
    weight = np.clip((1.15 + soft / 2 - distance) / soft, 0, 1).astype(np.float32)
    over = patch.astype(np.float32)
    if match:
        ring = (distance > 1.1) & (distance < 1.6)
        if ring.sum() >= 8:
            there, here = over[ring], host[ring].astype(np.float32)
            gain = np.clip((here.std() + 4) / (there.std() + 4), 0.6, 1.6)
            over = (over - there.mean()) * gain + here.mean()
    mixed = host + weight * (over - host)
    changed: Gray = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
    return changed
