"""Several ways to do the same, timed in turns: a drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

Input = TypeVar("Input")


def time_in_turns(
    calls: Mapping[str, Callable[[Input], object]], inputs: Iterable[Input], warm_up: int
) -> dict[str, list[float]]:
    """Milliseconds of each call on each input.

    The order turns round from one input to the next, so that none is always second.

    Args:
        calls: by name.
        warm_up: how many of the inputs, from the first on, do not count.
    """
    spans: dict[str, list[float]] = {name: [] for name in calls}
    orders = list(calls)[::-1], list(calls)
    for number, one in enumerate(inputs):
        for name in orders[number % 2]:
            begun = time.perf_counter()
            calls[name](one)
            if number >= warm_up:
                spans[name].append((time.perf_counter() - begun) * 1e3)
    return spans
