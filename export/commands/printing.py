"""What `btc-export` prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_runtime.errors import printable
from export.exporter import Exported
from trainer.evaluation.intervals import in_words


def print_exports(done: list[Exported], trained_bytes: int) -> None:
    """The verdict on each file.

    Args:
        trained_bytes: size of the trained model.
    """
    table = Table(
        *("format", "KiB", "of trained", "agrees %", "accuracy %", "difference (95 %)"),
        *("worst class", "max |Δp|", "ECE %", "time of float32", "verdict"),
    )
    for entry in done:
        gate = entry.gate
        spread = in_words(gate.interval95, lambda end: f"{100 * end:+.2f}", " to ")
        worst = min(gate.per_class, key=lambda name: gate.per_class[name]["difference"])
        latency = gate.latency
        table.add_row(
            entry.format.name,
            f"{entry.bytes / 1024:.0f}",
            f"{entry.bytes / trained_bytes:.2f}",
            f"{100 * gate.agreement:.2f}",
            f"{100 * gate.accuracy:.2f}",
            f"{100 * gate.difference:+.2f} ({spread})",
            f"{100 * gate.per_class[worst]['difference']:+.1f} {escape(printable(worst))}",
            f"{gate.max_abs_probability:.3f}",
            f"{100 * gate.ece['before']:.1f} → {100 * gate.ece['after']:.1f}",
            "-" if latency is None else f"{latency['ratio']:.2f} ({latency['ms']:.2f} ms)",
            "passed" if gate.passed else "REJECTED",
        )
    _console().print(table)
    click.echo(f"Measured through the device's runtime on {done[0].gate.n} held-out images.")


def print_diagnosis(layers: Any, folder: Path) -> None:
    """The layers' errors, also written to diagnosis.json."""
    from edge_runtime.files import write_text
    from export.tflite.diagnose import as_table, to_json
    from trainer.run import dump_json

    write_text(folder / "diagnosis.json", dump_json(to_json(layers)))
    _console().print(as_table(layers))


def _console() -> Console:
    # Without a terminal there is no width to fit in.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
