"""`btc-edge`: classify, info, benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import edge_runtime
from edge_runtime.benchmark_cli import benchmark
from edge_runtime.errors import ExitCode, printable
from edge_runtime.info_cli import info
from edge_runtime.options import backend_option, model_option, threads_option

EXIT_CODES = (
    "\b\nExit codes: 0 every input answered, 1 some inputs were errors, 2 usage, "
    "3 the model cannot be used, 130 interrupted."
)
DISCLAIMER = "Research use only; not for diagnosis."


@click.group("btc-edge", epilog=EXIT_CODES, no_args_is_help=False)
@click.version_option(edge_runtime.__version__, prog_name="btc-edge")
def command() -> None:
    """Classify brain MRI slices on this device. Research use only; not for diagnosis."""


@command.command(epilog=EXIT_CODES)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@model_option
@click.option("-r", "--recursive", is_flag=True, help="Classify the images inside folders.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
)
@threads_option
@backend_option
def classify(
    paths: tuple[str, ...],
    model: Path | None,
    recursive: bool,
    style: str,
    threads: int,
    backend: str,
) -> None:
    """Classify images: files, folders (-r), or - for a list of paths on stdin.

    Answers go to stdout; a file that cannot be read gets a line on stderr, and the rest goes on.
    """
    from edge_runtime.classifier import Classifier, Prediction, Status
    from edge_runtime.inputs import expand
    from edge_runtime.output import open_writer

    classifier = Classifier(model, backend=backend, threads=threads)
    writer = open_writer(style, sys.stdout, classifier.info.labels)
    failed = False
    for path, problem in expand(paths, recursive, sys.stdin):
        answer: Prediction
        if problem is not None:
            answer = classifier.failure(path, problem)
        else:
            (answer,) = classifier.classify_many([path])
        if answer.status is Status.ERROR:
            failed = True
            name = printable(path) or "(no name)"
            click.echo(f"btc-edge: {name}: {answer.error}", err=True)
        writer.write(answer)
    writer.close()
    if style == "table":
        click.echo(DISCLAIMER, err=True)
    if failed:
        raise SystemExit(ExitCode.FAILED)


command.add_command(info)
command.add_command(benchmark)


def main() -> None:
    """Entry point of btc-edge."""
    from edge_runtime.commands import run_command

    run_command(command, "btc-edge")
