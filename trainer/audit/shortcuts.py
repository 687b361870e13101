"""Shortcuts: file statistics that tell the class before anyone has looked at the picture.

Where a small decision tree tells the classes from a file's size or its mode, a network can do the
same, and a good figure need not mean that it found a tumour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.file_statistics import FILE_STATISTICS
from trainer.data.split import group_folds
from trainer.evaluation.metrics import balanced_accuracy

ALL = "all ten together"
FOLDS = 5
LEAVES = 16
ENOUGH = 20_000  # images; more only take longer
MARGIN = 0.1  # above chance
ERRORS = 4  # standard errors above chance: eleven answers are judged at once
Labels = npt.NDArray[np.int64]


def measure_shortcuts(
    statistics: npt.NDArray[np.float32], labels: Sequence[str], groups: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """How well each of FILE_STATISTICS alone, and all together, tell the class of unseen groups.

    A decision tree of LEAVES leaves, balanced accuracy cross-validated over groups; its standard
    error counts a group, not an image, as one observation.

    Args:
        statistics: N×10, see `file_statistics`.
        labels, groups: one text per image.

    Returns:
        `chance`, `images`, `folds`, `each` (name -> `balanced_accuracy`, `standard_error`,
        `above_chance`), `above_chance` (names, best first) and `reason`, None unless there are
        too few classes or groups to measure anything; then the figures are missing.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(labels))[:ENOUGH])
    names, codes = np.unique(np.asarray(labels)[chosen], return_inverse=True)
    group = np.unique(np.asarray(groups)[chosen], return_inverse=True)[1]
    result: dict[str, Any] = {
        "chance": 1 / len(names), "images": len(chosen), "folds": None, "each": {},
        "above_chance": [], "reason": None,
    }  # fmt: skip
    fewest = min(len(set(group[codes == c].tolist())) for c in range(len(names)))
    if len(names) < 2 or fewest < 2:
        result["reason"] = (
            "only one class" if len(names) < 2 else "a class has fewer than two groups of images"
        )
        return result
    folds = group_folds(codes, group, min(FOLDS, fewest), seed)
    values = statistics[chosen]
    columns = {name: values[:, [i]] for i, name in enumerate(FILE_STATISTICS)} | {ALL: values}
    for name, column in columns.items():
        predicted = _predict(column, codes, folds)
        score = balanced_accuracy(predicted, codes)
        error = standard_error(predicted == codes, codes, group)
        above = score > 1 / len(names) + max(MARGIN, ERRORS * error)
        result["each"][name] = {
            "balanced_accuracy": score, "standard_error": error, "above_chance": above
        }  # fmt: skip
    result["folds"] = len(folds)
    above_chance = [name for name, row in result["each"].items() if row["above_chance"]]
    result["above_chance"] = sorted(
        above_chance, key=lambda name: -result["each"][name]["balanced_accuracy"]
    )
    return result


def standard_error(right: npt.NDArray[np.bool_], codes: Labels, groups: Labels) -> float:
    """Of the balanced accuracy, with groups as the independent units.

    Args:
        right: bool array of N, whether an image's class was predicted.
        codes, groups: int64 arrays of N.
    """
    variances = []
    for c in np.unique(codes):
        of_class = codes == c
        sums = np.bincount(groups[of_class], weights=right[of_class] - right[of_class].mean())
        variances.append(np.square(sums).sum() / of_class.sum() ** 2)
    return float(np.sqrt(np.sum(variances)) / len(variances))


def _predict(
    values: npt.NDArray[np.float32], codes: Labels, folds: list[tuple[Labels, Labels]]
) -> Labels:
    """The class of each image by a tree that has not seen its group."""
    from sklearn.tree import DecisionTreeClassifier

    predicted = np.zeros(len(codes), np.int64)
    for train, test in folds:
        tree = DecisionTreeClassifier(
            max_leaf_nodes=LEAVES, class_weight="balanced", random_state=0
        )
        tree.fit(values[train], codes[train])
        predicted[test] = tree.predict(values[test])
    return predicted
