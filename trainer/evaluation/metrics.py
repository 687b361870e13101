"""Figures of a classifier on a labelled set, in the shape of metrics.json.

Their intervals are those of `trainer.evaluation.intervals`: over groups, since slices of one study
are not independent; None where the data cannot tell one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.study import pooled
from trainer.evaluation.intervals import (
    FEWEST_GROUPS,
    Interval,
    auc_interval,
    bca_intervals,
    mean_interval,
    mean_of_shares,
    share_interval,
)
from trainer.evaluation.temperature import expected_calibration_error

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def compute_metrics(
    probabilities: npt.NDArray[np.floating],
    labels: Labels,
    class_names: Sequence[str],
    groups: Sequence[str],
    *,
    protocol: str,
    split: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, per-class figures, calibration and intervals.

    Args:
        probabilities: N×C, rows sum to 1.
        labels: N indices into `class_names`.
        groups: N names; intervals are over them.
        protocol, split: what was measured on, kept beside the figures.

    Returns:
        A dict that JSON can hold; what cannot be known (a class without images) is None. Where all
        images are of one class, so are kappa and the class's precision and F1, which would be
        perfect whatever is answered. Means over classes are over the classes that have images.
    """
    from sklearn.metrics import log_loss

    classes = np.arange(len(class_names))
    rows = probabilities.astype(np.float64)
    predicted = rows.argmax(axis=1)
    confusion = _confusions(labels, predicted, np.zeros(len(labels), np.int64), len(classes))[0]
    overall, per_class = _from_confusion(confusion)
    whole, each = _intervals(labels, predicted, class_names, groups, seed)
    if (there := np.unique(labels)).size == 1:
        overall["kappa"], whole["kappa"] = np.nan, None
        for key in ("precision", "f1"):
            per_class[key][there[0]], each[there[0]][key] = np.nan, None
    losses = -np.log(_safe(rows)[np.arange(len(labels)), labels])
    squares = np.square(rows - np.eye(len(classes))[labels]).sum(axis=1)
    return {
        "protocol": protocol,
        "split": split,
        "n": len(labels),
        "groups": len(set(groups)),
        **{name: _known(value) for name, value in overall.items()},
        "per_class": {
            name: {key: _known(values[c]) for key, values in per_class.items()}
            | _areas(rows[:, c], labels == c)
            | {
                "n": int(confusion[c].sum()),
                "interval95": each[c],
            }
            for c, name in enumerate(class_names)
        },
        "log_loss": float(log_loss(labels, _safe(rows), labels=classes)),
        "brier": float(squares.mean()),
        "ece": expected_calibration_error(rows, labels),
        "confusion": confusion.astype(int).tolist(),
        "interval95": whole
        | {
            "log_loss": mean_interval(losses, groups, seed),
            "brier": mean_interval(squares, groups, seed),
        },
    }


def per_source(
    predicted: Labels,
    labels: Labels,
    class_names: Sequence[str],
    groups: Sequence[str],
    sources: Sequence[str],
    answered: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Any] | None:
    """Figures by source that hold for a source of one class too, with intervals: accuracy, recall
    of each class that is there, and which share of all slices is `predicted` as each class; None
    without sources.

    Args:
        answered: N, which best guesses the device would give as an answer; with them `answered`,
            the share of all slices that is answered as each class, `coverage`, and `error` among
            the answers; None where unknown.
    """
    if not any(sources):
        return None
    names = np.asarray([s or "unknown" for s in sources])
    members = np.asarray(groups)
    table: dict[str, Any] = {}
    for source in sorted(set(names.tolist())):
        here = names == source
        right = (predicted == labels)[here]
        owner, truth = members[here].tolist(), labels[here]
        table[source] = {
            "n": len(right),
            "groups": len(set(owner)),
            "accuracy": float(right.mean()),
            "interval95": {"accuracy": share_interval(right, owner)},
            "recall": {
                name: share_of(right[truth == c], members[here & (labels == c)].tolist())
                for c, name in enumerate(class_names)
                if (truth == c).any()
            },
            "predicted": _shares(predicted[here], class_names, owner),
            "answered": None,
            "coverage": None,
            "error": None,
        }
        if answered is not None:
            given = answered[here]
            table[source] |= {
                "answered": _shares(np.where(given, predicted[here], -1), class_names, owner),
                "coverage": share_of(given, owner),
                "error": share_of(~right[given], members[here][given].tolist()),
            }
    return table


def _shares(
    guesses: Labels, class_names: Sequence[str], groups: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The share of each class among N guesses."""
    return {name: share_of(guesses == c, groups) for c, name in enumerate(class_names)}


def share_of(hits: npt.NDArray[Any], groups: Sequence[str]) -> dict[str, Any]:
    """The share of true `hits` with its size and interval: {"n", "share", "interval95"}; None
    where n is 0, or where no interval can be told."""
    if len(hits) == 0:
        return {"n": 0, "share": None, "interval95": None}
    return {
        "n": len(hits),
        "share": float(hits.mean()),
        "interval95": share_interval(hits, groups),
    }


def auc_of(
    scores: Floats, positive: npt.NDArray[np.bool_], groups: Sequence[str]
) -> dict[str, Any] | None:
    """The area under the ROC curve with its sizes and interval, see `auc_interval`: {"positives",
    "negatives", "auc", "interval95"}; None without slices of either side."""
    count = int(positive.sum())
    if count in (0, len(positive)):
        return None
    area, interval = auc_interval(scores, positive, groups)
    return {
        "positives": count,
        "negatives": len(positive) - count,
        "auc": area,
        "interval95": interval,
    }


def study_probabilities(
    probabilities: Floats, labels: Labels, patients: Sequence[str], groups: Sequence[str]
) -> tuple[Floats, Labels, list[str]] | None:
    """One answer a study, by the rule of the device (`edge_runtime.decision.study.pooled`).

    A study is the slices of one patient that carry one label; slices without a patient have none.

    Returns:
        S×C probabilities, S labels, S groups; None where no patient is known.
    """
    keys = [f"{p}\t{label}" if p else "" for p, label in zip(patients, labels, strict=True)]
    known = np.flatnonzero([bool(k) for k in keys])
    if known.size == 0:
        return None
    _, first, member = np.unique(np.asarray(keys)[known], return_index=True, return_inverse=True)
    answers = np.stack([pooled(probabilities[known[member == i]]) for i in range(len(first))])
    return answers, labels[known[first]], [groups[i] for i in known[first]]


def balanced_accuracy(predicted: Labels, labels: Labels) -> float:
    """The mean recall of the classes that are there (N class indices each)."""
    classes = int(max(predicted.max(), labels.max())) + 1
    confusion = _confusions(labels, predicted, np.zeros(len(labels), np.int64), classes)[0]
    return float(_from_confusion(confusion)[0]["balanced_accuracy"])


def _confusions(labels: Labels, predicted: Labels, member: Labels, classes: int) -> Floats:
    """A confusion matrix (true×predicted) for each member number."""
    shape = (int(member.max(initial=0)) + 1, classes, classes)
    counts = np.bincount(
        (member * classes + labels) * classes + predicted, minlength=np.prod(shape)
    )
    return counts.reshape(shape).astype(np.float64)


def _intervals(
    labels: Labels, predicted: Labels, class_names: Sequence[str], groups: Sequence[str], seed: int
) -> tuple[dict[str, Interval], list[dict[str, Interval]]]:
    """Intervals of the overall figures of `_from_confusion`, and of those of each class."""
    classes = range(len(class_names))
    names, member = np.unique(np.asarray(groups), return_inverse=True)

    def share(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Interval:
        return share_interval(hits[among], names[member[among]].tolist()) if among.any() else None

    each: list[dict[str, Interval]] = []
    for c in classes:
        real, found = labels == c, predicted == c
        each.append(
            {
                "precision": share(real, found),
                "recall": share(found, real),
                "specificity": share(~found, ~real),
            }
        )
    size = len(class_names)
    sums = _confusions(labels, predicted, member, size).reshape(-1, size * size)

    def statistics(summed: Floats) -> dict[str, Floats]:
        overall, per_class = _from_confusion(summed.reshape(*summed.shape[:-1], size, size))
        return {"kappa": overall["kappa"]} | {str(c): per_class["f1"][..., c] for c in classes}

    drawn = bca_intervals(sums, statistics, seed)
    for c in classes:
        few = np.unique(member[labels == c]).size < FEWEST_GROUPS
        each[c]["f1"] = None if few else drawn[str(c)]
    there = np.unique(labels).tolist()
    recalls = [float((predicted == c)[labels == c].mean()) for c in there]
    return {
        "accuracy": share(labels == predicted, np.ones(len(labels), bool)),
        "balanced_accuracy": mean_of_shares(recalls, [each[c]["recall"] for c in there]),
        "kappa": drawn["kappa"],
    }, each


def _from_confusion(confusion: Floats) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overall and per-class figures of confusion matrices (…×C×C); NaN where not defined."""
    total = confusion.sum(axis=(-2, -1))
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    real, found = confusion.sum(axis=-1), confusion.sum(axis=-2)
    others = total[..., None] - real
    expected = (real * found).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mean over no class is NaN, as meant
        recall = hits / real
        per_class = {
            "precision": hits / found,
            "recall": recall,
            "specificity": (others - (found - hits)) / others,
            "f1": 2 * hits / np.where(real > 0, found + real, np.nan),
        }
        overall = {
            "accuracy": hits.sum(axis=-1) / total,
            "balanced_accuracy": np.nanmean(recall, axis=-1),
            "kappa": (total * hits.sum(axis=-1) - expected) / (total * total - expected),
        }
    return overall, per_class


def _areas(score: Floats, positive: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Areas under the one-against-the-rest ROC and precision-recall curves."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if positive.all() or not positive.any():
        return {"auc": None, "average_precision": None}
    precision = float(average_precision_score(positive, score))
    return {
        "auc": float(roc_auc_score(positive, score)),
        "average_precision": min(precision, 1.0),  # a sum, which may be rounded up
    }


def _known(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _safe(probabilities: Floats) -> Floats:
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, None)
    normalised: Floats = clipped / clipped.sum(axis=1, keepdims=True)
    return normalised
