"""One side of a data set through a model, with everything that belongs beside the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Dataset, originals
from trainer.data.near_duplicates import has_near_duplicate
from trainer.evaluation.baselines import run_baselines
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.examples import Examples, choose_examples, whole_pictures
from trainer.evaluation.predictions import Predictions, make_predictions
from trainer.evaluation.saliency import box_chances, box_hits, heatmaps, peaks
from trainer.models.outputs import ModelOutputs

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Evaluator:
    """A model with its rule, ready to be measured on sides of a data set.

    Attributes:
        look: runs the model.
        network: the Keras model, for Grad-CAM; a model file has class maps or no heatmaps.
    """

    look: Callable[[npt.NDArray[np.uint8]], ModelOutputs]
    decision_rule: DecisionRule
    protocol: str
    network: keras.Model | None = None

    def side(
        self, side: Dataset, split: str, learned: Dataset | None, seen: ModelOutputs | None = None
    ) -> tuple[Predictions, Examples]:
        """Predictions with controls, twins and heatmaps beside them, and cases to look at.

        Args:
            learned: the slices that the model learned from; None where they are not at hand:
                then there are no controls, and twins are unknown.
            seen: the model's outputs on the side, where they are known already.
        """
        seen = seen or self.look(side.images)
        shares = self.decision_rule.probabilities(seen)
        heat = heatmaps(self.network, seen, side.images, shares.argmax(axis=1))
        extras: dict[str, Any] = {"status": self.decision_rule.statuses(seen, side.class_names)}
        if learned is not None:
            extras |= compare_sides(side, learned)
        if heat is not None:
            hits = box_hits(peaks(heat), side.boxes)
            extras |= {"heat_in_box": hits, "box_share": box_chances(side.boxes)}
        outcome = make_predictions(side, shares, self.protocol, split, extras)
        rows = choose_examples(
            side.labels, outcome.predicted, outcome.numbers("confidence"), side.groups
        )
        shown = np.zeros((len(rows), 1, 1), np.float32) if heat is None else heat[rows]
        before = whole_pictures(originals(side, rows))
        return outcome, Examples(rows, side.images[rows], shown, side.boxes[rows], before)


def compare_sides(side: Dataset, learned: Dataset) -> dict[str, Any]:
    """Columns of the predictions table that compare a side with what was learned from."""
    known = set(learned.groups)
    return {
        "twin": has_near_duplicate(side.thumbnails, learned.thumbnails).astype(int),
        "seen_group": [int(group in known) for group in side.groups],
    } | {
        name: [side.class_names[i] for i in calls]
        for name, calls in run_baselines(learned, side).items()
    }
