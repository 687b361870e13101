"""`btc-export`."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import edge_runtime
from edge_runtime.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from export.pipeline import Exported

NAMES = ("int8", "float16", "float32", "dynamic", "onnx")
EXIT_CODES = (
    "\b\nExit codes: 0 every file passed, 1 a file is outside its tolerance or the run cannot be "
    "used, 2 usage or a missing package, 3 a conversion failed, 130 interrupted."
)


@click.command("btc-export", epilog=EXIT_CODES)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--int8", is_flag=True, help="TFLite, integers only, uint8 in.")
@click.option("--float16", is_flag=True, help="TFLite, weights in half precision.")
@click.option("--float32", is_flag=True, help="TFLite, floats.")
@click.option("--dynamic", is_flag=True, help="TFLite, int8 weights and float activations.")
@click.option("--onnx", is_flag=True, help="ONNX, floats.")
@click.option("--all", "everything", is_flag=True, help="All of these.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: RUN/export")
@click.option("--name", default="brain-mri", show_default=True, help="The model's name.")
@click.option("--calibration-images", type=click.IntRange(1, 1024), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1),
    help="Error rate on validation that the thresholds are chosen for; default: the run's.",
)
@click.option("--license", "licence", help="Licence to state in the model file.")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Replaces each tolerance's; 1.5 images are always allowed.",
)
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), help="Likewise; a share.")
@click.version_option(edge_runtime.__version__, prog_name="btc-export")
def command(
    run: Path,
    int8: bool,
    float16: bool,
    float32: bool,
    dynamic: bool,
    onnx: bool,
    everything: bool,
    out: Path | None,
    name: str,
    calibration_images: int,
    seed: int,
    max_error: float | None,
    licence: str | None,
    min_agreement: float | None,
    max_accuracy_drop: float | None,
) -> None:
    """Write the model of RUN for devices, and prove that it still agrees with Keras.

    Each file is run as a device would run it, on the run's held-out images. A file outside its
    tolerance is kept aside as *.rejected and the command exits 1.
    """
    flags = zip(NAMES, (int8, float16, float32, dynamic, onnx), strict=True)
    wanted = [form for form, given in flags if given or everything]
    if not wanted:
        raise UsageError("name a format: " + ", ".join(f"--{n}" for n in (*NAMES, "all")))
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--name {name!r}: use letters, digits, - and _")
    from edge_runtime.files import write_text
    from export.formats import FORMATS
    from export.pipeline import Exporter, ExportSettings
    from trainer.quiet import import_tensorflow
    from trainer.run import Run, dump_json

    import_tensorflow()
    folder = out or run / "export"
    settings = ExportSettings(folder, name, calibration_images, seed, licence, max_error)
    done: list[Exported] = []
    with redirect_stdout(io.StringIO()):  # the converters print there, and it is for the table
        exporter = Exporter(Run.open(run), settings)
        for form in wanted:
            click.echo(f"{form}: {FORMATS[form].about}", err=True)
            chosen = FORMATS[form]
            tolerance = chosen.tolerance
            if min_agreement is not None:
                tolerance = replace(tolerance, agreement=min_agreement)
            if max_accuracy_drop is not None:
                tolerance = replace(tolerance, accuracy_drop=max_accuracy_drop)
            done.append(exporter.export(replace(chosen, tolerance=tolerance)))
    write_text(folder / "export.json", dump_json([entry.to_json() for entry in done]))
    _print_table(done, (run / "model.keras").stat().st_size)
    failed = [entry for entry in done if not entry.gate.passed]
    for entry in failed:
        for words in entry.gate.failures:
            click.echo(f"btc-export: {entry.format.name} rejected: {words}", err=True)
    if failed:
        raise SystemExit(ExitCode.FAILED)


def _print_table(done: list[Exported], keras_bytes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "format", "KiB", "of Keras", "agrees %", "accuracy %", "difference (95 %)", "verdict"
    )
    for entry in done:
        gate = entry.gate
        low, high = (100 * v for v in gate.interval95)
        table.add_row(
            entry.format.name,
            f"{entry.bytes / 1024:.0f}",
            f"{entry.bytes / keras_bytes:.2f}",
            f"{100 * gate.agreement:.2f}",
            f"{100 * gate.accuracy:.2f}",
            f"{100 * gate.difference:+.2f} ({low:+.2f} to {high:+.2f})",
            "passed" if gate.passed else "REJECTED",
        )
    n = done[0].gate.n
    # Without a terminal there is no width to fit in.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(table)
    click.echo(f"Measured through the device's runtime on {n} held-out images of the run.")


def main() -> None:
    """Entry point of btc-export."""
    from edge_runtime.commands import run_command

    run_command(command, "btc-export", extra="export")
