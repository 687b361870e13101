"""`btc-edge listen`."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from ipaddress import ip_address, ip_network
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
    model_option,
    open_classifier,
    threads_option,
    workers_of,
    workers_option,
)
from edge_runtime.errors import UsageError, printable

if TYPE_CHECKING:
    from edge_runtime.services.delivery import Sender
    from edge_runtime.services.journal import Journal
    from edge_runtime.services.spool import Spool

RESCAN = 60.0  # seconds between looks at the whole spool; what comes is told at once
JOURNAL = ".btc-edge-listen.journal"
EXIT_CODES = (
    "\b\nExit codes: 0 ended by SIGTERM, 1 the port cannot be had or the journal is damaged, "
    "2 usage,\n3 the model cannot be used, 130 interrupted."
)
TITLE = re.compile(r"(?! )[ -\[\]-~]{1,16}(?<! )")  # PS3.5, 6.2: AE
ARCHIVE = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):([0-9]{1,5})/(.*)")


class Title(click.ParamType):  # type: ignore[type-arg]  # as Choice
    """An AE title."""

    name = "AET"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The title as it is."""
        if not TITLE.fullmatch(value):
            self.fail(f"{printable(value)!r} is no AE title of 1 to 16 letters", param, ctx)
        return str(value)


class Network(click.ParamType):  # type: ignore[type-arg]  # as Choice
    """An address, or a network with its mask."""

    name = "ADDRESS"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The network."""
        try:
            return ip_network(value)
        except ValueError:
            self.fail(f"{printable(str(value))!r} is no address or network", param, ctx)


class Archive(click.ParamType):  # type: ignore[type-arg]  # as Choice
    """HOST:PORT/AET."""

    name = "HOST:PORT/AET"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int, str]:
        """Host, port and AE title."""
        found = ARCHIVE.fullmatch(value)
        if not found or not 0 < int(found[2]) < 65536 or not TITLE.fullmatch(found[3]):
            self.fail(f"{printable(value)!r} is not HOST:PORT/AET", param, ctx)
        return found[1].strip("[]"), int(found[2]), found[3]


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SECONDS = FiniteRange(0, 86400)


@click.command(epilog=EXIT_CODES, context_settings=HELP)
@click.option("--spool", type=FOLDER, required=True,
              help="Folder for what is received, of this command alone.")  # fmt: skip
@click.option("--out", type=FOLDER, required=True, help="Folder of the answers, as JSON.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=11112, show_default=True,
              help="Port to listen at; 0 for any.")  # fmt: skip
@click.option("--aet", type=Title(), default="BTC_EDGE", show_default=True,
              help="AE title; peers must call it by that.")  # fmt: skip
@click.option("--allow", type=Title(), multiple=True,
              help="AE title of a peer that may call; may be given several times. Without any, "
              "only peers on this machine may.")  # fmt: skip
@click.option("--allow-address", type=Network(), multiple=True,
              help="Address or network that peers may call from; may be given several "
              "times.")  # fmt: skip
@click.option("--quiet", type=SECONDS, default=30.0, show_default=True, metavar="SECONDS",
              help="A study is whole once no further file of it came for so long.")  # fmt: skip
@click.option("--results-to", type=Archive(),
              help="Send a picture and a report of each answer to a Storage SCP.")  # fmt: skip
@click.option("--results-folder", type=FOLDER, help="Write them to a folder instead.")
@click.option("--keep", is_flag=True,
              help="Keep received files; without it they are deleted once they are answered and "
              "the results delivered.")  # fmt: skip
@click.option("--max-associations", type=click.IntRange(1, 64), default=8, show_default=True,
              help="Peers at once.")  # fmt: skip
@click.option("--max-mib", type=click.IntRange(1), default=256, show_default=True,
              help="Refuse larger files while they come.")  # fmt: skip
@click.option("--max-files", type=click.IntRange(1), default=4096, show_default=True,
              help="Refuse further files of a study.")  # fmt: skip
@click.option("--min-free", type=click.IntRange(0), default=1024, show_default=True,
              metavar="MIB", help="Refuse files where the disk has less room.")  # fmt: skip
@click.option("--timeout", type=FiniteRange(1, 3600), default=60.0, show_default=True,
              metavar="SECONDS", help="Wait so long for a peer.")  # fmt: skip
@click.option("--tls-cert", type=FILE, help="Speak TLS only, with this certificate (PEM).")
@click.option("--tls-key", type=FILE, help="Its key (PEM).")
@click.option("--tls-ca", type=FILE,
              help="Peers must have a certificate of one of these (PEM).")  # fmt: skip
@click.option("--results-tls-ca", type=FILE,
              help="Send results by TLS to a peer with a certificate of one of these "
              "(PEM).")  # fmt: skip
@model_option
@allow_unsigned_option
@backend_option
@workers_option("Files")
@threads_option
def listen(**options: Any) -> None:
    """Receive MR images by DICOM (C-STORE), answer each study once, and return results.

    The connection is not encrypted without --tls-cert.
    """
    _check(options)
    stop = threading.Event()
    with ending_by_signals(stop):
        _run(options, stop)


def _check(options: dict[str, Any]) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: they do not.
    """
    host = options["host"]
    try:
        alone = ip_address(host).is_loopback
    except ValueError:
        alone = host == "localhost"
    if not (alone or options["allow"] or options["allow_address"]):
        raise UsageError(f"--host {host} needs --allow AET or --allow-address ADDRESS")
    if options["results_to"] and options["results_folder"]:
        raise UsageError("give --results-to or --results-folder, not both")
    if bool(options["tls_cert"]) != bool(options["tls_key"]):
        raise UsageError("--tls-cert and --tls-key go together")
    if options["tls_ca"] and not options["tls_cert"]:
        raise UsageError("--tls-ca needs --tls-cert and --tls-key")
    if options["results_tls_ca"] and not options["results_to"]:
        raise UsageError("--results-tls-ca needs --results-to")
    spool = options["spool"].resolve()
    for name in ("out", "results_folder"):
        if options[name] is not None and options[name].resolve().is_relative_to(spool):
            raise UsageError(f"{options[name]}: lies in the spool; name a folder outside of it")


def _run(options: dict[str, Any], stop: threading.Event) -> None:
    """Listen, answer and deliver until `stop` is set."""
    with loading():
        spool = _spool(options)
        from edge_runtime.services.journal import Journal

        for folder in filter(None, (options["out"], options["results_folder"])):
            folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(options["out"] / JOURNAL, spool.folder)
    with closing(journal):
        _serve(options, spool, journal, stop)


def _spool(options: dict[str, Any]) -> Spool:
    """The spool, where the packages are there for all that is asked for."""
    try:
        import pydicom  # noqa: F401
        import pynetdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise _missing(error, "dimse") from None
    if options["results_to"] or options["results_folder"]:
        try:
            import highdicom  # noqa: F401
        except ModuleNotFoundError as error:
            raise _missing(error, "dicom-out") from None
    from edge_runtime.imaging.limits import MIB
    from edge_runtime.services.spool import Spool

    return Spool(
        options["spool"],
        max_bytes=options["max_mib"] * MIB,
        max_files=options["max_files"],
        min_free=options["min_free"] * MIB,
    )


def _missing(error: ModuleNotFoundError, extra: str) -> UsageError:
    return UsageError(f"the package {error.name} is missing: pip install 'btc-edge[{extra}]'")


def _serve(options: dict[str, Any], spool: Spool, journal: Journal, stop: threading.Event) -> None:
    from edge_runtime.imaging.limits import MIB, ImageLimits
    from edge_runtime.services.delivery import Outbox
    from edge_runtime.services.listener import Bounds, Listener, Peers
    from edge_runtime.services.returns import Returns
    from edge_runtime.services.tls import for_listening
    from edge_runtime.services.watcher import Watcher

    tls = None
    if options["tls_cert"]:
        tls = for_listening(options["tls_cert"], options["tls_key"], options["tls_ca"])
    # A file that was taken is a header longer than its dataset.
    limits = ImageLimits(max_bytes=(options["max_mib"] + 1) * MIB)
    with loading():
        classifier = open_classifier(options, limits=limits)
    sender = _sender(options)
    outbox = Outbox(spool, sender, keep=options["keep"], tell=say)
    returns = Returns(None if sender is None else classifier, outbox, say)
    watcher = Watcher(
        classifier, spool.folder, options["out"], journal, settle=0, quiet=options["quiet"],
        rescan=RESCAN, workers=workers_of(options), limits=limits,
        names=True, tell=say, on_answer=returns.on_answer, on_known=returns.on_known,
    )  # fmt: skip
    listener = Listener(
        spool, host=options["host"], port=options["port"], aet=options["aet"],
        peers=Peers(options["allow"], options["allow_address"]),
        bounds=Bounds(options["max_associations"], options["timeout"]),
        tls=tls, on_file=watcher.notify, tell=say,
    )  # fmt: skip
    threading.excepthook = _unexpected
    delivering = threading.Thread(target=outbox.run, args=(stop,), daemon=True)
    delivering.start()
    listener.start()
    host, port = listener.address
    say(f"{options['aet']} listens at {host}:{port}; research use only, not for diagnosis")
    try:
        watcher.run(stop)
    finally:
        stop.set()
        outbox.wake()
        listener.stop()
        delivering.join(options["timeout"])


def _sender(options: dict[str, Any]) -> Sender | None:
    """Where results go."""
    from edge_runtime.services.delivery import ToArchive, ToFolder
    from edge_runtime.services.tls import for_sending

    if options["results_folder"]:
        return ToFolder(options["results_folder"])
    if not options["results_to"]:
        return None
    tls = None
    if options["results_tls_ca"]:
        tls = for_sending(options["results_tls_ca"], options["tls_cert"], options["tls_key"])
    host, port, called = options["results_to"]
    return ToArchive(host, port, called, options["aet"], patience=options["timeout"], tls=tls)


def _unexpected(args: threading.ExceptHookArgs) -> None:
    """What ended a thread, in a line: a traceback could quote what a peer sent."""
    say(f"unexpected {args.exc_type.__name__} over a connection, which is closed")
