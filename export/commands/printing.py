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
from export.gate import GateResult
from export.runtimes import Runtime
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
        gate, latency = entry.gate, entry.gate.latency
        table.add_row(
            entry.format.name,
            f"{entry.bytes / 1024:.0f}",
            f"{entry.bytes / trained_bytes:.2f}",
            *_figures(gate),
            "-" if latency is None else f"{latency['ratio']:.2f} ({latency['ms']:.2f} ms)",
            "passed" if gate.passed else "REJECTED",
        )
        for runtime, _, of_runtime in entry.gates[1:]:
            table.add_row(f"  in {runtime.name}", "", "", *_figures(of_runtime), "-", "")
    _console().print(table)
    asked = " and ".join(f"{r.name} {r.version}" for r in _asked(done))
    click.echo(f"Measured through {asked} on {done[0].gate.n} held-out images.")
    missing = list(dict.fromkeys(name for entry in done for name in entry.not_measured))
    if missing:
        click.echo(
            f"Not measured in {' and '.join(missing)}, where files are promised to run too and "
            f"would answer by the rule of another: --runtime {missing[0]}=PYTHON, the Python of an "
            "environment with it and this btc-edge."
        )


def _asked(done: list[Exported]) -> list[Runtime]:
    """The runtimes that measured any file, each once."""
    return list(dict.fromkeys(runtime for entry in done for runtime, _, _ in entry.gates))


def _figures(gate: GateResult) -> list[str]:
    """The columns from `agrees %` to `ECE %`."""
    spread = in_words(gate.interval95, lambda end: f"{100 * end:+.2f}", " to ")
    worst = min(gate.per_class, key=lambda name: gate.per_class[name]["difference"])
    return [
        f"{100 * gate.agreement:.2f}",
        f"{100 * gate.accuracy:.2f}",
        f"{100 * gate.difference:+.2f} ({spread})",
        f"{100 * gate.per_class[worst]['difference']:+.1f} {escape(printable(worst))}",
        f"{gate.max_abs_probability:.3f}",
        f"{100 * gate.ece['before']:.1f} → {100 * gate.ece['after']:.1f}",
    ]


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
