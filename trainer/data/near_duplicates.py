"""Near-duplicates: pictures that are copies of each other but for brightness, mirroring or a turn.

Two slices are near-duplicates when their thumbnails (32×32, area-averaged, the whole picture)
correlate at THRESHOLD or above in one of the eight ways to turn and mirror a square. A picture of
which the thumbnail has one gray level correlates with none. The search is exact: it goes through
three upper bounds of the correlation, each of them dearer and nearer, and compares what is left in
whole numbers.

1. A sketch of 64 numbers holds a thumbnail's low-frequency cosine coefficients and the length of
   what they leave out (Parseval; Cauchy-Schwarz). In the cosine basis a mirror image is a change
   of signs and a quarter turn a transposition. Sketches folded by these symmetries have a product
   that bounds all eight turns at once (rearrangement inequality), so one matrix product compares
   all with all. It alone sees every pair: the search is quadratic, with a small constant.
2. Of the pairs that are left, the product of the sketches in each turn.
3. Of the turns that are left, the thumbnails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.batch import in_order
from trainer.data.workers import workers

THRESHOLD = 0.98
THUMBNAIL_SIZE = 32
PIXELS = THUMBNAIL_SIZE * THUMBNAIL_SIZE
KEPT = 8  # cosine coefficients kept along each axis
ROWS, COLUMNS = 512, 2048  # of one block of the comparison: bounds the memory
BATCH = 4096  # pairs compared at a time: they stay in the cache
SLACK = 1e-4  # of a bound in float32, for its rounding

Thumbnails = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

# How the first picture must be turned to look like the second.
TURNS: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "same": lambda a: a,
    "mirrored": lambda a: a[..., :, ::-1],
    "upside down": lambda a: a[..., ::-1, :],
    "turned 180": lambda a: a[..., ::-1, ::-1],
    "transposed": lambda a: a.swapaxes(-1, -2),
    "turned 90": lambda a: a.swapaxes(-1, -2)[..., ::-1, :],
    "turned 270": lambda a: a.swapaxes(-1, -2)[..., :, ::-1],
    "transposed across": lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
}
TURN_NAMES = tuple(TURNS)


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates, one entry a pair.

    Attributes:
        first, second: indices of the pictures.
        correlation: of the thumbnails, the first one turned.
        turn: index into TURN_NAMES.
    """

    first: Indices
    second: Indices
    correlation: Floats
    turn: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.first)


def thumbnail(gray: npt.NDArray[np.uint8]) -> Thumbnails:
    """A slice (uint8, H×W) as 32×32 area averages."""
    import cv2

    small: Thumbnails = cv2.resize(
        gray, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), interpolation=cv2.INTER_AREA
    )
    return small


def unit_vectors(thumbnails: Thumbnails) -> Floats:
    """Thumbnails (N×32×32) with mean 0 and length 1, so that a dot product is a correlation.

    Pictures of one gray level have no direction; they become zero and correlate with nothing.
    """
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL_SIZE * THUMBNAIL_SIZE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    # The shortest that is not flat, of one pixel that is a level off, has 0.9995.
    units: Floats = flat / np.maximum(length, 0.5)
    return units.reshape(-1, THUMBNAIL_SIZE, THUMBNAIL_SIZE)


def find_pairs(
    thumbnails: Thumbnails, others: Thumbnails | None = None, threshold: float = THRESHOLD
) -> Iterator[Pairs]:
    """All near-duplicates, block by block.

    Args:
        thumbnails: N×32×32.
        others: M×32×32 to compare with, or None to compare `thumbnails` among themselves
            (then `first` < `second`).
        threshold: of the correlation.

    Yields:
        Up to BATCH pairs of a block; each pair once, with its best turn. Memory depends on the
        block's size and on the N+M sketches of 64 numbers, not on the number of pairs in all.
    """
    from threadpoolctl import threadpool_limits

    alone = others is None
    one = _prepare(thumbnails)
    two = one if others is None else _prepare(others)
    corners = (
        (top, left)
        for top in range(0, len(one.folded), ROWS)
        for left in range(top if alone else 0, len(two.folded), COLUMNS)
    )

    def search(corner: tuple[int, int]) -> list[Pairs]:
        first, second = _likely(one, two, corner, threshold)
        if alone:
            once = first < second
            first, second = first[once], second[once]
        batches = (slice(start, start + BATCH) for start in range(0, len(first), BATCH))
        found = (_compare(one, two, first[each], second[each], threshold) for each in batches)
        return [pairs for pairs in found if len(pairs)]

    # A thread for each block: the products are too small for several, which would wait for each
    # other and take twice the time of the processor.
    with threadpool_limits(1, "blas"):
        for found in in_order(search, corners, workers()):
            yield from found


def clusters(thumbnails: Thumbnails, threshold: float = THRESHOLD) -> Indices:
    """A cluster number for each picture; near-duplicates, and theirs in turn, share one."""
    found = Clusters(len(thumbnails))
    for pairs in find_pairs(thumbnails, threshold=threshold):
        found.add(pairs)
    return found.labels()


class Clusters:
    """N pictures, at first each a cluster of its own, and the pairs that join them.

    Pairs wait until they are as many as the pictures, so that memory does not grow with them and
    the work for each is the same however many pictures there are.
    """

    def __init__(self, n: int) -> None:
        self._labels: Indices = np.arange(n)
        self._waiting: list[tuple[Indices, Indices]] = []
        self._count = 0

    def add(self, pairs: Pairs) -> None:
        """Join the two clusters of each pair."""
        apart = self._labels[pairs.first] != self._labels[pairs.second]
        if apart.any():
            self._waiting.append((pairs.first[apart], pairs.second[apart]))
            self._count += int(apart.sum())
            if self._count >= len(self._labels):
                self.labels()

    def labels(self) -> Indices:
        """A cluster number for each picture."""
        if self._waiting:
            first, second = (np.concatenate(ends) for ends in zip(*self._waiting, strict=True))
            self._labels = join(self._labels, first, second)
            self._waiting, self._count = [], 0
        return self._labels


def join(labels: Indices, first: Indices, second: Indices) -> Indices:
    """Cluster numbers (N) after the clusters of each `first` and `second` have become one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = int(labels.max()) + 1 if len(labels) else 0
    edges = (np.ones(len(first), np.int8), (labels[first], labels[second]))
    _, component = connected_components(coo_matrix(edges, shape=(n, n)), directed=False)
    joined: Indices = component[labels].astype(np.int64)
    return joined


def merge_groups(groups: Sequence[str], *ties: Indices) -> tuple[str, ...]:
    """Groups (N names) in which no cluster of slices is split any more.

    A group that a cluster ties to others takes the first of their names.

    Args:
        ties: one or several ways to cluster the slices, N numbers each, such as `clusters`.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    # A graph whose nodes are the groups, then the clusters; each slice ties its group to its own.
    nodes, clusters = len(names), []
    for numbers in ties:
        clusters.append(numbers + nodes)
        nodes += int(numbers.max(initial=-1)) + 1
    first = np.tile(member.astype(np.int64), len(ties))
    component = join(np.arange(nodes), first, np.concatenate(clusters))[: len(names)]
    leader = {int(c): str(names[i]) for i, c in reversed(list(enumerate(component)))}
    return tuple(leader[int(component[m])] for m in member)


def has_near_duplicate(
    thumbnails: Thumbnails, others: Thumbnails, threshold: float = THRESHOLD
) -> npt.NDArray[np.bool_]:
    """Which of `thumbnails` (N) are near-duplicates of any of `others`."""
    found = np.zeros(len(thumbnails), dtype=bool)
    for pairs in find_pairs(thumbnails, others, threshold):
        found[pairs.first] = True
    return found


class _Side(NamedTuple):
    """N thumbnails and what the search asks of them.

    Attributes:
        thumbnails: N×32×32.
        sketches, folded: N×64, see `_sketches` and `_folded`.
        sums: of the thumbnails' pixels, int64 array of N.
        spreads: 1,024 times their standard deviation, float64 array of N.
    """

    thumbnails: Thumbnails
    sketches: Floats
    folded: Floats
    sums: Indices
    spreads: npt.NDArray[np.float64]


def _prepare(thumbnails: Thumbnails) -> _Side:
    sketches = _sketches(thumbnails)
    sums = thumbnails.sum(axis=(1, 2), dtype=np.int64)
    squares = _products(thumbnails, thumbnails)
    spreads = np.sqrt(PIXELS * squares - sums**2)
    return _Side(thumbnails, sketches, _folded(sketches), sums, spreads)


def _sketches(thumbnails: Thumbnails) -> Floats:
    """N×(KEPT²): the low-frequency coefficients, and in place of the constant one (always 0) the
    length of all that is left out. Unit length; zero for flat pictures."""
    basis = _cosines()
    parts = []
    for start in range(0, len(thumbnails), COLUMNS):
        units = unit_vectors(thumbnails[start : start + COLUMNS])
        low = np.einsum("ki,nij,lj->nkl", basis, units, basis, optimize=True)
        size = np.square(units).sum(axis=(1, 2))
        low[:, 0, 0] = 0
        low[:, 0, 0] = np.sqrt(np.maximum(size - np.square(low).sum(axis=(1, 2)), 0))
        parts.append(low.reshape(-1, KEPT * KEPT).astype(np.float32))
    return np.concatenate(parts) if parts else np.zeros((0, KEPT * KEPT), np.float32)


def _cosines() -> npt.NDArray[np.float32]:
    """The first KEPT rows of the orthonormal cosine transform (DCT-II) of a thumbnail."""
    k, i = np.arange(KEPT)[:, None], np.arange(THUMBNAIL_SIZE)[None]
    rows = np.sqrt(2 / THUMBNAIL_SIZE) * np.cos(np.pi * k * (2 * i + 1) / (2 * THUMBNAIL_SIZE))
    rows[0] /= np.sqrt(2)
    cosines: Floats = rows.astype(np.float32)
    return cosines


def _folded(sketches: Floats) -> Floats:
    """Sketches (N×64) folded by the eight turns, of the same length.

    The product of two folded sketches is at least that of the sketches in every turn. A turn may
    exchange the coefficients a of frequency (k, l) and b of (l, k), and changes the sign of both,
    of one or of neither, depending on whether k and l are odd.
    """
    low = sketches.reshape(-1, KEPT, KEPT)
    folded = np.empty_like(low)
    for k in range(KEPT):
        folded[:, k, k] = np.abs(low[:, k, k]) if k % 2 else low[:, k, k]
        for other in range(k):
            a, b = low[:, k, other], low[:, other, k]
            if k % 2 != other % 2:  # each sign changes by itself
                one, two = np.abs(a), np.abs(b)
                one, two = np.maximum(one, two), np.minimum(one, two)
            else:  # both signs change where both frequencies are odd, and none where they are even
                one, two = (a + b) / np.float32(np.sqrt(2)), np.abs(a - b) / np.float32(np.sqrt(2))
                one = np.abs(one) if k % 2 else one
            folded[:, k, other], folded[:, other, k] = one, two
    return folded.reshape(-1, KEPT * KEPT)


def _turned_bounds(first: Floats, second: Floats) -> Floats:
    """What the correlation of M pairs is at most: their sketches' product in each turn of the
    first, M×8 in the order of TURN_NAMES."""
    transposed = first.reshape(-1, KEPT, KEPT).swapaxes(1, 2).reshape(-1, KEPT * KEPT)
    mirrors, after = _mirrors(), _mirrors()[:, [0, 2, 1, 3]]  # see TURNS
    return np.concatenate([(first * second) @ mirrors, (transposed * second) @ after], axis=1)


def _mirrors() -> Floats:
    """The signs of the cosine coefficients (64×4) as they are, mirrored, upside down and both."""
    plain, odd = np.ones(KEPT, np.float32), (-1.0) ** np.arange(KEPT, dtype=np.float32)
    signs = [np.outer(rows, columns) for rows in (plain, odd) for columns in (plain, odd)]
    return np.stack(signs).reshape(4, KEPT * KEPT).T


def _likely(
    one: _Side, two: _Side, corner: tuple[int, int], threshold: float
) -> tuple[Indices, Indices]:
    """The pairs of a block (its first row and column) that may correlate at the threshold."""
    top, left = corner
    bound = one.folded[top : top + ROWS] @ two.folded[left : left + COLUMNS].T
    # Flat: numpy takes ten times as long to find what is set in two dimensions.
    at = np.flatnonzero(bound.ravel() >= np.float32(threshold - SLACK))
    return at // bound.shape[1] + top, at % bound.shape[1] + left


def _compare(one: _Side, two: _Side, first: Indices, second: Indices, threshold: float) -> Pairs:
    """Those of M pairs (indices of `one` and of `two`) that correlate at the threshold or above,
    with their best turn; of equal turns the first one."""
    bounds = _turned_bounds(one.sketches[first], two.sketches[second])
    tried = bounds >= np.float32(threshold - SLACK)
    best = np.full(len(first), -1.0)
    turn = np.zeros(len(first), np.uint8)
    for number, name in enumerate(TURN_NAMES):
        at = np.flatnonzero(tried[:, number])
        i, j = first[at], second[at]
        products = _products(TURNS[name](one.thumbnails[i]), two.thumbnails[j])
        correlation = (PIXELS * products - one.sums[i] * two.sums[j]) / (
            one.spreads[i] * two.spreads[j]
        )
        better = correlation > best[at]
        best[at[better]], turn[at[better]] = correlation[better], number
    near = np.flatnonzero(best >= threshold)
    return Pairs(first[near], second[near], best[near].astype(np.float32), turn[near])


def _products(one: Thumbnails, two: Thumbnails) -> Indices:
    """The sums of the products of the pixels of M thumbnails and M others, exact."""
    sums: Indices = np.einsum("nij,nij->n", one, two, dtype=np.int32).astype(np.int64)
    return sums
