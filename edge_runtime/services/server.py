"""A server on a socket: opens it, says where, and ends in peace."""

from __future__ import annotations

import logging
import queue
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from edge_runtime.errors import BtcError, UsageError
from edge_runtime.services.api import make_app
from edge_runtime.services.connection import uvicorn_options

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier
    from edge_runtime.services.settings import Settings

BACKLOG = 128  # connections that the system may hold until they are accepted
LINES = 10_000  # that may wait to be written; more are lost


class PortError(BtcError):
    """The address cannot be listened at."""


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """The family and the address that a name stands for, the first one.

    Raises:
        UsageError: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: {getattr(error, 'strerror', None) or error}") from None
    family, *_, address = found[0]
    return family, str(address[0])


def open_socket(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one.

    Raises:
        PortError: the port is in use or may not be taken, or no address of this machine.
    """
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortError(f"cannot listen at {address} port {port}: {error.strerror}") from None
    return listener


class Log:
    """Lines for stderr, written by a thread: where nobody reads it, no request waits."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(LINES)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Write a line, soon."""
        with suppress(queue.Full):
            self._lines.put_nowait(line)

    def close(self) -> None:
        """Write what waits, for at most a second."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)


def serve(
    classifier: Classifier,
    settings: Settings,
    listener: socket.socket,
    log: Log,
    certificate: tuple[Path, Path] | None = None,
) -> bool:
    """Answer requests until SIGTERM or Ctrl-C; those in flight are finished, see Settings.

    Args:
        certificate: of TLS, with its key.

    Returns:
        Whether all work has ended. Where it has not, its threads would keep the process alive.

    Raises:
        UsageError: no usable certificate. KeyboardInterrupt: after Ctrl-C, at the end.
    """
    for name in ("uvicorn", "asyncio"):  # whose lines could tell what a request held
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    app, slots = make_app(classifier, settings, log.say)
    config = uvicorn.Config(app, **uvicorn_options(settings))
    if certificate is not None:
        config.ssl_certfile, config.ssl_keyfile = certificate
        try:
            config.load()
        except OSError as error:  # of ssl, too
            raise UsageError(f"--tls-cert, --tls-key: {error.strerror or error}") from None
    # uvicorn ends in peace and then raises the signal again: SIGTERM is no failure.
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, former)
    return not slots.taken
