"""Two recipes, or two networks, on the slices that both have tested: is the difference real?

    python -m benchmarks.two_recipes FOLDS FOLDS --out benchmarks/results

Each FOLDS is a finished group cross-validation. Only slices that both tested are compared, each by
the fold that did not learn from its group; that one of them learned from further slices beside is
part of what differs. A difference has an interval over groups for the paired hits, which is
narrower than that of either share. "Both" is what they would say together, by the mean of their
log-probabilities, which nothing offers: it tells how much of their errors is chance. Slices of
doubted label are those that the second run says.
Writes two_recipes.json and two_recipes.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import FOLDER, out_option, publish
from benchmarks.common.formatting import rate_in_words
from benchmarks.common.sides import partial_of, predictions_of
from benchmarks.robust import MAIN, TUMORS, TYPED_SOURCE
from edge_runtime.commands.entry import run_command
from edge_runtime.decision.study import pooled
from edge_runtime.errors import UsageError
from edge_runtime.labels import NO_TUMOR
from edge_runtime.model.load import read_model
from export.tflite.flatbuffer import read_tflite
from trainer.evaluation.intervals import difference_interval
from trainer.evaluation.metrics import share_of
from trainer.evaluation.predictions import Predictions
from trainer.run import Run

Hits = npt.NDArray[np.bool_]


def common(runs: Sequence[Run]) -> list[Predictions]:
    """What each run predicted for the slices that all of them tested, in one order.

    Raises:
        UsageError: a run is no cross-validation; there is no such slice; or slices have other
            labels in the one than in the other, or belong together otherwise.
    """
    tests = []
    for run in runs:
        if not run.settings.get("folds"):
            raise UsageError(f"FOLDS {run.folder} is no cross-validation")
        tests.append(predictions_of(run))
    places = [{path: row for row, path in enumerate(test.texts("path"))} for test in tests]
    paths = [path for path in places[0] if all(path in rows for rows in places)]
    if not paths:
        raise UsageError("no slice was tested by both: name two runs on the same DATA")
    taken = [
        Predictions(
            test.table.iloc[[rows[path] for path in paths]].reset_index(drop=True),
            test.class_names, test.protocol, test.split,
        )
        for test, rows in zip(tests, places, strict=True)
    ]  # fmt: skip
    names, groups = ([each.texts(column) for each in taken] for column in ("label", "group"))
    if names[0] != names[1]:
        raise UsageError("the labels of slices differ between the runs")
    # By what belongs together: what a group is called depends on the other collections.
    if len({len(set(names)) for names in (*groups, zip(*groups, strict=True))}) > 1:
        raise UsageError("the groups of slices differ between the runs")
    return taken


def _type_of(predictions: Predictions) -> list[str]:
    """The most probable of the tumours."""
    columns = [predictions.class_names.index(name) for name in TUMORS]
    return [TUMORS[i] for i in predictions.probabilities[:, columns].argmax(axis=1)]


def together(first: Predictions, second: Predictions) -> Predictions:
    """The mean of the log-probabilities of both."""
    both = pooled(np.stack([first.probabilities, second.probabilities]))
    table = second.table.assign(
        **{f"p_{name}": both[:, i] for i, name in enumerate(second.class_names)},
        predicted=[second.class_names[i] for i in both.argmax(axis=1)],
    )
    return Predictions(table, second.class_names, second.protocol, second.split)


def questions(predictions: Predictions, doubtful: Hits) -> dict[str, tuple[Hits, Hits]]:
    """For each row of the table which of the slices it is asked of, and which of them hit."""
    source, label = (np.array(predictions.texts(name)) for name in ("source", "label"))
    predicted, answered = (
        np.array(predictions.texts("predicted")), np.array(predictions.texts("status")) == "ok"
    )  # fmt: skip
    right, main = predicted == label, np.isin(source, MAIN)
    found = {
        "right of four classes": (main, right),
        "… without slices of doubted label": (main & ~doubtful, right),
        f"type of the tumours of `{TYPED_SOURCE}`": (
            source == TYPED_SOURCE, np.array(_type_of(predictions)) == label
        ),
        "tumours predicted notumor": (label != NO_TUMOR, predicted == NO_TUMOR),
        "tumours answered notumor": (label != NO_TUMOR, (predicted == NO_TUMOR) & answered),
        "tumour-free slices predicted a tumour": (label == NO_TUMOR, predicted != NO_TUMOR),
    }  # fmt: skip
    for name in sorted(set(source.tolist()) - {TYPED_SOURCE}):
        found[f"right of `{name}`"] = (source == name, right)
    found["answered"] = (np.ones(len(label), bool), answered)
    found["wrong and answered"] = (np.ones(len(label), bool), answered & ~right)
    return found


def compare(
    hits: Sequence[Hits], groups: Sequence[str], both: Hits | None = None
) -> dict[str, Any]:
    """The rate of each, that of both together, and the second's less the first's."""
    difference = hits[1].astype(float) - hits[0]
    return {
        "n": len(difference),
        "rates": [share_of(hit, groups) for hit in hits],
        "both": None if both is None else share_of(both, groups),
        "difference": {
            "n": len(difference),
            "share": float(difference.mean()),
            "interval95": difference_interval(difference, groups),
        },
    }


def untyped(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Tumours of unknown type of unseen groups predicted notumor, of those that both tested."""
    tables = [partial_of(run) for run in runs]
    if any(table is None for table in tables):
        return None
    rows: list[Mapping[str, Any]] = [
        {row["path"]: row for row in table.to_dict("records")}
        for table in tables
        if table is not None
    ]
    paths = [path for path in rows[0] if path in rows[1]]
    if not paths:
        return None
    hits = [np.array([each[path]["predicted"] == NO_TUMOR for path in paths]) for each in rows]
    return compare(hits, [rows[0][path]["group"] for path in paths])


def size_of(run: Run) -> dict[str, Any]:
    """The network of a run, and what an integer file of its folds costs, which is the same for all;
    None where no fold has one."""
    exported = [
        path for folder in run.model_folders for path in folder.glob("export/*-int8.tflite")
    ]
    graph = read_tflite(read_model(exported[0]).graph) if exported else None
    return {
        "network": run.settings["network"] or run.kind,
        "size": run.preprocess.size,
        "bytes": exported[0].stat().st_size if exported else None,
        "macs": None if graph is None else graph.macs,
    }


def measure(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything of two_recipes.json."""
    first, second = common(runs)
    doubtful = second.numbers("doubtful") == 1
    asked = [questions(each, doubtful) for each in (first, second, together(first, second))]
    groups, rows = np.array(first.texts("group")), {}
    for name, (among, _) in asked[0].items():
        if among.any():
            *hits, both = (each[name][1][among] for each in asked)
            said = "answered" in name  # by thresholds, which both together have none of
            rows[name] = compare(hits, groups[among].tolist(), None if said else both)
    if (missed := untyped(runs)) is not None:
        rows["untyped tumours predicted notumor"] = missed
    return {"networks": [size_of(run) for run in runs], "rows": rows}


def as_markdown(result: dict[str, Any]) -> str:
    """The table of docs/results.md."""
    names = [f"`{network['network']}`, {network['size']} px" for network in result["networks"]]
    lines = [
        f"| %, per slice, 5 folds of groups | n | {names[0]} | {names[1]} | difference, points "
        "| both |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in result["rows"].items():
        cells = [name, f"{row['n']:,}", *map(rate_in_words, row["rates"])]
        cells.append(rate_in_words(row["difference"], signed=True))
        cells.append("–" if row["both"] is None else rate_in_words(row["both"]))
        lines.append(f"| {' | '.join(cells)} |")
    for title, key, unit in (
        ("int8 file, KiB", "bytes", 1024),
        ("multiply-accumulates, M", "macs", 1e6),
    ):
        cells = ["–" if n[key] is None else f"{n[key] / unit:,.0f}" for n in result["networks"]]
        lines.append(f"| {title} | | {' | '.join(cells)} | | |")
    main = ", ".join(f"`{name}`" for name in MAIN)
    return "\n".join([*lines, "", f"The first two rows: slices of {main}.", ""])


@click.command()
@click.argument("folds", type=FOLDER, nargs=2)
@out_option
def main(folds: tuple[Path, Path], out: Path) -> None:
    """Compare two cross-validations on the slices that both tested."""
    result = measure([Run.open(folder) for folder in folds])
    publish(out, "two_recipes", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.two_recipes", extra="train")
