"""`btc-data`: from public collections and one's own files to a data set."""

from __future__ import annotations

import click

import edge_runtime
from edge_runtime.commands.click_types import Commands
from edge_runtime.commands.options import HELP
from trainer.commands.terminal import enter

EXIT_CODES = (
    "\b\nExit codes: 0 done, 1 the data cannot be used (of check: see btc-audit), 2 usage or a\n"
    "missing package, 130 interrupted."
)
version_option = click.version_option(edge_runtime.__version__, prog_name="btc-data")

# Each is a module of `trainer.commands.prepare`, imported when it is asked for. Beside its name:
# its help, up to the end of the first sentence.
SUBCOMMANDS = {
    "check": "Check a data set before anything is measured on it: btc-audit.",
    "cheng": "Make a data set of Cheng's collection of tumours (figshare 1512427).",
    "fetch": "Download one version of a public collection.",
    "join": "Join several data sets into one, in which copies stand together.",
    "volumes": "Cut DICOM series and NIfTI volumes into labelled slices.",
}


@click.group(
    "btc-data",
    cls=Commands,
    later=SUBCOMMANDS,
    each=version_option,
    package="trainer.commands.prepare",
    epilog=EXIT_CODES,
    no_args_is_help=False,
    context_settings=HELP,
)
@version_option
def command() -> None:
    """Make a data set that btc-train reads, of public collections and of one's own files.

    Each command leaves a folder with slices, tables and a data card, and says what it dropped.
    Research use only; not for diagnosis.
    """


def main() -> None:
    """Entry point of btc-data."""
    enter(command, "btc-data", extra="data")
