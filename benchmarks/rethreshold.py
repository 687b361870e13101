"""New thresholds for a model file, on the validation slices of the split that it was trained on.

    python -m benchmarks.rethreshold MODEL DATA --groups groups.csv --protocol grouped --seed 1 \\
        --target-error lowest --out MODEL --measure

The run that MODEL came from is not needed: DATA is split again, and must give the digest and the
counts that MODEL states. The graph, the temperature and the check for out-of-distribution slices
stay as they are; the file's digest changes with its metadata. `--measure` then looks at the
held-out side, with the thresholds that MODEL had and with the new ones, and writes
rethreshold.json and rethreshold.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, RESULTS, publish
from benchmarks.common.formatting import rate_in_words
from edge_runtime.commands.click_types import Command, FiniteRange
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from edge_runtime.files import write_bytes
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.load import read_model
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.split import Split, split_dataset, split_facts
from trainer.evaluation.decision_rule import DecisionRule, SideOutputs, with_thresholds
from trainer.evaluation.selective import (
    Targets,
    asked_targets,
    refusals,
    selective_metrics,
    tumour_free_of,
)
from trainer.finalize import count_classes
from trainer.models.outputs import ModelOutputs, predict_file
from trainer.report.html import percent
from trainer.run import checked_version


def facts_of(data: Dataset, split: Split) -> dict[str, Any]:
    """What a model file states of the data and the split that it was trained on."""
    return split_facts(data, split) | {"classes": count_classes(data, split)}


def split_of(file: ModelFile, data: Dataset, protocol: str, seed: int) -> Split:
    """The split that the file's network was trained on.

    Raises:
        DataError: other data, or another split.
    """
    split = split_dataset(data, protocol, seed)
    stated, found = file.info.data, facts_of(data, split)
    others = [key for key in found if stated.get(key) != found[key]]
    if others:
        raise DataError(
            f"this is not the split that the model was trained on: {', '.join(others)} differ"
        )
    return split


def predict_side(file: ModelFile, side: Dataset) -> SideOutputs:
    """What a file answers on a side of the data."""
    outputs = predict_file(file, side.images)
    return SideOutputs(outputs, side.labels, side.groups, side.planes, side.sequences)


def refit(
    file: ModelFile, validation: SideOutputs, targets: Targets, version: str | None = None
) -> tuple[bytes, DecisionRule]:
    """The same model with new thresholds: the bytes of its file, and its rule. Rules for other
    runtimes go, since they keep the old thresholds' promises: `btc-export RUN --refit` adds new
    ones."""
    info = file.info
    decision_rule = with_thresholds(
        DecisionRule.from_settings(vars(info)),
        validation,
        info.labels,
        targets,
        tumour_free_of(info.data),
    )
    changed = replace(
        info, version=version or info.version, rules=None, **decision_rule.to_settings()
    )
    return pack_model(file.graph, changed, file.format), decision_rule


def coverage_and_error(
    decision_rule: DecisionRule, side: SideOutputs, names: tuple[str, ...]
) -> dict[str, Any]:
    """Coverage and errors of answers, of all slices and of those predicted as each class."""
    outputs: ModelOutputs = side.outputs
    status = np.array(decision_rule.statuses(outputs, names))
    best = decision_rule.probabilities(outputs).argmax(axis=1)
    return selective_metrics(
        status == "ok", best == side.labels, side.groups, [names[i] for i in best]
    ) | {"thresholds": dict(decision_rule.thresholds)}


def as_markdown(result: dict[str, Any]) -> str:
    """The table that the model card shows."""
    lines = [
        "| predicted | asked for % | supported % | old threshold | answered % | wrong % "
        "| new threshold | answered % | wrong % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    old, new = result["old"], result["new"]
    for name in [*new["thresholds"], None]:
        row = ["all", "", ""] if name is None else [
            name,
            percent(result["target_error"][name]),
            percent(result["error_bound"].get(name)),
        ]  # fmt: skip
        for side in (old, new):
            part = side if name is None else side["per_class"].get(name)
            row.append("" if name is None else f"{side['thresholds'][name]:.3f}")
            row += (
                ["–", "–"]
                if part is None
                else [rate_in_words(part["coverage"]), rate_in_words(part["error"])]
            )
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        f"{result['n']} held-out slices of {result['groups']} groups; thresholds from "
        f"{result['validation']} other slices; supported: with {100 * result['confidence']:g} % "
        f"confidence for each class. {result['model']}.",
        "",
    ]
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("data", type=EXISTING)
@click.option("--groups", type=EXISTING)
@click.option("--protocol", default="grouped", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--target-error", multiple=True, metavar="SHARE|CLASS=SHARE|lowest")
@click.option("--max-error", type=FiniteRange(0, 1), hidden=True)
@click.option("--confidence", type=FiniteRange(0.5, 1, max_open=True))
@click.option("--model-version", help="Default: the file's own.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--measure", "measured", is_flag=True, help="Look at the held-out side too.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(
    model: Path, data: Path, groups: Path | None, protocol: str, seed: int,
    model_version: str | None, out: Path, measured: bool, results: Path, **options: Any,
) -> None:  # fmt: skip
    """Choose new thresholds for MODEL on the slices of DATA that chose its old ones."""
    file = read_model(model)
    names = file.info.labels
    everything = read_dataset(data, file.info.preprocess, class_names=names, groups_csv=groups)
    split = split_of(file, everything, protocol, seed)
    validation = predict_side(file, everything.take(split.validation))
    targets = asked_targets(options, Targets())
    packed, decision_rule = refit(file, validation, targets, checked_version(model_version))
    write_bytes(out, packed)
    made = parse_model(packed)
    click.echo(made.tag)
    for label, each in decision_rule.chosen.items():
        click.echo(
            f"{label}: threshold {each.threshold:.3f}, {100 * each.target:g} % asked for, "
            f"{percent(each.bound)} % supported by {each.slices} slices in {each.groups} groups, "
            f"which are worth {each.effective:.0f}"
        )
    for line in refusals(decision_rule.chosen):
        click.echo(line)
    if measured:
        side = predict_side(file, everything.take(split.test))
        result = {
            "model": made.tag,
            "n": len(side.labels),
            "groups": len(set(side.groups)),
            "validation": len(validation.labels),
            **{key: vars(made.info)[key] for key in ("target_error", "error_bound", "confidence")},
            "old": coverage_and_error(DecisionRule.from_settings(vars(file.info)), side, names),
            "new": coverage_and_error(decision_rule, side, names),
        }
        publish(results, "rethreshold", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.rethreshold", extra="train")
