"""How far a run is, on stderr: a bar that is drawn anew on a terminal, else a line now and then."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from edge_runtime.archive.engine import Progress

EVERY = 60  # seconds between lines where nobody watches
REDRAWN = 0.2  # seconds between bars
WIDTH = 20  # characters of a bar
_CLEAR = "\r\x1b[K"  # ECMA-48: to the start of the line, erase to its end


class Reporter:
    """Shows progress, and lines beside it, on one stream.

    Args:
        name: what lines begin with.
        stream: default: stderr.
        clock: seconds.
    """

    def __init__(
        self, name: str, stream: TextIO | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._name, self._stream, self._clock = name, stream or sys.stderr, clock
        self._is_terminal = self._stream.isatty()
        self._shown: float | None = None
        self._bar = ""

    def progress(self, so_far: Progress) -> None:
        """Show how far it is, if it is time to, and always when it is over."""
        now, over = self._clock(), so_far.shards == so_far.of_shards
        pause = REDRAWN if self._is_terminal else EVERY
        if self._shown is not None and now - self._shown < pause and not over:
            return
        self._shown = now
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._bar = f"{bar_of(so_far)} {words_of(so_far)}"[:width]
            self._write(f"{_CLEAR}{self._bar}" + "\n" * over)
            self._bar = "" if over else self._bar
        else:
            self._write(f"{self._name}: {words_of(so_far)}\n")

    def tell(self, line: str) -> None:
        """Write a line; the bar stays below it."""
        start = _CLEAR if self._bar else ""
        self._write(f"{start}{self._name}: {line}\n{self._bar}")

    def close(self) -> None:
        """Leave the bar's line, whatever ended the run."""
        if self._bar:
            self._bar = ""
            self._write("\n")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a full disk, a reader that has left: the run goes on
            self._stream.write(text)
            self._stream.flush()


def bar_of(so_far: Progress) -> str:
    """`[####----]`, by shards."""
    done = WIDTH * so_far.shards // max(so_far.of_shards, 1)
    return f"[{'#' * done}{'-' * (WIDTH - done)}]"


def words_of(so_far: Progress) -> str:
    """Shards, slices, their rate and the time left at it."""
    words = f"{so_far.shards:,} of {so_far.of_shards:,} shards, {so_far.rows:,} slices"
    if so_far.errors:
        words += f" ({so_far.errors:,} errors)"
    if not so_far.shards or so_far.seconds <= 0:
        return words
    words += f", {so_far.rows / so_far.seconds:,.0f} a second"
    left = so_far.seconds * (so_far.of_shards - so_far.shards) / so_far.shards
    return words if so_far.shards == so_far.of_shards else f"{words}, {duration(left)} left"


def duration(seconds: float) -> str:
    """`0:00:42`, or `3 d 4:05:06`."""
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock
