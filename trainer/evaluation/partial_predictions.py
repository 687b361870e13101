"""What a model says of slices whose class is only known to be one of several.

There is no accuracy here: an answer within the set may still be wrong. One outside of it is wrong
for certain, such as tumour-free for a tumour of unknown type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import DataError, one_line
from edge_runtime.files import write_text
from trainer.data.partial_labels import PartialLabels
from trainer.data.tables import from_csv, to_csv
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.metrics import share_of
from trainer.evaluation.predictions import DIGITS
from trainer.models.outputs import Predict

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "group", "source", "set", "predicted", "outside", "confidence", "status")


def predict_partial(
    partial: PartialLabels,
    predict: Predict,
    decision_rule: DecisionRule,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """One row of COLUMNS a slice, and one p_<label> a class after the confidence; `outside` is 1
    where the prediction is not in the slice's set."""
    import pandas as pd

    outputs = predict(partial.slices.images)
    probabilities = decision_rule.probabilities(outputs)
    best = probabilities.argmax(axis=1)
    allowed = partial.targets[np.arange(len(partial)), best] > 0
    sets = partial.slices.class_names
    return pd.DataFrame(
        {
            "path": partial.slices.paths,
            "group": partial.slices.groups,
            "source": partial.slices.sources,
            "set": [sets[i] for i in partial.slices.labels],
            "predicted": [class_names[i] for i in best],
            "outside": (~allowed).astype(int),
            "confidence": probabilities.max(axis=1).round(DIGITS),
            **{f"p_{n}": probabilities[:, c].round(DIGITS) for c, n in enumerate(class_names)},
            "status": decision_rule.statuses(outputs, class_names),
        }
    )


def partial_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """What metrics.json says of them: shares with 95 % intervals over groups.

    `predicted`: how often each class; `outside`: what is wrong for certain; `outside_answered`:
    what of that the device would give as an answer, of all slices; `answered`: slices that get an
    answer.
    """
    groups = [str(group) for group in table["group"]]
    outside = table["outside"].to_numpy() == 1
    answered = table["status"].to_numpy() == "ok"
    return {
        "n": len(table),
        "groups": len(set(groups)),
        "predicted": dict(sorted(Counter(table["predicted"]).items())),
        "outside": share_of(outside, groups),
        "outside_answered": share_of(outside & answered, groups),
        "answered": share_of(answered, groups),
    }


def write_partial_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write the table as CSV."""
    write_text(path, to_csv(table))


def read_partial_predictions(paths: Sequence[Path]) -> pd.DataFrame:
    """Tables that `write_partial_predictions` wrote, one after the other. Those of a former
    version lack the probabilities.

    Raises:
        DataError: missing or damaged.
    """
    import pandas as pd

    try:
        tables = [from_csv(path.read_text("utf-8")) for path in paths]
        for table in tables:
            missing = set(COLUMNS) - set(table)
            if missing:
                raise ValueError(f"no column {min(missing)}")
            numbers = [name for name in table.columns if str(name).startswith("p_")]
            for column in ("outside", "confidence", *numbers):
                table[column] = pd.to_numeric(table[column])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"a table of partial labels cannot be read: {one_line(error)}") from None
    return pd.concat(tables, ignore_index=True)
