"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Rich progress bars on stderr, only where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield bars


def add_bar(bars: Any, title: str) -> Callable[[int, int], None]:
    """A bar that shows once its function is called with (done, total)."""
    task = bars.add_task(title, total=None, visible=False)

    def advance(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total, visible=True)

    return advance
