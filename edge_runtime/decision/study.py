"""One answer for one patient, from the answers for the slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.decision.prediction import (
    Prediction,
    Status,
    below_threshold,
    failure,
    probabilities,
    status_of,
)
from edge_runtime.labels import NO_TUMOR, normalise_label

if TYPE_CHECKING:
    import numpy.typing as npt


def pooled(of_slices: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Probabilities of a study: the mean log-probability of its slices (N×C), normalised.

    The rule behind every figure "per study".
    """
    return probabilities(np.log(np.maximum(of_slices.astype(np.float64), 1e-7)).mean(axis=0))


def study_answer(
    name: str,
    answers: Sequence[Prediction],
    thresholds: Mapping[str, float | None],
    model: str,
) -> Prediction:
    """Pool the answers of one patient's slices.

    Slices that could not be read or are out-of-distribution count for nothing; where most are
    out-of-distribution, so is the study. A study is not reported as tumour-free while one of its
    slices is surely reported as a tumour: a tumour shows in a few slices of many, and the others
    would outvote them.

    Args:
        name: of the study, for the answer.
        answers: of its slices, with probabilities in the order of `thresholds`.
        thresholds: of each of the model's labels in their order, see `status_of`.
        model: name of the model, for the answer.
    """
    readable = [a for a in answers if a.status is not Status.ERROR]
    if not readable:
        error = failure(name, model, "no slice could be classified")
        return replace(error, slices=tuple(answers))
    known = [a for a in readable if a.status is not Status.UNFAMILIAR]
    labels = list(thresholds)
    by_label = pooled(
        np.array([list((a.probabilities or {}).values()) for a in known or readable], np.float64)
    )
    best = int(by_label.argmax())
    label, confidence = labels[best], float(by_label[best])
    threshold = thresholds[label]
    status = status_of(confidence, threshold, 2 * len(known) < len(readable) or not known)
    reason = None
    if status is Status.UNFAMILIAR:
        ood = len(readable) - len(known)
        reason = f"{ood} of {len(readable)} slices are unlike those that the model learned from"
    elif status is Status.UNCERTAIN:
        reason = below_threshold(threshold, label)
    elif normalise_label(label) == NO_TUMOR:
        tumour = sum(a.label is not None and normalise_label(a.label) != NO_TUMOR for a in known)
        if tumour:
            status = Status.UNCERTAIN
            reason = f"{tumour} of {len(readable)} slices are predicted as a tumour"
    return Prediction(
        input=name,
        status=status,
        label=label if status is Status.OK else None,
        raw_label=label,
        confidence=confidence,
        probabilities=dict(zip(labels, by_label.tolist(), strict=True)),
        reason=reason,
        sha256=None,
        model=model,
        slices=tuple(answers),
    )
