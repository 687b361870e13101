"""What a model's answers are worth: temperature, thresholds and the check for unfamiliar inputs.

Fitted for the Keras model and again for every exported file, on that file's own outputs: the
check on slices of the training side, temperature and thresholds on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.prediction import status_of
from edge_runtime.preprocess import Preprocess
from edge_runtime.unfamiliar import Familiarity
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.predict import Observed, softmax
from trainer.evaluation.selective import choose_thresholds
from trainer.evaluation.unfamiliar import fit_familiarity
from trainer.run import Images


@dataclass(frozen=True)
class Judgement:
    """The rule that turns outputs into answers; its fields are those of `ModelInfo`.

    Attributes:
        temperature: divides the logits before softmax.
        thresholds: label -> lowest confidence that counts as an answer.
        familiarity: the check for unfamiliar inputs, or None.
    """

    temperature: float
    thresholds: Mapping[str, float]
    familiarity: Familiarity | None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Judgement:
        """The rule that run.json or model.json holds."""
        unfamiliar = settings.get("unfamiliar")
        return cls(
            float(settings["temperature"] or 1.0),
            settings.get("thresholds") or {},
            Familiarity.from_json(unfamiliar) if unfamiliar else None,
        )

    def to_settings(self) -> dict[str, Any]:
        """Its fields as run.json and model.json hold them."""
        return {
            "temperature": self.temperature,
            "thresholds": dict(self.thresholds),
            "unfamiliar": self.familiarity.to_json() if self.familiarity else None,
        }

    def probabilities(self, observed: Observed) -> npt.NDArray[np.float64]:
        """N×C at the temperature."""
        return softmax(observed.logits, self.temperature)

    def statuses(self, observed: Observed, class_names: Sequence[str]) -> list[str]:
        """What the device would answer for each slice: ok, uncertain or unfamiliar."""
        shares = self.probabilities(observed)
        strange = [False] * len(shares)
        if self.familiarity is not None and observed.features is not None:
            strange = self.familiarity.is_strange(observed.features).tolist()
        names = [class_names[i] for i in shares.argmax(axis=1)]
        return [
            status_of(float(row.max()), self.thresholds.get(name), odd).value
            for name, row, odd in zip(names, shares, strange, strict=True)
        ]


def fit_judgement(
    run: Callable[[npt.NDArray[np.uint8]], Observed],
    calibration: Images,
    held: Observed,
    held_labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    options: Preprocess,
    max_error: float,
) -> Judgement:
    """Fit a model's rule.

    Args:
        run: the model, as the device runs it.
        calibration: slices of the training side.
        held, held_labels: outputs and truth of the validation side.
        options: how slices are preprocessed.
        max_error: error rate that the thresholds are chosen for.
    """
    temperature = fit_temperature(held.logits, held_labels)
    familiarity = None
    if held.features is not None:
        familiarity = fit_familiarity(
            run, calibration.pixels, calibration.labels, held.features, options
        )
    return Judgement(
        temperature,
        choose_thresholds(softmax(held.logits, temperature), held_labels, class_names, max_error),
        familiarity,
    )
