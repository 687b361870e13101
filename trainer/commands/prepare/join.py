"""`btc-data join`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.commands.click_types import Choice, FiniteRange
from edge_runtime.commands.entry import to_the_reader
from edge_runtime.commands.options import HELP
from edge_runtime.errors import printable
from trainer.commands.options import no_card_option
from trainer.commands.prepare.common import made_by, out_option, print_summary
from trainer.commands.progress import add_bar, progress_bars
from trainer.commands.terminal import say, say_problem

if TYPE_CHECKING:
    from trainer.prepare.join.job import Joined

ALIKE = 0.98  # near_duplicates.THRESHOLD, which would bring numpy


@click.command("join", context_settings=HELP)
@click.argument("inputs", nargs=-1, required=True, metavar="[NAME=]DATA...")
@out_option
@click.option(
    "--threshold",
    type=FiniteRange(0.9, 1),
    default=ALIKE,
    show_default=True,
    help="Correlation of thumbnails from which two slices are look-alikes.",
)
@click.option(
    "--conflicts",
    type=Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="What becomes of look-alikes whose labels exclude each other: both are kept, or both "
    "left out. conflicts.csv names them.",
)
@no_card_option
def join(
    inputs: tuple[str, ...], out: Path, threshold: float, conflicts: str, no_card: bool
) -> None:
    """Join data sets, zips or folders, into one, in which copies stand together.

    Each DATA is what btc-train reads: a folder or zip with a data.toml, or class folders alone.
    Its slices go below NAME (default: what DATA is called) as they are. Look-alikes of all, also
    mirrored or turned ones, come into one group; a slice without a patient, source or box takes
    that of the one of another DATA that it looks most like. Research use only.
    """
    from trainer.prepare.join.inputs import find_inputs
    from trainer.prepare.join.job import join_data

    found = find_inputs(inputs, no_card)
    with progress_bars() as bars:
        done = join_data(
            found,
            out,
            made_by=made_by("join"),
            threshold=threshold,
            drop_conflicts=conflicts == "drop",
            skip=say_problem,
            say=say,
            progress=add_bar(bars, "Reading"),
        )
    with to_the_reader():
        for line in _lines(done):
            click.echo(printable(line))
    print_summary(done.summary, out)


def _lines(done: Joined) -> list[str]:
    """What the join found, a line each."""
    lines = []
    for each in done.inputs:
        line = f"{each.name}: {each.slices:,} slices"
        if each.groups:
            line += f", {each.groups:,} groups of its table are {each.became:,} now"
        if each.crossing:
            turns = ", ".join(f"{count:,} {turn}" for turn, count in each.crossing.items())
            pairs = sum(each.crossing.values())
            line += f"; {pairs:,} pairs of look-alikes were in two of them ({turns})"
        lines.append(line)
    counted = {
        "slices took their patient from a look-alike": done.patients,
        "slices took their box from a look-alike": done.boxes,
        "slices took their source from a look-alike": done.sources,
        "slices look like those of several patients and took none": done.unclear,
        "slices have the very pixels of one of an earlier input": done.copies,
        "slices of a partial label look like one whose class is known": done.typed_copies,
        "pairs of look-alikes have conflicting labels: conflicts.csv": done.conflicts,
        "groups hold slices of several patients": done.crowded,
    }
    return lines + [f"{count:,} {what}" for what, count in counted.items() if count]
