"""`btc-data cheng`."""

from __future__ import annotations

from pathlib import Path

import click

from trainer.commands.options import no_card_option
from trainer.commands.prepare.common import made_by, out_option, print_summary
from trainer.commands.progress import add_bar, progress_bars
from trainer.commands.terminal import EXISTING, say, say_problem


@click.command("cheng")
@click.argument("folder", type=EXISTING)
@out_option
@no_card_option
def cheng(folder: Path, out: Path, no_card: bool) -> None:
    """Make a data set of Cheng's collection of tumours (figshare 1512427).

    FOLDER holds 1.mat to 3064.mat, or the zips of them as they are downloaded; a zip will do, too.
    Leaves a PNG of each slice, its patient as its group, and the tumour's box and mask.
    A data.toml in FOLDER or in its folders, as btc-data fetch leaves it, says which version it is.
    """
    from dataclasses import replace

    from trainer.data.card import CardText
    from trainer.prepare.cheng.job import (
        COLLECTION,
        LABELS,
        NOTES,
        find_files,
        read_all,
        sources_of,
    )
    from trainer.prepare.cheng.matlab import MatReader
    from trainer.prepare.folder import DataFolder, check_outside

    check_outside(out, folder)
    found = find_files(folder)
    sources = (COLLECTION,) if no_card else sources_of(folder, found.files)
    for each in found.passed_over:
        say_problem(each.words, each.reason)
    with progress_bars() as bars, MatReader() as reader:
        settings = {"command": "cheng", "inputs": found.sha256}
        data = DataFolder(out, settings, LABELS.values())
        if data.resumed:
            say(f"{data.resumed:,} of {len(found.files):,} files were done before")
        sha256 = read_all(
            found.files,
            data,
            reader,
            lambda path, what, skipped: (say_problem if skipped else _say_kept)(path, what),
            add_bar(bars, "Reading"),
        )
    sources = tuple(replace(each, sha256=each.sha256 or sha256) for each in sources)
    summary = data.finish(CardText(made_by("cheng"), sources, NOTES))
    print_summary(summary, out)


def _say_kept(path: str, what: str) -> None:
    say(f"{path}: {what}")
