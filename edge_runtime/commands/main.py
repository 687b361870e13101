"""`btc-edge`: archive, classify, info, verify, benchmark, watch, serve, listen."""

from __future__ import annotations

import os

import click

import edge_runtime
from edge_runtime.commands.click_types import Commands
from edge_runtime.commands.options import EXIT_CODES, HELP

version_option = click.version_option(edge_runtime.__version__, prog_name="btc-edge")

# Each is a module beside this one, imported when it is asked for. Beside its name: its help, up to
# the end of the first sentence.
SUBCOMMANDS = {
    "archive": "Classify an archive into Parquet files, over processors or a cluster (Ray).",
    "benchmark": "Measure latency, memory and (on labelled images) accuracy on this device.",
    "classify": (
        "Classify images: files, patterns, folders (-r), or - for a list of paths on stdin."
    ),
    "info": "Print what a model says of itself.",
    "listen": ("Receive MR images by DICOM (C-STORE), answer each study once, and return results."),
    "serve": "Serve a page and an HTTP API on this machine.",
    "verify": (
        "Check a model FILE before it is used: that it is whole, that it runs here, and who "
        "made it."
    ),
    "watch": "Classify what arrives in FOLDER (with subfolders) once it is whole.",
}


@click.group(
    "btc-edge",
    cls=Commands,
    later=SUBCOMMANDS,
    each=version_option,
    epilog=EXIT_CODES,
    no_args_is_help=False,
    context_settings=HELP,
)
@version_option
def command() -> None:
    """Classify brain MRI slices on this device. Research use only; not for diagnosis.

    \b
    Completion of words in the shell:
      eval "$(_BTC_EDGE_COMPLETE=bash_source btc-edge)"   (or zsh_source, fish_source)
    """


def main() -> None:
    """Entry point of btc-edge."""
    from edge_runtime.commands.entry import run_command

    # OpenBLAS starts a thread for each core when numpy is imported, which takes longer than all
    # that a device multiplies. Processes that this one starts inherit it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    run_command(command, "btc-edge")
