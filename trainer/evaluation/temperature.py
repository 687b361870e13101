"""How far confidences are calibrated: temperature scaling, reliability, calibration error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
BINS = 15


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


def reliability(
    probabilities: Floats, labels: npt.NDArray[np.int64], bins: int = BINS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean confidence, accuracy and share of slices in each equal-width bin of confidence that
    holds any (same paper).

    Args:
        probabilities: N×C, rows sum to 1.
        labels: N indices.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    return (
        np.bincount(place, confidence, bins)[filled] / counts[filled],
        np.bincount(place, correct.astype(np.float64), bins)[filled] / counts[filled],
        counts[filled] / len(labels),
    )


def expected_calibration_error(
    probabilities: Floats, labels: npt.NDArray[np.int64], bins: int = BINS
) -> float:
    """Mean gap between confidence and accuracy over the bins of `reliability`."""
    confidence, accuracy, share = reliability(probabilities, labels, bins)
    return float((np.abs(confidence - accuracy) * share).sum())
