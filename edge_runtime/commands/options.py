"""Options that the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge_runtime.commands.click_types import Choice

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}  # context settings of a command

EXIT_CODES = (
    "\b\nExit codes: 0 every input answered, 1 some inputs were errors, 2 usage, "
    "3 the model cannot be used, 130 interrupted."
)


def is_given(context: click.Context, parameter: str) -> bool:
    """Whether a parameter was named on the command line."""
    return context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Model file, or a folder where one was picked by btc-edge benchmark --pick; default: the "
    "bundled one.",
)
backend_option = click.option(
    "--backend",
    type=Choice(["auto", "litert", "tflite-runtime", "tensorflow", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="Interpreter.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads of the interpreter.",
)
allow_unsigned_option = click.option(
    "--allow-unsigned",
    is_flag=True,
    help="Also take a model without digest, after a trial in a process of its own.",
)
