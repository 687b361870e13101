"""One answer for one patient, from the answers for the slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.decision.prediction import Prediction, Status, below_threshold, failure, status_of
from edge_runtime.labels import NO_TUMOR, normalise_label

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.classifier import Classifier


def pooled(shares: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Probabilities of a study: the mean log-probability of its slices (N×C), normalised.

    The rule behind every figure "per study".
    """
    logs = np.log(np.maximum(shares.astype(np.float64), 1e-7)).mean(axis=0)
    raised = np.exp(logs - logs.max())
    normalised: npt.NDArray[np.float64] = raised / raised.sum()
    return normalised


def study_answer(name: str, answers: Sequence[Prediction], classifier: Classifier) -> Prediction:
    """Pool the answers of one patient's slices.

    Slices that could not be read or are unfamiliar count for nothing; where most are unfamiliar,
    so is the study. A study is not called tumour-free while one of its slices is surely called a
    tumour: a tumour shows in a few slices of many, and the others would outvote them.
    """
    model = classifier.model.tag
    seen = [a for a in answers if a.status is not Status.ERROR]
    familiar = [a for a in seen if a.status is not Status.UNFAMILIAR]
    if not seen:
        error = failure(name, model, "no slice could be classified")
        return replace(error, slices=tuple(answers))
    labels = classifier.info.labels
    shares = pooled(
        np.array([list((a.probabilities or {}).values()) for a in familiar or seen], np.float64)
    )
    best = int(shares.argmax())
    label, confidence = labels[best], float(shares[best])
    threshold = classifier.threshold(label)
    status = status_of(confidence, threshold, 2 * len(familiar) < len(seen) or not familiar)
    reason = None
    if status is Status.UNFAMILIAR:
        strange = len(seen) - len(familiar)
        reason = f"{strange} of {len(seen)} slices are unlike those that the model learned from"
    elif status is Status.UNCERTAIN:
        reason = below_threshold(threshold, label)
    elif normalise_label(label) == NO_TUMOR:
        sure = sum(a.label is not None and normalise_label(a.label) != NO_TUMOR for a in familiar)
        if sure:
            status = Status.UNCERTAIN
            reason = f"{sure} of {len(seen)} slices are called a tumour"
    answer = Prediction(
        input=name,
        status=status,
        label=label if status is Status.OK else None,
        raw_label=label,
        confidence=confidence,
        probabilities=dict(zip(labels, shares.tolist(), strict=True)),
        reason=reason,
        sha256=None,
        model=model,
    )
    return replace(answer, slices=tuple(answers))
