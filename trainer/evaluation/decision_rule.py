"""The decision rule of a model: temperature, thresholds, the out-of-distribution check, and the
views that are answered.

Fitted for the Keras model and again for every exported file, on that file's own outputs: the
check and what tells the views on slices of the training side, temperature, thresholds and the
views that count as validated on held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import probabilities, status_of
from edge_runtime.decision.view import Seen, View
from edge_runtime.errors import ModelError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.evaluation.intervals import own_groups
from trainer.evaluation.ood import fit_ood_detector, with_levels
from trainer.evaluation.selective import (
    Chosen,
    Targets,
    choose_thresholds,
    refusals,
    tumour_free_among,
)
from trainer.evaluation.temperature import fit_temperature
from trainer.evaluation.view import fit_view, not_validated, validated_view
from trainer.models.classical import Floats
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
        view: what tells plane and sequence, and which of them are answered; None where the data
            do not say them.
    """

    temperature: float
    thresholds: Mapping[str, float]
    ood_detector: OodDetector | None
    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    confidence: float | None = None
    view: View | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DecisionRule:
        """The rule that run.json or model.json holds."""
        detector, view = settings.get("ood"), settings.get("view")
        return cls(
            float(settings["temperature"] or 1.0),
            settings.get("thresholds") or {},
            OodDetector.from_json(detector) if detector else None,
            view=View.from_json(view) if view else None,
        )

    def to_settings(self) -> dict[str, Any]:
        """Its fields as run.json and model.json hold them; `max_error` is for older readers."""
        return {
            "temperature": self.temperature,
            "ood": self.ood_detector.to_json() if self.ood_detector else None,
            "view": self.view.to_json() if self.view else None,
            "thresholds": dict(self.thresholds),
        } | (threshold_settings(self.chosen, self.confidence) if self.chosen else {})

    def refusals(self) -> list[str]:
        """A line for each class, plane and sequence that is never answered."""
        return refusals(self.chosen) + not_validated(self.view)

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
        return self.ood_detector.is_ood(_features(outputs))

    def seen(self, outputs: ModelOutputs) -> list[Seen]:
        """What each of the N slices looks like, as the device tells it: slice by slice, so that
        not even a rounding differs.

        Raises:
            ModelError: a head for plane and sequence, and no features for it.
            InputError: features that are no finite numbers.
        """
        if self.view is None:
            return [Seen()] * len(outputs.logits)
        pairs = zip(_features(outputs), self.is_ood(outputs).tolist(), strict=True)
        return [Seen() if ood else self.view.look(features) for features, ood in pairs]

    def is_validated(self, outputs: ModelOutputs) -> npt.NDArray[np.bool_]:
        """Which of the N slices look like what the model was validated for; all of them where it
        has nothing to tell it by."""
        if self.view is None:
            return np.ones(len(outputs.logits), bool)
        return np.array([self.view.objection(seen) is None for seen in self.seen(outputs)], bool)

    def statuses(self, outputs: ModelOutputs, class_names: Sequence[str]) -> list[str]:
        """What the device would answer for each slice: ok, uncertain or unfamiliar."""
        rows = self.probabilities(outputs)
        names = [class_names[i] for i in rows.argmax(axis=1)]
        refused, validated = self.is_ood(outputs).tolist(), self.is_validated(outputs).tolist()
        return [
            status_of(float(row.max()), self.thresholds.get(name), ood, known).value
            for name, row, ood, known in zip(names, rows, refused, validated, strict=True)
        ]


def _features(outputs: ModelOutputs) -> Floats:
    """Raises ModelError where there are none."""
    if outputs.features is None:
        raise ModelError("the model gives no features for its check for out-of-distribution slices")
    return outputs.features


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
    """A side of the data as a model saw it: its outputs for N slices, N labels, groups, planes and
    sequences; of the last two, texts that are empty where nobody knows."""

    outputs: ModelOutputs
    labels: npt.NDArray[np.int64]
    groups: Sequence[str]
    planes: Sequence[str]
    sequences: Sequence[str]


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
    detector, view = None, None
    if validation.outputs.features is not None:
        detector = fit_ood_detector(
            predict, calibration.pixels, calibration.labels, validation.outputs.features, options
        )
        view = fit_view(predict, calibration)
    if view is not None:
        view = validated_view(view, validation.groups, validation.planes, validation.sequences)
    plain = DecisionRule(
        fit_temperature(validation.outputs.logits, validation.labels), {}, detector, view=view
    )
    return with_thresholds(plain, validation, class_names, targets, tumour_free)


def refit_decision_rule(
    known: DecisionRule,
    validation: SideOutputs,
    class_names: Sequence[str],
    targets: Targets,
    tumour_free: Sequence[str] = (),
    promised: Mapping[str, float] | None = None,
) -> DecisionRule:
    """A model's rule for the outputs of the same graph in another runtime: temperature, thresholds
    and the levels of the check fitted on those, so that as many slices are refused and as many
    answers right as was asked for. What was learned from the training side stays: the check's
    matrices and what tells the views.

    Args:
        known: the rule as the model file holds it.
        validation, class_names, targets, tumour_free: see `fit_decision_rule`.
        promised: label -> the error rate that the known thresholds keep: they are kept, or raised,
            where that rate is supported here too. Chosen anew they would differ by more than the
            runtimes do, since the search for them ends at the first that is not supported.
    """
    detector = known.ood_detector
    if detector is not None:
        detector = with_levels(detector, _features(validation.outputs))
    temperature = fit_temperature(validation.outputs.logits, validation.labels)
    plain = DecisionRule(temperature, {}, detector, view=known.view)
    former = {
        label: (known.thresholds[label], rate)
        for label, rate in (promised or {}).items()
        if known.thresholds.get(label, 1.0) < 1
    }
    return with_thresholds(plain, validation, class_names, targets, tumour_free, former)


def with_thresholds(
    decision_rule: DecisionRule,
    validation: SideOutputs,
    class_names: Sequence[str],
    targets: Targets,
    tumour_free: Sequence[str] = (),
    former: Mapping[str, tuple[float, float]] | None = None,
) -> DecisionRule:
    """The rule with thresholds chosen on the validation side, of the slices that its check lets
    pass and that look like what it was validated for; see `choose_thresholds`."""
    chosen = choose_thresholds(
        decision_rule.probabilities(validation.outputs),
        validation.labels,
        class_names,
        own_groups(validation.groups),
        targets.resolve(class_names, tumour_free),
        targets.confidence,
        decision_rule.is_ood(validation.outputs) | ~decision_rule.is_validated(validation.outputs),
        tumour_free_among(class_names, tumour_free),
        former,
    )
    thresholds = {label: each.threshold for label, each in chosen.items()}
    return replace(
        decision_rule, thresholds=thresholds, chosen=chosen, confidence=targets.confidence
    )
