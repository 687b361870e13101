"""Processes of a large batch: the answers of threads, whatever happens to a process."""

from __future__ import annotations

import errno
import gzip
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError, ModelError, processes
from edge_runtime.batch import AHEAD, Unusable
from edge_runtime.classifier import CHUNK
from edge_runtime.imaging.limits import MIB, ImageLimits
from tests.device.test_cli import TOOL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")
MEMORY_OF_MANY = 8 * MIB  # a slice needs more than half of a 40th of it
LIMITS = ImageLimits(max_memory=48 * MIB)  # of which a quarter is small for each of two processes

# In a process: what happens when it is asked for a file with this in its name.
DYING = """
import os, pathlib, resource, signal
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from edge_runtime.classifier import Classifier
answer = Classifier.classify_small
def dying(self, paths):
    for path in map(pathlib.Path, paths):
        if "killer" in path.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in path.name:
            os._exit(77)
        if "term" in path.name:
            os.kill(os.getpid(), signal.SIGTERM)
        if "once" in path.name or "often" in path.name:
            try:
                path.with_suffix(".killed").touch(exist_ok="often" in path.name)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, paths)
Classifier.classify_small = dying
from edge_runtime.worker import child; child()
"""


class Started:
    """The processes that were started, and the files that they answered for."""

    def __init__(self) -> None:
        self.all: list[processes._Process] = []
        self.answered: list[str] = []

    def codes(self) -> list[int | None]:
        return [process._process.poll() for process in self.all]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Processes are started at once and waited for."""
    seen = Started()

    class Watched(processes._Process):
        def __init__(self) -> None:
            super().__init__()
            seen.all.append(self)

        def ask(self, files: object) -> object:
            answers = super().ask(files)  # type: ignore[arg-type]
            seen.answered += [answer.input for answer in answers if answer is not None]
            return answers

    monkeypatch.setattr(processes, "AFTER", 0)
    monkeypatch.setattr(processes, "_has_more", lambda stream: True)
    monkeypatch.setattr(processes, "cores", lambda: 2)
    monkeypatch.setattr(processes, "_Process", Watched)
    return seen


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(limits=LIMITS)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good, damaged and large pictures, names that are no UTF-8, volumes where they can be read."""
    folder = tmp_path_factory.mktemp("mixed")
    for i, suffix in enumerate([".jpg", ".png", ".bmp", ".tiff", ".webp"] * 6):
        name = os.fsencode(folder / f"{i:02d}") + (b"\xff" if i % 7 == 3 else b"")
        Path(os.fsdecode(name) + suffix).write_bytes(encode(draw_slice(i), suffix))
    (folder / "text.jpg").write_bytes(b"text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.jpg").write_bytes(encode(draw_slice(1))[:900])
    (folder / "05-large.bmp").write_bytes(encode(np.tile(draw_slice(2), (12, 12)), ".bmp"))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(map(str, folder.iterdir()))


def both(classifier: Classifier, sources: list, **how: object) -> tuple[list, list]:
    """The answers of threads and of processes."""
    threads = list(classifier.classify_many(sources, workers=2, **how))  # type: ignore[arg-type]
    return threads, list(
        classifier.classify_many(sources, workers=2, processes=True, **how)  # type: ignore[arg-type]
    )


def test_processes_do_not_change_answers(
    classifier: Classifier, mixed: Path, started: Started
) -> None:
    sources: list = [*names(mixed), None, mixed / "07.bmp", mixed / "nowhere.png", "nul\0"]
    sources += ["\ud83d\ude00.png", draw_slice(3), encode(draw_slice(4)), None, None]
    sources += [Unusable("folder", InputError("a folder")), os.fsencode(mixed), *names(mixed)]
    threads, asked = both(classifier, sources)
    assert asked == threads
    assert len(started.all) == 2
    good = [answer.input for answer in threads if answer.error is None]
    own = [name for name in good if name in ("array", "bytes") or "large" in Path(name).name]
    assert sorted([*started.answered, *own]) == sorted(good)
    assert any(b"\xff" in os.fsencode(name) for name in started.answered)
    assert None not in started.codes()


def test_a_volume_is_worked_on_by_its_thread(
    classifier: Classifier, mixed: Path, tmp_path: Path, started: Started
) -> None:
    """A DICOM file of one frame is a slice like any other."""
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    from benchmarks.hostile.files import dicom_bytes, nifti_bytes

    grays = np.stack([draw_slice(i) for i in range(3)]).astype(np.uint16)
    made = {
        "one.dcm": dicom_bytes(grays[0]),
        "three.dcm": dicom_bytes(grays),
        "three.nii": nifti_bytes(grays.transpose(2, 1, 0)),
        "three.nii.gz": gzip.compress(nifti_bytes(grays.transpose(2, 1, 0))),
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    files = [str(mixed / "00.jpg"), *names(tmp_path), str(mixed / "01.png")]
    threads, asked = both(classifier, files)
    assert asked == threads
    assert [answer.slice for answer in asked] == [None, None, *[0, 1, 2] * 3, None]
    assert sorted(started.answered) == sorted([files[0], str(tmp_path / "one.dcm"), files[-1]])


@pytest.mark.parametrize("how", ["few", "one worker", "not asked for", "heatmaps"])
def test_no_process_is_started(
    how: str, classifier: Classifier, mixed: Path, tmp_path: Path, started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    files = names(mixed)
    if how == "few":
        monkeypatch.setattr(processes, "AFTER", len(files))
    answers = classifier.classify_many(
        files,
        workers=1 if how == "one worker" else 2,
        processes=how != "not asked for",
        heatmaps=tmp_path if how == "heatmaps" else None,
    )
    assert len(list(answers)) == len(files)
    assert started.all == []


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[str]]:
    """Files of which some do what their name says to the process that is asked for them."""
    monkeypatch.setattr(processes, "_CHILD", DYING)

    def files(word: str, every: int) -> list[str]:
        for i in range(40):
            name = f"{i:02d}-{word}.png" if i % every == 5 else f"{i:02d}.png"
            (tmp_path / name).write_bytes(encode(draw_slice(i), ".png"))
        return names(tmp_path)

    return files


def test_a_process_that_is_killed_loses_no_answer(
    classifier: Classifier, dying: Callable[[str, int], list[str]], started: Started
) -> None:
    threads, asked = both(classifier, dying("once", 20))
    assert asked == threads
    assert all(answer.error is None for answer in asked)
    assert len(started.all) == 4
    assert started.codes().count(-signal.SIGKILL) >= 2
    assert len(started.answered) == 40


@pytest.mark.parametrize("how", ["often", "term", "exit"])
def test_a_system_that_ends_every_process_gets_the_answers_of_threads(
    how: str, classifier: Classifier, dying: Callable[[str, int], list[str]], started: Started
) -> None:
    """As one that is short of memory, or that shuts down: no file is to blame."""
    threads, asked = both(classifier, dying(how, 6))
    assert asked == threads
    assert all(answer.error is None for answer in asked)
    assert len(started.all) <= 4


def test_a_file_that_kills_every_process_becomes_an_error(
    classifier: Classifier, dying: Callable[[str, int], list[str]], started: Started
) -> None:
    threads, asked = both(classifier, dying("killer", 15))
    problem = f"the process that read it ended with code {-signal.SIGSEGV}: damaged or hostile"
    for answer, expected in zip(asked, threads, strict=True):
        if "killer" in Path(answer.input).name:
            assert (answer.status.value, answer.error) == ("error", problem)
        else:
            assert answer == expected
    assert sum(answer.error is not None for answer in asked) == 3
    assert len(started.answered) == 37


NONSENSE = [b"", b"[]", b"[1]", b'[{"status": "ok"}]', b"\xff", b"[" * 100_000, b"0" * (1 << 20)]


@pytest.mark.parametrize("reply", NONSENSE)
def test_nonsense_from_a_process_is_no_answer(
    reply: bytes, classifier: Classifier, mixed: Path, started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    code = (
        "import pickle\npickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(b'ready\\n'); sys.stdout.flush()\n"
        "while pickle.load(sys.stdin.buffer):\n"
        f"    sys.stdout.buffer.write({reply[:1]!r} * {len(reply)} + b'\\n'"
        f" if len({reply[:9]!r}) == 9 else {reply[:99]!r} + b'\\n'); sys.stdout.flush()"
    )
    monkeypatch.setattr(processes, "_CHILD", code)
    monkeypatch.setattr(processes, "SECONDS", 0.01)
    threads, asked = both(classifier, names(mixed)[:12])
    assert asked == threads
    assert started.answered == []
    assert None not in started.codes()


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('hello')", "import nothing"])
def test_threads_go_on_where_a_process_does_not_get_ready(
    code: str, classifier: Classifier, mixed: Path, started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(processes, "_CHILD", code)
    threads, asked = both(classifier, names(mixed))
    assert asked == threads
    assert len(started.all) == 2


@pytest.mark.parametrize("what", ["__version__", "__file__"])
def test_a_process_that_runs_other_code_is_not_asked(
    what: str, classifier: Classifier, mixed: Path, started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As where the package is installed twice, or was replaced after the program had begun."""
    monkeypatch.setattr(processes, what, "other")
    threads, asked = both(classifier, names(mixed))
    assert asked == threads
    assert started.answered == []
    assert len(started.all) == 2


PROGRAM = """
import sys
from edge_runtime import Classifier, processes
processes.AFTER, processes._has_more, processes.cores = 0, lambda stream: True, lambda: 2
print("begun")
for answer in Classifier().classify_many(sys.argv[1:] * 4, workers=2, processes=True):
    print(answer.input)
"""


FLAGS: list[list[str]] = [
    *([], ["-I"], ["-E"], ["-s"], ["-B"], ["-O"], ["-S"], ["-X", "utf8"], ["-X", "utf8=0"]),
    ["-W", "error::FutureWarning", "-W", "ignore::UserWarning", "-Es"],
]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_a_process_has_the_flags_of_the_one_that_starts_it(flags: list[str]) -> None:
    tell = "print(sys.flags, sys.warnoptions)"
    code = (
        "import subprocess, sys\n"
        f"{tell}\n"
        f"sys.path.append({str(Path(processes.__file__).parents[1])!r})\n"
        "from edge_runtime.child import python_command\n"
        f"print(subprocess.check_output(python_command({tell!r}), text=True))"
    )
    told = subprocess.check_output([sys.executable, *flags, "-c", code], text=True)
    own, its = told.split("\n")[:2]
    assert its == own


def test_processes_of_an_isolated_program_are_isolated(mixed: Path, tmp_path: Path) -> None:
    """What PYTHONPATH names is not imported, and what the program itself added is."""
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise ImportError")
    code = (
        f"import sys\nsys.path.insert(0, {str(Path(processes.__file__).parents[1])!r})\n{PROGRAM}"
    )
    files = names(mixed)[:3]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *files],
        capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1 + 4 * len(files)
    assert not (tmp_path / "ran").exists()


class LocalLimits(ImageLimits):
    def __reduce__(self) -> str:
        raise MemoryError


def test_threads_go_on_where_settings_cannot_be_sent(
    classifier: Classifier, mixed: Path, started: Started
) -> None:
    class Nowhere(ImageLimits):
        """Pickle does not find it."""

    for limits in (Nowhere, LocalLimits):
        threads, asked = both(Classifier(limits=limits(max_memory=48 * MIB)), names(mixed))
        assert asked == threads == list(classifier.classify_many(names(mixed)))
    assert started.all == []


def test_threads_go_on_where_no_process_can_be_started(
    classifier: Classifier, mixed: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "too many processes")

    monkeypatch.setattr(subprocess, "Popen", refused)
    threads, asked = both(classifier, names(mixed))
    assert asked == threads
    assert started.all == []


def test_there_are_no_more_processes_than_cores(
    classifier: Classifier, mixed: Path, started: Started
) -> None:
    answers = classifier.classify_many(names(mixed) * 3, workers=5, processes=True)
    assert len(list(answers)) == 3 * len(names(mixed))
    assert len(started.all) == 2


def test_a_frozen_program_is_not_started_again(
    classifier: Classifier, mixed: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    threads, asked = both(classifier, names(mixed))
    assert asked == threads
    assert started.all == []


def test_a_model_error_reaches_the_caller(
    mixed: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process it is no answer; the thread meets it again, behind the answers before it."""
    monkeypatch.setattr(
        processes,
        "_CHILD",
        "from edge_runtime import classifier, ModelError\n"
        "def fail(self, some): return [ModelError('in the process')]\n"
        "classifier.Classifier._run_all = fail\n"
        "from edge_runtime.worker import child; child()",
    )
    classifier = Classifier(limits=LIMITS)

    def fail(some: list) -> list[ModelError]:
        return [ModelError("in the thread")]

    monkeypatch.setattr(classifier, "_run_all", fail)
    with pytest.raises(ModelError, match="in the thread"):
        list(classifier.classify_many([mixed / "00.jpg"], workers=2, processes=True))
    assert started.answered == []
    assert None not in started.codes()


def test_a_process_that_works_counts_in_the_memory_of_all(
    classifier: Classifier, mixed: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it for each of two."""
    used: list[int] = []
    ask = processes._Process.ask

    def watched(process: processes._Process, files: list[bytes]) -> object:
        used.append(classifier._memory._used)
        return ask(process, files)

    monkeypatch.setattr(processes._Process, "ask", watched)
    list(classifier.classify_many(names(mixed), workers=2, processes=True))
    assert used
    assert 24 * MIB <= min(used) <= max(used) <= 48 * MIB
    assert classifier._memory._used == 0


def test_many_workers_leave_a_process_memory_enough(
    mixed: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no more of them than cores to share it."""
    classifier = Classifier(limits=ImageLimits(max_memory=MEMORY_OF_MANY))
    files = [str(mixed / "00.jpg")] * 400
    refused: list[bytes] = []
    ask = processes._Process.ask

    def watched(process: processes._Process, files: list[bytes]) -> Sequence[object]:
        answers = ask(process, files)
        refused.extend(f for f, answer in zip(files, answers, strict=True) if answer is None)
        return answers

    monkeypatch.setattr(processes._Process, "ask", watched)
    answers = list(classifier.classify_many(files, workers=40, processes=True))
    assert {answer.error for answer in answers} == {None}
    assert started.answered
    assert refused == []


# In a process: what it is, in a file named by its number.
TELLING = """
import ctypes, json, os, pathlib, signal
import cv2
from edge_runtime.classifier import Classifier
answer = Classifier.classify_small
def telling(self, paths):
    parent_ends, me = ctypes.c_int(), pathlib.Path("/proc/self")
    ctypes.CDLL(None).prctl(2, ctypes.byref(parent_ends), 0, 0, 0)  # PR_GET_PDEATHSIG
    pathlib.Path(FOLDER, str(os.getpid())).write_text(json.dumps({
        "parent ends": parent_ends.value,
        "ignores SIGINT": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "oom_score_adj": int(me.joinpath("oom_score_adj").read_text()),
        "threads": [cv2.getNumThreads(), os.environ["OPENBLAS_NUM_THREADS"]],
    }))
    return answer(self, paths)
Classifier.classify_small = telling
from edge_runtime.worker import child; child()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of processes")
@pytest.mark.parametrize("threads", [None, "3"])
def test_what_a_process_is(
    threads: str | None, classifier: Classifier, mixed: Path, tmp_path: Path, started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It goes with its parent, and before it where memory runs out; one thread is its own."""
    if threads is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    monkeypatch.setattr(processes, "_CHILD", TELLING.replace("FOLDER", repr(str(tmp_path))))
    list(classifier.classify_many(names(mixed), workers=2, processes=True))
    told = [json.loads(path.read_text("utf-8")) for path in tmp_path.iterdir()]
    expected = {
        "parent ends": signal.SIGKILL,
        "ignores SIGINT": True,
        "oom_score_adj": 1000,
        "threads": [1, threads or "1"],
    }
    assert told
    assert all(one == expected for one in told)


# A process that ends its parent and hangs, so that it does not read that its input has ended.
ORPHAN = """
import os, pathlib, signal, time
from edge_runtime.classifier import Classifier
def hang(self, paths):
    pathlib.Path(FOLDER, str(os.getpid())).touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
Classifier.classify_small = hang
from edge_runtime.worker import child; child()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux tells of processes")
def test_a_process_that_hangs_ends_with_a_program_that_is_killed(
    mixed: Path, tmp_path: Path
) -> None:
    hanging = ORPHAN.replace("FOLDER", repr(str(tmp_path)))
    program = f"from edge_runtime import processes\nprocesses._CHILD = {hanging!r}\n{PROGRAM}"
    words = [sys.executable, "-c", program, *names(mixed)[:4]]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert pids
    try:
        wait_for(pids)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_closing_ends_the_processes(classifier: Classifier, mixed: Path, started: Started) -> None:
    before = threading.active_count()
    answers = classifier.classify_many(
        chain.from_iterable(repeat(names(mixed))), workers=2, processes=True
    )
    for _ in range(100):
        next(answers)
    assert started.codes() == [None, None]
    answers.close()  # type: ignore[attr-defined]
    assert started.codes() == [-signal.SIGKILL] * 2
    assert threading.active_count() == before


def test_closing_does_not_wait_for_a_process_that_hangs(
    classifier: Classifier, mixed: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, time\nfrom edge_runtime.classifier import Classifier\n"
        "answer = Classifier.classify_small\n"
        "def hang(self, paths):\n"
        "    slow = os.path.basename(paths[-1]).startswith('29')\n"
        "    return time.sleep(600) if slow else answer(self, paths)\n"
        "Classifier.classify_small = hang\n"
        "from edge_runtime.worker import child; child()"
    )
    monkeypatch.setattr(processes, "_CHILD", code)
    files = [str(mixed / "00.jpg")] * 9 + [str(mixed / "29.webp")] * 20
    answers = classifier.classify_many(files, workers=2, processes=True)
    assert [next(answers).input for _ in range(4)] == files[:4]  # in the first, short chunks
    answers.close()  # type: ignore[attr-defined]
    assert set(started.codes()) == {-signal.SIGKILL}


def test_settings_reach_the_processes(mixed: Path, started: Started) -> None:
    classifier = Classifier(limits=ImageLimits(max_bytes=20_000), min_confidence=0.999)
    threads, asked = both(classifier, names(mixed))
    assert asked == threads
    assert {answer.status.value for answer in asked} > {"error"}
    assert started.answered


def test_a_program_needs_no_guard(mixed: Path, tmp_path: Path) -> None:
    """Ways to start a process that import the program again would run it again."""
    (tmp_path / "program.py").write_text(PROGRAM)
    files = names(mixed)[:6]
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", *files], capture_output=True, cwd=tmp_path
    )
    said = [os.fsdecode(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr, said) == (0, b"", ["begun", *files * 4])


Start = Callable[..., "tuple[subprocess.Popen[bytes], list[int]]"]
SOON = [
    sys.executable,
    "-c",
    "from edge_runtime import processes\nfrom edge_runtime.commands.main import main\n"
    "processes.AFTER, processes.cores = 50, lambda: 2; main()",
]


@pytest.fixture
def endless(mixed: Path) -> Iterator[Start]:
    """Start a command on an endless list; answers are read until it has two processes."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("Linux tells of processes")
    tools: list[subprocess.Popen[bytes]] = []

    def start(words: list[str] = SOON) -> tuple[subprocess.Popen[bytes], list[int]]:
        tool = subprocess.Popen(
            [*words, "classify", "-", "--format", "jsonl", "--workers", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
            # A job in the background of a shell is started without.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        tools.append(tool)
        threading.Thread(target=feed, args=(tool, f"{mixed / '00.jpg'}\n"), daemon=True).start()
        assert tool.stdout is not None
        for count in range(1_000_000):
            json.loads(tool.stdout.readline())
            if count % 20 == 0 and len(found := children_of(tool.pid)) == 2:
                ahead = 2 * (AHEAD + 1) * CHUNK  # what two workers have begun or waiting
                assert count > processes.AFTER - ahead or words is SOON
                return tool, found
        raise AssertionError("no process was started")

    yield start
    for tool in tools:
        tool.kill()
        tool.communicate()


def feed(tool: subprocess.Popen[bytes], line: str) -> None:
    assert tool.stdin is not None
    try:
        while True:
            os.write(tool.stdin.fileno(), line.encode() * 10)
    except OSError:
        pass


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text("utf-8").rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def wait_for(pids: list[int]) -> None:
    """Until they have ended."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([descriptor], [], [], 60)[0], f"{pid} lives on"
        os.close(descriptor)


LEFT_OPEN = (
    PROGRAM
    + """
left_open = Classifier().classify_many(sys.argv[1:] * 40, workers=2, processes=True)
next(left_open)
"""
)


def test_a_batch_left_open_does_not_keep_the_program(mixed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, *names(mixed)[:2]], capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(processes.cores() < 2, reason="one core has no second process")
def test_ctrl_c_ends_the_command_and_its_processes(endless: Start) -> None:
    """A terminal sends it to all of them."""
    tool, found = endless([TOOL])
    os.killpg(tool.pid, signal.SIGINT)
    assert tool.stdout is not None
    assert tool.stderr is not None
    out, err = tool.stdout.read(), tool.stderr.read()
    assert (tool.wait(), err.strip()) == (130, b"btc-edge: interrupted")
    assert out[-1:] in (b"\n", b"")
    assert all(json.loads(line)["status"] for line in out.splitlines())
    wait_for(found)


def test_a_reader_that_leaves_ends_the_processes(endless: Start) -> None:
    tool, found = endless()
    assert tool.stdout is not None
    tool.stdout.close()
    assert tool.wait(timeout=60) == 0
    wait_for(found)


def test_nothing_outlives_a_command_that_is_killed(endless: Start) -> None:
    tool, found = endless()
    tool.kill()
    wait_for(found)


def test_a_process_that_is_killed_from_outside_loses_no_answer_of_the_command(
    endless: Start,
) -> None:
    tool, found = endless()
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert tool.stdout is not None
    while set(found) & set(children_of(tool.pid)):
        for _ in range(20):
            assert json.loads(tool.stdout.readline())["error"] is None
    for _ in range(100):
        assert json.loads(tool.stdout.readline())["error"] is None


def test_an_answer_comes_back_as_it_was(classifier: Classifier, mixed: Path) -> None:
    """To the last bit of each number."""
    answer = classifier.classify(mixed / "00.jpg")
    shape = json.loads(json.dumps(answer.to_json()))
    assert processes._answer(shape, os.fsencode(mixed / "00.jpg")) == answer
    with pytest.raises(ValueError, match="00"):
        processes._answer(shape, os.fsencode(mixed / "01.png"))
