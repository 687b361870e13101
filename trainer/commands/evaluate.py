"""`btc-evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import edge_runtime
from edge_runtime.commands.click_types import Choice
from edge_runtime.commands.entry import next_command
from edge_runtime.commands.options import (
    HELP,
    allow_unsigned_option,
    backend_option,
    is_given,
    threads_option,
)
from edge_runtime.errors import UsageError
from trainer.commands.options import data_argument, no_card_option, with_cards
from trainer.commands.progress import add_bar, progress_bars
from trainer.commands.terminal import (
    EXISTING,
    EXIT_CODES,
    TABLE,
    enter,
    print_metrics,
    say,
    say_problem,
)

# Parameter -> option, of those that a run folder has no use for.
_OF_FILES = {
    "backend": "--backend",
    "threads": "--threads",
    "allow_unsigned": "--allow-unsigned",
}


@click.command("btc-evaluate", context_settings=HELP, epilog=EXIT_CODES)
@click.argument("model", type=EXISTING)
@data_argument
@click.option(
    "--split",
    type=Choice(["auto", "testing", "training", "all"]),
    default="auto",
    show_default=True,
    help="auto: the Testing folder where there is one, else all.",
)
@click.option("--groups", type=TABLE, help="CSV (path, group, …), for honest intervals.")
@click.option("--boxes", type=TABLE, help="CSV of tumours' boxes, as for btc-train.")
@no_card_option
@backend_option
@threads_option
@allow_unsigned_option
@click.option(
    "--format", "style", type=Choice(["table", "json"]), default="table", show_default=True
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for metrics.json, predictions.csv, report.html and pictures.",
)
@click.version_option(edge_runtime.__version__, prog_name="btc-evaluate")
@click.pass_context
def evaluate_command(
    context: click.Context,
    /,
    model: Path,
    data: tuple[Path, ...],
    split: str,
    groups: Path | None,
    boxes: Path | None,
    no_card: bool,
    backend: str,
    threads: int,
    allow_unsigned: bool,
    style: str,
    out: Path | None,
) -> None:
    """Measure MODEL (a run folder, a .tflite or an .onnx file) on labelled DATA (zip or folder).

    A data.toml in the folder, or NAME.toml beside NAME.zip, names the tables; options override it.
    Several DATA, each with its own card, are measured together; then a path in the table of an
    option begins with the name of its DATA.
    """
    if model.is_dir():
        given = [option for name, option in _OF_FILES.items() if is_given(context, name)]
        if given:
            raise UsageError(f"{', '.join(given)}: for a model file, not for a run folder")

    asked: dict[str, Any] = {"groups": groups, "boxes": boxes, "no_card": no_card}
    named, asked, _, _ = with_cards(data, asked, ("groups", "boxes"))

    from trainer.commands.train_options import after_training
    from trainer.evaluate_job import Options, evaluate
    from trainer.quiet import import_tensorflow
    from trainer.run import Run, dump_json

    if model.is_dir() and Run.open(model).needs_keras:
        import_tensorflow()
    with progress_bars() as bars:
        metrics = evaluate(
            model,
            named,
            Options(split, asked["groups"], asked["boxes"], backend, threads, out, allow_unsigned),
            reading=add_bar(bars, "Reading"),
            predicting=add_bar(bars, "Classifying"),
            on_problem=say_problem,
        )
    for words in metrics["warnings"]:
        say(f"btc-evaluate: {words}")
    if style == "json":
        click.echo(dump_json(metrics, ascii_only=True), nl=False)
    else:
        print_metrics(metrics)
    words = after_training(Run.open(model)) if model.is_dir() else None
    if words or model.is_file():
        next_command(words or ["btc-edge", "benchmark", "--model", model])


def main() -> None:
    """Entry point of btc-evaluate."""
    enter(evaluate_command, "btc-evaluate")
