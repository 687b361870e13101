"""Options that the commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edge_runtime.commands.click_types import Choice, FiniteRange
from edge_runtime.errors import printable

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
    from edge_runtime.imaging.limits import ImageLimits

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_WORKERS = 4  # by default: past that a small network gains little
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
    help="Model file, or a folder where one was picked by btc-edge benchmark --pick; or small or "
    "large, the bundled ones.  [default: small]",
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
min_confidence_option = click.option(
    "--min-confidence",
    type=FiniteRange(0, 1),
    default=0.0,
    help="Below this probability no label is given, besides the model's own thresholds.",
)
heatmap_option = click.option(
    "--heatmap",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a picture of each slice that shows where the network looked.",
)
plane_option = click.option(
    "--plane",
    type=Choice(["axial", "coronal", "sagittal"]),
    help="How a NIfTI volume is cut; default: axial, and of a study all.",
)
volume_option = click.option(
    "--volume",
    type=click.IntRange(0),
    metavar="N",
    help="Which volume of a NIfTI file of several, from 0.",
)


def workers_option(what: str, more: str = "") -> Callable[[Command], Command]:
    """`--workers`.

    Args:
        what: there is one of for each worker, as `Files`.
        more: what else is to be known.
    """
    return click.option(
        "--workers",
        type=click.IntRange(1, 256),
        help=f"{what} worked on at once; default: the processor's cores, at most "
        f"{MOST_WORKERS}.{more}",
    )


def limits_options(command: Command) -> Command:
    """`--max-mib`, `--max-pixels` and `--max-memory`, see `limits_of`."""
    rows = (
        ("--max-mib", 256, None, "Refuse larger files unread."),
        ("--max-pixels", 50_000_000, None, "Refuse larger pictures by their header."),
        ("--max-memory", 128, "MIB", "Refuse what takes more to decode, beside the file."),
    )
    for name, default, unit, about in reversed(rows):
        command = click.option(
            name, type=click.IntRange(1), default=default, show_default=True, metavar=unit,
            help=about,
        )(command)  # fmt: skip
    return command


def limits_of(options: dict[str, Any]) -> ImageLimits:
    """What `limits_options` say."""
    from edge_runtime.imaging.limits import MIB, ImageLimits

    return ImageLimits(
        options["max_mib"] * MIB, options["max_pixels"], max_memory=options["max_memory"] * MIB
    )


def workers_of(options: dict[str, Any]) -> int:
    """What `--workers` says, or its default on this machine."""
    from edge_runtime.processes import cores

    return options["workers"] or min(MOST_WORKERS, cores())


def open_classifier(options: dict[str, Any], **how: Any) -> Classifier:
    """The classifier that the running command's options of the model mean. Where the model is run
    by what its thresholds were not fitted with, stderr says so.

    Args:
        how: of `Classifier`, what comes from no option of the model.

    Raises:
        ModelError: the model cannot be used.
    """
    import cv2

    from edge_runtime.classifier import Classifier
    from edge_runtime.model.picked import read_chosen

    cv2.setNumThreads(1)  # on slices this small its threads cost more than they give
    context = click.get_current_context()
    chosen = read_chosen(options["model"], allow_unsigned=options["allow_unsigned"])
    classifier = Classifier(
        chosen.file,
        backend=options["backend"] if is_given(context, "backend") else chosen.backend,
        threads=options["threads"] if is_given(context, "threads") else chosen.threads,
        **how,
    )
    if classifier.fitted_here is False:  # None: a file that does not say it tells nothing new
        fitted, here = classifier.info.fitted_with or {}, classifier.runtime
        line = (
            f"the model's thresholds were fitted with {fitted['runtime']} and may not hold in "
            f"{here}: btc-export RUN --refit FILE --runtime {here}=PYTHON adds its own"
        )
        click.echo(f"btc-edge: {printable(line)}", err=True)
    return classifier
