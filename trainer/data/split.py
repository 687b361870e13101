"""Splits that keep a group on one side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError, did_you_mean
from trainer.data.dataset import Dataset

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

    @property
    def train_and_validation(self) -> Indices:
        """The slices that a model may have learned from: training and validation."""
        return np.concatenate([self.train, self.validation])


def split_dataset(data: Dataset, protocol: str, seed: int) -> Split:
    """Split into training, validation and test sides.

    Validation is about a seventh of what is not tested, by groups, stratified by class and source
    (scikit-learn's StratifiedGroupKFold). `official` tests on the Testing folder, whatever it
    shares with Training; `grouped` ignores the folders and holds out a fifth of the groups;
    `source:NAME` tests on one source.

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
    return [
        replace(_with_validation(data, "grouped", rest, test, seed), part=part, parts=folds)
        for part, (rest, test) in enumerate(_folds(data, everything, folds, seed))
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
    train, validation = _folds(data, rest, 7, seed)[0]
    for name, part in (("training", train), ("validation", validation)):
        missing = set(range(len(data.class_names))) - set(data.labels[part].tolist())
        if missing:
            names = [data.class_names[i] for i in sorted(missing)]
            raise DataError(f"no image of {', '.join(names)} on the {name} side: too few groups")
    return Split(protocol, train, validation, test, left_out)


def _folds(data: Dataset, pool: Indices, parts: int, seed: int) -> list[tuple[Indices, Indices]]:
    """Divide `pool` by groups, in `parts` ways; the second side is about one part."""
    groups = np.asarray(data.groups)[pool]
    if len(set(groups)) < parts:
        raise DataError(f"only {len(set(groups))} groups of images; need at least {parts}")
    strata = [f"{data.labels[i]}/{data.sources[i]}" for i in pool]
    try:
        folds = group_folds(strata, groups, parts, seed)
    except ValueError as error:
        raise DataError(f"the images cannot be split by groups: {error}") from None
    return [(pool[rest], pool[part]) for rest, part in folds]


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
