"""Many inputs over several threads: order kept, memory bounded, nothing held back."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from edge_runtime.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # items a worker may have waiting: enough that none idles while another is slow
MOST_WAITING = 4096  # results that may wait for their turn before another item is begun


class Unusable(NamedTuple):
    """An input that is known to be none before it is opened, and why."""

    name: str
    error: InputError


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item | None], workers: int
) -> Iterator[Result]:
    """`work(item)` for each item, in order, on `workers` threads; see `each_in_order`."""

    def alone(item: Item) -> Generator[Result, None, None]:
        yield work(item)

    yield from each_in_order(alone, items, workers)


def each_in_order(
    work: Callable[[Item], Generator[Result, None, None]],
    items: Iterable[Item | None],
    workers: int,
    stop: Callable[[], None] = lambda: None,
    here: Callable[[Item], Generator[Result, None, None]] | None = None,
) -> Iterator[Result]:
    """All that `work(item)` yields for each item, in order, on `workers` threads.

    A result is yielded as soon as those before it are, however long the rest of its item takes.

    Args:
        work: runs in one thread from its begin to its end; where it raises, its results so far
            come first, then the error. It never waits for who takes the results, so it may hold
            a lock.
        items: taken in this thread, a few ahead of the results. A None among them means that the
            next item may be long in coming: what was begun is finished and yielded first. So it
            is where they raise.
        stop: called in this thread at the end, before the threads are waited for: ends what one of
            them may wait for.
        here: as `work`, default that; works in this thread on an item that has no other behind it,
            and on all where no thread can be started. Each of its results waits to be taken, so it
            must hold nothing meanwhile that somebody else may wait for.

    Closing the generator (Ctrl-C, a broken pipe) drops what has not begun and ends what has after
    its next result.
    """
    most = AHEAD * workers if workers > 1 else 1
    line: _Line[Result] = _Line()
    waiting: deque[SimpleQueue[Result | _End]] = deque()
    tasks: SimpleQueue[tuple[Item, SimpleQueue[Result | _End]] | None] = SimpleQueue()
    threads: list[threading.Thread] = []
    problem: list[Exception] = []

    def until_error() -> Iterator[Item | None]:
        """The items; where they raise, that is told behind the results."""
        try:
            yield from items
        except Exception as error:
            problem.append(error)

    def finish() -> Iterator[Result]:
        """The results of the item whose turn it is."""
        results = waiting.popleft()
        if threads:
            yield from line.drain(results)
        elif (task := tasks.get()) is not None:
            with closing((here or work)(task[0])) as made:
                yield from made

    try:
        for item in until_error():
            if item is not None:
                waiting.append(SimpleQueue())
                tasks.put((item, waiting[-1]))
                if len(waiting) > 1 and not threads:
                    threads += _started(workers, work, tasks, line)
                    most = max(AHEAD * len(threads), 1)
            while waiting and (item is None or len(waiting) >= most):
                yield from finish()
        while waiting:
            yield from finish()
        if problem:
            raise problem.pop()
    finally:
        line.close()
        for _ in threads:
            tasks.put(None)
        if not sys.is_finalizing():  # then they never end
            stop()
            for thread in threads:
                thread.join()


def _started(
    workers: int,
    work: Callable[[Item], Generator[Result, None, None]],
    tasks: SimpleQueue[tuple[Item, SimpleQueue[Result | _End]] | None],
    line: _Line[Result],
) -> list[threading.Thread]:
    """Threads that `_serve`; fewer or none where the system allows no more. Daemons, since a
    generator that is left open must not keep the process from ending: Python joins the threads of
    its own pools at exit."""
    threads: list[threading.Thread] = []
    with suppress(RuntimeError):  # "can't start new thread"
        for _ in range(workers):
            thread = threading.Thread(target=_serve, args=(work, tasks, line), daemon=True)
            thread.start()
            threads.append(thread)
    return threads


class _End:
    """Behind an item's last result: the error that ended it, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Line(Generic[Result]):
    """How many results wait, whose turn it is, and whether anybody still wants them."""

    def __init__(self) -> None:
        # Queues are unbounded: who makes results never waits for who takes them.
        self._changed = threading.Condition()
        self._turn: SimpleQueue[Result | _End] | None = None
        self._waiting = 0
        self.closed = False

    def enter(self, results: SimpleQueue[Result | _End]) -> None:
        """Wait to begin an item while many results wait, unless the next wanted is its own.

        Items are begun in their order, so the one whose turn it is never waits behind another.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or self._turn is results or self._waiting < MOST_WAITING
            )

    def put(self, results: SimpleQueue[Result | _End], result: Result) -> None:
        """Add a result to those of its item."""
        with self._changed:
            self._waiting += 1
        results.put(result)

    def drain(self, results: SimpleQueue[Result | _End]) -> Iterator[Result]:
        """The results of the item whose turn it is, as they come.

        Raises:
            Exception: what ended it.
        """
        with self._changed:
            self._turn = results
            self._changed.notify_all()
        while not isinstance(result := results.get(), _End):
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()
            yield result
        if result.error is not None:
            raise result.error

    def close(self) -> None:
        """Nobody wants more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def _serve(
    work: Callable[[Item], Generator[Result, None, None]],
    tasks: SimpleQueue[tuple[Item, SimpleQueue[Result | _End]] | None],
    line: _Line[Result],
) -> None:
    """Work on one item after another until there is a None; once the line is closed, on none."""
    while (task := tasks.get()) is not None:
        item, results = task
        line.enter(results)
        if not line.closed:
            _run(work, item, results, line)


def _run(
    work: Callable[[Item], Generator[Result, None, None]],
    item: Item,
    results: SimpleQueue[Result | _End],
    line: _Line[Result],
) -> None:
    """Work on one item."""
    try:
        with closing(work(item)) as made:
            for result in made:
                line.put(results, result)
                if line.closed:
                    break
        results.put(_End(None))
    except BaseException as error:
        results.put(_End(error))


class Budget:
    """Bytes that threads share: each waits until what it asks for is free, in the order of asking.

    One that asks for more than there is waits until it is alone. Nobody holds some while waiting
    for more: `Reservation.become` gives back first.
    """

    def __init__(self, total: int) -> None:
        self._changed = threading.Condition()
        self._total, self._used = total, 0
        self._line: deque[object] = deque()

    @contextmanager
    def taken(self, amount: int) -> Iterator[Reservation]:
        """Hold an amount for as long as the `with` lasts."""
        reservation = Reservation(self)
        try:
            reservation.become(amount)
            yield reservation
        finally:
            reservation.become(0)

    def change(self, held: int, wanted: int) -> None:
        """Hold less at once; for more, give back what is held and wait."""
        place = object()
        with self._changed:
            self._used -= held
            if wanted <= held:
                self._used += wanted
            else:
                self._line.append(place)
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: (
                        self._line[0] is place
                        and (self._used == 0 or self._used + wanted <= self._total)
                    )
                )
                self._line.popleft()
                self._used += wanted
            self._changed.notify_all()


class Reservation:
    """What one thread holds of a budget."""

    def __init__(self, of: Budget) -> None:
        self._of, self._amount = of, 0

    def become(self, amount: int) -> None:
        """Hold another amount, once it is free."""
        held, self._amount = self._amount, 0
        self._of.change(held, amount)
        self._amount = amount
