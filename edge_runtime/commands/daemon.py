"""What daemons, the commands that stay, have in common: how they end, and what they say."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from edge_runtime.errors import printable


@contextmanager
def ending_by_signals(stop: threading.Event) -> Iterator[None]:
    """Within, SIGTERM and the first Ctrl-C set `stop`. The second Ctrl-C ends at once, which loses
    nothing either.

    Raises:
        KeyboardInterrupt: behind it, after a Ctrl-C.
    """
    heard: list[int] = []

    def hear(number: int, _frame: object) -> None:
        heard.append(number)
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    former = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if signal.SIGINT in heard:
        raise KeyboardInterrupt


def say(line: str) -> None:
    """A line on stderr, without control characters."""
    click.echo(f"btc-edge: {printable(line)}", err=True)
