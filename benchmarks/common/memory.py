"""Memory of a process together with that of all it starts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common.formatting import MIB
from benchmarks.common.process import launch

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0  # seconds between two looks, which cost milliseconds


class PeakMemory:
    """The peak in MiB of a process and its descendants, for as long as the `with` lasts.

    See `tree_memory`. Looked at ever more rarely: every 10 ms at first, then every second.

    Args:
        pid: the process.
        itself: whether it counts, or only what it starts.
    """

    def __init__(self, pid: int, itself: bool = True) -> None:
        self.peak = 0.0
        self._pid, self._itself = pid, itself
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        pause, ended = FIRST_PAUSE, False
        while not ended:
            self.peak = max(self.peak, tree_memory(self._pid, self._itself))
            ended = self._ended.wait(pause)
            pause = min(LONGEST_PAUSE, 1.05 * pause)


def tree_memory(pid: int, itself: bool) -> float:
    """MiB of a process and its descendants now: what each has for itself, and what they share
    (libraries, and pages since a fork) once, as much as the one that shares most.

    Of one process it is the resident set size. Proportional set sizes (proc_pid_smaps(5)) would be
    less the more processes outside, this one too, have the same libraries loaded.
    """
    try:
        process = psutil.Process(pid)
        family = [*([process] if itself else []), *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    own = [pair for member in family if (pair := _own_and_shared(member)) is not None]
    return (sum(mine for mine, _ in own) + max((shared for _, shared in own), default=0)) / MIB


def _own_and_shared(process: Any) -> tuple[int, int] | None:
    """Bytes that only this process has, and those that it shares; None where it has ended."""
    try:
        found = process.memory_full_info()
    except psutil.Error:
        return None
    return found.uss, max(0, found.rss - found.uss)


def launch_tree(
    command: Sequence[str | Path], folder: Path, stdin: str = "", seconds: float | None = None
) -> tuple[float, float]:
    """As `process.launch`, with the memory of the command and of all that it starts."""
    seen: list[PeakMemory] = []

    def watch(pid: int) -> PeakMemory:
        seen.append(PeakMemory(pid, itself=False))
        return seen[0]

    wall, _ = launch(command, folder, stdin, watch=watch, seconds=seconds)
    return wall, seen[0].peak
