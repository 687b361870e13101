"""`btc-edge watch`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.commands.click_types import Choice, FiniteRange
from edge_runtime.commands.entry import loading
from edge_runtime.commands.options import (
    HELP,
    allow_unsigned_option,
    backend_option,
    is_given,
    model_option,
    threads_option,
)
from edge_runtime.errors import ExitCode, printable

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
    from edge_runtime.services.desk import Desk

MOST = 4  # workers by default, as of classify
POLL, RESCAN = 1.0, 60.0  # seconds between looks at the whole folder, without and with the system
SECONDS = FiniteRange(0, 86400)
JOURNAL = ".btc-edge-watch.journal"
EXIT_CODES = (
    "\b\nExit codes: 0 ended by SIGTERM, or --once and every input answered, 1 --once and some "
    "inputs\nwere errors, or the journal is damaged, 2 usage, 3 the model cannot be used, "
    "130 interrupted."
)


@click.command(epilog=EXIT_CODES, context_settings=HELP)
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the answers; default: beside the files, as NAME.btc.json.",
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File that keeps what is answered; default: {JOURNAL} in the folder of the answers.",
)
@click.option("--names", is_flag=True, help="Name files in lines on stderr, and in --out.")
@click.option(
    "--settle",
    type=SECONDS,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="A file is whole once it has not changed for so long.",
)
@click.option(
    "--quiet",
    type=SECONDS,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A DICOM study is whole once no further file of it came for so long.",
)
@click.option(
    "--poll",
    type=FiniteRange(0.1, 86400),
    metavar="SECONDS",
    help="Look at the whole folder so often, as network file systems need; default: when the "
    "system tells of changes (btc-edge[watch]), else every second.",
)
@click.option("--once", is_flag=True, help="Answer what is there and end.")
@click.option("--again", is_flag=True, help="Answer anew what another model answered.")
@click.option(
    "--heatmap",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a picture of each slice that shows where the network looked.",
)
@click.option(
    "--min-confidence",
    type=FiniteRange(0, 1),
    default=0.0,
    help="Below this probability no label is given, besides the model's own thresholds.",
)
@click.option(
    "--plane",
    type=Choice(["axial", "coronal", "sagittal"]),
    default="axial",
    show_default=True,
    help="How a NIfTI volume is cut.",
)
@model_option
@allow_unsigned_option
@backend_option
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Files worked on at once; default: the processor's cores, at most 4.",
)
@threads_option
@click.option("--max-mib", type=click.IntRange(1), default=256, show_default=True,
              help="Refuse larger files unread.")  # fmt: skip
@click.option("--max-pixels", type=click.IntRange(1), default=50_000_000, show_default=True,
              help="Refuse larger pictures by their header.")  # fmt: skip
@click.option("--max-memory", type=click.IntRange(1), default=128, show_default=True,
              metavar="MIB",
              help="Refuse what takes more to decode, beside the file.")  # fmt: skip
def watch(folder: Path, **options: Any) -> None:
    """Classify what arrives in FOLDER (with subfolders) once it is whole.

    Each file, and each DICOM study, is answered once, also after a restart or a crash.
    """
    stop = threading.Event()
    with _signals(stop) as heard:
        failed = _run(folder, options, stop)
    if signal.SIGINT in heard:
        raise KeyboardInterrupt
    if options["once"] and failed:
        raise SystemExit(ExitCode.FAILED)


def _run(folder: Path, options: dict[str, Any], stop: threading.Event) -> bool:
    """Answer until `stop` is set; whether anything failed."""
    with loading():
        from edge_runtime.services.desk import check_places
        from edge_runtime.services.journal import Journal

        place = options["journal"] or (options["out"] or folder) / JOURNAL
        check_places(folder, options["out"], options["heatmap"], place)
        journal = Journal(place, folder)  # before the model: it refuses a second watcher
    with closing(journal):
        with loading():
            desk = _desk(folder, journal, options)
        with _events(desk, folder, options):
            (desk.run_once if options["once"] else desk.run)(stop)
        return desk.failed


def _desk(folder: Path, journal: Any, options: dict[str, Any]) -> Desk:
    from edge_runtime.imaging.limits import MIB, ImageLimits
    from edge_runtime.processes import cores
    from edge_runtime.services.desk import Desk

    limits = ImageLimits(
        options["max_mib"] * MIB, options["max_pixels"], max_memory=options["max_memory"] * MIB
    )
    return Desk(
        _classifier(options, limits),
        folder,
        options["out"],
        journal,
        settle=options["settle"],
        quiet=options["quiet"],
        rescan=options["poll"] or (RESCAN if _is_told(options) else POLL),
        workers=options["workers"] or min(MOST, cores()),
        limits=limits,
        heatmaps=options["heatmap"],
        names=options["names"],
        again=options["again"],
        tell=_say,
    )


def _classifier(options: dict[str, Any], limits: Any) -> Classifier:
    import cv2

    from edge_runtime.classifier import Classifier
    from edge_runtime.model.picked import read_chosen

    cv2.setNumThreads(1)  # as classify
    chosen = read_chosen(options["model"], allow_unsigned=options["allow_unsigned"])
    context = click.get_current_context()
    return Classifier(
        chosen.file,
        backend=options["backend"] if is_given(context, "backend") else chosen.backend,
        threads=options["threads"] if is_given(context, "threads") else chosen.threads,
        limits=limits,
        min_confidence=options["min_confidence"],
        plane=options["plane"] if is_given(context, "plane") else None,
    )


def _is_told(options: dict[str, Any]) -> bool:
    """Whether the system is asked to tell of changes."""
    from edge_runtime.services.events import can_tell

    return options["poll"] is None and not options["once"] and can_tell()


def _events(desk: Desk, folder: Path, options: dict[str, Any]) -> Any:
    from edge_runtime.services.events import telling

    return telling(folder, desk.notify, _say) if _is_told(options) else nullcontext()


@contextmanager
def _signals(stop: threading.Event) -> Iterator[list[int]]:
    """Within, SIGTERM and the first Ctrl-C set `stop`; the list tells which came. The second
    Ctrl-C ends at once, which loses nothing either."""
    heard: list[int] = []

    def hear(number: int, _frame: object) -> None:
        heard.append(number)
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    former = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    click.echo(f"btc-edge: {printable(line)}", err=True)
