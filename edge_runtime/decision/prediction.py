"""What an answer is: `Prediction`, and the rules that lead to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt


NOT_FINITE = "the model gives no finite numbers for this slice"


class Status(str, Enum):
    """What an answer is worth."""

    OK = "ok"
    UNCERTAIN = "uncertain"  # below the threshold for this label, or a view never validated
    UNFAMILIAR = "unfamiliar"  # out-of-distribution: not like the slices it was trained on
    ERROR = "error"


class SliceFacts(NamedTuple):
    """What a study's rule wants to know of a slice beside its answer.

    Attributes:
        head: the share of its pixels that show a head, 0-1.
        crop: where the model's input lies in it, see `preprocess.crop_box`.
        class_maps: of the model, h×w×C; None where it gives none.
    """

    head: float
    crop: tuple[float, float, float, float]
    class_maps: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Prediction:
    """One answer, for a slice or for a study.

    Attributes:
        input: the path as given; `bytes`, `array` or `stream` for other sources.
        status: see `Status`.
        label: the answer; None unless the status is ok.
        raw_label: the best guess, whatever the status; None on error.
        confidence: its probability, 0-1.
        probabilities: of all labels, in the model's order.
        reason: why the status is not ok.
        sha256: digest of the input's bytes; None for a study of several files.
        model: name, version, quantisation and digest of the model file.
        error: one line; None unless the status is error.
        slice: number of the slice in a file of several, from 0.
        heatmap: path of the overlay that was written for it.
        slices: the answers behind the answer for a study; None for a slice.
        plane, sequence: what the slice looks like, such as axial and T1, see `View`; None where
            the model does not tell, is not sure or finds the slice out-of-distribution. Of a study
            what most of its slices look like.
        study: what the answer for a study rests on, as its JSON tells it, see docs/shapes.md; None
            for a slice.
        facts: what a study's rule wants to know beside the answer, while a study is decided; no
            part of the answer.
    """

    input: str
    status: Status
    label: str | None
    raw_label: str | None
    confidence: float | None
    probabilities: Mapping[str, float] | None
    reason: str | None
    sha256: str | None
    model: str
    error: str | None = None
    slice: int | None = None
    heatmap: str | None = None
    slices: tuple[Prediction, ...] | None = None
    plane: str | None = None
    sequence: str | None = None
    study: Mapping[str, Any] | None = None
    facts: SliceFacts | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The answer as `btc-edge classify --format json` gives it."""
        shape: dict[str, Any] = {
            "input": self.input,
            "status": self.status.value,
            "label": self.label,
            "raw_label": self.raw_label,
            "confidence": self.confidence,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "reason": self.reason,
            "sha256": self.sha256,
            "model": self.model,
            "error": self.error,
            "slice": self.slice,
            "heatmap": self.heatmap,
            "plane": self.plane,
            "sequence": self.sequence,
        }
        if self.study is not None:
            shape["study"] = dict(self.study)
        if self.slices is not None:
            shape["slices"] = [answer.to_json() for answer in self.slices]
        return shape

    def counts(self) -> dict[str, int]:
        """How many slices of a study got each label, or no label for which status; most first."""
        words = (answer.label or answer.status.value for answer in self.slices or ())
        return dict(Counter(words).most_common())


def failure(name: str, model: str, error: str) -> Prediction:
    """The answer with status error."""
    return Prediction(name, Status.ERROR, None, None, None, None, None, None, model, error)


def status_of(
    confidence: float, threshold: float | None, is_ood: bool, validated: bool = True
) -> Status:
    """What an answer is worth: the rule of every model, on the device and in evaluations.

    Args:
        confidence: of the best guess, 0-1; what is no finite number is never sure enough.
        threshold: of its label; None where the model has none. At 1 nothing is sure enough, not
            even a confidence that rounds to 1.
        is_ood: whether the input is out-of-distribution, unlike what the model learned from.
        validated: whether the model was validated for slices that look like this one, see `View`.
    """
    if is_ood:
        return Status.UNFAMILIAR
    if not validated:
        return Status.UNCERTAIN
    sure = threshold is None or (confidence >= threshold and threshold < 1)
    return Status.OK if sure and math.isfinite(confidence) else Status.UNCERTAIN


def below_threshold(threshold: float | None, label: str) -> str:
    """Why an answer is uncertain, by `status_of`."""
    if threshold is not None and threshold >= 1:
        return f"{label} is never answered: its threshold is 1"
    return f"confidence below {threshold:.3f}, the threshold of {label}"


def probabilities(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Softmax of logits divided by a temperature, over the last axis, in float64.

    Raises:
        InputError: logits that are no finite numbers; they answer nothing.
    """
    raw = logits.astype(np.float64)
    if not np.isfinite(raw).all():
        raise InputError(NOT_FINITE)
    raised = np.exp((raw - raw.max(axis=-1, keepdims=True)) / temperature)
    normalised: npt.NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return normalised


def softmax(logits: Sequence[float], temperature: float) -> list[float]:
    """`probabilities` of one slice, bit for bit, in a third of the time.

    Raises:
        InputError: as `probabilities`.
    """
    if not all(map(math.isfinite, logits)):
        raise InputError(NOT_FINITE)
    most = max(logits)
    raised = np.exp([(logit - most) / temperature for logit in logits])
    # Numpy's sum, since its order is numpy's own affair.
    by_label: list[float] = (raised / np.add.reduce(raised)).tolist()
    return by_label
