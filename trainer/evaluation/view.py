"""Fitting what tells plane and sequence, and which of them count as validated
(`edge_runtime.decision.view`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.view import MOST_VALUES, Head, View
from trainer.evaluation.intervals import own_groups
from trainer.models.outputs import Predict
from trainer.run import Images

# To learn a value from: fewer show one head or one scanner rather than a sequence. Low all the
# same, since a sequence that is not learned is taken for another one, and answered.
LEAST_SLICES, LEAST_GROUPS = 20, 2
# To count a value as validated: of 20 slices without an error, up to 14 % may still be wrong (at
# 95 %), and those of fewer than 5 groups say less than that.
VALIDATED_SLICES, VALIDATED_GROUPS = 20, 5


def fit_view(predict: Predict, images: Images) -> View | None:
    """Fit the heads on slices of the training side of which plane or sequence is known.

    Args:
        predict: the model, as the device runs it.

    Returns:
        The heads, with nothing validated yet; None where neither the planes nor the sequences have
        two values of LEAST_SLICES slices and LEAST_GROUPS groups each, or the model gives no
        features.
    """
    columns = [_learnable(values, images.groups) for values in (images.planes, images.sequences)]
    rows = np.flatnonzero((np.array(columns) != "").any(axis=0))
    if not rows.size:
        return None
    features = predict(images.pixels[rows]).features
    if features is None:
        return None
    plane, sequence = (_fit_head(features, np.array(column)[rows]) for column in columns)
    # As stored: what is validated must hold for the parameters that the device reads.
    return View.from_json(View(plane, sequence).to_json())


def validated_view(
    view: View, groups: Sequence[str], planes: Sequence[str], sequences: Sequence[str]
) -> View:
    """The heads with what counts as validated: the values that enough slices of the validation side
    are known to have. What a slice looks like would not do: a head that has seen a sequence
    without tumours only takes each tumour for one of another sequence.

    Args:
        groups, planes, sequences: of the validation side; empty texts where unknown.
    """

    def of(head: Head | None, values: Sequence[str]) -> Head | None:
        if head is None:
            return None
        shown: dict[str, list[str]] = {}
        for value, group in zip(values, own_groups(groups), strict=True):
            shown.setdefault(value, []).append(group)
        enough = {
            value
            for value, own in shown.items()
            if len(own) >= VALIDATED_SLICES and len(set(own)) >= VALIDATED_GROUPS
        }
        return replace(head, validated=tuple(value for value in head.labels if value in enough))

    return View(of(view.plane, planes), of(view.sequence, sequences))


def not_validated(view: View | None) -> list[str]:
    """A line for each plane and sequence that is not answered."""
    heads = [] if view is None else [head for head in (view.plane, view.sequence) if head]
    return [
        f"slices that look like {value}: not answered: the validation side has fewer than "
        f"{VALIDATED_SLICES} slices of {VALIDATED_GROUPS} groups that are known to be so"
        for head in heads
        for value in head.labels
        if value not in head.validated
    ]


def _learnable(values: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The values that can be learned, empty where one cannot; all empty where there are not two."""
    slices: Counter[str] = Counter(values)
    named = own_groups(groups)
    apart = Counter(value for value, _ in set(zip(values, named, strict=True)))
    kept = {
        value
        for value, count in slices.most_common()
        if value and count >= LEAST_SLICES and apart[value] >= LEAST_GROUPS
    }
    if not 2 <= len(kept) <= MOST_VALUES:  # so many are names of something else
        return [""] * len(values)
    return [value if value in kept else "" for value in values]


def _fit_head(features: npt.NDArray[np.float32], values: npt.NDArray[np.str_]) -> Head | None:
    """Multinomial logistic regression of standardised features, as a map of the features
    themselves."""
    from sklearn.linear_model import LogisticRegression

    known = values != ""
    if not known.any():
        return None
    x = features[known].astype(np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.maximum(scale, 1e-3 * max(float(scale.max()), 1e-6))  # features that never speak
    model = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    model.fit((x - mean) / scale, values[known])
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:  # of two values scikit-learn keeps the second's logit only
        weights, bias = np.vstack([0 * weights, weights]), np.append(0, bias)
    weights = (weights / scale).T
    return Head(tuple(map(str, model.classes_)), weights, bias - mean @ weights, ())
