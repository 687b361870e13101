"""The whole job on synthetic slices: `make demo`.

Makes phantom slices, trains, evaluates, exports, classifies and benchmarks with the installed
commands, as a user would, and closes with one table. The figures say that the pipeline works;
phantoms say nothing about patients.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import click

from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError
from edge_runtime.files import write_bytes

BIN = Path(sys.executable).parent


class Stage:
    """Runs the steps and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(
        self, title: str, *command: str | Path, capture: bool = False, codes: tuple[int, ...] = (0,)
    ) -> str:
        """Run one installed command (or `python -m`); its stdout is returned when captured.

        Raises:
            BtcError: it ended with none of `codes`.
        """
        words = [str(word) for word in command]
        click.secho(f"\n$ {' '.join(words)}", bold=True, err=True)
        program = sys.executable if words[0] == "python" else str(BIN / words[0])
        begun = time.perf_counter()
        done = subprocess.run(
            [program, *words[1:]], stdout=subprocess.PIPE if capture else None, text=True
        )
        self.seconds[title] = time.perf_counter() - begun
        if done.returncode not in codes:
            raise BtcError(f"{words[0]} ended with exit code {done.returncode}")
        return done.stdout or ""


def unpack_testing(archive: Path, folder: Path) -> None:
    """The Testing side of our own phantom zip as CLASS/image.jpg files."""
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            split, label, image = name.split("/")
            if split == "Testing":
                write_bytes(folder / label / image, source.read(name))


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"))
@click.option("--per-class", default=200, show_default=True)
@click.option("--epochs", default=8, show_default=True)
def main(out: Path, per_class: int, epochs: int) -> None:
    """Run the demo and leave everything it makes in --out."""
    begun = time.perf_counter()
    data, run, models, images = (out / n for n in ("phantoms.zip", "run", "models", "images"))
    for made in (run, models, images):  # a second demo starts afresh
        shutil.rmtree(made, ignore_errors=True)
    stage = Stage()
    stage.run("make slices", "python", "-m", "trainer.synthetic.phantoms", data, "--per-class",
              str(per_class))  # fmt: skip
    # Drawn heads are much alike: the audit finds near-duplicates, and says so with exit code 1.
    # Nothing beside them belongs to them, whatever --out holds: no data card.
    stage.run("audit", "btc-audit", data, "--no-card", "--out", out / "audit", codes=(0, 1))
    stage.run("train", "btc-train", data, "--no-card", "--out", run, "--epochs", str(epochs),
              "--batch-size", "16")  # fmt: skip
    stage.run("export", "btc-export", run, "--int8", "--float32", "--out", models,
              "--name", "phantom")  # fmt: skip
    files = sorted(models.glob("*.tflite"))
    accuracy = {}
    for model in (run, *files):
        answer = stage.run(f"evaluate {model.name}", "btc-evaluate", model, data, "--no-card",
                           "--format", "json", capture=True)  # fmt: skip
        accuracy[model.name] = json.loads(answer)["accuracy"]
    unpack_testing(data, images)
    int8 = next(f for f in files if "int8" in f.name)
    some = sorted(images.rglob("*_0000.jpg"))
    stage.run("classify", "btc-edge", "classify", "--model", int8, *some)
    named = [word for file in files for word in ("--model", file)]
    answer = stage.run("benchmark", "btc-edge", "benchmark", *named, "--images", images,
                       "--seconds", "1", "--format", "json", capture=True)  # fmt: skip
    write_bytes(out / "benchmark.json", answer.encode())
    _print_table(json.loads(answer), accuracy, files, run)
    click.echo(f"\nAll in {time.perf_counter() - begun:.0f} s; everything is in {out}/")
    click.echo("Synthetic slices: this shows that the pipeline works, nothing about patients.")


def _print_table(
    benchmark: dict[str, Any], accuracy: dict[str, float], files: list[Path], run: Path
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "size KiB", "accuracy", "invoke p50 ms", "image p50 ms", title="Demo")
    keras_size = (run / "model.keras").stat().st_size
    table.add_row("Keras run", f"{keras_size / 1024:.0f}", f"{accuracy[run.name]:.3f}", "–", "–")
    for file, row in zip(files, benchmark["models"], strict=True):
        table.add_row(
            file.name,
            f"{row['bytes'] / 1024:.0f}",
            f"{accuracy[file.name]:.3f}",
            f"{row['invoke_ms']['p50']:.2f}",
            f"{row['total_ms']['p50']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    run_command(main, "demo", extra="export")
