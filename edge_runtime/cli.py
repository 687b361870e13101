"""`btc-edge`: classify, info, benchmark."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import edge_runtime
from edge_runtime.errors import ExitCode, UsageError, printable

EXIT_CODES = (
    "\b\nExit codes: 0 every input answered, 1 some inputs were errors, 2 usage, "
    "3 the model cannot be used, 130 interrupted."
)
DISCLAIMER = "Research use only; not for diagnosis."

model_option = click.option(
    "--model", type=click.Path(path_type=Path), help="Model file; default: the bundled one."
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "litert", "tflite-runtime", "tensorflow", "onnxruntime"]),
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


@command.command()
@model_option
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def info(model: Path | None, style: str) -> None:
    """Print what a model says of itself."""
    from edge_runtime.model_file import read_model

    file = read_model(model)
    if style == "json":
        click.echo(file.info.to_json())
        return
    about = file.info
    lines = [
        ("intended use", about.intended_use),
        ("model", f"{about.name} {about.version} ({file.format}, {about.scheme})"),
        ("size", f"{file.bytes / 1024:.0f} KiB, sha256 {file.sha256}"),
        ("created", about.created),
        ("labels", ", ".join(about.labels)),
        ("input", f"{about.input['dtype']} {'x'.join(map(str, about.input['shape']))}, 0-255"),
        ("preprocessing", ", ".join(f"{k} {v}" for k, v in about.preprocess.to_json().items())),
        ("temperature", f"{about.temperature:.3f}"),
        ("answers", _answers(about.thresholds, about.max_error)),
        ("refuses", "pictures unlike the training slices" if about.unfamiliar else "nothing"),
        ("trained on", _counts(about.data)),
        ("licence", about.license or "not stated"),
    ]
    lines += [("measured", _measured(figure)) for figure in about.metrics]
    for name, text in lines:
        click.echo(f"{name:<14} {printable(str(text))}")


def _answers(thresholds: Mapping[str, float] | None, max_error: float | None) -> str:
    """From which confidence on a label is given."""
    if thresholds is None:
        return "always"
    chosen = "" if max_error is None else f", chosen for {100 * max_error:.1f} % errors"
    levels = (f"{label} from {level:.3f}" for label, level in thresholds.items())
    return ", ".join(levels) + chosen


def _counts(data: Mapping[str, Any]) -> str:
    """The sizes that the model states of its data."""
    return ", ".join(f"{k} {v}" for k, v in data.items() if type(v) is int)


def _measured(figure: Mapping[str, Any]) -> str:
    """One figure in words; what the model does not say is left out or shown as unknown."""
    text = "protocol {}, {} side, {} slices: ".format(
        *(figure.get(key, "unknown") for key in ("protocol", "split", "n"))
    )
    try:
        text += f"accuracy {100 * figure['accuracy']:.1f} %"
        low, high = figure["interval95"]
        text += f" (95 % interval {100 * low:.1f}-{100 * high:.1f})"
    except (KeyError, TypeError, ValueError):
        text += "" if text.endswith("%") else "accuracy unknown"
    return text + (f", on {figure['measured_on']}" if figure.get("measured_on") else "")


@command.command()
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Model file, repeatable; default: the bundled one.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images; accuracy is measured where they lie in folders named after labels.",
)
@click.option(
    "--queries",
    type=click.IntRange(10, 1_000_000),
    default=256,
    show_default=True,
    help="Timed images per model; the images are taken again from the start as often as needed.",
)
@threads_option
@backend_option
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def benchmark(
    models: tuple[Path, ...],
    images: Path | None,
    queries: int,
    threads: int,
    backend: str,
    style: str,
) -> None:
    """Measure latency, memory and (on labelled images) accuracy on this device."""
    import json

    from edge_runtime.benchmark import as_table, measure
    from edge_runtime.model_file import bundled_model

    if images is not None and not images.is_dir():
        raise UsageError(f"{images} is not a folder")
    result = measure(
        models or (bundled_model(),), images, queries=queries, threads=threads, backend=backend
    )
    click.echo(json.dumps(result, indent=1) if style == "json" else as_table(result))


def main() -> None:
    """Entry point of btc-edge."""
    from edge_runtime.commands import run_command

    run_command(command, "btc-edge")
