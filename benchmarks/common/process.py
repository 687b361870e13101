"""Whole processes under measurement: one run at a time, so that commands can take turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from benchmarks.common.formatting import MIB
from edge_runtime.child import python_command
from edge_runtime.errors import BtcError

LAUNCH = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
wall = (time.perf_counter() - begun) * 1e3
print(json.dumps([os.waitstatus_to_exitcode(status), wall, usage.ru_maxrss]))
"""


def launch(
    command: Sequence[str | Path],
    folder: Path,
    stdin: str = "",
    codes: Sequence[int] = (0,),
    watch: Callable[[int], AbstractContextManager[Any]] = nullcontext,
    seconds: float | None = None,
) -> tuple[float, float]:
    """Wall time in ms and peak memory in MiB of one run of `command`.

    A small process starts it: a child's peak begins with the size of the one that started it.

    Args:
        folder: where it runs; not a checkout, whose packages would hide the installed ones.
        stdin: what it reads.
        codes: exit codes that count as success.
        watch: entered with the number of the process that starts it, for as long as it runs.
        seconds: after which it is killed, with all that it started.

    Raises:
        BtcError: it ended otherwise, or took too long.
    """
    words = [*python_command(LAUNCH), *map(str, command)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder,
            env=clean_environment(), start_new_session=True,
        ) as starter,
        watch(starter.pid),
    ):  # fmt: skip
        try:
            told, problem = starter.communicate(stdin, seconds)
        except subprocess.TimeoutExpired:
            raise BtcError(f"{_shown(command)} took more than {seconds:g} s") from None
        finally:  # before its end is waited for
            if starter.returncode is None:
                kill_group(starter.pid)
    if starter.returncode != 0:
        raise BtcError(f"{command[0]} cannot be started: {problem.strip()[-200:]}")
    code, wall, peak = json.loads(told)
    if code not in codes:
        raise BtcError(f"{_shown(command)} failed with exit code {code}")
    return float(wall), peak_mib(peak)


def _shown(command: Sequence[str | Path]) -> str:
    return " ".join(map(str, command[:4]))


def run_tool(command: Sequence[str | Path]) -> None:
    """Run one of the installed console scripts to its end, its messages shown.

    Raises:
        BtcError: it failed.
    """
    words = [str(Path(sys.executable).parent / command[0]), *map(str, command[1:])]
    # Named, since a command of ours sends its own file descriptor 2 to nowhere.
    code = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=sys.stderr).returncode
    if code != 0:
        raise BtcError(f"{command[0]} failed with exit code {code}")


def peak_mib(maxrss: int) -> float:
    """`ru_maxrss` in MiB: getrusage(2) tells KiB, on macOS bytes."""
    return maxrss / (MIB if sys.platform == "darwin" else MIB >> 10)


def kill_group(pid: int) -> None:
    """Kill a process that leads a session of its own, and what it started there."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def clean_environment() -> dict[str, str]:
    """The environment without Python's own variables, which could point at another's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
