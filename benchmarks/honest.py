"""One table of what the network reaches under each protocol, beside the baselines.

    python -m benchmarks.honest RUN [RUN ...] --out benchmarks/results

Each RUN is a finished training; the command that made it is told from its settings. Writes
honest.json and honest.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import metric_in_words
from edge_runtime.commands.entry import run_command
from trainer.evaluation.baselines import BASELINES
from trainer.run import CNN, Run

KEPT = ("n", "groups", "accuracy", "balanced_accuracy", "interval95")
HEAD = (
    "| protocol | measured on | n | this network % | balanced % | 1-NN on pixels % "
    "| low-level statistics % |\n|---|---|--:|--:|--:|--:|--:|"
)


def rows_of(run: Run) -> list[dict[str, Any]]:
    """One row for each way to count a run's test side."""
    metrics, settings = run.metrics(), run.settings
    protocol = settings["protocol"]
    if settings.get("folds"):
        protocol += f", {settings['folds']} folds"
    rows = [_row(protocol, "slices", metrics, metrics["baselines"])]
    for part, words in (
        ("without_near_duplicates", "slices without a near-duplicate in training"),
        ("without_shared_groups", "slices of groups that training did not see"),
    ):
        if metrics.get(part):
            rows.append(_row(protocol, words, metrics[part], metrics[part]["baselines"]))
    if metrics.get("per_study"):
        rows.append(_row(protocol, "studies", metrics["per_study"], None))
    if len(metrics.get("per_source") or {}) > 1:
        for source, measured in metrics["per_source"].items():
            rows.append(_row(protocol, f"slices of source {source}", measured, None))
    return rows


def command_of(run: Run) -> str:
    """The command that made a run, with what is not at its default. The tables of several DATA are
    those that their cards name."""
    settings, training = run.settings, run.settings["training"]
    network = run.kind == CNN
    several = len(settings["data"].get("each_sha256") or ())
    words = ["btc-train", *["DATA"] * max(several, 1)]
    if not several:
        words.append("--groups groups.csv")
        if settings["data"]["boxes"]:
            words.append("--boxes boxes.csv")
        if settings["partial"]:
            words.append("--partial tumor-untyped.zip --partial-groups tumor-untyped.csv")
    if network:
        words.append(f"--recipe {training['recipe']['name']}")
    else:
        words.append(f"--model {training['model']} --features {','.join(training['features'])}")
    words.append(f"--protocol {settings['protocol']}")
    if settings.get("folds"):
        words.append(f"--folds {settings['folds']}")
    if network and training["epochs"] != training["recipe"]["epochs"]:
        words.append(f"--epochs {training['epochs']}")
    if training.get("search"):
        words.append("--search")
    if run.preprocess.resize != "pyramid":
        words.append(f"--resize {run.preprocess.resize}")
    return " ".join([*words, f"--seed {settings['seed']}"])


def _row(
    protocol: str, on: str, measured: dict[str, Any], baselines: dict[str, Any] | None
) -> dict[str, Any]:
    def few(values: dict[str, Any]) -> dict[str, Any]:
        kept = {key: values[key] for key in KEPT if key in values}
        wanted = ("accuracy", "balanced_accuracy")
        kept["interval95"] = {k: v for k, v in values["interval95"].items() if k in wanted}
        return kept

    return {
        "protocol": protocol,
        "on": on,
        **few(measured),
        "baselines": {name: few(baseline) for name, baseline in (baselines or {}).items()},
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [HEAD]
    for row in result["rows"]:
        cells = [row["protocol"], row["on"], str(row["n"]), metric_in_words(row, "accuracy")]
        cells.append(metric_in_words(row, "balanced_accuracy"))
        cells += [metric_in_words(row["baselines"].get(name), "accuracy") for name in BASELINES]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Accuracy with its 95 % interval over groups. Made by:", ""]
    lines += [f"- `{command}`" for command in result["commands"]]
    return "\n".join([*lines, ""])


@click.command()
@click.argument("runs", nargs=-1, required=True, type=EXISTING)
@out_option
def main(runs: tuple[Path, ...], out: Path) -> None:
    """Put the figures of finished RUNS into one table."""
    opened = [Run.open(run) for run in runs]
    result = {
        "rows": [row for run in opened for row in rows_of(run)],
        "commands": [command_of(run) for run in opened],
    }
    publish(out, "honest", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.honest", extra="train")
