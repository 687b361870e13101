"""Fitting the out-of-distribution check (`edge_runtime.decision.ood`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.ood import OodDetector
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from trainer.models.classical import Floats
from trainer.models.outputs import Predict

REFUSED = 0.05  # share of validation slices that the threshold refuses
EACH = 0.03  # and that either of the two terms would refuse at equal levels
Pixels = npt.NDArray[np.uint8]


def turned_copies(images: Pixels, options: Preprocess, seed: int = 0) -> Pixels:
    """Two copies of each slice that no scanner makes: a quarter turn either way, and one of 35 to
    145 degrees either way.

    A half turn is not among them: data sets hold slices that are upside down.

    Args:
        images: uint8 N×S×S, preprocessed.
        options: how they were preprocessed. The turned ones are cropped again, as they would be
            on a device; noise removal and contrast are in them already, and a filter applied
            twice would set them apart from a device's pictures by more than the turn.

    Returns:
        uint8 2N×S×S.
    """
    import cv2

    again = replace(options, denoise=None, contrast=None)
    rng = np.random.default_rng(seed)
    side = images.shape[1]
    centre = (side / 2 - 0.5, side / 2 - 0.5)
    copies = []
    for image in images:
        copies.append(np.ascontiguousarray(np.rot90(image, 1 + 2 * int(rng.integers(2)))))
        angle = rng.uniform(35, 145) + 180 * int(rng.integers(2))
        matrix = cv2.getRotationMatrix2D(centre, angle, rng.uniform(0.72, 1.0))
        copies.append(preprocess(cv2.warpAffine(image, matrix, (side, side)), again))
    return np.stack(copies)


def fit_ood_detector(
    predict: Predict,
    images: Pixels,
    labels: npt.NDArray[np.int64],
    validation: Floats,
    options: Preprocess,
) -> OodDetector | None:
    """Fit the score on slices of the training side and its threshold on validation ones.

    Args:
        predict: the model, as the device runs it.
        images, labels: uint8 N×S×S of the training side and their N classes.
        validation: M×F features of the validation side.
        options: how slices are preprocessed.

    Returns:
        None where the model gives no features.
    """
    from sklearn.covariance import ledoit_wolf
    from sklearn.linear_model import LogisticRegression

    features, turned = predict(images).features, predict(turned_copies(images, options)).features
    if features is None or turned is None:
        return None
    known = features.astype(np.float64)
    mean, scale = known.mean(axis=0), known.std(axis=0)
    scale = np.maximum(scale, 1e-3 * max(float(scale.max()), 1e-6))  # features that never speak
    standard = (known - mean) / scale
    classes = np.unique(labels)
    means = np.stack([standard[labels == c].mean(axis=0) for c in classes])
    covariance, _ = ledoit_wolf(standard - means[np.searchsorted(classes, labels)])
    whiten = _inverse_root(covariance)
    rule = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    rule.fit(
        np.concatenate([standard, (turned - mean) / scale]),
        np.repeat([0, 1], [len(known), len(turned)]),
    )
    plain = OodDetector(
        mean, scale, whiten, means @ whiten,
        np.append(rule.coef_[0], rule.intercept_[0]), np.array([0.0, 1.0, 0.0, 1.0]), 0.0,
    )  # fmt: skip
    return with_levels(plain, validation)


def with_levels(detector: OodDetector, validation: Floats) -> OodDetector:
    """Put the two terms on one scale, and the threshold where REFUSED of the slices of
    `validation` (M×F features) lie above; what the detector had of these does not count."""
    plain = replace(detector, levels=np.array([0.0, 1.0, 0.0, 1.0]), threshold=0.0)
    never = np.append(np.zeros(plain.turn.size - 1), -np.inf)
    distance = replace(plain, turn=never).score(validation)
    standard = (validation.astype(np.float64) - plain.mean) / plain.scale
    turned = standard @ plain.turn[:-1] + plain.turn[-1]
    levels = [
        level
        for term in (distance, turned)
        for level in (float(np.quantile(term, 1 - EACH)), max(float(term.std()), 1e-6))
    ]
    # As stored: the threshold must hold for the parameters that the device reads.
    stored = OodDetector.from_json(replace(plain, levels=np.array(levels)).to_json())
    threshold = float(np.quantile(stored.score(validation), 1 - REFUSED))
    return replace(stored, threshold=threshold)


def _inverse_root(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A matrix W with W Wᵀ = covariance⁻¹; directions without spread count as of little."""
    values, vectors = np.linalg.eigh(covariance)
    root: npt.NDArray[np.float64] = vectors / np.sqrt(np.maximum(values, 1e-4))
    return root
