"""What every benchmark's command shares: its paths, and where its results go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from edge_runtime.files import write_text
from trainer.commands.options import LOCAL, Named, ray_address, with_cards
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


def ray_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--ray` and `--threads`, as `btc-train` has them."""
    ray = click.option(
        "--ray", is_flag=False, flag_value=LOCAL, callback=ray_address, metavar="[ADDRESS]",
        help="Train over this machine's cores, or the Ray cluster at ADDRESS.",
    )  # fmt: skip
    threads = click.option(
        "--threads", type=click.IntRange(1, 1024),
        help="Of a training.  [default: one a core; with --ray 2]",
    )  # fmt: skip
    return ray(threads(function))


def named_data(places: Sequence[Path], no_card: bool = False) -> Named:
    """DATA as `btc-train` takes it, one or several, with the tables of groups that cards name.

    Raises:
        DataError: a wrong card. UsageError: a DATA that is, or lies in, another.
    """
    return with_cards(places, {"no_card": no_card, "groups": None}, ("groups",))


def publish(out: Path, name: str, result: Any, table: str) -> None:
    """Leave a result as NAME.json and its table as NAME.md, and show the table."""
    write_text(out / f"{name}.json", dump_json(result))
    write_text(out / f"{name}.md", table)
    click.echo(table)
