"""Calibration of confidences: temperature and its measures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def fit_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The temperature that minimises log loss (Guo et al., On Calibration of Modern Neural
    Networks, 2017).

    Args:
        logits: N×C of the validation side.
        labels: N indices.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(
    probabilities: Floats, labels: npt.NDArray[np.int64], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of confidence (same paper).

    Args:
        probabilities: N×C, rows sum to 1.
        labels: N indices.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[place == b].mean()) - float(correct[place == b].mean()))
        * float((place == b).mean())
        for b in np.unique(place)
    ]
    return float(sum(gaps))
