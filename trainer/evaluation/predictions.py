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
from trainer.evaluation.saliency import pointing_metrics
from trainer.evaluation.selective import selective_metrics
from trainer.former import COLUMNS as FORMER_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 6  # of probabilities; the figures are computed from the rounded ones
# What is always in the table; one p_<label> a class follows the confidence.
COLUMNS = ("path", "group", "source", "patient", "label", "predicted", "confidence")
# What may be unknown: empty cells then.
EXTRAS = ("status", "near_duplicate", "seen_group", *BASELINES, "pointing_hit", "box_share",
          "plane", "sequence", "seen_plane", "seen_sequence", "doubtful")  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """Predictions on one side of a data set.

    Attributes:
        table: one row a slice: COLUMNS with p_<label> after them, and those of EXTRAS that are
            known. `near_duplicate`: looks like a slice learned from; `seen_group`: shares a group
            with one; `status`: what the device would answer; the baselines' answers;
            `pointing_hit` and `box_share`: the pointing game; `plane` and `sequence`: what tables
            or cards say, and as `seen_…` what the model sees; `doubtful`: a table doubts the label.
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
    rounded = probabilities.round(DIGITS)
    columns: dict[str, Any] = {
        "path": side.paths,
        "group": side.groups,
        "source": side.sources,
        "patient": side.patients,
        "label": [names[i] for i in side.labels],
        "predicted": [names[i] for i in rounded.argmax(axis=1)],
        "confidence": rounded.max(axis=1),
    }
    columns |= {f"p_{name}": rounded[:, c] for c, name in enumerate(names)}
    return Predictions(pd.DataFrame(columns | dict(extras or {})), names, protocol, split)


def read_predictions(
    path: Path, class_names: Sequence[str], protocol: str, split: str
) -> Predictions:
    """A table that `Predictions.write` wrote, in this version or a former one.

    Raises:
        DataError: missing, damaged, or of other classes.
    """
    import pandas as pd

    numeric = ("confidence", *(f"p_{name}" for name in class_names))
    try:
        table = from_csv(path.read_text("utf-8")).rename(columns=FORMER_COLUMNS)
        for column in numeric:
            table[column] = pd.to_numeric(table[column])
            if not np.isfinite(table[column]).all():
                raise ValueError(f"{column} holds what is no number")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path.name} cannot be read: {one_line(error)}") from None
    return Predictions(table, tuple(class_names), protocol, split)


def pool(folds: Sequence[Predictions]) -> Predictions:
    """The tables of several test sides as one; each row keeps the number of its fold."""
    import pandas as pd

    tables = [each.table.assign(fold=number) for number, each in enumerate(folds, 1)]
    first = folds[0]
    return Predictions(
        pd.concat(tables, ignore_index=True), first.class_names, first.protocol, first.split
    )


def metrics_of(predictions: Predictions) -> dict[str, Any]:
    """Everything that metrics.json says of a test side; None where it cannot be known."""
    whole = _slices_and_studies(predictions)
    groups, correct = predictions.texts("group"), predictions.predicted == predictions.labels
    status = np.array(predictions.texts("status"))
    decided = _decided(predictions)
    without: dict[str, Any] = {}
    for name, column, words in (
        ("without_near_duplicates", "near_duplicate", "without near-duplicates of training slices"),
        ("without_shared_groups", "seen_group", "only groups not in training"),
        ("without_doubtful", "doubtful", "without slices of doubted label"),
    ):
        fresh = predictions.numbers(column) == 0
        some = fresh.any() and not fresh.all()
        part = predictions.take(fresh, f"{predictions.protocol}, {words}")
        without[name] = _slices_and_studies(part) | _baselines(part) if some else None
    return {
        **whole,
        **_baselines(predictions),
        **without,
        "selective": selective_metrics(
            status == "ok", correct, groups, predictions.texts("predicted")
        )
        if decided
        else None,
        "unfamiliar": share_of(status == "unfamiliar", groups) if decided else None,
        "heatmap": pointing_metrics(
            predictions.numbers("pointing_hit"), predictions.numbers("box_share"), groups
        ),
    }


def short_metrics(predictions: Predictions) -> dict[str, Any]:
    """`metrics_of` without baselines and breakdowns."""
    return compute_metrics(
        predictions.probabilities,
        predictions.labels,
        predictions.class_names,
        predictions.texts("group"),
        protocol=predictions.protocol,
        split=predictions.split,
    )


def _slices_and_studies(predictions: Predictions) -> dict[str, Any]:
    names, groups = predictions.class_names, predictions.texts("group")
    studies = study_probabilities(
        predictions.probabilities, predictions.labels, predictions.texts("patient"), groups
    )
    return short_metrics(predictions) | {
        "per_study": None if studies is None else compute_metrics(
            studies[0], studies[1], names, studies[2],
            protocol=f"{predictions.protocol}, per study", split=predictions.split,
        ),
        "per_source": per_source(
            predictions.predicted, predictions.labels, names, groups, predictions.texts("source"),
            np.array(predictions.texts("status")) == "ok" if _decided(predictions) else None,
        ),
    }  # fmt: skip


def _decided(predictions: Predictions) -> bool:
    """Whether it is known what the device would answer."""
    return any(predictions.texts("status"))


def _baselines(predictions: Predictions) -> dict[str, Any]:
    """What each baseline reaches on the same slices, in few figures."""
    kept = ("n", "groups", "accuracy", "balanced_accuracy", "kappa", "confusion")
    table: dict[str, Any] = {}
    for name in BASELINES:
        if not any(predictions.texts(name)):
            continue
        certain = np.eye(len(predictions.class_names))[predictions._indices(name)]
        whole = compute_metrics(
            certain, predictions.labels, predictions.class_names, predictions.texts("group"),
            protocol=predictions.protocol, split=predictions.split,
        )  # fmt: skip
        intervals = {k: whole["interval95"][k] for k in ("accuracy", "balanced_accuracy", "kappa")}
        table[name] = {key: whole[key] for key in kept} | {"interval95": intervals}
    return {"baselines": table or None}
