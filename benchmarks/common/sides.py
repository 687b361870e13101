"""What a model gets right of slices that it did not learn from, and how well it tells a tumour.

The same figures for a source that a training left out and for the sources of a cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.common.formatting import area_in_words, rate_in_words
from edge_runtime.labels import NO_TUMOR
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.metrics import auc_of, share_of, study_probabilities
from trainer.evaluation.partial_predictions import read_partial_predictions
from trainer.evaluation.predictions import Predictions, read_predictions
from trainer.finalize import PARTIAL_TABLE
from trainer.models.outputs import open_trained
from trainer.run import Run

if TYPE_CHECKING:
    import pandas as pd

P_NONE = f"p_{NO_TUMOR}"
# Of a side's figures, in the order of the table; classes stand behind the first.
ROWS = {
    "right": "right, of all classes",
    "studies": "right, per study",
    "answered": "answered",
    "wrong_answered": "wrong and answered",
    "tumour_free_answered_tumor": "tumour-free, answered as a tumour",
    "tumors_predicted_tumour_free": "tumours predicted notumor",
    "tumors_answered_tumour_free": "tumours answered notumor",
}


@dataclass(frozen=True)
class Scores:
    """How much a model takes N slices for a tumour: 1 less the probability of notumor.

    Attributes:
        values: N scores.
        tumor: N, whether they show one.
        groups: N names.
    """

    values: npt.NDArray[np.float64]
    tumor: npt.NDArray[np.bool_]
    groups: tuple[str, ...]

    def take(self, chosen: npt.NDArray[np.bool_]) -> Scores:
        """Some of the slices."""
        groups = tuple(g for g, c in zip(self.groups, chosen, strict=True) if c)
        return Scores(self.values[chosen], self.tumor[chosen], groups)

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.tumor, other.tumor]),
            (*self.groups, *other.groups),
        )

    def auc(self) -> dict[str, Any] | None:
        """Of tumours against none, see `auc_of`."""
        return auc_of(self.values, self.tumor, self.groups)


def predictions_of(run: Run) -> Predictions:
    """A run's predictions on its test side."""
    return read_predictions(
        run.folder / "predictions.csv", run.labels, run.settings["protocol"], "test"
    )


def partial_of(run: Run) -> pd.DataFrame | None:
    """A run's table of slices of unknown type that it did not learn from, or None."""
    path = run.folder / PARTIAL_TABLE
    return read_partial_predictions([path]) if path.is_file() else None


def validation_scores(run: Run) -> Scores:
    """A run's own, on its validation side."""
    side = run.validation_images()
    rule = DecisionRule.from_settings(run.settings)
    rows = rule.probabilities(open_trained(run).predict(side.pixels))
    none = run.labels.index(NO_TUMOR)
    return Scores(1 - rows[:, none], side.labels != none, side.groups)


def side_figures(
    predictions: Predictions, partial: pd.DataFrame | None = None, beside: Scores | None = None
) -> dict[str, Any]:
    """The figures of a side.

    Args:
        partial: rows of partial.csv that count as tumours of unknown type, or None.
        beside: what an area under the ROC curve borrows the tumours or the tumour-free slices
            from, where the side has none.

    Returns:
        n, groups, untyped (rows of `partial`), those of ROWS, `classes` (the share right of each
        that is there), `auc`, and `borrowed`: which side of `auc` is of `beside`, or None.
    """
    groups, truth = predictions.texts("group"), np.array(predictions.texts("label"))
    predicted = np.array(predictions.texts("predicted"))
    answered = np.array(predictions.texts("status")) == "ok"
    tumor, right = truth != NO_TUMOR, truth == predicted
    none = predictions.class_names.index(NO_TUMOR)
    scores = Scores(1 - predictions.probabilities[:, none], tumor, tuple(groups))
    missed, owners = [(predicted == NO_TUMOR)[tumor]], _among(groups, tumor)
    missed_answered = [(answered & (predicted == NO_TUMOR))[tumor]]
    if partial is not None and len(partial):
        more = (partial["predicted"] == NO_TUMOR).to_numpy()
        missed.append(more)
        missed_answered.append(more & (partial["status"] == "ok").to_numpy())
        owners = [*owners, *partial["group"]]
        if P_NONE in partial:
            untyped = np.ones(len(partial), bool)
            scores += Scores(1 - partial[P_NONE].to_numpy(), untyped, tuple(partial["group"]))
    borrowed = None
    if beside is not None and scores.auc() is None:
        borrowed = "tumour-free" if scores.tumor.all() else "tumours"
        scores += beside.take(beside.tumor == (borrowed == "tumours"))
    studies = study_probabilities(
        predictions.probabilities, predictions.labels, predictions.texts("patient"), groups
    )
    of_studies = None
    if studies is not None:
        rows, labels, studied = studies
        of_studies = share_of(rows.argmax(axis=1) == labels, studied)
    return {
        "n": len(truth),
        "groups": len(set(groups)),
        "untyped": 0 if partial is None else len(partial),
        "right": share_of(right, groups),
        "studies": of_studies,
        "classes": {
            name: share_of(right[truth == name], _among(groups, truth == name))
            for name in predictions.class_names
            if (truth == name).any()
        },
        "answered": share_of(answered, groups),
        "wrong_answered": share_of(answered & ~right, groups),
        "tumour_free_answered_tumor": share_of(
            (answered & (predicted != NO_TUMOR))[~tumor], _among(groups, ~tumor)
        ),
        "tumors_predicted_tumour_free": share_of(np.concatenate(missed), owners),
        "tumors_answered_tumour_free": share_of(np.concatenate(missed_answered), owners),
        "auc": scores.auc(),
        "borrowed": borrowed,
    }


def sides_table(sides: Mapping[str, dict[str, Any]], head: str) -> list[str]:
    """Sides as columns, figures as rows.

    Args:
        head: what the rows are, for the first column.
    """
    shown = list(sides.values())
    classes = sorted({name for side in shown for name in side["classes"]})
    cells: dict[str, list[str]] = {
        "slices (groups)": [f"{side['n']:,} ({side['groups']:,})" for side in shown]
    }
    if any(side["untyped"] for side in shown):
        cells["untyped tumours beside them"] = [f"{side['untyped']:,}" for side in shown]
    for key, words in ROWS.items():
        cells[words] = [rate_in_words(side[key]) for side in shown]
        if key == "right":
            for name in classes:
                cells[f"… {name}"] = [rate_in_words(side["classes"].get(name)) for side in shown]
    for words, borrows in (("AUC, tumour against none", False), ("… with borrowed slices", True)):
        cells[words] = [
            area_in_words(side["auc"] if (side["borrowed"] is not None) == borrows else None)
            for side in shown
        ]
    lines = [f"| {' | '.join([head, *(f'`{name}`' for name in sides)])} |"]
    lines.append(f"|---|{'--:|' * len(shown)}")
    nothing = {"–"}
    return lines + [
        f"| {' | '.join([words, *row])} |" for words, row in cells.items() if set(row) != nothing
    ]


def _among(groups: Sequence[str], chosen: npt.NDArray[np.bool_]) -> list[str]:
    return [group for group, wanted in zip(groups, chosen, strict=True) if wanted]
