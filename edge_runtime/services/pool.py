"""A server's work: bodies in memory within a limit, and a few threads with a short queue."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


class Full(Exception):
    """No more is taken just now: ask again later."""


class TooLarge(Exception):
    """A body over the limit for one."""


class Bodies:
    """The bodies that are in memory, of which all together have a limit. Of the event loop only.

    Args:
        most: bytes of one body.
        total: bytes of all.
    """

    def __init__(self, most: int, total: int) -> None:
        self.most, self.total = most, total
        self.held = 0  # bytes


class Body:
    """A body that comes in pieces: counted as they come, since a header may lie."""

    def __init__(self, of: Bodies) -> None:
        self._of, self._buffer, self.size = of, io.BytesIO(), 0

    def add(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            TooLarge: more than one body may have. Full: more than all together may.
        """
        if self.size + len(piece) > self._of.most:
            raise TooLarge
        if self._of.held + len(piece) > self._of.total:
            raise Full
        self._of.held += len(piece)
        self.size += len(piece)
        self._buffer.write(piece)

    def take(self) -> bytes:
        """All of it. It still counts."""
        buffer, self._buffer = self._buffer, io.BytesIO()
        return buffer.getvalue()

    def release(self) -> None:
        """It is no longer in memory."""
        self._buffer = io.BytesIO()
        self._of.held -= self.size
        self.size = 0


class Slots:
    """Threads that work, and places in the queue before them. A slot is taken until its work has
    truly ended, whoever still waits for it. Of the event loop only.

    Args:
        workers: threads.
        queue: what may wait for one.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(workers, "btc-edge-serve")
        self._most = workers + queue
        self.taken = 0

    @property
    def full(self) -> bool:
        """Whether `start` would refuse."""
        return self.taken >= self._most

    def start(self, work: Callable[[], Result], ended: Callable[[], None]) -> Future[Result]:
        """Queue work. Cancelling what it returns ends it only while it waits in the queue.

        Args:
            ended: called in the event loop once the work has ended or was cancelled.

        Raises:
            Full: all slots are taken.
        """
        if self.full:
            raise Full
        loop = asyncio.get_running_loop()
        job = self._pool.submit(work)
        self.taken += 1

        def end() -> None:
            self.taken -= 1
            ended()

        def tell(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody counts any more
                loop.call_soon_threadsafe(end)

        job.add_done_callback(tell)
        return job
