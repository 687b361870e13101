"""One side of a data set through a model, with everything that belongs beside the predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.decision.view import Seen
from trainer.data.dataset import Dataset, originals
from trainer.data.near_duplicates import has_near_duplicate
from trainer.evaluation.baselines import run_baselines
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.examples import Examples, choose_examples, whole_pictures
from trainer.evaluation.predictions import Predictions, make_predictions
from trainer.evaluation.saliency import heatmaps, peaks, pointing_chances, pointing_hits
from trainer.models.outputs import ModelOutputs, Predict

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Evaluator:
    """A model with its decision rule, ready to be evaluated on sides of a data set.

    Attributes:
        predict: runs the model.
        protocol: see `Split`.
        network: the Keras model, for Grad-CAM; a model file has class maps or no heatmaps.
    """

    predict: Predict
    decision_rule: DecisionRule
    protocol: str
    network: keras.Model | None = None

    def evaluate(
        self,
        side: Dataset,
        split: str,
        trained_on: Dataset | None,
        outputs: ModelOutputs | None = None,
    ) -> tuple[Predictions, Examples]:
        """Predictions with baselines, near-duplicates and pointing hits beside them, and examples.

        Args:
            trained_on: the slices that the model learned from; None where they are not at hand:
                then there are no baselines, and near-duplicates are unknown.
            outputs: the model's on the side, where they are known already.
        """
        outputs = outputs or self.predict(side.images)
        probabilities = self.decision_rule.probabilities(outputs)
        heat = heatmaps(self.network, outputs, side.images, probabilities.argmax(axis=1))
        extras: dict[str, Any] = {"status": self.decision_rule.statuses(outputs, side.class_names)}
        if trained_on is not None:
            extras |= compare_sides(side, trained_on)
        if heat is not None:
            hits = pointing_hits(peaks(heat), side.boxes)
            extras |= {"pointing_hit": hits, "box_share": pointing_chances(side.boxes)}
        if any(side.planes) or any(side.sequences):
            extras |= {"plane": side.planes, "sequence": side.sequences}
        if side.doubts:
            extras["doubtful"] = side.doubtful.astype(int)
        if self.decision_rule.view is not None:
            seen = self.decision_rule.seen(outputs)
            extras |= {f"seen_{name}": [getattr(each, name) or "" for each in seen]
                       for name in Seen._fields}  # fmt: skip
        predictions = make_predictions(side, probabilities, self.protocol, split, extras)
        rows = choose_examples(
            side.labels, predictions.predicted, predictions.numbers("confidence"), side.groups
        )
        shown = np.zeros((len(rows), 1, 1), np.float32) if heat is None else heat[rows]
        before = whole_pictures(originals(side, rows))
        return predictions, Examples(rows, side.images[rows], shown, side.boxes[rows], before)


def compare_sides(side: Dataset, trained_on: Dataset) -> dict[str, Any]:
    """Columns of the predictions table that compare a side with what the model learned from."""
    known = set(trained_on.groups)
    near = has_near_duplicate(side.thumbnails, trained_on.thumbnails)
    baselines = run_baselines(trained_on, side)
    return {
        "near_duplicate": near.astype(int),
        "seen_group": [int(group in known) for group in side.groups],
    } | {name: [side.class_names[i] for i in classes] for name, classes in baselines.items()}
