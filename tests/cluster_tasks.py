"""What the tests send to the workers of a cluster, which import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from edge_runtime.errors import InputError


def double(number: int) -> int:
    return 2 * number


def opened() -> list[int]:
    return [0]


def count(calls: list[int]) -> tuple[int, int]:
    """The process, and how many tasks of one `opened` it has done."""
    calls[0] += 1
    return os.getpid(), calls[0]


def fail(how: str) -> None:
    if how == "input":
        raise InputError("damaged")
    if how == "disk":
        raise OSError(28, "No space left on device", "/full")
    raise KeyError("unforeseen")


def die_unless(marker: str) -> str:
    """End the worker, as the system does where memory runs out, unless it happened before."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(started: str, marker: str) -> str:
    """Say that it runs, and go on until somebody makes the marker."""
    Path(started).write_text(str(os.getpid()))
    while not Path(marker).exists():
        time.sleep(0.05)
    return "seen"
