"""What every benchmark's command shares: its paths, and where its results go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_runtime.files import write_text
from trainer.run import dump_json

RESULTS = Path("benchmarks/results")
EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def out_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--out`: the folder of the results."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(
        "--out", type=kind, default=RESULTS, show_default=True, help="Folder for the results."
    )(function)


def publish(out: Path, name: str, result: Any, table: str) -> None:
    """Leave a result as NAME.json and its table as NAME.md, and show the table."""
    write_text(out / f"{name}.json", dump_json(result))
    write_text(out / f"{name}.md", table)
    click.echo(table)
