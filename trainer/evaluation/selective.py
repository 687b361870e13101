"""Answering only when sure enough: thresholds, and what they cost.

After Chow, On optimum recognition error and reject tradeoff (1970), and Geifman and El-Yaniv,
Selective classification for deep neural networks (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.metrics import share_of

Floats = npt.NDArray[np.float64]
MAX_ERROR = 0.02  # the error rate that thresholds are chosen for by default


def choose_thresholds(
    probabilities: Floats,
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    max_error: float = MAX_ERROR,
) -> dict[str, float]:
    """For each class the lowest confidence at which answers of that class err at most so often.

    Args:
        probabilities: N×C of the validation side.
        labels: N indices.
        max_error: share of wrong answers among those given (0-1).

    Returns:
        Label -> threshold: an answer counts where its confidence is at least that (see
        `status_of`). 1, which means never, where no confidence is safe, or where validation
        never called the class: then nothing is known.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    thresholds = {}
    for c, name in enumerate(class_names):
        called = predicted == c
        order = np.argsort(-confidence[called], kind="stable")
        level = confidence[called][order]
        errors = np.cumsum((labels[called] != c)[order])
        rate = errors / np.arange(1, len(level) + 1)
        # Equal confidences are answered together or not at all.
        last = np.append(level[1:] < level[:-1], True)[: len(level)]
        safe = np.flatnonzero((rate <= max_error) & last)
        # Between the lowest confidence that is answered and the next one below.
        if safe.size == 0:
            thresholds[name] = 1.0
        elif safe[-1] + 1 == len(level):
            thresholds[name] = 0.0
        else:
            thresholds[name] = float((level[safe[-1]] + level[safe[-1] + 1]) / 2)
    return thresholds


def risk_coverage(probabilities: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Coverage and error rate (N each) when only the surest 1, 2, … N slices are answered."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    answered = np.arange(1, len(labels) + 1)
    return answered / len(labels), np.cumsum(wrong) / answered


def selective_figures(
    answered: npt.NDArray[np.bool_], correct: npt.NDArray[np.bool_], groups: Sequence[str]
) -> dict[str, Any]:
    """How many slices get an answer and how many of those answers are wrong."""
    given = [g for g, a in zip(groups, answered, strict=True) if a]
    return {
        "coverage": share_of(answered, groups),
        "error": share_of(~correct[answered], given),
    }
