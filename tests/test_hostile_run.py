"""What counts as a hang: work or sleep of the process's own, not a busy machine's clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.hostile import run as hostile_run
from benchmarks.hostile.run import Pulse, to_its_end

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
SPIN = "print(flush=True)\nwhile True: pass"
SLEEP = "print(flush=True)\nimport time; time.sleep(600)"
# The one that waits is asleep, and the one it waits for works.
NESTED = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code that says when it has begun."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    yield begin
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # and those that it has started
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def spend(pulse: Pulse, until: Callable[[float, float], bool]) -> tuple[float, float]:
    while not until(*pulse.spent()):
        time.sleep(0.01)
    return pulse.spent()


def test_one_that_works_for_too_long_is_stopped(start: Start) -> None:
    code, seconds, mib, hung = to_its_end(start(SPIN), 0.3)
    assert (code, hung) == (-signal.SIGKILL, True)
    assert seconds > 0.3
    assert mib > 1


def test_one_that_sleeps_for_too_long_is_stopped(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile_run, "PATIENCE", 0.3)
    code, seconds, _, hung = to_its_end(start(SLEEP), 60)
    assert (code, hung) == (-signal.SIGKILL, True)
    assert seconds < 0.3


def test_one_that_ends_is_let_be(start: Start) -> None:
    assert to_its_end(start("print(); raise SystemExit(3)"), 60)[::3] == (3, False)


def test_one_that_gets_no_processor_is_not_blamed(start: Start) -> None:
    """Stopped, it neither works nor sleeps, for as long as it takes another one to do so."""
    child = start(SPIN)
    child.send_signal(signal.SIGSTOP)
    while (Path("/proc") / str(child.pid) / "stat").read_text().split()[2] != "T":
        time.sleep(0.01)
    pulse, clock = Pulse(child.pid), Pulse(start(SLEEP).pid)
    spend(clock, lambda _, asleep: asleep > 0.3)
    assert pulse.spent() == (0, 0)


def test_what_descendants_do_counts(start: Start) -> None:
    child = start(f"print(flush=True)\n{NESTED}")
    pulse = Pulse(child.pid)
    used, _ = spend(pulse, lambda used, _: used > 0.2)
    before = pulse.spent()[1]
    spend(pulse, lambda now, _: now > used + 0.2)
    assert pulse.spent()[1] == before, "it does not sleep while its child works"
    pulse.again()
    assert pulse.spent()[0] < used
