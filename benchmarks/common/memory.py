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

    It is the sum of their proportional set sizes (Linux, proc_pid_smaps(5)): a page that several
    share counts once. Looked at ever more rarely: every 10 ms at first, then every second.

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
    """MiB of a process and its descendants now; those that have ended count nothing."""
    try:
        process = psutil.Process(pid)
        family = [*([process] if itself else []), *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    return sum(map(_own, family)) / MIB


def _own(process: Any) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended
        return 0


def launch_tree(
    command: Sequence[str | Path], folder: Path, stdin: str = ""
) -> tuple[float, float]:
    """As `process.launch`, with the memory of the command and of all that it starts."""
    seen: list[PeakMemory] = []

    def watch(pid: int) -> PeakMemory:
        seen.append(PeakMemory(pid, itself=False))
        return seen[0]

    wall, _ = launch(command, folder, stdin, watch=watch)
    return wall, seen[0].peak
