"""Splits that keep a group on one side.

Of several collections each is divided by itself, as it would be alone, and the sides are united: so
the slices of one stay where they are when another is added. What must stay together over
collections follows the largest of them, see `leaders`. Collections of too few groups are divided
together.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError, did_you_mean
from trainer.data.dataset import Dataset
from trainer.data.tables import first_folder

Indices = npt.NDArray[np.int64]
FOLDS = 5  # `grouped` tests on the first of them
SOURCE = "source:"


@dataclass(frozen=True)
class Split:
    """Indices of the three sides; `test` may be empty.

    Attributes:
        protocol: `official` (the data's own Testing folder), `grouped` (one fold of the groups),
            `source:NAME` (all slices of a source), or `none` (no test side).
        left_out: slices on no side, since they share a group with the test side.
        doubtful: slices on no side, since their label is doubted: only a test side has such.
        part: which of `parts` parts of the groups is tested, counted from 0; what is divided
            beside the slices (see `partial_labels`) follows it.
    """

    protocol: str
    train: Indices
    validation: Indices
    test: Indices
    left_out: int = 0
    part: int = 0
    parts: int = FOLDS
    doubtful: int = 0

    @property
    def train_and_validation(self) -> Indices:
        """The slices that a model may have learned from: training and validation."""
        return np.concatenate([self.train, self.validation])


def split_dataset(data: Dataset, protocol: str, seed: int) -> Split:
    """Split into training, validation and test sides.

    Slices of doubted label are divided with the others and then kept on the test side only.
    Validation is about a seventh of what is not tested, by groups, stratified by class and source
    (scikit-learn's StratifiedGroupKFold), of each collection by itself. `official` tests on the
    Testing folder, whatever it shares with Training; `grouped` ignores the folders and holds out a
    fifth of the groups; `source:NAME` tests on one source.

    Raises:
        DataError: too few groups to split, or a side without one of the classes.
        UsageError: no such source.
    """
    everything = np.arange(len(data))
    if protocol == "grouped":
        return fold_splits(data, FOLDS, seed)[0]
    if protocol.startswith(SOURCE):
        test = _of_source(data, protocol.removeprefix(SOURCE))
    else:
        test = data.where("testing")
        protocol = "official" if test.size else "none"
    rest = np.setdiff1d(everything, test)
    left_out = 0
    if protocol.startswith(SOURCE):
        tested = {data.groups[i] for i in test}
        kept = np.array([data.groups[i] not in tested for i in rest], dtype=bool)
        rest, left_out = rest[kept], int((~kept).sum())
    return _with_validation(data, protocol, rest, test, seed, left_out)


def fold_splits(data: Dataset, folds: int, seed: int) -> list[Split]:
    """Group cross-validation: every slice is on the test side of exactly one of `folds` splits.

    Raises:
        DataError: see `split_dataset`.
    """
    everything = np.arange(len(data))
    number = _parts(data, everything, folds, seed, spread=True)
    return [
        replace(
            _with_validation(
                data, "grouped", everything[number != part], everything[number == part], seed
            ),
            part=part,
            parts=folds,
        )
        for part in range(folds)
    ]


def _of_source(data: Dataset, name: str) -> Indices:
    test = np.flatnonzero(np.asarray(data.sources) == name)
    if test.size == 0:
        there = ", ".join(sorted(set(data.sources) - {""})) or "none: give --groups with a source"
        near = did_you_mean(name, {*data.sources} - {""})
        raise UsageError(f"no image of source {name!r}; sources in the data: {there}{near}")
    return test


def _with_validation(
    data: Dataset, protocol: str, rest: Indices, test: Indices, seed: int, left_out: int = 0
) -> Split:
    """The split whose training and validation sides are made of `rest`."""
    side = np.full(len(data), "", dtype="<U10")
    side[rest], side[test] = "training", "test"
    side[rest[_parts(data, rest, 7, seed, spread=False) == 0]] = "validation"
    # Only `grouped` divides what it tests; what others test stays, whatever shares a group with it.
    chosen = np.union1d(rest, test) if protocol == "grouped" else rest
    side[chosen] = side[leaders(data, chosen)]
    doubted = data.doubtful & np.isin(side, ("training", "validation"))
    side[doubted] = ""
    train, validation, test = (
        np.flatnonzero(side == name) for name in ("training", "validation", "test")
    )
    if protocol == "grouped" and not test.size:
        raise DataError("no image on the test side: too few groups")
    for name, part in (("training", train), ("validation", validation)):
        missing = set(range(len(data.class_names))) - set(data.labels[part].tolist())
        if missing:
            names = [data.class_names[i] for i in sorted(missing)]
            raise DataError(f"no image of {', '.join(names)} on the {name} side: too few groups")
    doubtful = int(doubted.sum())
    return Split(protocol, train, validation, test, left_out, doubtful=doubtful)


class _Pool(NamedTuple):
    """Slices that are divided together: where they stand in the data, and of each its group and
    its stratum (class and source)."""

    slices: Indices
    groups: npt.NDArray[Any]
    strata: npt.NDArray[Any]

    def divides(self, parts: int) -> bool:
        """Whether its groups fill `parts` parts."""
        largest = Counter(self.strata.tolist()).most_common(1)[0][1]
        return len(set(self.groups)) >= parts and largest >= parts


def _pool(slices: Indices, groups: Sequence[str], labels: Any, sources: Sequence[str]) -> _Pool:
    strata = [f"{labels[i]}/{sources[i]}" for i in slices]
    return _Pool(slices, np.asarray(groups)[slices], np.asarray(strata))


def _own_pools(data: Dataset, chosen: Indices) -> list[_Pool]:
    """The slices of each of several collections among `chosen`, named as it would name them
    alone."""
    pools = []
    collection = _collection_numbers(data)
    for number in np.unique(collection):
        members = np.flatnonzero(collection == number)
        # Numbered among its own classes: the order of strata tells between equally good folds.
        labels = np.searchsorted(np.unique(data.labels[members]), data.labels)
        mine = np.intersect1d(members, chosen)
        if mine.size:
            pools.append(_pool(mine, data.own_groups, labels, data.own_sources))
    return pools


def _parts(data: Dataset, chosen: Indices, parts: int, seed: int, *, spread: bool) -> Indices:
    """In which of `parts` parts by groups each of the slices `chosen` is.

    Each of several collections is divided by itself. Those of too few groups are divided together;
    where these are still too few, beside others that are not, they are spread over as many parts
    as there are groups, or are in none (-1).

    Raises:
        DataError: nothing has as many groups as parts.
    """
    number = np.full(len(data), -1, dtype=np.int64)
    pools = _own_pools(data, chosen) if data.own_groups else []
    whole = [pool for pool in pools if pool.divides(parts)]
    for pool in whole:
        number[pool.slices] = _numbered(pool, parts, seed)
    divided = [pool.slices for pool in whole]
    rest = np.setdiff1d(chosen, np.concatenate(divided)) if divided else chosen
    if rest.size or not whole:
        pool = _pool(rest, data.groups, data.labels, data.sources)
        if not whole or pool.divides(parts):
            number[rest] = _numbered(pool, parts, seed)
        elif spread:
            few = min(parts, len(set(pool.groups)))
            alike = pool._replace(strata=np.zeros(len(rest)))  # there are too few to stratify
            number[rest] = _numbered(alike, few, seed) if few > 1 else 0
    return number[chosen]


def _numbered(pool: _Pool, parts: int, seed: int) -> Indices:
    """The part of each slice of a pool.

    Raises:
        DataError: too few groups.
    """
    if len(set(pool.groups)) < parts:
        raise DataError(f"only {len(set(pool.groups))} groups of images; need at least {parts}")
    number = np.empty(len(pool.slices), dtype=np.int64)
    try:
        for part, (_, inside) in enumerate(group_folds(pool.strata, pool.groups, parts, seed)):
            number[inside] = part
    except ValueError as error:
        raise DataError(f"the images cannot be split by groups: {error}") from None
    return number


def _collection_numbers(data: Dataset) -> Indices:
    """The number of each slice's collection, of several; 0 for the largest."""
    names = [first_folder(path) for path in data.paths]
    sizes = Counter(names)
    order = {name: i for i, name in enumerate(sorted(sizes, key=lambda n: (-sizes[n], n)))}
    return np.array([order[name] for name in names], dtype=np.int64)


def leaders(data: Dataset, chosen: Indices) -> Indices:
    """For each of the slices `chosen` the one whose side it takes.

    A group that reaches over collections goes where the largest of these has it. Where others
    join what that one keeps apart, the part with the most slices decides.

    Returns:
        Indices into `data`.
    """
    if not data.own_groups:
        return chosen
    collection = _collection_numbers(data)
    by_group: dict[str, dict[tuple[int, str], list[int]]] = {}
    for i in chosen.tolist():
        own = by_group.setdefault(data.groups[i], {})
        own.setdefault((int(collection[i]), data.own_groups[i]), []).append(i)
    first = {
        group: min(own, key=lambda each: (each[0], -len(own[each]), each[1]))
        for group, own in by_group.items()
    }
    led = [by_group[data.groups[i]][first[data.groups[i]]][0] for i in chosen.tolist()]
    return np.array(led, dtype=np.int64)


def group_folds(
    strata: Sequence[Any] | npt.NDArray[Any], groups: npt.NDArray[Any], parts: int, seed: int
) -> list[tuple[Indices, Indices]]:
    """Divide N things in `parts` ways, no group on two sides and each stratum spread over all as
    well as can be (scikit-learn's StratifiedGroupKFold).

    Returns:
        Indices of each way's larger and smaller side.

    Raises:
        ValueError: fewer groups than parts, or strata smaller than them throughout.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stratum smaller than `parts` is fine here
        return list(folds.split(np.zeros(len(groups)), strata, groups))


def split_facts(data: Dataset, split: Split) -> dict[str, Any]:
    """What a run, and a model file of it, state of the data and its split: the data's digest, of
    several DATA each one's too, and how many images and groups there are and images on each
    side."""
    each = {"each_sha256": list(data.each_sha256)} if data.each_sha256 else {}
    return {
        "sha256": data.sha256,
        **each,
        "images": len(data),
        "groups": len(set(data.groups)),
        "training": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
    }
