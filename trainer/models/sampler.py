"""What a training sees: an endless, repeatable supply of changed slices.

Every example follows from (seed, epoch, number) alone, so that a resumed training sees what an
unbroken one would have seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.augmentation.copy_paste import beside, erase, paste
from trainer.augmentation.spatial import change_place
from trainer.augmentation.style import change_style
from trainer.data.dataset import Dataset
from trainer.data.partial_labels import PartialLabels
from trainer.models.recipes import Recipe

Gray = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float64]
NO_BOX: Box = np.full(4, np.nan)
ERASE_TRIES = 8  # most tumours lie on the midline or in a slice without symmetry


class Example(NamedTuple):
    """A changed slice (uint8, size×size), the classes it may be of (1 each), and its box."""

    image: Gray
    target: npt.NDArray[np.float32]
    box: Box


@dataclass(frozen=True)
class Samples:
    """The slices of one side; what is unknown is empty.

    Attributes:
        images: uint8, N×size×size.
        labels: int64, N.
        boxes: float64, N×4, as in `Dataset`.
        groups, sources: names, N each.
        tumour_free: bool, C: the classes that show no tumour for certain. Only their slices receive
            pasted tumours or stand for a covered one.
        partial_images: uint8, M×size×size, slices whose class is only known to be of a set.
        partial_targets: float32, M×C, 1 for each class of the set.
    """

    images: Gray
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    tumour_free: npt.NDArray[np.bool_]
    partial_images: Gray
    partial_targets: npt.NDArray[np.float32]

    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        digest = hashlib.sha256(repr((self.groups, self.sources)).encode())
        for array in vars(self).values():
            if isinstance(array, np.ndarray):
                digest.update(repr((array.shape, array.dtype)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.digest()


def make_samples(data: Dataset, partial: PartialLabels | None = None) -> Samples:
    """The slices of `data`, and the partially labelled ones beside them."""
    if partial is None:
        images = np.zeros((0, *data.images.shape[1:]), np.uint8)
        targets = np.zeros((0, len(data.class_names)), np.float32)
    else:
        images, targets = partial.slices.images, partial.targets
    tumour_free = np.array([name in data.tumour_free for name in data.class_names])
    return Samples(
        data.images,
        data.labels,
        data.boxes,
        data.groups,
        data.sources,
        tumour_free,
        images,
        targets,
    )


class Feed:
    """Draws examples as a recipe says.

    Pasting needs boxes, and tumour-free classes whose slices can receive a tumour; where the data
    lacks them, that part of the recipe rests. That a class has no box says nothing: the table may
    be half filled.
    """

    def __init__(self, samples: Samples, classes: int, recipe: Recipe, seed: int) -> None:
        self.samples, self.recipe, self.seed = samples, recipe, seed
        self.classes = classes
        boxed = ~np.isnan(samples.boxes).any(axis=1)
        tumour_free = samples.tumour_free[samples.labels]
        self._hosts, self._donors = (
            np.flatnonzero(tumour_free),
            np.flatnonzero(boxed & ~tumour_free),
        )
        self._pastes = len(self._donors) > 0 and len(self._hosts) > 0
        weights = sampling_weights(samples, recipe.balance)
        if recipe.balance and self._pastes:
            weights[self._hosts] *= recipe.tumour_free_weight
        self._weights = np.cumsum(weights)
        self._host_weights = np.cumsum(weights[self._hosts])
        if len(self._donors):
            counts = np.bincount(samples.labels[self._donors], minlength=classes)
            self._donor_weights = np.cumsum(1.0 / counts[samples.labels[self._donors]])

    def __len__(self) -> int:
        """Examples in an epoch: as many as there are slices."""
        return len(self.samples.labels)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The slice that each example of an epoch starts from."""
        rng = np.random.default_rng([self.seed, epoch])
        if not self.recipe.balance:
            return rng.permutation(len(self))
        return _pick(self._weights, rng.random(len(self)))

    def example(self, epoch: int, number: int, start: int) -> Example:
        """The `number`-th example of an epoch, which starts from slice `start`."""
        rng = np.random.default_rng([self.seed, epoch, 1, number])
        samples, recipe = self.samples, self.recipe
        if len(samples.partial_images) and rng.random() < recipe.partial_labels:
            chosen = rng.integers(len(samples.partial_images))
            example = Example(
                samples.partial_images[chosen], samples.partial_targets[chosen], NO_BOX
            )
        else:
            example = self._example(start, rng)
        if rng.random() < recipe.augment:
            reference = samples.images[rng.integers(len(samples.images))]
            image, box = change_place(example.image, example.box, rng)
            example = example._replace(image=change_style(image, rng, reference), box=box)
        return example

    def _example(self, start: int, rng: np.random.Generator) -> Example:
        samples, recipe = self.samples, self.recipe
        label = int(samples.labels[start])
        image, box = samples.images[start], samples.boxes[start]
        chance = rng.random()
        if self._pastes and not samples.tumour_free[label]:
            if chance < recipe.paste:
                donor, host = self._donor(rng), self._host(rng)
                label = int(samples.labels[donor])
                image, box = paste(
                    samples.images[donor], samples.boxes[donor], samples.images[host], rng
                )
        elif self._pastes and chance < recipe.erase:
            for _ in range(ERASE_TRIES):
                donor = self._donor(rng)
                erased = erase(samples.images[donor], samples.boxes[donor], rng)
                if erased is not None:
                    image = erased
                    break
        elif self._pastes and chance < recipe.erase + recipe.patch:
            donor = self._donor(rng)
            shape, other = samples.boxes[donor], beside(samples.boxes[donor])
            if other is not None and rng.random() < 0.5:
                image, _ = paste(samples.images[donor], other, image, rng)
            else:
                image, _ = paste(samples.images[self._host(rng)], shape, image, rng)
        return Example(image, np.eye(self.classes, dtype=np.float32)[label], box)

    def _host(self, rng: np.random.Generator) -> int:
        return int(self._hosts[_pick(self._host_weights, rng.random(1))[0]])

    def _donor(self, rng: np.random.Generator) -> int:
        return int(self._donors[_pick(self._donor_weights, rng.random(1))[0]])


def sampling_weights(samples: Samples, balance: bool) -> Weights:
    """How often each slice is drawn; the sum is 1.

    Balanced: every class alike; within a class, a source by the square root of its slices; within
    a source, a group by the square root of its slices.
    """
    number = len(samples.labels)
    if not balance:
        return np.full(number, 1 / number)
    weights = np.zeros(number)
    sources, groups = np.asarray(samples.sources), np.asarray(samples.groups)
    for label in np.unique(samples.labels):
        of_class = samples.labels == label
        for source in np.unique(sources[of_class]):
            rows = np.flatnonzero(of_class & (sources == source))
            _, place, counts = np.unique(groups[rows], return_inverse=True, return_counts=True)
            each = (counts**-0.5)[place]
            weights[rows] = each / each.sum() * np.sqrt(len(rows))
        weights[of_class] /= weights[of_class].sum()
    weights /= weights.sum()
    return weights


def _pick(cumulative: Weights, drawn: Weights) -> npt.NDArray[np.int64]:
    """Indices for numbers drawn from 0 to 1, by cumulative weights."""
    places = np.searchsorted(cumulative, drawn * cumulative[-1], side="right")
    indices: npt.NDArray[np.int64] = np.minimum(places, len(cumulative) - 1).astype(np.int64)
    return indices
