"""Two model files on the slices that neither learned from, source by source.

    python -m benchmarks.two_files RUN DATA... --model FILE --model FILE --out benchmarks/results

RUN is the training of one of the files; its test side is measured: the slices of DATA that its
predictions.csv names. The other must not have learned from them either, which nothing here can
check: two trainings with the same seed and protocol hold out the same slices, and what another
collection adds to the one is new to the other. Each file preprocesses as its metadata says, and
answers by its own thresholds. Writes two_files.json and two_files.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, FOLDER, named_data, out_option, publish
from benchmarks.common.sides import side_figures, sides_table
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import UsageError
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from trainer.commands.options import Named
from trainer.data.dataset import Dataset, read_dataset
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.predictions import make_predictions
from trainer.models.outputs import predict_file
from trainer.run import Run

ALL = "all"


def held_out(file: ModelFile, run: Run, named: Named) -> Dataset:
    """The test slices of a run, as a file takes them.

    Raises:
        UsageError: DATA lacks some of them.
    """
    slices = read_dataset(
        named.data, file.info.preprocess,
        class_names=file.info.labels, groups_csv=named.options["groups"],
    )  # fmt: skip
    wanted = run.measured_paths()
    rows = [row for row, path in enumerate(slices.paths) if path in wanted]
    if len(rows) != len(wanted):
        raise UsageError(f"DATA holds {len(rows)} of the {len(wanted)} slices that RUN tested")
    return slices.take(rows)


def measure(file: ModelFile, run: Run, named: Named) -> dict[str, Any]:
    """What a file is right of, by source and in all; see `side_figures`."""
    side = held_out(file, run, named)
    outputs, rule = predict_file(file, side.images), DecisionRule.from_settings(vars(file.info))
    extras = {"status": rule.statuses(outputs, side.class_names)}
    predictions = make_predictions(
        side, rule.probabilities(outputs), run.settings["protocol"], "test", extras
    )
    sources = np.array(side.sources)
    figures = {
        name: side_figures(predictions.take(sources == name, name))
        for name in sorted(set(side.sources) - {""})
    }
    return figures | {ALL: side_figures(predictions)}


def as_markdown(result: dict[str, Any]) -> str:
    """A table a source."""
    lines: list[str] = []
    tags = [file["tag"] for file in result["files"]]
    for source in result["files"][0]["sides"]:
        shown = {tag: file["sides"][source]
                 for tag, file in zip(tags, result["files"], strict=True)}  # fmt: skip
        lines += [*sides_table(shown, "all slices" if source == ALL else f"source {source}"), ""]
    return "\n".join([*lines, f"Test side of the protocol {result['protocol']!r}.", ""])


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("data", type=EXISTING, nargs=-1, required=True)
@click.option("--model", "models", type=EXISTING, multiple=True, required=True)
@out_option
def main(run: Path, data: tuple[Path, ...], models: tuple[Path, ...], out: Path) -> None:
    """Measure model files on the test side of RUN."""
    if len(models) != 2:
        raise UsageError(f"{len(models)} --model were given: it takes two")
    opened, named = Run.open(run), named_data(data)
    files = [
        {"tag": file.tag, "sha256": file.sha256, "sides": measure(file, opened, named)}
        for file in map(read_model, models)
    ]
    result = {"protocol": opened.settings["protocol"], "files": files}
    publish(out, "two_files", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.two_files", extra="train")
