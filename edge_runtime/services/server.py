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
from typing import TYPE_CHECKING, NamedTuple, TextIO

import uvicorn

from edge_runtime.errors import BtcError, UsageError
from edge_runtime.services.api import make_app
from edge_runtime.services.connection import uvicorn_options
from edge_runtime.services.tls import for_listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_runtime.classifier import Classifier
    from edge_runtime.services.pool import Slots
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
    # Named as TCP: only then does asyncio switch off Nagle's algorithm, by which the body of an
    # answer would wait some 40 ms for its head to be acknowledged.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortError(f"cannot listen at {address} port {port}: {error.strerror}") from None
    return listener


class Log:
    """Lines for a stream, written by a thread: where nobody reads it, no request waits.

    Args:
        stream: default stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
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
                print(line, file=self._stream, flush=True)


class Ending(NamedTuple):
    """How a server has ended: by Ctrl-C or by SIGTERM, and whether a thread still works, which
    would keep the process alive."""

    interrupted: bool
    working: bool


def make_server(
    classifier: Classifier,
    settings: Settings,
    say: Callable[[str], None],
    certificate: tuple[Path, Path] | None = None,
) -> tuple[uvicorn.Server, Slots]:
    """A server that has not begun, and the slots that tell whether it works.

    Args:
        say: takes a line for the log.
        certificate: of TLS, with its key.

    Raises:
        UsageError: no usable certificate.
    """
    for name in ("uvicorn", "asyncio"):  # whose lines could tell what a request held
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    app, slots = make_app(classifier, settings, say)
    config = uvicorn.Config(app, **uvicorn_options(settings, app.refused))
    if certificate is not None:
        for_listening(*certificate, None)  # uvicorn would ask the terminal for a key's password
        config.ssl_certfile, config.ssl_keyfile = certificate
    config.load()
    return uvicorn.Server(config), slots


def serve(server: uvicorn.Server, slots: Slots, listener: socket.socket) -> Ending:
    """Answer requests until SIGTERM or Ctrl-C; those in flight are finished, see Settings."""
    # uvicorn ends in peace and then raises the signals again. One that comes before uvicorn listens
    # for signals must end it too.
    caught: list[int] = []

    def catch(number: int, _: object) -> None:
        caught.append(number)
        server.should_exit = True

    former = {number: signal.signal(number, catch) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return Ending(signal.SIGINT in caught, slots.taken > 0)
