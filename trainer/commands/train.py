"""`btc-train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edge_runtime
from edge_runtime.commands.click_types import Choice, FiniteRange, GroupedCommand
from edge_runtime.commands.entry import next_command
from edge_runtime.commands.options import HELP
from edge_runtime.errors import ExitCode, UsageError, did_you_mean, printable
from trainer.commands.options import (
    data_argument,
    identity_options,
    no_card_option,
    option,
    threshold_options,
)
from trainer.commands.progress import add_bar, progress_bars
from trainer.commands.terminal import (
    EXISTING,
    EXIT_CODES,
    FOLDER,
    TABLE,
    enter,
    print_metrics,
    say,
    say_problem,
)
from trainer.models.kinds import CLASSICAL_SIZE, KINDS
from trainer.models.networks import NETWORKS
from trainer.models.recipes import DEFAULT_RECIPE, RECIPES, recipes_in_words

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset
    from trainer.data.split import Split
    from trainer.models.checkpoint import State
    from trainer.train_job import Job


def _protocol(context: click.Context, option: click.Parameter, value: str) -> str:
    if value in ("official", "grouped") or (value.startswith("source:") and value[7:]):
        return value
    near = did_you_mean(value, ["official", "grouped"])
    raise click.BadParameter(f"{value!r} is not official, grouped or source:NAME{near}")


def _window(
    context: click.Context, option: click.Parameter, value: str
) -> tuple[float, float] | None:
    if value == "none":
        return None
    try:
        low, high = (float(share) for share in value.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 <= low < high <= 100:
        raise click.BadParameter(f"{value!r} is neither two rising percentiles (1,99.5) nor none")
    return low, high


@click.command("btc-train", cls=GroupedCommand, context_settings=HELP, epilog=EXIT_CODES)
@data_argument
@option(
    "--out",
    group="Run",
    common=True,
    type=FOLDER,
    default=Path("runs/latest"),
    show_default=True,
    help="Run folder to make.",
)
@option(
    "--resume",
    group="Run",
    common=True,
    is_flag=True,
    help="Go on with the training in --out, as it was started.",
)
@option(
    "--track",
    group="Run",
    type=Choice(["tensorboard", "mlflow"]),
    help="Also write curves, settings and figures for TensorBoard (RUN/tensorboard) or MLflow "
    "(MLFLOW_TRACKING_URI, else RUN/mlflow.db); extras of the same names.  [default: neither]",
)
@option(
    "--groups",
    group="Data",
    common=True,
    type=TABLE,
    help="CSV (path, group, …) of images that belong together.",
)
@option(
    "--boxes",
    group="Data",
    common=True,
    type=TABLE,
    help="CSV (path, x_center, y_center, width, height) of tumours: to learn from, and to check "
    "the heatmaps against.",
)
@option(
    "--partial",
    group="Data",
    type=EXISTING,
    help="Zip or folder of slices that show one of several classes; a folder's name says which: "
    "A+B, or tumor for all that are not tumour-free.",
)
@option("--partial-groups", group="Data", type=TABLE, help="CSV (path, group, …) for --partial.")
@option(
    "--heads",
    group="Data",
    type=EXISTING,
    help="Zip or folder of whole heads (NIfTI volumes, or folders of DICOM) to fit the rule for "
    "studies on; of people on the training or the test side none is used.",
)
@option(
    "--heads-table",
    group="Data",
    type=TABLE,
    help="CSV (path, label, subject, sequence, tumour_slices) for --heads.  [default: NAME.csv "
    "beside NAME.zip, or heads.csv in the folder]",
)
@option(
    "--tumour-free",
    group="Data",
    multiple=True,
    metavar="CLASS",
    help="Class whose slices show no tumour: tumours are pasted onto them. May be repeated.  "
    "[default: notumor, where there is one]",
)
@no_card_option
@option(
    "--protocol",
    group="Protocol",
    common=True,
    callback=_protocol,
    default="official",
    show_default=True,
    metavar="official|grouped|source:NAME",
    help="Test on the Testing folder, on a fifth of the groups, or on all of one source.",
)
@option(
    "--folds",
    group="Protocol",
    type=click.IntRange(2, 50),
    help="Cross-validate over groups in so many trainings; goes with --protocol grouped.",
)
@option(
    "--seed",
    group="Protocol",
    type=click.IntRange(0, 2**31 - 1),
    default=1,
    show_default=True,
    help="Seed of all that is drawn.",
)
@threshold_options("lowest", "0.9")
@option(
    "--model",
    group="Model",
    common=True,
    type=Choice(["cnn", *KINDS]),
    default="cnn",
    show_default=True,
    help="cnn: the network; the others are classifiers over --features of a slice.",
)
@option(
    "--recipe",
    group="Network",
    type=Choice(list(RECIPES)),
    default=DEFAULT_RECIPE,
    show_default=True,
    help=f"What the training sees. {recipes_in_words()}.",
)
@option(
    "--network",
    group="Network",
    type=Choice(list(NETWORKS), former={"seed": "classic"}),
    default="edge",
    show_default=True,
    help="; ".join(f"{name}: {network.about}" for name, network in NETWORKS.items()) + ".",
)
@option(
    "--epochs",
    group="Network",
    common=True,
    type=click.IntRange(1, 10_000),
    help="Default: the recipe's (btc-train prints it).",
)
@option(
    "--batch-size",
    group="Network",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="Slices a step.",
)
@option(
    "--learning-rate",
    group="Network",
    type=FiniteRange(0, 1, min_open=True),
    help="Adam's highest rate. Default: the recipe's.",
)
@option(
    "--patience",
    group="Network",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    help="Stop after this many epochs without a better validation loss.",
)
@option(
    "--augment/--no-augment",
    group="Network",
    default=True,
    help="Change slices in place and style.  [default: on]",
)
@option(
    "--features",
    group="Classical models",
    metavar="SET,…|deep:RUN",
    help="Of a classifier: sets out of --list-features, and deep:RUN, the penultimate features "
    "of a trained network.  [default: those that a device computes too]",
)
@option(
    "--list-features",
    group="Classical models",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, wanted: _list_features(context) if wanted else None,
    help="Say what each set of features measures, and stop.",
)
@option(
    "--search",
    group="Classical models",
    is_flag=True,
    help="Choose a classifier's parameters by group cross-validation.",
)
@option(
    "--cache",
    group="Classical models",
    type=FOLDER,
    help="Folder that keeps computed features.  [default: btc-edge in the user's cache folder]",
)
@option(
    "--cache-limit",
    group="Classical models",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    metavar="MIB",
    help="Size that the kept features may take; those used longest ago go first.",
)
@option("--no-cache", group="Classical models", is_flag=True, help="Keep no features.")
@option(
    "--size",
    group="Pixels",
    type=click.IntRange(32, 512),
    help="Side of the model's input in pixels. Default: "
    + "".join(f"{network.size} for {name}, " for name, network in NETWORKS.items())
    + f"{CLASSICAL_SIZE} for a classifier.",
)
@option(
    "--crop",
    group="Pixels",
    type=Choice(["head", "none"]),
    default="head",
    show_default=True,
    help="Cut to the head, or keep the whole picture.",
)
@option(
    "--resize",
    group="Pixels",
    type=Choice(["pyramid", "area"]),
    default="pyramid",
    show_default=True,
    help="Scale by halves and bilinear weights, or by averaging areas, as former versions did.",
)
@option(
    "--window",
    group="Pixels",
    callback=_window,
    default="1,99.5",
    show_default=True,
    metavar="LOW,HIGH|none",
    help="Percentiles of brightness that become black and white.",
)
@option(
    "--denoise",
    group="Pixels",
    type=Choice(["none", "median", "non-local-means"]),
    default="none",
    show_default=True,
    help="Remove noise, in training and on the device.",
)
@option(
    "--contrast",
    group="Pixels",
    type=Choice(["none", "clahe"]),
    default="none",
    show_default=True,
    help="Even out local contrast, in training and on the device.",
)
@identity_options("brain-mri", "the date and the beginning of the weights' digest")
@click.version_option(edge_runtime.__version__, prog_name="btc-train")
@click.pass_context
def train_command(
    context: click.Context, /, data: tuple[Path, ...], out: Path, **options: Any
) -> None:
    """Train a classifier on DATA: a zip or folder with Training/ and Testing/, or class folders.

    A data.toml in the folder, or NAME.toml beside NAME.zip, names the tables; options override it.
    Several DATA, each with its own card, are learned from together; then a path in the table of an
    option begins with the name of its DATA.
    Leaves a run folder with the model, its figures, curves and a report. Research use only.
    """
    from edge_runtime.memory import keep_freed
    from trainer.commands.options import with_cards
    from trainer.commands.train_options import after_training, from_card, make_job, resumed_job
    from trainer.evaluation.selective import HINT
    from trainer.finalize import unanswered
    from trainer.models.training import Diverged, TrainSettings
    from trainer.quiet import find_tensorflow, import_tensorflow
    from trainer.tracking import check_tracker
    from trainer.train_job import check_start, run_job, start_run

    given = {
        name for name in options
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }  # fmt: skip
    wanted = from_card(out if options["resume"] else None)
    named, options, about, _ = with_cards(data, options, wanted)
    if options["partial_groups"] and not options["partial"]:
        raise UsageError("--partial-groups is the table of --partial, which is not given")
    if options["resume"]:
        run, job = resumed_job(named, out, options, given, about)
    else:
        run, job = None, make_job(named, out, options, given, about)
    if options["track"]:
        check_tracker(options["track"])
    epochs = job.settings.epochs if isinstance(job.settings, TrainSettings) else 0
    needs_keras = bool(epochs) or job.deep is not None
    if needs_keras:
        find_tensorflow()  # the first thing to install, before what a network starts from
    if run is None:
        check_start(job)  # before seconds of importing, which may fail and must leave no run
    if needs_keras:
        keep_freed()  # a step of training asks for the same blocks as the one before it
        import_tensorflow()
    if run is None:
        run = start_run(job)
    try:
        with _callbacks(epochs, options["track"]) as callbacks:
            run_job(job, run, callbacks)
    except KeyboardInterrupt:
        after = "--resume goes on" if (out / "run.json").is_file() else "start it again"
        say(f"btc-train: interrupted; {out} ({_kept(job)}); {after}")
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except Diverged as error:
        raise Diverged(f"{error}; {out} ({_kept(job)})") from None
    print_metrics(run.metrics())
    lines = unanswered(run)
    for line in (*lines, *[HINT] * bool(lines)):
        click.echo(printable(line))
    click.echo(printable(f"Run: {out}  (report.html, confusion.png, metrics.json)"))
    if words := after_training(run):
        next_command(words)


def _list_features(context: click.Context) -> None:
    """Name, length, range, source and place of each set."""
    from edge_runtime.imaging.handcrafted import DEVICE_SETS
    from trainer.features.extractor import SETS

    for each in SETS.values():
        where = "on a device too" if each.name in DEVICE_SETS else "on the workstation only"
        values = len(each.names(CLASSICAL_SIZE))
        click.echo(f"{each.name}: {values} values, {each.value_range}; computed {where}")
        click.echo(click.wrap_text(each.about, 88, "    ", "    ") + "\n")
    context.exit()


def _kept(job: Job) -> str:
    """What an interrupted job has left."""
    if not (job.out / "run.json").is_file():
        return "nothing is kept"
    if job.folds:
        return "every fold as far as it came"
    if (job.out / "model.keras").is_file():
        return "the best epoch so far is in it"
    return "no epoch" if job.cache is None else "no model yet; computed features are kept"


def main() -> None:
    """Entry point of btc-train."""
    enter(train_command, "btc-train")


@contextmanager
def _callbacks(epochs: int, track: str | None) -> Iterator[Any]:
    from trainer.fitting import Callbacks
    from trainer.tracking import Tracking

    def warn(words: str) -> None:
        say(f"btc-train: {words}")

    def problems(data: Dataset) -> None:
        for path, reason in data.problems:
            say_problem(path, reason)
        for each in data.passed_over:
            say_problem(each.words, each.reason)

    def read(data: Dataset, split: Split) -> None:
        import numpy as np

        boxed = int((~np.isnan(data.boxes).any(axis=1)).sum())
        say(
            f"{len(data)} slices, {len(set(data.groups))} groups; protocol {split.protocol}: "
            f"{len(split.train)} training, {len(split.validation)} validation, "
            f"{len(split.test)} test" + (f"; {boxed} slices with a box" if boxed else "")
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

        yield Callbacks(
            reading=add_bar(bars, "Reading"),
            each=problems,
            warn=warn,
            read=read,
            batch=batch,
            epoch=epoch_done,
            extracting=add_bar(bars, "Features"),
            tracking=None if track is None else Tracking(track, warn),
        )
