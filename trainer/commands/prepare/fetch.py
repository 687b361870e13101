"""`btc-data fetch`: one version of a public collection, downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.commands.click_types import Command, FiniteRange
from edge_runtime.commands.entry import to_the_reader
from edge_runtime.errors import printable
from trainer.commands.prepare.common import out_option, print_summary
from trainer.commands.progress import add_bar, progress_bars
from trainer.commands.terminal import say

if TYPE_CHECKING:
    from trainer.prepare.fetch.job import Fetched

KINDS = 5  # of files that are counted by name

EPILOG = (
    "\b\nkaggle:OWNER/NAME/versions/N   N as the page at Kaggle shows it\n"
    "hf:OWNER/NAME@REVISION         a tag or commit hash at huggingface.co/datasets\n"
    "URL --sha256 HEX               http or https; zip, tar and tar.gz are unpacked\n\n"
    "Read the licence before you use what comes: it is said first. Private collections come with "
    "the tokens that kagglehub (KAGGLE_API_TOKEN) and huggingface_hub (HF_TOKEN) know; none is "
    "shown or kept here."
)


@click.command("fetch", cls=Command, epilog=EPILOG)
@click.argument("collection", metavar="kaggle:…|hf:…|URL")
@out_option
@click.option("--sha256", metavar="HEX", help="SHA-256 that the file of a URL must have.")
@click.option("--offline", is_flag=True, help="Use only what was downloaded before.")
@click.option(
    "--max-size",
    type=FiniteRange(min=0, min_open=True),
    default=20,
    show_default=True,
    metavar="GIB",
    help="Refuse a larger download.",
)
@click.option("--license", default="", help="Licence for the card, instead of the stated one.")
@click.option("--citation", default="", help="Citation for the card, instead of the stated one.")
@click.option("--title", default="", help="Title for the card, instead of the stated one.")
@click.option("--source", default="", metavar="NAME", help="Name of the source in the tables.")
def fetch(
    collection: str,
    out: Path,
    sha256: str | None,
    offline: bool,
    max_size: float,
    license: str,
    citation: str,
    title: str,
    source: str,
) -> None:
    """Download one version of a public collection.

    COLLECTION names it with its version, so that the same command gives the same files to
    everybody. They land in OUT/files, archives unpacked and nothing else changed, beside a data
    card. A download that was cut off goes on when the same command is given again.
    """
    from trainer.prepare.fetch.job import Said, Talk, read_origin
    from trainer.prepare.fetch.job import fetch as run
    from trainer.prepare.fetch.origin import GIB

    origin = read_origin(collection, sha256)
    said = Said(title, license, citation, source)
    fetched = run(origin, out, said, Talk(say, _bar), int(max_size * GIB), offline)
    with to_the_reader():
        click.echo(printable(f"files: {_counted(fetched.files)}"))
    print_summary(fetched.slices, out, _following(fetched, out))


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    with progress_bars() as bars:
        yield add_bar(bars, "MiB downloaded")


def _counted(files: Mapping[str, int]) -> str:
    """How many files of each kind; names of DICOM files may end in any number."""
    common = sorted(files.items(), key=lambda each: (-each[1], each[0]))[:KINDS]
    words = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in common]
    others = sum(files.values()) - sum(count for _, count in common)
    return ", ".join([*words, *([f"{others:,} others"] if others else [])])


def _following(fetched: Fetched, out: Path) -> list[str | os.PathLike[str]]:
    """The command that makes slices of what came, or checks those that are there."""
    from trainer.prepare.fetch.job import FILES

    if fetched.slices.classes:
        return ["btc-data", "check", out]
    if not (fetched.matlab or fetched.volumes):
        click.echo("no class folders with pictures, and no volumes")
        return []
    # The card beside the files says which version of Cheng's collection they are; the folders below
    # them are the classes of volumes.
    cheng = fetched.matlab >= fetched.volumes
    words: list[str | os.PathLike[str]]
    words = ["btc-data", "cheng", out] if cheng else ["btc-data", "volumes", out / FILES]
    words += ["--out", Path(f"{out}-slices")]
    click.echo(
        printable(f"no class folders with pictures; slices of it: {' '.join(map(str, words))}")
    )
    return words
