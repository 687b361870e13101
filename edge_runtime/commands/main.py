"""`btc-edge`: classify, info, verify, benchmark."""

from __future__ import annotations

import click

import edge_runtime
from edge_runtime.commands.benchmark import benchmark
from edge_runtime.commands.classify import classify
from edge_runtime.commands.click_types import Commands
from edge_runtime.commands.info import info
from edge_runtime.commands.options import EXIT_CODES, HELP
from edge_runtime.commands.verify import verify

version_option = click.version_option(edge_runtime.__version__, prog_name="btc-edge")


@click.group(
    "btc-edge", cls=Commands, epilog=EXIT_CODES, no_args_is_help=False, context_settings=HELP
)
@version_option
def command() -> None:
    """Classify brain MRI slices on this device. Research use only; not for diagnosis.

    \b
    Completion of words in the shell:
      eval "$(_BTC_EDGE_COMPLETE=bash_source btc-edge)"   (or zsh_source, fish_source)
    """


for subcommand in (classify, info, verify, benchmark):
    command.add_command(version_option(subcommand))


def main() -> None:
    """Entry point of btc-edge."""
    from edge_runtime.commands.entry import run_command

    run_command(command, "btc-edge")
