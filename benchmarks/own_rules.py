"""One model file in two runtimes: what its decision rule is worth in the other, and what a rule of
that runtime's own is.

    python -m benchmarks.own_rules RUN DATA... --model FILE --runtime tflite-runtime=PYTHON

RUN is the training of FILE; its test side is measured: the slices of DATA that its predictions.csv
names. PYTHON is that of an environment with the runtime and this btc-edge. FILE must hold rules for
the runtimes, see `btc-export --runtime` and `--refit`. Beside the shares of slices that are
answered and of answers that are wrong stand the slices whose label or status is another than in the
runtime that FILE was fitted with. Equal statuses are no aim: a rule is to keep its share of wrong
answers. Writes own_rules.json and own_rules.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, FOLDER, named_data, out_option, publish
from benchmarks.common.formatting import rate_in_words
from benchmarks.rethreshold import coverage_and_error
from benchmarks.two_files import held_out
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from export.commands.export import runtimes_of
from export.runtimes import Runtime, at_hand, open_elsewhere
from trainer.data.dataset import Dataset
from trainer.evaluation.decision_rule import DecisionRule, SideOutputs
from trainer.models.outputs import ModelOutputs
from trainer.report.html import percent
from trainer.run import Run

Row = dict[str, Any]


def rule_of(file: ModelFile, runtime: str) -> DecisionRule:
    """The decision rule of a file for a runtime."""
    return DecisionRule.from_settings(vars(file.info.for_runtime(runtime)))


def judge(
    file: ModelFile, side: Dataset, outputs: ModelOutputs, runtime: str, rule: str
) -> tuple[Row, list[str], list[int]]:
    """Outputs of a runtime judged by the rule of one: figures, statuses and best classes."""
    chosen, names = rule_of(file, rule), file.info.labels
    seen = SideOutputs(outputs, side.labels, side.groups, side.planes, side.sequences)
    statuses = chosen.statuses(outputs, names)
    info = file.info.for_runtime(rule)
    row = {"runtime": runtime, "rule": rule, "temperature": chosen.temperature}
    row |= {"target_error": info.target_error, "unfamiliar": statuses.count("unfamiliar")}
    row |= coverage_and_error(chosen, seen, names)
    return row, statuses, outputs.logits.argmax(axis=1).tolist()


def measure(file: ModelFile, side: Dataset, runtimes: list[Runtime]) -> list[Row]:
    """A row for the runtime that the file was fitted with, and two for each other: by the rule of
    that one, and by its own.

    Args:
        runtimes: that one first.
    """
    first = runtimes[0].name
    rows: list[Row] = []
    known: tuple[list[str], list[int], ModelOutputs] | None = None
    for runtime in runtimes:
        outputs = runtime.predict(file, side.images)
        for rule in dict.fromkeys((first, runtime.name)):
            row, statuses, best = judge(file, side, outputs, runtime.name, rule)
            if known is None:
                known = statuses, best, outputs
            row["version"] = runtime.version
            row["other_labels"] = _differing(best, known[1])
            row["other_statuses"] = _differing(statuses, known[0])
            mine, theirs = (
                rule_of(file, name).probabilities(given)
                for name, given in ((rule, outputs), (first, known[2]))
            )
            row["max_abs_probability"] = float(np.abs(mine - theirs).max())
            rows.append(row)
    return rows


def _differing(some: list[Any], others: list[Any]) -> int:
    return sum(one != other for one, other in zip(some, others, strict=True))


def as_markdown(result: Row) -> str:
    """What docs/results.md shows."""
    names = list(result["rows"][0]["target_error"] or {})
    lines = [
        "| runtime | by the rule for | other labels | other statuses | largest Δp "
        "| answered % (95 % interval) | wrong % of answers "
        + "".join(f"| {name}: wrong % (asked) " for name in names)
        + "|",
        "|---|---|" + "--:|" * (5 + len(names)),
    ]
    for row in result["rows"]:
        cells = [
            f"{row['runtime']} {row['version']}",
            row["rule"],
            str(row["other_labels"]),
            str(row["other_statuses"]),
            f"{row['max_abs_probability']:.3f}",
            rate_in_words(row["coverage"]),
            rate_in_words(row["error"]),
        ]
        for name in names:
            part = row["per_class"].get(name)
            wrong = "–" if part is None else percent(part["error"]["share"])
            cells.append(f"{wrong} ({percent(row['target_error'][name])})")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"{result['n']} slices of {result['groups']} groups, which neither the training nor the "
        f"rules have seen; other labels and statuses than in {result['rows'][0]['runtime']} by its "
        f"rule. {result['model']}.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("data", type=EXISTING, nargs=-1, required=True)
@click.option("--model", type=EXISTING, help="Default: the bundled one.")
@click.option("--runtime", "pythons", multiple=True, metavar="NAME=PYTHON")
@out_option
def main(
    run: Path, data: tuple[Path, ...], model: Path | None, pythons: tuple[str, ...], out: Path
) -> None:
    """Measure the rules of a model file on the test side of RUN."""
    file = read_model(model)
    fitted = file.info.fitted_with
    if fitted is None or not file.info.rules:
        raise DataError(f"{file.tag} has no rules of runtimes: btc-export RUN --refit FILE")
    names = [fitted["runtime"], *file.info.rules]
    runtimes = at_hand(names, open_elsewhere(runtimes_of(pythons)))
    if [runtime.name for runtime in runtimes] != names:
        raise DataError(f"not all of {', '.join(names)} are here: --runtime NAME=PYTHON")
    side = held_out(file, Run.open(run), named_data(data))
    result = {
        "model": file.tag,
        "n": len(side.labels),
        "groups": len(set(side.groups)),
        "rows": measure(file, side, runtimes),
    }
    publish(out, "own_rules", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.own_rules", extra="export")
