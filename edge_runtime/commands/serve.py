"""`btc-edge serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.commands.click_types import FiniteRange
from edge_runtime.commands.daemon import say
from edge_runtime.commands.entry import loading
from edge_runtime.commands.options import (
    allow_unsigned_option,
    backend_option,
    model_option,
    open_classifier,
    workers_of,
    workers_option,
)
from edge_runtime.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from edge_runtime.services.settings import Settings

EPILOG = (
    "\b\nExit codes: 0 ended by SIGTERM, 1 the address cannot be listened at, 2 usage or a missing "
    "package, 3 the model cannot be used, 130 interrupted."
)


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog=EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen at; a network's needs a token.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True,
              help="0 takes a free one.")  # fmt: skip
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="A name that the server is called by, besides localhost and its address.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that requests must carry; nobody else may read it. Default: the "
    "variable BTC_EDGE_TOKEN, if it is set.",
)
@click.option("--tls-cert", type=FILE,
              help="Certificate (PEM) for https.")  # fmt: skip
@click.option("--tls-key", type=FILE,
              help="Its key (PEM).")  # fmt: skip
@workers_option("Requests")
@click.option("--queue", type=click.IntRange(0, 10_000), default=16, show_default=True,
              help="Requests that may wait for a worker.")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 10_000), default=64, show_default=True,
              help="Open connections.")  # fmt: skip
@click.option("--max-mib", type=click.IntRange(1), default=256, show_default=True,
              help="Refuse larger bodies. All in memory have at most twice that.")  # fmt: skip
@click.option("--body-seconds", type=FiniteRange(0.1), default=120, show_default=True,
              help="Time for a body to arrive.")  # fmt: skip
@click.option("--work-seconds", type=FiniteRange(0.1), default=300, show_default=True,
              help="Time for a whole body to be answered.")  # fmt: skip
@click.option("--grace-seconds", type=FiniteRange(1), default=30, show_default=True,
              help="Time for requests in flight once the server is to end.")  # fmt: skip
@model_option
@allow_unsigned_option
@backend_option
def serve(**options: Any) -> None:
    """Serve a page and an HTTP API on this machine. Research use only; not for diagnosis."""
    from edge_runtime.imaging.limits import ImageLimits
    from edge_runtime.services.settings import as_host, is_loopback

    _check_packages()
    from edge_runtime.services import server

    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise UsageError("--tls-cert and --tls-key go together")
    family, address = server.resolve(options["host"], options["port"])
    settings = _settings(options, address)
    certificate = (options["tls_cert"], options["tls_key"]) if options["tls_cert"] else None
    if settings.token is None and not is_loopback(address):
        raise UsageError(
            f"listening at {address} needs a token: --token-file FILE or BTC_EDGE_TOKEN "
            "(openssl rand -hex 32 makes one)"
        )
    if settings.token is not None and certificate is None and not is_loopback(address):
        say("the token goes over plain http, where the network can read it: see --tls-cert")
    with server.open_socket(family, address, options["port"]) as listener:
        with loading():
            limits = ImageLimits(max_bytes=settings.max_bytes)
            classifier = open_classifier(options, limits=limits)
        log = server.Log()
        served = server.make_server(classifier, settings, log.say, certificate)
        port, scheme = listener.getsockname()[1], "https" if certificate else "http"
        say(f"listening at {scheme}://{as_host(address)}:{port}/")
        ending = server.serve(*served, listener)
        log.close()
    say("interrupted" if ending.interrupted else "ended")
    code = ExitCode.INTERRUPTED if ending.interrupted else ExitCode.OK
    if ending.working:  # a thread that Python would wait for
        os._exit(code)
    raise SystemExit(code)


def _check_packages() -> None:
    from importlib.util import find_spec

    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise UsageError(f"the package {name} is missing: pip install 'btc-edge[serve]'")


def _settings(options: dict[str, Any], address: str) -> Settings:
    from edge_runtime.imaging.limits import MIB
    from edge_runtime.services.settings import Settings, allowed_hosts, read_token

    return Settings(
        hosts=allowed_hosts((options["host"], address), options["allow_host"]),
        token=read_token(options["token_file"]),
        workers=workers_of(options),
        queue=options["queue"],
        connections=options["connections"],
        max_bytes=options["max_mib"] * MIB,
        max_bytes_in_flight=2 * options["max_mib"] * MIB,
        body_seconds=options["body_seconds"],
        work_seconds=options["work_seconds"],
        grace_seconds=options["grace_seconds"],
    )
