"""One side of a data set through a model, with everything that belongs beside the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Dataset, originals
from trainer.data.lookalikes import has_twin
from trainer.evaluation.controls import run_controls
from trainer.evaluation.explain import box_chances, box_hits, heatmaps, peaks
from trainer.evaluation.gallery import Gallery, choose_cases, whole_pictures
from trainer.evaluation.judgement import Judgement
from trainer.evaluation.outcome import Outcome, make_outcome
from trainer.evaluation.predict import Observed

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Measure:
    """A model with its rule, ready to be measured on sides of a data set.

    Attributes:
        look: runs the model.
        network: the Keras model, for Grad-CAM; a model file has class maps or no heatmaps.
    """

    look: Callable[[npt.NDArray[np.uint8]], Observed]
    judgement: Judgement
    protocol: str
    network: keras.Model | None = None

    def side(
        self, side: Dataset, split: str, learned: Dataset | None, seen: Observed | None = None
    ) -> tuple[Outcome, Gallery]:
        """Predictions with controls, twins and heatmaps beside them, and cases to look at.

        Args:
            learned: the slices that the model learned from; None where they are not at hand:
                then there are no controls, and twins are unknown.
            seen: the model's outputs on the side, where they are known already.
        """
        seen = seen or self.look(side.images)
        shares = self.judgement.probabilities(seen)
        heat = heatmaps(self.network, seen, side.images, shares.argmax(axis=1))
        extras: dict[str, Any] = {"status": self.judgement.statuses(seen, side.class_names)}
        if learned is not None:
            extras |= compare_sides(side, learned)
        if heat is not None:
            hits = box_hits(peaks(heat), side.boxes)
            extras |= {"heat_in_box": hits, "box_share": box_chances(side.boxes)}
        outcome = make_outcome(side, shares, self.protocol, split, extras)
        rows = choose_cases(
            side.labels, outcome.predicted, outcome.numbers("confidence"), side.groups
        )
        shown = np.zeros((len(rows), 1, 1), np.float32) if heat is None else heat[rows]
        before = whole_pictures(originals(side, rows))
        return outcome, Gallery(rows, side.images[rows], shown, side.boxes[rows], before)


def compare_sides(side: Dataset, learned: Dataset) -> dict[str, Any]:
    """Columns of the predictions table that compare a side with what was learned from."""
    known = set(learned.groups)
    return {
        "twin": has_twin(side.thumbnails, learned.thumbnails).astype(int),
        "seen_group": [int(group in known) for group in side.groups],
    } | {
        name: [side.class_names[i] for i in calls]
        for name, calls in run_controls(learned, side).items()
    }
