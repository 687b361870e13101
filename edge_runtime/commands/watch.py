"""`btc-edge watch`."""

from __future__ import annotations

import threading
from contextlib import closing, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.commands.click_types import FiniteRange
from edge_runtime.commands.daemon import ending_by_signals, say
from edge_runtime.commands.entry import loading
from edge_runtime.commands.options import (
    HELP,
    allow_unsigned_option,
    backend_option,
    heatmap_option,
    limits_of,
    limits_options,
    min_confidence_option,
    model_option,
    open_classifier,
    plane_option,
    threads_option,
    workers_of,
    workers_option,
)
from edge_runtime.errors import ExitCode

if TYPE_CHECKING:
    from edge_runtime.services.watcher import Watcher

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
@heatmap_option
@min_confidence_option
@plane_option
@model_option
@allow_unsigned_option
@backend_option
@workers_option("Files")
@threads_option
@limits_options
def watch(folder: Path, **options: Any) -> None:
    """Classify what arrives in FOLDER (with subfolders) once it is whole.

    Each file, and each DICOM study, is answered once, also after a restart or a crash.
    """
    stop = threading.Event()
    with ending_by_signals(stop):
        failed = _run(folder, options, stop)
    if options["once"] and failed:
        raise SystemExit(ExitCode.FAILED)


def _run(folder: Path, options: dict[str, Any], stop: threading.Event) -> bool:
    """Answer until `stop` is set; whether anything failed."""
    with loading():
        from edge_runtime.services.journal import Journal
        from edge_runtime.services.watcher import check_places

        place = options["journal"] or (options["out"] or folder) / JOURNAL
        check_places(folder, options["out"], options["heatmap"], place)
        journal = Journal(place, folder)  # before the model: it refuses a second watcher
    with closing(journal):
        with loading():
            watcher = _watcher(folder, journal, options)
        _tell_of_the_start(options)
        with _events(watcher, folder, options):
            (watcher.run_once if options["once"] else watcher.run)(stop)
        return watcher.failed


def _watcher(folder: Path, journal: Any, options: dict[str, Any]) -> Watcher:
    from edge_runtime.services.watcher import Watcher

    limits = limits_of(options)
    classifier = open_classifier(
        options, limits=limits, min_confidence=options["min_confidence"], plane=options["plane"]
    )
    return Watcher(
        classifier,
        folder,
        options["out"],
        journal,
        settle=options["settle"],
        quiet=options["quiet"],
        rescan=options["poll"] or (RESCAN if _is_told(options) else POLL),
        workers=workers_of(options),
        limits=limits,
        heatmaps=options["heatmap"],
        names=options["names"],
        again=options["again"],
        tell=say,
    )


def _tell_of_the_start(options: dict[str, Any]) -> None:
    """Which kinds of file get no answer here; and that it watches, and how."""
    for kind, package, extra in (("DICOM", "pydicom", "dicom"), ("NIfTI", "nibabel", "nifti")):
        if find_spec(package) is None:
            say(f"{kind} files get no answer: they need {package}: pip install "
                f"'btc-edge[{extra}]'")  # fmt: skip
    if not options["once"]:
        how = "as the system tells" if _is_told(options) else f"every {options['poll'] or POLL:g} s"
        say(f"watching, {how}; research use only, not for diagnosis")


def _is_told(options: dict[str, Any]) -> bool:
    """Whether the system is asked to tell of changes."""
    from edge_runtime.services.events import can_tell

    return options["poll"] is None and not options["once"] and can_tell()


def _events(watcher: Watcher, folder: Path, options: dict[str, Any]) -> Any:
    from edge_runtime.services.events import telling

    return telling(folder, watcher.notify, say) if _is_told(options) else nullcontext()
