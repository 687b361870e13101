"""The installed command on hostile files, with its own limits: how each ends, how much processor
time and memory it needs."""

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
from typing import NamedTuple

# Of a processor, not by the clock: a busy machine makes every file wait.
MODEL_LIMIT = 2.0  # seconds above a run with a good model
FILE_LIMIT = 2.0  # seconds for one file …
SLICE_LIMIT = 0.01  # … and for each of its slices that is answered
PATIENCE = 30.0  # seconds of work, or of sleep, without any answer: the process is stopped
OWN = "btc-edge: "
IMAGE_OPTIONS = ("--format", "jsonl", "--workers", "1")
RUNAWAY = 8 << 30  # address space: a process that wants more is not let to take the machine's


ROOT = Path(__file__).resolve().parents[2]
# Stands between us and the command: a child's peak begins with the size of the one that started it.
WATCH = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from benchmarks.hostile.run import watch
watch()
"""


class Pulse:
    """What a process and its descendants have spent since `again`: seconds of a processor, and
    seconds asleep. Time in which they wait for a processor is neither: on a busy machine that is
    no fault of a file."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = self.processor()
        self.again()

    def again(self) -> None:
        """Count from now on."""
        self._begun = self._seen = self.processor()
        self._asleep, self._looked = 0.0, time.monotonic()

    def processor(self) -> float:
        """Seconds of a processor since they began."""
        return sum(ticks for ticks, _ in self._family()) / os.sysconf("SC_CLK_TCK")

    def spent(self) -> tuple[float, float]:
        """Seconds of a processor and seconds asleep since `again`; to be asked every second."""
        family, now = self._family(), time.monotonic()
        used = sum(ticks for ticks, _ in family) / os.sysconf("SC_CLK_TCK")
        if used == self._seen and all(state == "S" for _, states in family for state in states):
            self._asleep += now - self._looked
        self._seen, self._looked = used, now
        return used - self._begun, self._asleep

    def _family(self) -> list[tuple[int, str]]:
        """Of each process the ticks it has used, and the states of its threads."""
        found, left = [], [self._pid]
        while left:
            tasks = Path(f"/proc/{left.pop()}/task")
            states, ticks = "", 0
            with suppress(OSError):  # it may end under our eyes
                for task in tasks.iterdir():
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    states, ticks = states + fields[0], ticks + int(fields[11]) + int(fields[12])
                    left += map(int, (task / "children").read_text().split())
            found.append((ticks, states))
        return found


def to_its_end(child: subprocess.Popen[bytes], limit: float) -> tuple[int, float, float, bool]:
    """Wait for a process, and stop it when it has used a processor for more than `limit` seconds or
    slept for more than PATIENCE.

    Returns:
        Exit code, seconds of a processor, peak memory in MiB, whether it was stopped.
    """
    pulse, hung = Pulse(child.pid), False
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            code = child.returncode = os.waitstatus_to_exitcode(status)
            return code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, hung
        used, asleep = pulse.spent()
        if not hung and (used > limit or asleep > PATIENCE):
            child.kill()
            hung = True
        time.sleep(0.02)


def watch() -> None:
    """Run the command of `sys.argv[3:]` and tell its end to the descriptor `sys.argv[1]`."""
    report, limit = int(sys.argv[1]), float(sys.argv[2])
    ended = to_its_end(subprocess.Popen(sys.argv[3:]), limit)
    os.write(report, json.dumps(ended).encode())


class End(NamedTuple):
    """How a file fared.

    Attributes:
        outcome: `refused`, `answered`, or what must not be: `crash`, `hang`, `noise` (on a
            stream: a traceback, native messages, no answer), `wrong code`.
        seconds: of a processor, of a model's process; of an image beyond what it may take.
        mib: peak memory of the process.
        messages: the first lines on stderr.
    """

    outcome: str
    seconds: float
    mib: float
    messages: str = ""
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
        words = [sys.executable, "-I", "-S", "-c", WATCH, str(ROOT)]
        words += [str(report.fileno()), str(limit)]
        subprocess.run(
            [*words, *command, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            pass_fds=[report.fileno()], preexec_fn=_bounded, check=True,
        )  # fmt: skip
        for stream in (out, errors, report):
            stream.seek(0)
        answers, messages = out.read().decode(), errors.read().decode(errors="replace")
        code, seconds, mib, hung = json.load(report)
    if hung:
        return End("hang", seconds, mib, messages[:500], code)
    if code < 0:
        return End("crash", seconds, mib, messages[:500], code)
    lines = messages.splitlines()
    fine = "Traceback" not in messages and "unexpected" not in messages
    if code == 3 and fine and not answers and len(lines) == 1 and messages.startswith(OWN):
        return End("refused", seconds, mib, messages[:500], code)
    if code == 0 and not lines and len(answers.splitlines()) == 1:
        return End("answered", seconds, mib, "", code)
    return End("noise" if code in (0, 3) else "wrong code", seconds, mib, messages[:500], code)


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
        self.pulse = Pulse(self.process.pid)
        self._rest = b""

    def line(self) -> bytes | None:
        """The next line of stdout; None where the process ended; TimeoutError after PATIENCE."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        self.pulse.again()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], 0.5)[0]:
                if max(self.pulse.spent()) > PATIENCE:
                    raise TimeoutError
                continue
            block = os.read(descriptor, 1 << 20)
            if not block:
                return None
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return line

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
        messages = self.errors.read()
        self.errors.close()
        self._listing.close()
        return code, messages


def run_images(paths: Sequence[Path], folder: Path, cap: float) -> dict[Path, End]:
    """Classify files in as few processes as it takes; one that dies or hangs is followed by another
    for the files that are left.

    Args:
        folder: for the list of paths and stderr.
        cap: MiB; a file at which the process exceeds them is reported with that peak.
    """
    ends: dict[Path, End] = {}
    left = list(paths)
    while left:
        stream = Stream(left, folder)
        hung = _follow(stream, left, ends, cap)
        if hung:
            stream.process.kill()
        code, messages = stream.close()
        done = {path for path in left if path in ends}
        _blame(messages, list(left), ends)
        left = [path for path in left if path not in done]
        if left and (hung or code not in (0, 1) or not done):
            culprit, outcome = left.pop(0), "hang" if hung else "crash"
            ends[culprit] = End(outcome, PATIENCE if hung else 0, 0, messages[-500:], code)
    return ends


def _follow(stream: Stream, paths: Sequence[Path], ends: dict[Path, End], cap: float) -> bool:
    """Read answers until the process ends; whether it hung."""
    before, current, slices, wait = stream.pulse.processor(), "", 0, 0.0
    try:
        while (line := stream.line()) is not None:
            now = stream.pulse.processor()
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
            before = stream.pulse.processor()
    except TimeoutError:
        return True
    return False


def _blame(messages: str, paths: Sequence[Path], ends: dict[Path, End]) -> None:
    """Lines on stderr that are not ours belong to the file whose line comes next, as a rule."""
    foreign: list[str] = []
    names = {str(path): path for path in paths}
    last = paths[0]
    for line in messages.splitlines():
        if not line.startswith(OWN):
            foreign.append(line)
            continue
        name = line[len(OWN) :].split(": ")[0]
        last = names.get(name, last)
        if foreign and last in ends:
            ends[last] = ends[last]._replace(outcome="noise", messages="\n".join(foreign)[:500])
            foreign = []
    if foreign and last in ends:
        ends[last] = ends[last]._replace(outcome="noise", messages="\n".join(foreign)[:500])


def is_slow_alone(path: Path) -> bool:
    """Whether a file that was slow is so again by itself: answers come in blocks, so that it may
    have been another's work."""
    good = min(_alone(Path(os.devnull)) for _ in range(2))
    return min(_alone(path) for _ in range(2)) - good > FILE_LIMIT


def _alone(path: Path) -> float:
    """Seconds of a processor that one file takes in a process of its own."""
    command = [tool(), "classify", str(path), *IMAGE_OPTIONS]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, seconds, _, hung = to_its_end(child, PATIENCE)
    return max(seconds, PATIENCE) if hung else seconds
