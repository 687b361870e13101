"""What look-alike slices tell of each other: one group, a patient, a box, a wrong label.

A slice that lacks a patient, a source or a box takes it of the slice of another input that it looks
most like (`near_duplicates`), directly and not through a third. Where slices of two patients look
like it, the nearer one must be so clearly, see CLEAR.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.near_duplicates import (
    TURN_NAMES,
    Clusters,
    Floats,
    Indices,
    Pairs,
    Thumbnails,
    find_pairs,
    join,
)
from trainer.prepare.rows import Box

# Another patient's nearest slice must be this many times as far as the nearest, where the distance
# is what the correlation lacks to 1.
CLEAR = 2.0
NONE = -1

# What each turn does to a box: whether it exchanges the axes, and then reverses the columns, the
# rows.
MOVES: dict[str, tuple[bool, bool, bool]] = {
    "same": (False, False, False),
    "mirrored": (False, True, False),
    "upside down": (False, False, True),
    "turned 180": (False, True, True),
    "transposed": (True, False, False),
    "turned 90": (True, False, True),
    "turned 270": (True, True, False),
    "transposed across": (True, True, True),
}
# Which turn undoes each, by their numbers; all but the quarter turns undo themselves.
BACK = {"turned 90": "turned 270", "turned 270": "turned 90"}
INVERSE = np.array([TURN_NAMES.index(BACK.get(name, name)) for name in TURN_NAMES], np.uint8)


@dataclass(frozen=True)
class Slices:
    """N slices of several inputs, as their tables have them, and what is compared.

    Attributes:
        inputs: the number of each one's input.
        labels: of each, an index into `agree`.
        agree: bool L×L, whether a slice can have both labels; one of them may be partial.
        partial: bool N, whose label only says that the class is one of several.
        tumour_free: bool N, whose label says that there is no tumour.
        groups, sources, patients: empty where a table does not say.
        homes: the source of which a slice is where nothing else says so.
        boxes: None where none is known.
        pixels: a digest of each one's pixels.
        thumbnails: uint8 N×32×32.
    """

    inputs: Indices
    labels: Indices
    agree: npt.NDArray[np.bool_]
    partial: npt.NDArray[np.bool_]
    tumour_free: npt.NDArray[np.bool_]
    groups: Sequence[str]
    sources: Sequence[str]
    homes: Sequence[str]
    patients: Sequence[str]
    boxes: Sequence[Box | None]
    pixels: Sequence[str]
    thumbnails: Thumbnails


class Conflict(NamedTuple):
    """Two look-alikes whose labels exclude each other: their indices, the correlation, and how the
    first must be turned to look like the second."""

    first: int
    second: int
    correlation: float
    turn: str


@dataclass(frozen=True)
class Found:
    """What the comparison of N slices gives.

    Attributes:
        groups: int64 array of N: slices of one number belong together.
        persons: int64 array of N: the number of the patient, given or taken over, or NONE.
        patient_of, source_of, box_of: int64 arrays of N: the slice that each was taken over
            from, or NONE.
        boxes: the boxes, those taken over among them.
        typed_of: int64 array of N: for a slice of a partial label, one that it looks most like
            and of which the class is known; else NONE.
        unclear: int64 array: slices that look like those of several patients, and took none.
        conflicts: by `first`, each slice that is in conflict in one at least.
        crossing: int64 array of inputs×8: pairs of look-alikes that the input's own table has in
            two groups, by turn.
    """

    groups: Indices
    persons: Indices
    patient_of: Indices
    source_of: Indices
    box_of: Indices
    boxes: list[Box | None]
    typed_of: Indices
    unclear: Indices
    conflicts: list[Conflict]
    crossing: Indices


def compare(slices: Slices, threshold: float) -> Found:
    """Find the look-alikes among all slices, and what they tell of each other.

    Args:
        threshold: of the correlation.
    """
    n = len(slices.inputs)
    persons = persons_of(slices)
    sources = _numbered(source or None for source in slices.sources)
    groups = _numbered(
        (int(i), group) if group else None
        for i, group in zip(slices.inputs, slices.groups, strict=True)
    )
    boxed = np.array([box is not None for box in slices.boxes], bool)
    stranger = int(persons.max(initial=NONE)) + 1  # stands for all whom no table names
    # Slices of each person, the nearest of each; of no person, the nearest with a box.
    patients = Nearest(persons, persons == NONE)
    origins = Nearest(sources, sources == NONE)
    owners = np.where(boxed, np.where(persons == NONE, stranger, persons), NONE)
    drawn = Nearest(owners, ~(slices.partial | slices.tumour_free | boxed))
    typed = Nearest(np.where(slices.partial, NONE, slices.labels), slices.partial)
    others = Nearest(slices.labels, np.ones(n, bool))
    clusters = Clusters(n)
    crossing = np.zeros((int(slices.inputs.max()) + 1, len(TURN_NAMES)), np.int64)
    for pairs in find_pairs(slices.thumbnails, threshold=threshold):
        clusters.add(pairs)
        agree = slices.agree[slices.labels[pairs.first], slices.labels[pairs.second]]
        apart = slices.inputs[pairs.first] != slices.inputs[pairs.second]
        others.add(pairs, ~agree)
        typed.add(pairs, agree)
        for nearest in (patients, origins, drawn):
            nearest.add(pairs, agree & apart)
        one, two = groups[pairs.first], groups[pairs.second]
        split = ~apart & (one != two) & (one != NONE) & (two != NONE)
        np.add.at(crossing, (slices.inputs[pairs.first[split]], pairs.turn[split]), 1)
    patient_of, unclear = patients.clearest()
    source_of, _ = origins.clearest()
    known = np.where(patient_of == NONE, persons, persons[patient_of])
    # Whose picture it is decides whose box it has; a box of nobody's will do.
    nobodys = np.full(n, stranger)
    nobodys[unclear] = NONE
    box_of, turns = drawn.of(np.where(known == NONE, nobodys, known))
    again, turns_again = drawn.of(nobodys)
    turns = np.where(box_of == NONE, turns_again, turns)
    box_of = np.where(box_of == NONE, again, box_of)
    boxes = list(slices.boxes)
    for at in np.flatnonzero(box_of != NONE):
        if (box := slices.boxes[box_of[at]]) is not None:
            boxes[at] = turned_box(box, TURN_NAMES[turns[at]])
    belong = tied(clusters.labels(), slices.pixels)
    belong = tied(belong, (None if g == NONE else int(g) for g in groups))
    belong = tied(belong, (None if p == NONE else int(p) for p in persons))
    return Found(
        belong, known, patient_of, source_of, box_of, boxes, typed.clearest()[0], unclear,
        _conflicts(others), crossing,
    )  # fmt: skip


def persons_of(slices: Slices) -> Indices:
    """The number of each slice's patient, NONE where no table names one.

    A name is a person's within its source, whatever the input; and within a group of an input,
    whatever the source.
    """
    columns = (slices.inputs.tolist(), slices.groups, slices.sources, slices.homes)
    rows = list(zip(*columns, slices.patients, strict=True))
    number = np.arange(len(rows))
    number = tied(number, ((s or home, p) if p else None for _, _, s, home, p in rows))
    number = tied(number, ((i, g, p) if g and p else None for i, g, _, _, p in rows))
    return np.where([bool(patient) for patient in slices.patients], number, NONE)


def turned_box(box: Box, turn: str) -> Box:
    """Where a box (fractions of the sides) lies after the picture was turned, see TURNS."""
    exchanged, columns, rows = MOVES[turn]
    left, top, right, bottom = box
    if exchanged:
        left, top, right, bottom = top, left, bottom, right
    if columns:
        left, right = 1 - right, 1 - left
    if rows:
        top, bottom = 1 - bottom, 1 - top
    return left, top, right, bottom


def tied(labels: Indices, keys: Iterable[Hashable]) -> Indices:
    """Cluster numbers (N) after slices of the same key (N; None is nobody's) have become one."""
    first: dict[Hashable, int] = {}
    ends = [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key is not None]
    pairs = np.array(ends, np.int64).reshape(-1, 2)
    return join(labels, pairs[:, 0], pairs[:, 1])


class Nearest:
    """For each slice that wants something and each value that it may take, the most alike slice of
    that value.

    Pairs wait until they are as many as the slices, so that memory grows with what is kept and not
    with the number of pairs.

    Args:
        values: int64 array of N; NONE has nothing to give.
        wants: bool array of N.
    """

    def __init__(self, values: Indices, wants: npt.NDArray[np.bool_]) -> None:
        self._values, self._wants = values, wants
        self._kept: list[_Looks] = []
        self._waiting = 0

    def add(self, pairs: Pairs, chosen: npt.NDArray[np.bool_]) -> None:
        """Take the pairs that are `chosen`, in both directions."""
        for own, other, turn in (
            (pairs.second, pairs.first, pairs.turn),
            (pairs.first, pairs.second, INVERSE[pairs.turn]),
        ):
            at = np.flatnonzero(chosen & self._wants[own] & (self._values[other] != NONE))
            if len(at):
                self._kept.append(_Looks(own[at], other[at], pairs.correlation[at], turn[at]))
                self._waiting += len(at)
        if self._waiting > len(self._values):
            self.looks()

    def looks(self) -> _Looks:
        """What is kept, by slice, the nearest first."""
        empty = np.zeros(0, np.int64)
        none = _Looks(empty, empty, np.zeros(0, np.float32), np.zeros(0, np.uint8))
        columns = [np.concatenate(column) for column in zip(none, *self._kept, strict=True)]
        looks = _Looks(*columns)
        values = self._values[looks.other]
        looks = looks.take(np.lexsort((looks.other, -looks.correlation, values, looks.own)))
        ends = np.stack([looks.own, self._values[looks.other]])
        new = np.ones(len(looks.own), bool)
        new[1:] = (ends[:, 1:] != ends[:, :-1]).any(axis=0)
        looks = looks.take(np.flatnonzero(new))
        self._kept, self._waiting = [looks], 0
        return looks.take(np.lexsort((looks.other, -looks.correlation, looks.own)))

    def clearest(self) -> tuple[Indices, Indices]:
        """For each of N slices the nearest one if it is clear, else NONE; and the slices of which
        it is not."""
        looks = self.looks()
        n = len(self._values)
        best = np.full(n, NONE)
        _, at, count = np.unique(looks.own, return_index=True, return_counts=True)
        distance = 1 - looks.correlation.astype(np.float64)
        behind = at[count > 1]
        near, far = distance[behind], distance[behind + 1]
        unclear = looks.own[behind[(far < CLEAR * near) | (far <= near)]]
        best[looks.own[at]] = looks.other[at]
        best[unclear] = NONE
        return best, unclear

    def of(self, wanted: Indices) -> tuple[Indices, npt.NDArray[np.uint8]]:
        """For each of N slices the nearest one of the value that it wants (N), or NONE; and how
        that must be turned to look like it."""
        looks = self.looks()
        looks = looks.take(np.flatnonzero(self._values[looks.other] == wanted[looks.own]))
        best, turns = np.full(len(wanted), NONE), np.zeros(len(wanted), np.uint8)
        best[looks.own], turns[looks.own] = looks.other, looks.turn
        return best, turns


class _Looks(NamedTuple):
    """Slices, one that looks like each, how much, and how that must be turned."""

    own: Indices
    other: Indices
    correlation: Floats
    turn: npt.NDArray[np.uint8]

    def take(self, at: Indices) -> _Looks:
        return _Looks(self.own[at], self.other[at], self.correlation[at], self.turn[at])


def _conflicts(others: Nearest) -> list[Conflict]:
    """Each once, whichever of the two found it."""
    found: dict[tuple[int, int], Conflict] = {}
    for own, other, correlation, turn in zip(*others.looks(), strict=True):
        first, second = min(own, other), max(own, other)
        name = TURN_NAMES[turn if first == other else INVERSE[turn]]
        found[first, second] = Conflict(int(first), int(second), float(correlation), name)
    return [found[key] for key in sorted(found)]


def _numbered(keys: Iterable[Hashable]) -> Indices:
    """A number for each key, in the order in which they come; NONE for None."""
    numbers: dict[Hashable, int] = {}
    return np.array(
        [NONE if key is None else numbers.setdefault(key, len(numbers)) for key in keys], np.int64
    )
