"""`btc-train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edge_runtime
from edge_runtime.errors import ExitCode, UsageError
from trainer.progress import add_bar, progress_bars
from trainer.terminal import EXISTING, EXIT_CODES, enter, print_metrics, say_problem

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset
    from trainer.data.split import Split
    from trainer.models.checkpoint import State


def _protocol(context: click.Context, option: click.Parameter, value: str) -> str:
    if value in ("official", "grouped") or (value.startswith("source:") and value[7:]):
        return value
    raise click.BadParameter(f"{value!r} is not official, grouped or source:NAME")


@click.command("btc-train", epilog=EXIT_CODES)
@click.argument("data", type=EXISTING)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/latest"),
    show_default=True,
    help="Run folder to make.",
)
@click.option(
    "--groups", type=EXISTING, help="CSV (path, group, …) of images that belong together."
)
@click.option(
    "--protocol",
    callback=_protocol,
    default="official",
    show_default=True,
    metavar="official|grouped|source:NAME",
    help="Test on the Testing folder, on a fifth of the groups, or on all of one source.",
)
@click.option(
    "--folds",
    type=click.IntRange(2, 50),
    help="Cross-validate over groups in so many trainings; goes with --protocol grouped.",
)
@click.option(
    "--boxes",
    type=EXISTING,
    help="CSV (path, x_center, y_center, width, height) of tumours: to learn from, and to check "
    "the heatmaps against.",
)
@click.option(
    "--partial",
    type=EXISTING,
    help="Zip or folder of slices that show one of several classes; a folder's name says which: "
    "A+B, or tumor for all but notumor.",
)
@click.option("--partial-groups", type=EXISTING, help="CSV (path, group, …) for --partial.")
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1),
    default=0.02,
    show_default=True,
    help="Error rate on validation that the thresholds for answering are chosen for.",
)
@click.option(
    "--recipe",
    type=click.Choice(["robust", "plain"]),
    default="robust",
    show_default=True,
    help="What the training sees. robust: style, pasted and covered tumours, balanced sources; "
    "plain: changed copies of every slice.",
)
@click.option("--network", type=click.Choice(["edge", "seed"]), default="edge", show_default=True)
@click.option(
    "--epochs", type=click.IntRange(1, 10_000), help="Default: the recipe's (btc-train prints it)."
)
@click.option("--batch-size", type=click.IntRange(1, 4096), default=32, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1, min_open=True),
    help="Adam's highest rate. Default: the recipe's.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    help="Stop after this many epochs without a better validation loss.",
)
@click.option(
    "--augment/--no-augment", default=True, help="Change slices in place and style.  [default: on]"
)
@click.option(
    "--size",
    type=click.IntRange(32, 512),
    help="Side of the network's input in pixels. Default: 96 for edge, 128 for seed.",
)
@click.option("--crop", type=click.Choice(["head", "none"]), default="head", show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the training in --out, as it was started.")
@click.version_option(edge_runtime.__version__, prog_name="btc-train")
def train_command(
    data: Path,
    out: Path,
    groups: Path | None,
    protocol: str,
    folds: int | None,
    boxes: Path | None,
    partial: Path | None,
    partial_groups: Path | None,
    max_error: float,
    recipe: str,
    network: str,
    epochs: int | None,
    batch_size: int,
    learning_rate: float | None,
    patience: int,
    augment: bool,
    size: int | None,
    crop: str,
    seed: int,
    resume: bool,
) -> None:
    """Train a classifier on DATA: a zip or folder with Training/ and Testing/, or class folders.

    Leaves a run folder with the model, its figures, curves and a report. Research use only.
    """
    from edge_runtime.preprocess import Preprocess
    from trainer.models.networks import SIZES
    from trainer.models.recipes import RECIPES
    from trainer.models.training import TrainSettings
    from trainer.pipeline import Job, resume_job, run_job, start_run
    from trainer.quiet import import_tensorflow

    chosen = RECIPES[recipe]
    if not augment:
        chosen = replace(chosen, augment=0.0)
    job = Job(
        data=data,
        out=out,
        protocol=protocol,
        groups_csv=groups,
        boxes_csv=boxes,
        max_error=max_error,
        folds=folds,
        partial=partial,
        partial_groups_csv=partial_groups,
        preprocess=Preprocess(size=size or SIZES[network], crop=crop),
        settings=TrainSettings(
            network=network,
            epochs=epochs or chosen.epochs,
            batch_size=batch_size,
            learning_rate=learning_rate or chosen.learning_rate,
            patience=patience,
            seed=seed,
            recipe=chosen,
        ),
    )
    if partial_groups and not partial:
        raise UsageError("--partial-groups is the table of --partial, which is not given")
    if resume:
        run, job = resume_job(job)
    else:
        run = start_run(job)
    import_tensorflow()
    try:
        with _watch(job.settings.epochs) as watch:
            run_job(job, run, watch)
    except KeyboardInterrupt:
        kept = "the best epoch so far is in it" if (out / "model.keras").is_file() else "no epoch"
        if job.folds:
            kept = "every fold as far as it came"
        click.echo(f"btc-train: interrupted; {out} ({kept}); --resume goes on", err=True)
        raise SystemExit(ExitCode.INTERRUPTED) from None
    print_metrics(run.metrics())
    click.echo(f"Run: {out}  (report.html, curves.png, confusion.png, metrics.json)")


def main() -> None:
    """Entry point of btc-train."""
    enter(train_command, "btc-train")


@contextmanager
def _watch(epochs: int) -> Iterator[Any]:
    from trainer.pipeline import Watch

    def read(data: Dataset, split: Split) -> None:
        for path, reason in data.problems:
            say_problem(path, reason)
        click.echo(
            f"{len(data)} slices, {len(set(data.groups))} groups; protocol {split.protocol}: "
            f"{len(split.train)} training, {len(split.validation)} validation, "
            f"{len(split.test)} test",
            err=True,
        )

    with progress_bars() as bars:
        advance = add_bar(bars, "Training")

        def batch(epoch: int, done: int, total: int) -> None:
            advance((epoch - 1) * total + done, epochs * total)

        def epoch_done(state: State) -> None:
            row = state.history[-1]
            click.echo(
                f"epoch {state.epoch}/{epochs}: loss {row['loss']:.4f} accuracy "
                f"{row['accuracy']:.4f}, validation {row['val_loss']:.4f} {row['val_accuracy']:.4f}"
                + ("  best" if state.best_epoch == state.epoch else ""),
                err=True,
            )

        yield Watch(add_bar(bars, "Reading"), read, batch, epoch_done)
