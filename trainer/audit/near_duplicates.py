"""Near-duplicates of a data set: who resembles whom, in memory that does not grow with the pairs.

A set of n copies has n² / 2 pairs, so pairs are counted as they are found and only the best
partner of each picture on either side of the split is kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.audit.files import Files
from trainer.data.near_duplicates import (
    THRESHOLD,
    TURN_NAMES,
    Clusters,
    Pairs,
    find_pairs,
    unit_vectors,
)
from trainer.data.reading import Progress

LISTED = 100  # conflicts kept
Indices = npt.NDArray[np.int64]

# What turns the second picture of a pair back into the first.
_BACK = {"turned 90": "turned 270", "turned 270": "turned 90"}
INVERSE = np.array([TURN_NAMES.index(_BACK.get(name, name)) for name in TURN_NAMES], np.uint8)


@dataclass(frozen=True)
class Best:
    """The partner that each of N pictures looks most like.

    Attributes:
        partner: int64 array of N; -1 where there is none.
        correlation: float32 array of N.
        turn: uint8 array of N, index into TURN_NAMES: how the picture must be turned to look
            like its partner.
    """

    partner: Indices
    correlation: npt.NDArray[np.float32]
    turn: npt.NDArray[np.uint8]

    @classmethod
    def none(cls, n: int) -> Best:
        """N pictures without a partner."""
        return cls(np.full(n, -1, np.int64), np.zeros(n, np.float32), np.zeros(n, np.uint8))

    def update(self, pairs: Pairs) -> None:
        """Take the better partners among `pairs`, in place, whatever the order of calls."""
        owner = np.concatenate([pairs.first, pairs.second])
        partner = np.concatenate([pairs.second, pairs.first])
        turn = np.concatenate([pairs.turn, INVERSE[pairs.turn]])
        # Copies correlate at 1 but for rounding; among those the plain turn and the first file
        # are the better answer.
        correlation = np.round(np.concatenate([pairs.correlation] * 2), 4)
        order = np.lexsort((partner, turn, -correlation, owner))
        owner, first = np.unique(owner[order], return_index=True)
        best = order[first]
        old = (-self.correlation[owner], self.turn[owner], self.partner[owner])
        new = (-correlation[best], turn[best], partner[best])
        better = (self.partner[owner] < 0) | _before(new, old)
        owner, best = owner[better], best[better]
        self.partner[owner] = partner[best]
        self.correlation[owner] = correlation[best]
        self.turn[owner] = turn[best]


@dataclass(frozen=True)
class Conflicts:
    """Pairs of near-duplicates with different labels: how many, and the LISTED most alike."""

    count: int
    pairs: Pairs


@dataclass(frozen=True)
class NearDuplicates:
    """What `find_near_duplicates` found among N pictures.

    Attributes:
        within, across: best partners on the same side of the split, and on the other.
        clusters: int64 array of N; near-duplicates, and theirs in turn, share a number.
        counts: pairs by turn and by within (0) or across (1), int64 array of 8×2. A turn counts
            from the test image where a pair is across, else from the earlier file.
        conflicts: pairs with different labels.
    """

    within: Best
    across: Best
    clusters: Indices
    counts: Indices
    conflicts: Conflicts


def find_near_duplicates(
    files: Files, threshold: float = THRESHOLD, progress: Progress | None = None
) -> NearDuplicates:
    """All near-duplicates, and exact copies of pictures too flat to correlate with anything.

    Copies of a blank slice count as near-duplicates but make no cluster: the empty ends of two
    patients' volumes do not make them one patient.

    Args:
        threshold: of the thumbnails' correlation.
        progress: called with (pictures compared, N).
    """
    tally = _Tally(files)
    clusters = Clusters(len(files))
    for pairs in find_pairs(files.thumbnails, threshold=threshold):
        tally.add(pairs)
        clusters.add(pairs)
        if progress is not None:
            progress(int(pairs.first.min()), len(files))
    tally.add(_flat_copies(files))
    if progress is not None:
        progress(len(files), len(files))
    return NearDuplicates(
        tally.within, tally.across, clusters.labels(), tally.counts, tally.conflicts
    )


class _Tally:
    """Counts pairs and keeps the best ones; its size depends on the number of files alone."""

    def __init__(self, files: Files) -> None:
        self._tested = files.tested
        self._labels = np.unique(np.asarray(files.labels), return_inverse=True)[1]
        self.within, self.across = Best.none(len(files)), Best.none(len(files))
        self.counts = np.zeros((len(TURN_NAMES), 2), np.int64)
        self.conflicts = Conflicts(0, _NONE)

    def add(self, pairs: Pairs) -> None:
        pairs = _from_test(pairs, self._tested)
        other_side = self._tested[pairs.first] != self._tested[pairs.second]
        np.add.at(self.counts, (pairs.turn, other_side.astype(np.int64)), 1)
        self.across.update(_select(pairs, np.flatnonzero(other_side)))
        self.within.update(_select(pairs, np.flatnonzero(~other_side)))
        self._add_conflicts(pairs)

    def _add_conflicts(self, pairs: Pairs) -> None:
        different = np.flatnonzero(self._labels[pairs.first] != self._labels[pairs.second])
        if len(different) == 0:
            return
        more, old = _select(pairs, different), self.conflicts.pairs
        both = Pairs(
            np.concatenate([old.first, more.first]),
            np.concatenate([old.second, more.second]),
            np.concatenate([old.correlation, more.correlation]),
            np.concatenate([old.turn, more.turn]),
        )
        order = np.lexsort((both.second, both.first, -np.round(both.correlation, 4)))
        count = self.conflicts.count + len(different)
        self.conflicts = Conflicts(count, _select(both, order[:LISTED]))


def equal_sets(keys: list[tuple[object, ...]]) -> list[list[int]]:
    """Indices of equal keys, for each key that occurs more than once, in order."""
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        found[key].append(i)
    return [members for members in found.values() if len(members) > 1]


def same_pixels(files: Files) -> list[list[int]]:
    """Sets of files whose decoded gray pictures are equal."""
    return equal_sets([*zip(files.pixels, files.sizes[:, 0].tolist(), strict=True)])


_NONE = Pairs(
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.uint8)
)


def _flat_copies(files: Files) -> Pairs:
    """Blank slices have no direction to correlate in: each copy is tied to the first one of
    either half of the split."""
    edges: list[tuple[int, int]] = []
    for members in same_pixels(files):
        if unit_vectors(files.thumbnails[members[:1]]).any():
            continue
        for testing in (True, False):
            half = [i for i in members if (files.splits[i] == "testing") == testing]
            edges += [(half[0], i) for i in members if half and i != half[0]]
    ties = np.unique(np.sort(np.array(edges, np.int64).reshape(-1, 2), axis=1), axis=0)
    one, plain = np.ones(len(ties), np.float32), np.zeros(len(ties), np.uint8)
    return Pairs(ties[:, 0], ties[:, 1], one, plain)


def _from_test(pairs: Pairs, tested: npt.NDArray[np.bool_]) -> Pairs:
    """The same pairs with the test image first wherever one side is a test image."""
    swap = tested[pairs.second] & ~tested[pairs.first]
    return Pairs(
        np.where(swap, pairs.second, pairs.first),
        np.where(swap, pairs.first, pairs.second),
        pairs.correlation,
        np.where(swap, INVERSE[pairs.turn], pairs.turn),
    )


def _select(pairs: Pairs, chosen: Indices) -> Pairs:
    return Pairs(
        pairs.first[chosen], pairs.second[chosen], pairs.correlation[chosen], pairs.turn[chosen]
    )


def _before(
    new: tuple[npt.NDArray[np.generic], ...], old: tuple[npt.NDArray[np.generic], ...]
) -> npt.NDArray[np.bool_]:
    """Where the rows of `new` sort before those of `old`, column by column."""
    answer = np.zeros(len(new[0]), bool)
    for a, b in zip(reversed(new), reversed(old), strict=True):
        answer = (a < b) | ((a == b) & answer)
    return answer
