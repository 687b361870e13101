"""How int8 accuracy moves with the number of calibration images.

    python -m benchmarks.calibration RUN --out benchmarks/results

Each size is drawn anew with several seeds from the run's training side; every file is compared
with Keras on the run's validation side, never its test side. Writes calibration.json and
calibration.md.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from edge_runtime.files import write_text
from edge_runtime.model.file_format import parse_model
from export.calibration import choose_calibration
from export.exporter import Exporter, ExportSettings
from export.formats import FORMATS
from trainer.evaluation.intervals import in_words, mean_interval
from trainer.models.outputs import predict_file, softmax
from trainer.run import Run, dump_json

Row = dict[str, Any]


def measure(run: Run, counts: tuple[int, ...], seeds: int) -> Row:
    """The run's figures, and a row for each number of images; shares (0-1), over all seeds."""
    exporter = Exporter(run, ExportSettings(run.folder, "unused"))
    held, reference = run.validation(), exporter.reference
    expected = softmax(reference.logits, reference.temperature)
    right = (expected.argmax(axis=1) == held.labels).astype(np.float64)
    rows = []
    for count in counts:
        shares = []
        for seed in range(seeds):
            pixels = choose_calibration(run.calibration(), count, seed)
            file = parse_model(exporter.packed(FORMATS["int8"], pixels))
            logits = predict_file(file, held.pixels).logits
            shares.append(softmax(logits, reference.temperature))
            click.echo(f"{count} images, seed {seed}", err=True)
        rows.append(_row(count, np.stack(shares), expected, held.labels, right, held.groups))
    return {"n": len(right), "accuracy_float": float(right.mean()), "rows": rows}


def _row(
    count: int,
    shares: npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    right_float: npt.NDArray[np.float64],
    groups: tuple[str, ...],
) -> Row:
    """Figures of the files (S×N×C probabilities) of one size, a seed each."""
    called = shares.argmax(axis=2)
    gain = (called == labels).astype(np.float64) - right_float
    agreement = (called == expected.argmax(axis=1)).mean(axis=1)
    gap = np.abs(shares - expected)
    return {
        "images": count,
        "seeds": len(shares),
        "difference": float(gain.mean()),
        "interval95": mean_interval(gain.mean(axis=0), groups),
        "worst_difference": float(gain.mean(axis=1).min()),
        "agreement": float(agreement.mean()),
        "worst_agreement": float(agreement.min()),
        "mean_abs_probability": float(gap.mean()),
        "max_abs_probability": float(gap.max()),
    }


def as_markdown(result: Row) -> str:
    """The table that the README shows."""
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
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", "counts", type=click.IntRange(1), multiple=True,
              default=(16, 64, 256, 1024), show_default=True)  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
def main(run: Path, counts: tuple[int, ...], seeds: int, out: Path) -> None:
    """Convert RUN to int8 with several sizes of calibration set."""
    with redirect_stdout(io.StringIO()):  # the converter prints there
        result = measure(Run.open(run), counts, seeds)
    write_text(out / "calibration.json", dump_json(result))
    write_text(out / "calibration.md", as_markdown(result))
    click.echo(as_markdown(result))


if __name__ == "__main__":
    from edge_runtime.commands.entry import run_command

    run_command(main, "benchmarks.calibration", extra="export")
