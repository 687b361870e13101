"""Fitting what tells plane and sequence, and which of them count as validated
(`edge_runtime.decision.view`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.view import MOST_VALUES, Head, Seen, View
from trainer.evaluation.intervals import own_groups
from trainer.models.outputs import Predict
from trainer.run import Images

# To learn a value from: fewer show one head or one scanner rather than a sequence. Low all the
# same, since a sequence that is not learned is taken for another one, and answered.
LEAST_SLICES, LEAST_GROUPS = 20, 2
# To count a value as validated, with tumours and without: of 20 slices without an error, up to 14 %
# may still be wrong (at 95 %), and those of fewer than 5 groups say less than that.
VALIDATED_SLICES, VALIDATED_GROUPS = 20, 5


@dataclass(frozen=True)
class Shown:
    """Slices held out from learning, as a model saw them.

    Attributes:
        seen: what each of N slices looks like.
        groups: N names.
        tumour: for each, whether it shows one.
    """

    seen: Sequence[Seen]
    groups: Sequence[str]
    tumour: Sequence[bool]


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


def validated_view(view: View, shown: Sequence[Shown], tumour_free: bool) -> View:
    """The heads with what counts as validated: the values that enough of the slices look like,
    both with a tumour and without.

    Args:
        tumour_free: whether the model has a tumour-free class at all: otherwise nobody can show
            slices without a tumour, and those with one decide.
    """
    kinds = (True, False) if tumour_free else (True,)

    def of(head: Head | None, place: int) -> Head | None:
        if head is None:
            return None
        counted: dict[tuple[str | None, bool], list[str]] = {}
        for side in shown:
            rows = zip(side.seen, own_groups(side.groups), side.tumour, strict=True)
            for seen, group, tumour in rows:
                counted.setdefault((seen[place], tumour), []).append(group)
        enough = {
            key
            for key, groups in counted.items()
            if len(groups) >= VALIDATED_SLICES and len(set(groups)) >= VALIDATED_GROUPS
        }
        fine = [v for v in head.labels if all((v, kind) in enough for kind in kinds)]
        return replace(head, validated=tuple(fine))

    return View(of(view.plane, 0), of(view.sequence, 1))


def not_validated(view: View | None) -> list[str]:
    """A line for each plane and sequence that is not answered."""
    heads = [] if view is None else [head for head in (view.plane, view.sequence) if head]
    return [
        f"slices that look like {value}: not answered: the validation side has too few of them "
        f"with a tumour or without ({VALIDATED_SLICES} slices of {VALIDATED_GROUPS} groups each)"
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
