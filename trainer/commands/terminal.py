"""What the trainer's commands share: their words and how they show figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edge_runtime.errors import printable

EXISTING = click.Path(exists=True, path_type=Path)  # a zip or a folder
TABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)  # to make
EXIT_CODES = (
    "\b\nExit codes: 0 done, 1 the data or the job failed, 2 usage or a missing package, "
    "3 a model cannot be used, 130 interrupted."
)


def enter(command: click.Command, name: str, extra: str = "train") -> None:
    """Run a command as an entry point; problems become one line and an exit code.

    Args:
        extra: the extra that brings the command's packages.
    """
    from edge_runtime.commands.entry import run_command

    run_command(command, name, extra=extra)


def say(text: str) -> None:
    """One line on stderr, in which no name can steer the terminal."""
    click.echo(printable(text), err=True)


def say_problem(path: str, reason: str) -> None:
    """One line of a file that could not be used."""
    say(f"{path}: {reason}; skipped")


def print_metrics(metrics: dict[str, Any]) -> None:
    """metrics.json as a table and sentences, as far as somebody reads them."""
    from edge_runtime.commands.entry import to_the_reader

    with to_the_reader():
        _print_metrics(metrics)


def _print_metrics(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from edge_runtime.model.metadata import INTENDED_USE
    from trainer.report.html import HEADS, METRIC_NAMES, percent, summary_lines

    table = Table("class", *HEADS, "n")
    for name, class_metrics in metrics["per_class"].items():
        cells = (percent(class_metrics[m]) for m in METRIC_NAMES)
        table.add_row(escape(printable(name)), *cells, str(class_metrics["n"]))
    # Without a terminal there is no width to fit in.
    wide = None if sys.stdout.isatty() else 120
    console = Console(file=sys.stdout, highlight=False, width=wide)
    first, *others = summary_lines(metrics)
    console.print(printable(first), soft_wrap=True, markup=False)
    console.print(table)
    for line in (*others, INTENDED_USE):
        console.print(printable(line), soft_wrap=True, markup=False)
