"""Figures of a classifier on a labelled set, in the shape of metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.calibration import expected_calibration_error


def compute_metrics(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    groups: Sequence[str],
    *,
    protocol: str,
    split: str,
    sources: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, per-class figures, calibration and intervals.

    Args:
        probabilities: N×C, rows sum to 1.
        labels: N indices into `class_names`.
        groups: N names; intervals are bootstrapped over groups, since slices of one study are
            not independent.
        protocol, split: what was measured on, kept beside the figures.
        sources: N names where known, for figures by source.

    Returns:
        A dict that JSON can hold; what cannot be known (a class without images) is None.
    """
    from sklearn.metrics import confusion_matrix, log_loss

    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    classes = range(len(class_names))
    confusion = confusion_matrix(labels, predicted, labels=list(classes))
    per_class = {
        name: _one_class(confusion, probabilities, labels, c) for c, name in enumerate(class_names)
    }
    recalls = [c["recall"] for c in per_class.values() if c["recall"] is not None]
    return {
        "protocol": protocol,
        "split": split,
        "n": len(labels),
        "groups": len(set(groups)),
        "accuracy": float(correct.mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "per_class": per_class,
        "log_loss": float(log_loss(labels, _safe(probabilities), labels=list(classes))),
        "ece": expected_calibration_error(probabilities, labels),
        "confusion": confusion.tolist(),
        "interval95": {"accuracy": group_interval(correct, groups, seed)},
        "controls": None,
        "without_twins": None,
        "per_study": None,
        "per_source": _by_source(correct, labels, sources, class_names),
    }


def group_interval(
    values: npt.NDArray[Any], groups: Sequence[str], seed: int = 0, resamples: int = 2000
) -> list[float]:
    """95 % percentile bootstrap interval of the mean of `values`, resampling whole groups."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(member, weights=values.astype(np.float64))
    counts = np.bincount(member).astype(np.float64)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [float(v) for v in np.percentile(means, [2.5, 97.5])]


def _one_class(
    confusion: npt.NDArray[Any],
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int64],
    c: int,
) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    hits, called, real = confusion[c, c], confusion[:, c].sum(), confusion[c].sum()
    others = confusion.sum() - real
    both = 0 < real < len(labels)
    return {
        "precision": _ratio(hits, called),
        "recall": _ratio(hits, real),
        "specificity": _ratio(others - (called - hits), others),
        "f1": _ratio(2 * hits, called + real),
        "auc": float(roc_auc_score(labels == c, probabilities[:, c])) if both else None,
        "n": int(real),
    }


def _by_source(
    correct: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    sources: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, Any] | None:
    if not any(sources):
        return None
    names = np.asarray([s or "unknown" for s in sources])
    table: dict[str, Any] = {}
    for source in sorted(set(names.tolist())):
        here = names == source
        table[source] = {
            "n": int(here.sum()),
            "accuracy": float(correct[here].mean()),
            "recall": {
                name: float(correct[here & (labels == c)].mean())
                for c, name in enumerate(class_names)
                if (here & (labels == c)).any()
            },
        }
    return table


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _safe(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, None)
    normalised: npt.NDArray[np.float64] = clipped / clipped.sum(axis=1, keepdims=True)
    return normalised
