"""Many inputs over several threads: order kept, memory bounded, nothing held back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # items a worker may have waiting: enough that none idles while another is slow


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item | None], workers: int
) -> Iterator[Result]:
    """`work(item)` for each item, in order, on `workers` threads.

    Args:
        items: taken in this thread, a few ahead of the results. A None among them means that the
            next item may be long in coming: what was begun is finished and yielded first.

    Closing the generator (Ctrl-C, a broken pipe) drops what has not begun.
    """
    if workers == 1:
        yield from (work(item) for item in items if item is not None)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            if item is not None:
                waiting.append(pool.submit(work, item))
            while waiting and (item is None or len(waiting) >= AHEAD * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
