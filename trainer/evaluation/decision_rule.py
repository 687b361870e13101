"""The decision rule of a model: temperature, thresholds and the out-of-distribution check.

Fitted for the Keras model and again for every exported file, on that file's own outputs: the
check on slices of the training side, temperature and thresholds on held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import probabilities, status_of
from edge_runtime.errors import ModelError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.evaluation.intervals import own_groups
from trainer.evaluation.ood import fit_ood_detector
from trainer.evaluation.selective import Chosen, Targets, choose_thresholds, tumour_free_among
from trainer.evaluation.temperature import fit_temperature
from trainer.models.outputs import ModelOutputs, Predict
from trainer.run import Images


@dataclass(frozen=True)
class DecisionRule:
    """The rule that turns outputs into answers; its fields are those of `ModelInfo`.

    Attributes:
        temperature: divides the logits before softmax.
        thresholds: label -> lowest confidence that counts as an answer.
        ood_detector: the out-of-distribution check, or None.
        chosen: label -> how its threshold was found; empty where that is not known.
        confidence: that each threshold keeps its target; None where that is not known.
    """

    temperature: float
    thresholds: Mapping[str, float]
    ood_detector: OodDetector | None
    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    confidence: float | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DecisionRule:
        """The rule that run.json or model.json holds."""
        detector = settings.get("ood")
        return cls(
            float(settings["temperature"] or 1.0),
            settings.get("thresholds") or {},
            OodDetector.from_json(detector) if detector else None,
        )

    def to_settings(self) -> dict[str, Any]:
        """Its fields as run.json and model.json hold them; `max_error` is for older readers."""
        return {
            "temperature": self.temperature,
            "ood": self.ood_detector.to_json() if self.ood_detector else None,
            "thresholds": dict(self.thresholds),
        } | (threshold_settings(self.chosen, self.confidence) if self.chosen else {})

    def probabilities(self, outputs: ModelOutputs) -> npt.NDArray[np.float64]:
        """N×C at the temperature."""
        return probabilities(outputs.logits, self.temperature)

    def is_ood(self, outputs: ModelOutputs) -> npt.NDArray[np.bool_]:
        """Which of the N slices the check refuses; none where there is no check.

        Raises:
            ModelError: a check, and no features to check.
        """
        if self.ood_detector is None:
            return np.zeros(len(outputs.logits), bool)
        if outputs.features is None:
            raise ModelError(
                "the model gives no features for its check for out-of-distribution slices"
            )
        return self.ood_detector.is_ood(outputs.features)

    def statuses(self, outputs: ModelOutputs, class_names: Sequence[str]) -> list[str]:
        """What the device would answer for each slice: ok, uncertain or unfamiliar."""
        rows, refused = self.probabilities(outputs), self.is_ood(outputs).tolist()
        names = [class_names[i] for i in rows.argmax(axis=1)]
        return [
            status_of(float(row.max()), self.thresholds.get(name), ood).value
            for name, row, ood in zip(names, rows, refused, strict=True)
        ]


def threshold_settings(chosen: Mapping[str, Chosen], confidence: float | None) -> dict[str, Any]:
    """The fields of run.json and model.json that tell of the thresholds."""
    targets = {label: each.target for label, each in chosen.items()}
    return {
        "thresholds": {label: each.threshold for label, each in chosen.items()},
        "target_error": targets,
        "confidence": confidence,
        "error_bound": {label: each.bound for label, each in chosen.items() if each.answered},
        "max_error": max(targets.values(), default=None),
    }


@dataclass(frozen=True)
class SideOutputs:
    """A side of the data as a model saw it: its outputs for N slices, N labels, N groups."""

    outputs: ModelOutputs
    labels: npt.NDArray[np.int64]
    groups: Sequence[str]


def fit_decision_rule(
    predict: Predict,
    calibration: Images,
    validation: SideOutputs,
    class_names: Sequence[str],
    options: Preprocess,
    targets: Targets,
    tumour_free: Sequence[str] = (),
) -> DecisionRule:
    """Fit a model's rule.

    Args:
        predict: the model, as the device runs it.
        calibration: slices of the training side.
        validation: of the validation side.
        options: how slices are preprocessed.
        targets, tumour_free: what the thresholds are chosen for, see `Targets.resolve`.
    """
    detector = None
    if validation.outputs.features is not None:
        detector = fit_ood_detector(
            predict, calibration.pixels, calibration.labels, validation.outputs.features, options
        )
    plain = DecisionRule(
        fit_temperature(validation.outputs.logits, validation.labels), {}, detector
    )
    return with_thresholds(plain, validation, class_names, targets, tumour_free)


def with_thresholds(
    decision_rule: DecisionRule,
    validation: SideOutputs,
    class_names: Sequence[str],
    targets: Targets,
    tumour_free: Sequence[str] = (),
) -> DecisionRule:
    """The rule with thresholds chosen on the validation side, of the slices that its check lets
    pass; see `choose_thresholds`."""
    chosen = choose_thresholds(
        decision_rule.probabilities(validation.outputs),
        validation.labels,
        class_names,
        own_groups(validation.groups),
        targets.resolve(class_names, tumour_free),
        targets.confidence,
        decision_rule.is_ood(validation.outputs),
        tumour_free_among(class_names, tumour_free),
    )
    thresholds = {label: each.threshold for label, each in chosen.items()}
    return replace(
        decision_rule, thresholds=thresholds, chosen=chosen, confidence=targets.confidence
    )
