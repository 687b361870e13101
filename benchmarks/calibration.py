"""How int8 accuracy moves with the number of calibration images.

    python -m benchmarks.calibration RUN --out benchmarks/results

Each size is drawn anew with several seeds from the run's training side; every file is compared
with Keras on the run's validation side, never its test side. Writes calibration.json and
calibration.md.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import FOLDER, out_option, publish
from edge_runtime.commands.entry import run_command
from edge_runtime.decision.prediction import probabilities
from edge_runtime.model.file_format import parse_model
from export.calibration_images import choose_calibration_images
from export.exporter import Exporter, ExportSettings
from export.formats import FORMATS
from export.gate import Comparison, compare
from trainer.evaluation.intervals import in_words, mean_interval
from trainer.models.outputs import predict_file
from trainer.run import Run

Row = dict[str, Any]


def measure(run: Run, counts: tuple[int, ...], seeds: int) -> Row:
    """The run's figures, and a row for each number of images; shares (0-1), over all seeds."""
    exporter = Exporter(run, ExportSettings(run.folder, "unused"))
    validation, reference = run.validation_images(), exporter.reference
    expected = probabilities(reference.logits, reference.temperature)
    rows = []
    for count in counts:
        compared = []
        for seed in range(seeds):
            pixels = choose_calibration_images(run.calibration_images(), count, seed)
            file = parse_model(exporter.packed(FORMATS["int8"], pixels))
            logits = predict_file(file, validation.pixels).logits
            answers = probabilities(logits, reference.temperature)
            compared.append(compare(answers, expected, validation.labels))
            click.echo(f"{count} images, seed {seed}", err=True)
        rows.append(_row(count, compared, validation.groups))
    right = expected.argmax(axis=1) == validation.labels
    return {"n": len(right), "accuracy_float": float(right.mean()), "rows": rows}


def _row(count: int, compared: Sequence[Comparison], groups: Sequence[str]) -> Row:
    """Figures of the files of one size, a seed each."""
    gain = np.stack([each.gain for each in compared])
    agreement = np.stack([each.same for each in compared]).mean(axis=1)
    gap = np.stack([each.gap for each in compared])
    return {
        "images": count,
        "seeds": len(compared),
        "difference": float(gain.mean()),
        "interval95": mean_interval(gain.mean(axis=0), groups),
        "worst_difference": float(gain.mean(axis=1).min()),
        "agreement": float(agreement.mean()),
        "worst_agreement": float(agreement.min()),
        "mean_abs_probability": float(gap.mean()),
        "max_abs_probability": float(gap.max()),
    }


def as_markdown(result: Row) -> str:
    """What docs/results.md shows."""
    lines = [
        "| calibration images | int8 minus Keras, points (95 % interval) | worst seed "
        "| agrees with Keras % | worst seed | mean Δp | largest Δp |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        spread = in_words(row["interval95"], lambda end: f"{100 * end:+.2f}", " to ")
        lines.append(
            f"| {row['images']} | {100 * row['difference']:+.2f} ({spread}) "
            f"| {100 * row['worst_difference']:+.2f} | {100 * row['agreement']:.2f} "
            f"| {100 * row['worst_agreement']:.2f} | {row['mean_abs_probability']:.4f} "
            f"| {row['max_abs_probability']:.3f} |"
        )
    lines += [
        "",
        f"{result['n']} validation slices, {result['rows'][0]['seeds']} draws of each size; "
        f"Keras is right on {100 * result['accuracy_float']:.2f} %.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--images", "counts", type=click.IntRange(1), multiple=True,
              default=(16, 64, 256, 1024), show_default=True)  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@out_option
def main(run: Path, counts: tuple[int, ...], seeds: int, out: Path) -> None:
    """Convert RUN to int8 with several sizes of calibration set."""
    with redirect_stdout(io.StringIO()):  # the converter prints there
        result = measure(Run.open(run), counts, seeds)
    publish(out, "calibration", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.calibration", extra="export")
