"""What the commands of `btc-data` share: their common options, and what they say at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.commands.entry import next_command, to_the_reader
from edge_runtime.errors import printable
from trainer.commands.terminal import FOLDER

if TYPE_CHECKING:
    from trainer.prepare.folder import Summary

out_option = click.option(
    "--out",
    type=FOLDER,
    required=True,
    help="Folder to make; the same command goes on with one that was not finished.",
)


def made_by(command: str) -> str:
    """What a card says of the command that made it."""
    import edge_runtime

    return f"btc-data {command} {edge_runtime.__version__}"


def print_summary(
    summary: Summary, out: Path, following: Sequence[str | os.PathLike[str]] | None = None
) -> None:
    """What a finished folder holds, on stdout, and the command to type next.

    Args:
        following: that command; `btc-data check` where none is given, nothing where it is empty.
    """
    from edge_runtime.model.metadata import INTENDED_USE

    with to_the_reader():
        for label, count in summary.classes.items():
            click.echo(printable(f"{label}: {count:,} slices"))
        known = [(summary.patients, "patients"), (summary.groups, "groups")]
        known += [(summary.boxes, "slices with a box")]
        if summary.classes:
            click.echo(", ".join(f"{count:,} {what}" for count, what in known))
        for reason, count in summary.dropped.items():
            click.echo(printable(f"dropped, {count:,}: {reason}"))
        click.echo(printable(f"Data: {out}"))
        click.echo(INTENDED_USE)
    if following is None:
        following = ["btc-data", "check", out]
    if following:
        next_command(following)
