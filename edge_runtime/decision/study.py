"""One answer for one patient, from the answers for the slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
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
from edge_runtime.decision.view import Seen, View
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
    view: View | None = None,
) -> Prediction:
    """Pool the answers of one patient's slices.

    Slices that could not be read, are out-of-distribution or look like what the model was not
    validated for count for nothing. Where most are out-of-distribution, so is the study; where
    most of the others were not validated, it is not answered. A study is not reported as
    tumour-free while one of its slices is surely reported as a tumour: a tumour shows in a few
    slices of many, and the others would outvote them.

    Args:
        name: of the study, for the answer.
        answers: of its slices, with probabilities in the order of `thresholds`.
        thresholds: of each of the model's labels in their order, see `status_of`.
        model: name of the model, for the answer.
        view: the model's, or None.
    """
    readable = [a for a in answers if a.status is not Status.ERROR]
    if not readable:
        error = failure(name, model, "no slice could be classified")
        return replace(error, slices=tuple(answers))
    familiar = [a for a in readable if a.status is not Status.UNFAMILIAR]
    unvalidated = [_unvalidated(view, a) for a in familiar]
    known = [a for a, new in zip(familiar, unvalidated, strict=True) if not new]
    pool = known or familiar or readable
    labels = list(thresholds)
    by_label = pooled(np.array([list((a.probabilities or {}).values()) for a in pool], np.float64))
    best = int(by_label.argmax())
    label, confidence = labels[best], float(by_label[best])
    threshold = thresholds[label]
    is_ood = 2 * len(familiar) < len(readable) or not familiar
    validated = 2 * len(known) >= len(familiar) and bool(known)
    status = status_of(confidence, threshold, is_ood, validated)
    reason = None
    if status is Status.UNFAMILIAR:
        ood = len(readable) - len(familiar)
        reason = f"{ood} of {len(readable)} slices are unlike those that the model learned from"
    elif not validated:
        value, _ = Counter(chain.from_iterable(unvalidated)).most_common(1)[0]
        reason = (
            f"{len(familiar) - len(known)} of {len(readable)} slices look like what the model was "
            f"not validated for, such as {value}"
        )
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
        plane=_most([a.plane for a in readable]),
        sequence=_most([a.sequence for a in readable]),
    )


def _unvalidated(view: View | None, answer: Prediction) -> list[str]:
    """What of a slice's plane and sequence the model was not validated for."""
    return [] if view is None else view.unvalidated(Seen(answer.plane, answer.sequence))


def _most(values: Sequence[str | None]) -> str | None:
    """The value that more than half of the slices have, or None."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None
