"""The installed command on hostile files, with its own limits: how each ends, how much processor
time and memory it needs. The clock would blame a file for what else the machine does."""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

MODEL_LIMIT = 2.0  # seconds of processor time above a run with a good model
FILE_LIMIT = 2.0  # seconds of processor time for one file …
SLICE_LIMIT = 0.01  # … and for each of its slices that is answered
PATIENCE = 30.0  # seconds of processor time without any answer: the process is stopped
ASLEEP = 600.0  # seconds on the clock after which one that only waits is stopped
OWN = "btc-edge: "
IMAGE_OPTIONS = ("--format", "jsonl", "--workers", "1")
RUNAWAY = 8 << 30  # address space: a process that wants more is not let to take the machine's


# Stands between us and the command: a child's peak begins with the size of the one that started it.
WATCH = """
import json, os, resource, subprocess, sys, threading
report, limit, asleep = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
child = subprocess.Popen(
    sys.argv[4:], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1,) * 2)
)
timer = threading.Timer(asleep, child.kill)
timer.start()
_, status, usage = os.wait4(child.pid, 0)
hung = not timer.is_alive()
timer.cancel()
code = os.waitstatus_to_exitcode(status)
seconds = usage.ru_utime + usage.ru_stime
hung = hung or seconds > limit
os.write(report, json.dumps([code, seconds, usage.ru_maxrss / 1024, hung]).encode())
"""


class End(NamedTuple):
    """How a file fared.

    Attributes:
        outcome: `refused`, `answered`, or what must not be: `crash`, `hang`, `noise` (on a
            stream: a traceback, native messages, no answer), `wrong code`.
        seconds: of processor time; of a model's process, or of an image beyond what it may take.
        mib: peak memory of the process.
        told: the first lines on stderr.
    """

    outcome: str
    seconds: float
    mib: float
    told: str = ""
    code: int = 0


def tool() -> str:
    """The installed command."""
    return str(Path(sys.executable).parent / "btc-edge")


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (RUNAWAY, RUNAWAY))


def run_model(model: Path, picture: Path, limit: float, *options: str) -> End:
    """`btc-edge classify` with a model in a process of its own.

    Exit code 3 with one line on stderr and nothing on stdout is `refused`; 0 with one answer and
    nothing on stderr is `answered`. Whether the answer is right to be given is the caller's to say.
    """
    command = [tool(), "classify", str(picture), "--format", "jsonl", "--model", str(model)]
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
        tempfile.TemporaryFile() as report,
    ):
        code, seconds, mib, hung = _watched([*command, *options], limit, out, errors, report)
        answers, told = out.read().decode(), errors.read().decode(errors="replace")
    if hung:
        return End("hang", seconds, mib, told[:500], code)
    if code < 0:
        return End("crash", seconds, mib, told[:500], code)
    lines = told.splitlines()
    fine = "Traceback" not in told and "unexpected" not in told
    if code == 3 and fine and not answers and len(lines) == 1 and told.startswith(OWN):
        return End("refused", seconds, mib, told[:500], code)
    if code == 0 and not lines and len(answers.splitlines()) == 1:
        return End("answered", seconds, mib, "", code)
    return End("noise" if code in (0, 3) else "wrong code", seconds, mib, told[:500], code)


def _watched(
    command: Sequence[str], limit: float, out: IO[bytes], errors: IO[bytes], report: IO[bytes]
) -> tuple[int, float, float, bool]:
    """Exit code, processor time in seconds, peak memory in MiB, and whether it was stopped."""
    words = [sys.executable, "-I", "-S", "-c", WATCH, str(report.fileno()), str(limit)]
    subprocess.run(
        [*words, str(ASLEEP), *command], stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
        pass_fds=[report.fileno()], preexec_fn=_bounded, check=True,
    )  # fmt: skip
    for stream in (out, errors, report):
        stream.seek(0)
    code, seconds, mib, hung = json.load(report)
    return code, seconds, mib, hung


class Stream:
    """One long `btc-edge classify -` that is handed the paths of files and watched file by file."""

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self._listing = (folder / "paths.txt").open("w+")
        self._listing.writelines(f"{path}\n" for path in paths)
        self._listing.flush()
        self._listing.seek(0)
        self.errors = (folder / "stderr.txt").open("w+", errors="replace")
        command = [tool(), "classify", "-", *IMAGE_OPTIONS]
        self.process = subprocess.Popen(
            command, stdin=self._listing, stdout=subprocess.PIPE, stderr=self.errors,
            preexec_fn=_bounded,
        )  # fmt: skip
        self._rest = b""

    def line(self) -> bytes | None:
        """The next line of stdout; None where the process ended; TimeoutError after PATIENCE."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        begun, spent = time.monotonic(), self.seconds()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], 1.0)[0]:
                if self.seconds() - spent > PATIENCE or time.monotonic() - begun > ASLEEP:
                    raise TimeoutError
                continue
            block = os.read(descriptor, 1 << 20)
            if not block:
                return None
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def seconds(self) -> float:
        """Processor time that the process has used, as far as it can still be asked."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self) -> float:
        """Peak memory in MiB since the last `forget`."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0.0
        return next(
            (int(line.split()[1]) / 1024 for line in status.splitlines() if "VmHWM" in line), 0.0
        )

    def forget(self) -> None:
        """Begin the peak anew, so that the next file is not blamed for this one."""
        with suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def close(self) -> tuple[int, str]:
        """The exit code and all of stderr."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        code = self.process.wait()
        self.errors.seek(0)
        told = self.errors.read()
        self.errors.close()
        self._listing.close()
        return code, told


def run_images(paths: Sequence[Path], folder: Path, cap: float) -> dict[Path, End]:
    """Classify files in as few processes as it takes; one that dies or hangs is followed by another
    for the files that are left.

    Args:
        folder: for the list of paths and stderr.
        cap: MiB; a file at which the process exceeds them is told with that figure.
    """
    ends: dict[Path, End] = {}
    left = list(paths)
    while left:
        stream = Stream(left, folder)
        hung = _follow(stream, left, ends, cap)
        if hung:
            stream.process.kill()
        code, told = stream.close()
        done = {path for path in left if path in ends}
        _blame(told, list(left), ends)
        left = [path for path in left if path not in done]
        if left and (hung or code not in (0, 1) or not done):
            culprit, outcome = left.pop(0), "hang" if hung else "crash"
            ends[culprit] = End(outcome, PATIENCE if hung else 0, 0, told[-500:], code)
    return ends


def _follow(stream: Stream, paths: Sequence[Path], ends: dict[Path, End], cap: float) -> bool:
    """Read answers until the process ends; whether it hung."""
    before, current, slices, wait = 0.0, "", 0, 0.0
    try:
        while (line := stream.line()) is not None:
            now = stream.seconds()
            answer = json.loads(line)
            path, refused = answer["input"], answer["status"] == "error"
            if path != current:  # the wait is for the whole file: its answers come together
                current, slices, wait = path, 0, now - before if current else 0.0
            slices += 1
            mib = stream.peak()
            if mib > cap:
                stream.forget()
            known = ends.get(Path(path))
            outcome = "refused" if refused or (known and known.outcome == "refused") else "answered"
            # Beyond that it may have hung, see `is_slow_alone`.
            beyond = max(0.0, wait - SLICE_LIMIT * slices - FILE_LIMIT)
            ends[Path(path)] = End(outcome, beyond, max(mib, known.mib if known else 0))
            before = stream.seconds()
    except TimeoutError:
        return True
    return False


def _blame(told: str, paths: Sequence[Path], ends: dict[Path, End]) -> None:
    """Lines on stderr that are not ours belong to the file whose line comes next, as a rule."""
    strange: list[str] = []
    names = {str(path): path for path in paths}
    last = paths[0]
    for line in told.splitlines():
        if not line.startswith(OWN):
            strange.append(line)
            continue
        name = line[len(OWN) :].split(": ")[0]
        last = names.get(name, last)
        if strange and last in ends:
            ends[last] = ends[last]._replace(outcome="noise", told="\n".join(strange)[:500])
            strange = []
    if strange and last in ends:
        ends[last] = ends[last]._replace(outcome="noise", told="\n".join(strange)[:500])


def is_slow_alone(path: Path) -> bool:
    """Whether a file that was slow is so again by itself, more than one that is refused at once:
    even processor time grows when a busy machine's caches are cold."""
    good = min(_alone(Path(os.devnull)) for _ in range(2))
    return min(_alone(path) for _ in range(2)) - good > FILE_LIMIT


def _alone(path: Path) -> float:
    """Processor time of the command on one file."""
    with tempfile.TemporaryFile() as nowhere, tempfile.TemporaryFile() as report:
        command = [tool(), "classify", str(path), *IMAGE_OPTIONS]
        return _watched(command, PATIENCE, nowhere, nowhere, report)[1]
