"""Several ways to do the same, timed in turns: a drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TypeVar

Input = TypeVar("Input")


def time_in_turns(
    calls: Mapping[str, Callable[[Input], object]],
    inputs: Iterable[Input],
    warm_up: int,
    *,
    turn: int = 1,
    settling: int = 0,
) -> dict[str, list[float]]:
    """Milliseconds of each call on each input.

    The order turns round from one turn to the next, so that none is always second.

    Args:
        calls: by name.
        warm_up: how many of the inputs, from the first on, do not count.
        turn: inputs in a row for one call before the next has its turn.
        settling: how often the first of them is asked about before, which does not count: what
            another model left in the caches costs a large one more than a small one.
    """
    spans: dict[str, list[float]] = {name: [] for name in calls}
    orders = list(calls)[::-1], list(calls)
    rest, done = iter(inputs), 0
    while row := list(islice(rest, turn)):
        for name in orders[done // turn % 2]:
            for one in [row[0]] * settling:
                calls[name](one)
            for number, one in enumerate(row, done):
                begun = time.perf_counter()
                calls[name](one)
                if number >= warm_up:
                    spans[name].append((time.perf_counter() - begun) * 1e3)
        done += len(row)
    return spans
