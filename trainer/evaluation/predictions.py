"""The predictions table of a test side, and every figure that follows from it.

`predictions.csv` holds one row a slice; metrics.json is computed from nothing else, so a pooled
cross-validation is the metrics of the folds' tables put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, one_line
from edge_runtime.files import write_text
from trainer.data.dataset import Dataset
from trainer.data.tables import from_csv, to_csv
from trainer.evaluation.baselines import BASELINES
from trainer.evaluation.metrics import compute_metrics, per_source, share_of, study_probabilities
from trainer.evaluation.saliency import pointing_figures
from trainer.evaluation.selective import selective_figures

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 6  # of probabilities; the figures are computed from the rounded ones
# What is always in the table; one p_<label> a class follows the confidence.
COLUMNS = ("path", "group", "source", "patient", "label", "predicted", "confidence")
# What may be unknown: empty cells then.
EXTRAS = ("status", "twin", "seen_group", *BASELINES, "heat_in_box", "box_share")


@dataclass(frozen=True)
class Predictions:
    """Predictions on one side of a data set.

    Attributes:
        table: one row a slice: COLUMNS with p_<label> after them, and those of EXTRAS that are
            known. `twin`: looks like a slice learned from; `seen_group`: shares a group with one;
            `status`: what the device would answer; the controls' calls; `heat_in_box` and
            `box_share`: the pointing game.
        class_names: in the order of the network's outputs.
        protocol, split: what was measured on.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    protocol: str
    split: str

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """N×C."""
        return self.table[[f"p_{name}" for name in self.class_names]].to_numpy(np.float64)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """N class indices, the truth."""
        return self._indices("label")

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """N class indices, the network's best guesses."""
        return self._indices("predicted")

    def texts(self, column: str) -> list[str]:
        """A column as texts; empty ones where the table lacks it."""
        if column not in self.table:
            return [""] * len(self.table)
        return [str(value) for value in self.table[column]]

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A column as numbers; NaN where unknown."""
        import pandas as pd

        if column not in self.table:
            return np.full(len(self.table), np.nan)
        return pd.to_numeric(self.table[column], errors="coerce").to_numpy(np.float64)

    def take(self, chosen: npt.NDArray[np.bool_], protocol: str) -> Predictions:
        """Some of the rows, under another name of the protocol."""
        return Predictions(self.table[chosen], self.class_names, protocol, self.split)

    def write(self, path: Path) -> None:
        """Write the table as CSV."""
        write_text(path, to_csv(self.table))

    def _indices(self, column: str) -> npt.NDArray[np.int64]:
        place = {name: i for i, name in enumerate(self.class_names)}
        return np.array([place[name] for name in self.texts(column)], dtype=np.int64)


def make_predictions(
    side: Dataset,
    probabilities: npt.NDArray[np.float64],
    protocol: str,
    split: str,
    extras: Mapping[str, Sequence[Any] | npt.NDArray[Any]] | None = None,
) -> Predictions:
    """The table of a data set's side from probabilities (N×C) and columns of EXTRAS."""
    import pandas as pd

    names = side.class_names
    shares = probabilities.round(DIGITS)
    columns: dict[str, Any] = {
        "path": side.paths,
        "group": side.groups,
        "source": side.sources,
        "patient": side.patients,
        "label": [names[i] for i in side.labels],
        "predicted": [names[i] for i in shares.argmax(axis=1)],
        "confidence": shares.max(axis=1),
    }
    columns |= {f"p_{name}": shares[:, c] for c, name in enumerate(names)}
    return Predictions(pd.DataFrame(columns | dict(extras or {})), names, protocol, split)


def read_predictions(
    path: Path, class_names: Sequence[str], protocol: str, split: str
) -> Predictions:
    """A table that `Predictions.write` wrote.

    Raises:
        DataError: missing, damaged, or of other classes.
    """
    import pandas as pd

    shares = [f"p_{name}" for name in class_names]
    try:
        table = from_csv(path.read_text("utf-8"))
        for column in ("confidence", *shares):
            table[column] = pd.to_numeric(table[column])
            if not np.isfinite(table[column]).all():
                raise ValueError(f"{column} holds what is no number")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path.name} cannot be read: {one_line(error)}") from None
    return Predictions(table, tuple(class_names), protocol, split)


def pool(outcomes: Sequence[Predictions]) -> Predictions:
    """The tables of several test sides as one; each row keeps the number of its fold."""
    import pandas as pd

    tables = [o.table.assign(fold=number) for number, o in enumerate(outcomes, 1)]
    first = outcomes[0]
    return Predictions(
        pd.concat(tables, ignore_index=True), first.class_names, first.protocol, first.split
    )


def figures(outcome: Predictions) -> dict[str, Any]:
    """Everything that metrics.json says of a test side; None where it cannot be known."""
    whole = _slices_and_studies(outcome)
    groups, correct = outcome.texts("group"), outcome.predicted == outcome.labels
    status = np.array(outcome.texts("status"))
    judged = bool((status != "").any())
    without: dict[str, Any] = {}
    for name, column, words in (
        ("without_twins", "twin", "without test images that have a twin in training"),
        ("without_shared_groups", "seen_group", "only groups not in training"),
    ):
        fresh = outcome.numbers(column) == 0
        some = fresh.any() and not fresh.all()
        part = outcome.take(fresh, f"{outcome.protocol}, {words}")
        without[name] = _slices_and_studies(part) | _controls(part) if some else None
    return {
        **whole,
        **_controls(outcome),
        **without,
        "selective": selective_figures(status == "ok", correct, groups, outcome.texts("predicted"))
        if judged
        else None,
        "unfamiliar": share_of(status == "unfamiliar", groups) if judged else None,
        "heatmap": pointing_figures(
            outcome.numbers("heat_in_box"), outcome.numbers("box_share"), groups
        ),
    }


def short_figures(outcome: Predictions) -> dict[str, Any]:
    """`figures` without controls and breakdowns."""
    return compute_metrics(
        outcome.probabilities,
        outcome.labels,
        outcome.class_names,
        outcome.texts("group"),
        protocol=outcome.protocol,
        split=outcome.split,
    )


def _slices_and_studies(outcome: Predictions) -> dict[str, Any]:
    names, groups = outcome.class_names, outcome.texts("group")
    studies = study_probabilities(
        outcome.probabilities, outcome.labels, outcome.texts("patient"), groups
    )
    return short_figures(outcome) | {
        "per_study": None if studies is None else compute_metrics(
            studies[0], studies[1], names, studies[2],
            protocol=f"{outcome.protocol}, per study", split=outcome.split,
        ),
        "per_source": per_source(
            outcome.predicted, outcome.labels, names, groups, outcome.texts("source")
        ),
    }  # fmt: skip


def _controls(outcome: Predictions) -> dict[str, Any]:
    """What each control reaches on the same slices, in few figures."""
    kept = ("n", "groups", "accuracy", "balanced_accuracy", "kappa", "confusion")
    table: dict[str, Any] = {}
    for name in BASELINES:
        if not any(outcome.texts(name)):
            continue
        calls = np.eye(len(outcome.class_names))[outcome._indices(name)]
        whole = compute_metrics(
            calls, outcome.labels, outcome.class_names, outcome.texts("group"),
            protocol=outcome.protocol, split=outcome.split,
        )  # fmt: skip
        intervals = {k: whole["interval95"][k] for k in ("accuracy", "balanced_accuracy", "kappa")}
        table[name] = {key: whole[key] for key in kept} | {"interval95": intervals}
    return {"controls": table or None}
