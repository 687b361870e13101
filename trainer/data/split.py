"""Splits that keep a group on one side."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from trainer.data.dataset import Dataset

Indices = npt.NDArray[np.int64]
PROTOCOLS = ("official", "grouped")


@dataclass(frozen=True)
class Split:
    """Indices of the three sides; `test` may be empty.

    Attributes:
        protocol: `official` (the data's own Testing folder), `grouped` (a fifth of all groups),
            or `none` (no test side).
    """

    protocol: str
    train: Indices
    validation: Indices
    test: Indices


def split_dataset(data: Dataset, protocol: str, seed: int) -> Split:
    """Split into training, validation and test sides.

    Validation is about a seventh of the training side, by groups, stratified by class and source
    (scikit-learn's StratifiedGroupKFold). `official` tests on the Testing folder, whatever it
    shares with Training; `grouped` ignores the folders and holds out a fifth of the groups.

    Raises:
        DataError: too few groups to split, or a side without one of the classes.
    """
    everything = np.arange(len(data))
    if protocol == "grouped":
        rest, test = _hold_out(data, everything, 5, seed)
    else:
        test = data.where("testing")
        rest = np.setdiff1d(everything, test)
        protocol = "official" if test.size else "none"
    train, validation = _hold_out(data, rest, 7, seed)
    for name, side in (("training", train), ("validation", validation)):
        missing = set(range(len(data.class_names))) - set(data.labels[side].tolist())
        if missing:
            names = [data.class_names[i] for i in sorted(missing)]
            raise DataError(f"no image of {', '.join(names)} on the {name} side: too few groups")
    return Split(protocol, train, validation, test)


def _hold_out(data: Dataset, pool: Indices, parts: int, seed: int) -> tuple[Indices, Indices]:
    """Divide `pool` by groups; the second side is about one part of `parts`."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.asarray(data.groups)[pool]
    if len(set(groups)) < parts:
        raise DataError(f"only {len(set(groups))} groups of images; need at least {parts}")
    strata = [f"{data.labels[i]}/{data.sources[i]}" for i in pool]
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stratum smaller than `parts` is fine here
        try:
            kept, held = next(folds.split(pool, strata, groups))
        except ValueError as error:
            raise DataError(f"the images cannot be split by groups: {error}") from None
    return pool[kept], pool[held]
