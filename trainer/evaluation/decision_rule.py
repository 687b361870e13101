"""What a model's answers are worth: temperature, thresholds and the check for unfamiliar inputs.

Fitted for the Keras model and again for every exported file, on that file's own outputs: the
check on slices of the training side, temperature and thresholds on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import status_of
from edge_runtime.errors import ModelError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.intervals import own_groups
from trainer.evaluation.ood import fit_ood_detector
from trainer.evaluation.selective import Chosen, Targets, choose_thresholds, tumour_free_among
from trainer.models.outputs import ModelOutputs, softmax
from trainer.run import Images


@dataclass(frozen=True)
class DecisionRule:
    """The rule that turns outputs into answers; its fields are those of `ModelInfo`.

    Attributes:
        temperature: divides the logits before softmax.
        thresholds: label -> lowest confidence that counts as an answer.
        familiarity: the check for unfamiliar inputs, or None.
        chosen: label -> how its threshold was found; empty where that is not known.
        confidence: that each threshold keeps its target; None where that is not known.
    """

    temperature: float
    thresholds: Mapping[str, float]
    familiarity: OodDetector | None
    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    confidence: float | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DecisionRule:
        """The rule that run.json or model.json holds."""
        ood = settings.get("ood", settings.get("unfamiliar"))  # its name in older runs
        return cls(
            float(settings["temperature"] or 1.0),
            settings.get("thresholds") or {},
            OodDetector.from_json(ood) if ood else None,
        )

    def to_settings(self) -> dict[str, Any]:
        """Its fields as run.json and model.json hold them; `max_error` is for older readers."""
        return {
            "temperature": self.temperature,
            "ood": self.familiarity.to_json() if self.familiarity else None,
            "thresholds": dict(self.thresholds),
        } | (threshold_settings(self.chosen, self.confidence) if self.chosen else {})

    def probabilities(self, observed: ModelOutputs) -> npt.NDArray[np.float64]:
        """N×C at the temperature."""
        return softmax(observed.logits, self.temperature)

    def familiar(self, observed: ModelOutputs) -> npt.NDArray[np.bool_]:
        """Which of the N slices the check lets pass; all where there is no check.

        Raises:
            ModelError: a check, and no features to check.
        """
        if self.familiarity is None:
            return np.ones(len(observed.logits), bool)
        if observed.features is None:
            raise ModelError("the model gives no features for its check for unfamiliar slices")
        return ~self.familiarity.is_ood(observed.features)

    def statuses(self, observed: ModelOutputs, class_names: Sequence[str]) -> list[str]:
        """What the device would answer for each slice: ok, uncertain or unfamiliar."""
        shares = self.probabilities(observed)
        strange = (~self.familiar(observed)).tolist()
        names = [class_names[i] for i in shares.argmax(axis=1)]
        return [
            status_of(float(row.max()), self.thresholds.get(name), odd).value
            for name, row, odd in zip(names, shares, strange, strict=True)
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
class HeldOut:
    """The validation side as a model saw it: its outputs for N slices, N labels, N groups."""

    seen: ModelOutputs
    labels: npt.NDArray[np.int64]
    groups: Sequence[str]


def fit_decision_rule(
    run: Callable[[npt.NDArray[np.uint8]], ModelOutputs],
    calibration: Images,
    held: HeldOut,
    class_names: Sequence[str],
    options: Preprocess,
    targets: Targets,
    tumour_free: Sequence[str] = (),
) -> DecisionRule:
    """Fit a model's rule.

    Args:
        run: the model, as the device runs it.
        calibration: slices of the training side.
        options: how slices are preprocessed.
        targets, tumour_free: what the thresholds are chosen for, see `Targets.resolve`.
    """
    familiarity = None
    if held.seen.features is not None:
        familiarity = fit_ood_detector(
            run, calibration.pixels, calibration.labels, held.seen.features, options
        )
    plain = DecisionRule(fit_temperature(held.seen.logits, held.labels), {}, familiarity)
    return with_thresholds(plain, held, class_names, targets, tumour_free)


def with_thresholds(
    decision_rule: DecisionRule,
    held: HeldOut,
    class_names: Sequence[str],
    targets: Targets,
    tumour_free: Sequence[str] = (),
) -> DecisionRule:
    """The rule with thresholds chosen on the validation side, of the slices that its check lets
    pass; see `choose_thresholds`."""
    chosen = choose_thresholds(
        decision_rule.probabilities(held.seen),
        held.labels,
        class_names,
        own_groups(held.groups),
        targets.resolve(class_names, tumour_free),
        targets.confidence,
        decision_rule.familiar(held.seen),
        tumour_free_among(class_names, tumour_free),
    )
    thresholds = {label: each.threshold for label, each in chosen.items()}
    return replace(
        decision_rule, thresholds=thresholds, chosen=chosen, confidence=targets.confidence
    )
