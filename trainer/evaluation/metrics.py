"""Figures of a classifier on a labelled set, in the shape of metrics.json.

Intervals are 95 % percentile bootstraps over groups: slices of one study are not independent, so
whole groups are drawn (Field and Welsh, Bootstrapping clustered data, 2007).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.study import pooled
from trainer.evaluation.calibration import expected_calibration_error

RESAMPLES = 2000
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
        groups: N names; intervals are bootstrapped over them.
        protocol, split: what was measured on, kept beside the figures.

    Returns:
        A dict that JSON can hold; what cannot be known (a class without images) is None. Means
        over classes are over the classes that have images.
    """
    from sklearn.metrics import log_loss

    classes = np.arange(len(class_names))
    shares = probabilities.astype(np.float64)
    predicted = shares.argmax(axis=1)
    confusion = _confusions(labels, predicted, np.zeros(len(labels), np.int64), len(classes))[0]
    overall, per_class = _from_confusion(confusion)
    drawn = _resampled(labels, predicted, groups, len(classes), seed)
    drawn_overall, drawn_class = _from_confusion(drawn)
    losses = -np.log(_safe(shares)[np.arange(len(labels)), labels])
    squares = np.square(shares - np.eye(len(classes))[labels]).sum(axis=1)
    return {
        "protocol": protocol,
        "split": split,
        "n": len(labels),
        "groups": len(set(groups)),
        **{name: _known(value) for name, value in overall.items()},
        "per_class": {
            name: {key: _known(values[c]) for key, values in per_class.items()}
            | _areas(shares[:, c], labels == c)
            | {
                "n": int(confusion[c].sum()),
                "interval95": {key: _interval(v[:, c]) for key, v in drawn_class.items()},
            }
            for c, name in enumerate(class_names)
        },
        "log_loss": float(log_loss(labels, _safe(shares), labels=classes)),
        "brier": float(squares.mean()),
        "ece": expected_calibration_error(shares, labels),
        "confusion": confusion.astype(int).tolist(),
        "interval95": {name: _interval(values) for name, values in drawn_overall.items()}
        | {
            "log_loss": group_interval(losses, groups, seed),
            "brier": group_interval(squares, groups, seed),
        },
    }


def per_source(
    predicted: Labels,
    labels: Labels,
    class_names: Sequence[str],
    groups: Sequence[str],
    sources: Sequence[str],
) -> dict[str, Any] | None:
    """Accuracy and recall of each class by source, with intervals; None without sources."""
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
            "interval95": {"accuracy": group_interval(right, owner)},
            "recall": {
                name: share_of(right[truth == c], members[here & (labels == c)].tolist())
                for c, name in enumerate(class_names)
                if (truth == c).any()
            },
        }
    return table


def share_of(hits: npt.NDArray[Any], groups: Sequence[str]) -> dict[str, Any]:
    """A share with its size and interval: {"n", "share", "interval95"}; None where n is 0."""
    if len(hits) == 0:
        return {"n": 0, "share": None, "interval95": None}
    return {
        "n": len(hits),
        "share": float(hits.mean()),
        "interval95": group_interval(hits, groups),
    }


def study_probabilities(
    probabilities: Floats, labels: Labels, patients: Sequence[str], groups: Sequence[str]
) -> tuple[Floats, Labels, list[str]] | None:
    """One answer a study, by the rule of the device (`edge_runtime.study.pooled`).

    A study is the slices of one patient that carry one label; slices without a patient have none.

    Returns:
        S×C probabilities, S labels, S groups; None where no patient is known.
    """
    keys = [f"{p}\t{label}" if p else "" for p, label in zip(patients, labels, strict=True)]
    known = np.flatnonzero([bool(k) for k in keys])
    if known.size == 0:
        return None
    _, first, member = np.unique(np.asarray(keys)[known], return_index=True, return_inverse=True)
    shares = np.stack([pooled(probabilities[known[member == i]]) for i in range(len(first))])
    return shares, labels[known[first]], [groups[i] for i in known[first]]


def group_interval(
    values: npt.NDArray[Any], groups: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> list[float]:
    """95 % percentile bootstrap interval of the mean of `values`, resampling whole groups."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(member, weights=values.astype(np.float64))
    counts = np.bincount(member).astype(np.float64)
    drawn = _draws(len(sums), seed, resamples)
    means = (drawn @ sums) / (drawn @ counts)
    return [float(v) for v in np.percentile(means, [2.5, 97.5])]


def _draws(groups: int, seed: int, resamples: int = RESAMPLES) -> Floats:
    """How often each group is drawn in each resample: resamples×groups."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(np.float64)


def _confusions(labels: Labels, predicted: Labels, member: Labels, classes: int) -> Floats:
    """A confusion matrix (true×called) for each member number."""
    shape = (int(member.max(initial=0)) + 1, classes, classes)
    counts = np.bincount(
        (member * classes + labels) * classes + predicted, minlength=np.prod(shape)
    )
    return counts.reshape(shape).astype(np.float64)


def _resampled(
    labels: Labels, predicted: Labels, groups: Sequence[str], classes: int, seed: int
) -> Floats:
    """Confusion matrices of the resamples: RESAMPLES×C×C."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    each = _confusions(labels, predicted, member, classes).reshape(-1, classes * classes)
    return (_draws(len(each), seed) @ each).reshape(-1, classes, classes)


def _from_confusion(confusion: Floats) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overall and per-class figures of confusion matrices (…×C×C); NaN where not defined."""
    total = confusion.sum(axis=(-2, -1))
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    real, called = confusion.sum(axis=-1), confusion.sum(axis=-2)
    others = total[..., None] - real
    expected = (real * called).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mean over no class is NaN, as meant
        recall = hits / real
        per_class = {
            "precision": hits / called,
            "recall": recall,
            "specificity": (others - (called - hits)) / others,
            "f1": 2 * hits / np.where(real > 0, called + real, np.nan),
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
    return {
        "auc": float(roc_auc_score(positive, score)),
        "average_precision": float(average_precision_score(positive, score)),
    }


def _known(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(values: Floats) -> list[float] | None:
    """The middle 95 % of the resamples in which the figure is defined."""
    defined = values[np.isfinite(values)]
    if defined.size == 0:
        return None
    return [float(v) for v in np.percentile(defined, [2.5, 97.5])]


def _safe(probabilities: Floats) -> Floats:
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, None)
    normalised: Floats = clipped / clipped.sum(axis=1, keepdims=True)
    return normalised
