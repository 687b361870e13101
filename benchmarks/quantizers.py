"""TensorFlow's int8 beside that of LiteRT's own quantiser: one run, the same images, the same gate.

    python -m benchmarks.quantizers RUN --out benchmarks/results

RUN is exported as int8 once with each `--quantizer`, to a folder that is thrown away. Figures are
the gate's, on the run's held-out images: beside the trained model, and the time beside the float32
file's, slice by slice in turns. Writes quantizers.json and quantizers.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.common.command import FOLDER, out_option, publish
from benchmarks.common.formatting import machine_in_words
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from export.exporter import Exported, Exporter, ExportSettings
from export.formats import FORMATS, QUANTIZERS
from trainer.evaluation.intervals import in_words
from trainer.run import Run


def export_with(run: Run, quantizer: str) -> Exported:
    """The run's int8 file by one quantiser, and how it did."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ExportSettings(Path(folder), quantizer=quantizer)
        return Exporter(run, settings).export(FORMATS["int8"])


def measure(run: Run) -> dict[str, Any]:
    """All figures as one dict."""
    rows = [export_with(run, name).to_json() for name in QUANTIZERS]
    for row in rows:
        del row["calibration"]  # digests of each image
    return {"machine": machine_facts(), "protocol": run.settings["protocol"], "files": rows}


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [
        "| quantiser | size KiB | agrees with Keras % | accuracy % | difference (95 % interval) "
        "| largest difference of a probability | mean | time ÷ float32 (95 %) | gate |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in result["files"]:
        spread = in_words(row["interval95"], lambda end: f"{100 * end:+.1f}", " to ")
        latency = row["latency"]
        turns = in_words(latency["interval95"], lambda end: f"{end:.2f}")
        lines.append(
            f"| {row['quantizer']} | {row['bytes'] / 1024:.0f} | {100 * row['agreement']:.2f} "
            f"| {100 * row['accuracy']:.2f} | {100 * row['difference']:+.2f} ({spread}) "
            f"| {row['max_abs_probability']:.3f} | {row['mean_abs_probability']:.4f} "
            f"| {latency['ratio']:.2f} ({turns}) | {'passed' if row['passed'] else 'rejected'} |"
        )
    lines += [
        "",
        f"Protocol '{result['protocol']}', the {result['files'][0]['n']} validation slices of the "
        f"run; {machine_in_words(result['machine'])}.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("run", type=FOLDER)
@out_option
def main(run: Path, out: Path) -> None:
    """Export RUN as int8 with each quantiser and compare the files."""
    result = measure(Run.open(run))
    publish(out, "quantizers", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.quantizers", extra="export,quantizer")
