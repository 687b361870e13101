"""`btc-edge benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_runtime.commands.click_types import Choice, Command, FiniteRange
from edge_runtime.commands.entry import loading, next_command, to_the_reader
from edge_runtime.commands.options import allow_unsigned_option, backend_option, is_given
from edge_runtime.errors import ExitCode, ModelError, UsageError, printable

EXIT_CODES = (
    "\b\nExit codes: 0 measured, 1 a --fail-if was met or a pick could not be kept, 2 usage, "
    "3 a model cannot be used, 130 interrupted."
)
_MEASURED = ("queries", "seconds", "threads", "backend", "allow_unsigned")  # what `measure` takes


def _thread_counts(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """`1,2,4` as numbers, each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(w.isascii() and w.isdigit() and 1 <= int(w[:4]) <= 256 for w in words):
        raise click.BadParameter(f"{text!r} is not a list of numbers from 1 to 256, as 1,2,4")
    return tuple(dict.fromkeys(map(int, words)))


@click.command(cls=Command, epilog=EXIT_CODES)
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Model file (or small or large: the bundled ones), repeatable, or one folder of them.  "
    "[default: small]",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images; accuracy is measured where they lie in folders named after labels.",
)
@click.option(
    "--queries",
    type=click.IntRange(10, 1_000_000),
    default=128,
    show_default=True,
    help="Timed images per model at least; they are taken again from the start as needed.",
)
@click.option(
    "--seconds",
    type=FiniteRange(0, 86_400),
    default=10.0,
    show_default=True,
    help="Measured time per model at least.",
)
@click.option(
    "--threads",
    metavar="N[,N...]",
    callback=_thread_counts,
    default="1",
    show_default=True,
    help="Threads of the interpreter; with a list, each model is measured with each number.",
)
@backend_option
@allow_unsigned_option
@click.option(
    "--fail-if",
    "conditions",
    metavar="CONDITION",
    multiple=True,
    help="Exit with 1 if a model meets it, as 'p90_ms>5' or 'accuracy<0.9'; repeatable.",
)
@click.option(
    "--pick",
    "wants_pick",
    is_flag=True,
    help="Name the fastest model that is accurate enough; of a folder, keep it in picked.json "
    "there, for classify --model FOLDER.",
)
@click.option(
    "--min-relative-accuracy",
    type=FiniteRange(0, 1),
    default=0.99,
    show_default=True,
    help="For --pick: accuracy that is enough, as a share of the float model's.",
)
@click.option("--keep", type=FiniteRange(0, 1), hidden=True)
@click.option(
    "--format",
    "style",
    type=Choice(["table", "json", "markdown"]),
    default="table",
    show_default=True,
)
@click.option("--plot", hidden=True)
@click.pass_context
def benchmark(
    context: click.Context,
    /,
    models: tuple[Path, ...],
    images: Path | None,
    conditions: tuple[str, ...],
    wants_pick: bool,
    style: str,
    **options: Any,
) -> None:
    """Measure latency, memory and (on labelled images) accuracy on this device.

    The models take turns of several images until each has had its --seconds and --queries.
    The first float32 model is what the others are compared with, or the first of all.
    Features, for a model that takes those, count as preprocessing.
    """
    from edge_runtime.benchmark.rules import parse_rule, pick, violations

    rules = [parse_rule(text) for text in conditions]
    enough = _accuracy_that_is_enough(context)
    _refuse_what_cannot_be_done(options["plot"], wants_pick, images)
    folder = _folder_of(models)
    with loading():
        from edge_runtime.benchmark.measure import measure
        from edge_runtime.model.load import model_path
        from edge_runtime.model.picked import model_files

    files = model_files(folder) if folder else [model_path(model) for model in models or (None,)]
    measured = {name: options[name] for name in _MEASURED}
    result = measure(
        files, images, need_labels=wants_pick, leave_out=folder is not None, **measured
    )
    if wants_pick:
        result["pick"], doubts = pick(result, enough)
        result["warnings"] += doubts
    with to_the_reader():
        click.echo(_as_text(result, style))
    failed = wants_pick and folder is not None and not _keep(result, folder)
    for line in violations(rules, result):
        click.echo(f"btc-edge: {line}", err=True)
        failed = True
    if failed:
        raise SystemExit(ExitCode.FAILED)
    if style == "table" and not options["allow_unsigned"]:
        _name_next(result, models, images, options["threads"], options["backend"])


def _folder_of(models: tuple[Path, ...]) -> Path | None:
    """The folder whose files are measured; None where files are named, or none."""
    folders = [model for model in models if model.is_dir()]
    if folders and len(models) > 1:
        raise UsageError(
            f"--model {folders[0]} is a folder: name it alone, all its model files are measured"
        )
    return folders[0] if folders else None


def _keep(result: dict[str, Any], folder: Path) -> bool:
    """Leave the record of the pick in the folder of the files, and say so; whether it is there."""
    from shlex import quote

    from edge_runtime.benchmark.rules import record_of

    def say(line: str) -> None:
        click.echo(f"btc-edge: {printable(line)}", err=True)

    try:
        path = record_of(result).write(folder)
    except (OSError, ModelError) as error:
        reason = getattr(error, "strerror", None) or error
        say(f"the pick was not kept: {folder}: {reason}")
        return False
    say(f"{path}: {result['pick']['file']}, for btc-edge classify --model {quote(str(folder))}")
    return True


def _accuracy_that_is_enough(context: click.Context) -> float:
    """By --min-relative-accuracy, or by the name that it had in 0.1.0."""
    keep: float | None = context.params["keep"]
    if keep is None:
        return float(context.params["min_relative_accuracy"])
    if is_given(context, "min_relative_accuracy"):
        raise UsageError("--keep is the former name of --min-relative-accuracy: give one of them")
    return keep


def _refuse_what_cannot_be_done(plot: str | None, wants_pick: bool, images: Path | None) -> None:
    if plot is not None:
        raise UsageError(
            "--plot is done on a workstation: save --format json > FILE here, and run "
            "btc-plot FILE --out times.svg there"
        )
    if wants_pick and images is None:
        raise UsageError("--pick compares accuracies: add --images with folders named after labels")


def _name_next(
    result: dict[str, Any],
    models: tuple[Path, ...],
    images: Path | None,
    threads: tuple[int, ...],
    backend: str,
) -> None:
    """The command that goes on from here: with images, with a pick, or with what was picked; with
    the interpreter and the threads of this one."""
    named = [word for model in models for word in ("--model", model)]
    chosen = [] if backend == "auto" else ["--backend", backend]
    how = chosen if threads == (1,) else [*chosen, "--threads", ",".join(map(str, threads))]
    if "pick" in result:
        if len(models) == 1 and models[0].is_dir():  # whose record says how
            next_command(["btc-edge", "classify", "--model", models[0], "PATH..."])
            return
        picked = [model for model in models if model.name == result["pick"]["file"]]
        best = result["pick"]["threads"]
        if best != 1:
            chosen = [*chosen, "--threads", str(best)]
        if len(picked) == 1:
            next_command(["btc-edge", "classify", "--model", picked[0], *chosen, "PATH..."])
    elif images is None:
        next_command(["btc-edge", "benchmark", *named, *how, "--images", "FOLDER"])
    elif len({row["file"] for row in result["models"]}) > 1 and result["rules"]["labelled"]:
        next_command(["btc-edge", "benchmark", *named, *how, "--images", images, "--pick"])


def _as_text(result: dict[str, Any], style: str) -> str:
    if style == "json":
        import json

        return json.dumps(result, indent=1)
    from edge_runtime.benchmark.tables import as_markdown, as_table

    return as_table(result) if style == "table" else as_markdown(result)
