"""Near-duplicates: pictures that are copies of each other but for brightness, mirroring or a turn.

Two slices are near-duplicates when their thumbnails (32×32, area-averaged, the whole picture)
correlate at THRESHOLD or above in one of the eight ways to turn and mirror a square. The search is
exact and fast: the thumbnails' low-frequency cosine coefficients and the length of what they leave
out give an upper bound of the correlation (Parseval; Cauchy-Schwarz), so a matrix product of 64
columns finds every candidate, and only candidates are compared in full. In the cosine basis a
mirror image is a change of signs and a quarter turn a transposition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.98
THUMBNAIL_SIZE = 32
KEPT = 8  # cosine coefficients kept along each axis
ROWS, COLUMNS = 1024, 4096  # of one block of the comparison: bounds the memory
BATCH = 16_384  # candidates compared in full at a time

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

    Flat pictures have no direction; they become zero and correlate with nothing.
    """
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL_SIZE * THUMBNAIL_SIZE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1.0, flat / np.maximum(length, 1.0), 0).reshape(
        -1, THUMBNAIL_SIZE, THUMBNAIL_SIZE
    )


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
        The pairs of a block; each pair once, with its best turn. Memory depends on the block's
        size and on the N+M sketches of 64 numbers, not on the number of pairs in all.
    """
    alone = others is None
    second = thumbnails if others is None else others
    sketches = _sketches(second)
    own = sketches if alone else _sketches(thumbnails)
    for top in range(0, len(thumbnails), ROWS):
        rows = slice(top, min(top + ROWS, len(thumbnails)))
        turned = [_turned_sketches(own[rows], name) for name in TURN_NAMES]
        units = unit_vectors(thumbnails[rows])
        for left in range(top if alone else 0, len(second), COLUMNS):
            columns = slice(left, min(left + COLUMNS, len(second)))
            found = _block(turned, units, sketches[columns], second[columns], threshold)
            first, other = found.first + top, found.second + left
            kept = first < other if alone else np.ones(len(first), bool)
            if kept.any():
                yield Pairs(first[kept], other[kept], found.correlation[kept], found.turn[kept])


def clusters(thumbnails: Thumbnails, threshold: float = THRESHOLD) -> Indices:
    """A cluster number for each picture; near-duplicates, and theirs in turn, share one."""
    labels = np.arange(len(thumbnails))
    for pairs in find_pairs(thumbnails, threshold=threshold):
        labels = join(labels, pairs.first, pairs.second)
    return labels


def join(labels: Indices, first: Indices, second: Indices) -> Indices:
    """Cluster numbers (N) after the clusters of each `first` and `second` have become one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = int(labels.max()) + 1 if len(labels) else 0
    edges = (np.ones(len(first), np.int8), (labels[first], labels[second]))
    _, component = connected_components(coo_matrix(edges, shape=(n, n)), directed=False)
    joined: Indices = component[labels].astype(np.int64)
    return joined


def merge_groups(groups: Sequence[str], labels: Indices) -> tuple[str, ...]:
    """Groups (N names) in which no cluster of near-duplicates (N numbers) is split any more.

    A group that a cluster ties to others takes the first of their names.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    # A graph whose nodes are the groups, then the clusters; each picture ties its two.
    both = np.arange(len(names) + int(labels.max(initial=-1)) + 1)
    component = join(both, member.astype(np.int64), labels + len(names))[: len(names)]
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


def _turned_sketches(sketches: Floats, turn: str) -> Floats:
    """The sketches of the pictures after a turn, found by turning a picture of the signs."""
    low = sketches.reshape(-1, KEPT, KEPT)
    sign = (-1.0) ** np.arange(KEPT, dtype=np.float32)
    if turn in ("transposed", "turned 90", "turned 270", "transposed across"):
        low = low.swapaxes(1, 2)
    if turn in ("upside down", "turned 180", "turned 90", "transposed across"):
        low = low * sign[None, :, None]
    if turn in ("mirrored", "turned 180", "turned 270", "transposed across"):
        low = low * sign[None, None, :]
    return np.ascontiguousarray(low.reshape(-1, KEPT * KEPT), dtype=np.float32)


def _block(
    turned: list[Floats], units: Floats, sketches: Floats, others: Thumbnails, threshold: float
) -> Pairs:
    """The pairs of one block of rows and columns, indices within the block."""
    found: list[tuple[npt.NDArray[Any], ...]] = []
    other_units: Floats | None = None
    for number, (name, rows) in enumerate(zip(TURN_NAMES, turned, strict=True)):
        bound = rows @ sketches.T
        first, second = np.nonzero(bound >= threshold - 1e-4)  # float32 rounding
        if len(first) == 0:
            continue
        if other_units is None:
            other_units = unit_vectors(others)
        exact = _correlations(units, other_units, first, second, name)
        kept = exact >= threshold
        turn = np.full(int(kept.sum()), number, np.uint8)
        found.append((first[kept], second[kept], exact[kept], turn))
    if not found:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0, np.float32), np.zeros(0, np.uint8))
    columns: list[npt.NDArray[Any]] = [np.concatenate(part) for part in zip(*found, strict=True)]
    first, second, correlation, turns = columns
    order = np.lexsort((turns, -correlation, second, first))
    columns = [column[order] for column in columns]
    new = np.ones(len(order), bool)  # the first entry of each pair is its best turn
    new[1:] = (columns[0][1:] != columns[0][:-1]) | (columns[1][1:] != columns[1][:-1])
    return Pairs(*(column[new] for column in columns))


def _correlations(
    units: Floats, others: Floats, first: Indices, second: Indices, turn: str
) -> Floats:
    exact = np.empty(len(first), np.float32)
    for start in range(0, len(first), BATCH):
        part = slice(start, start + BATCH)
        exact[part] = np.einsum("nij,nij->n", TURNS[turn](units[first[part]]), others[second[part]])
    return exact
