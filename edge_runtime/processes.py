"""A batch's threads ask processes of their own, once the batch has turned out to be large.

Python's lock keeps threads from doing all of their work at once: two processes do a seventh more
than two threads. But each takes 0.15 seconds of computing to start, so a batch begins on threads,
and they go on while their processes start.

A process only ever saves time. It answers for files that are one small slice; whatever it does not
answer for, because it is something else or because anything at all went wrong, the thread behind it
does itself. One that dies is started again, and takes no source with it but one that kills it.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from edge_runtime.batch import Unusable
from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.errors import InputError
from edge_runtime.json_text import parse_json
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.imaging.limits import ImageSource

    Source = ImageSource | Unusable
    Work = Callable[[list[Source]], Generator[Prediction, None, None]]

# Files, after which processes are started: with two cores they save as much over the next so many
# as starting them takes, so a batch that ends there loses no more than it might have won.
AFTER = 2000
MOST_REPLY = 1 << 26  # bytes; a chunk's answers have 20,000, with a thousand labels two million
SECONDS = 1  # that a process may take to die of what it did
_SIGNALS = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGTRAP", "SIGFPE", "SIGABRT")  # Windows lacks some
_NTSTATUS = (  # ntstatus.h: likewise, and an overflow of the stack, a damaged heap or stack
    *(0xC0000005, 0xC000001D, 0xC0000094, 0xC00000FD, 0xC0000374, 0xC0000409),
)
# Exit codes of a process that ended by its own fault; others say nothing of the file it read.
CRASHES = {-getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)} | {*_NTSTATUS}
_CHILD = "from edge_runtime.worker import child; child()"


class Processes:
    """The processes of one batch, one for each thread that calls `work`; `stop` comes before the
    end of the `with`.

    Args:
        here: works on a chunk of sources in this process.
        failure: the answer with status error for a source.
        settings: what `worker.child` makes its `Classifier` of.
        memory: held for as long as a process works: what it needs counts as its thread's.
    """

    def __init__(
        self,
        here: Work,
        failure: Callable[[ImageSource, InputError], Prediction],
        settings: Mapping[str, Any],
        memory: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._here, self._failure, self._memory = here, failure, memory
        self._settings = dict(settings)
        self._sent: bytes | None = None
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[_Process] = []
        self._files = 0
        self._stopped = False
        can_start = bool(sys.executable) and not hasattr(sys, "frozen")  # it would be this program
        self._most = cores() if can_start else 0

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stopped:  # not where Python itself ends: threads hold pipes still, and all ends
            for process in self._all:
                process.close()

    def work(self, chunk: list[Source]) -> Generator[Prediction, None, None]:
        """The answers for a chunk of sources, errors among them."""
        names = [_file_name(source) for source in chunk]
        files = [name for name in names if name is not None]
        with self._lock:
            self._files += len(files)
            large = self._files > AFTER
        process = self._process() if large and files else None
        if process is None:
            yield from self._here(chunk)
            return
        with self._memory():
            answers = iter(self._ask(process, files))
        for source, name in zip(chunk, names, strict=True):
            answer = None if name is None else next(answers)
            if answer is None:
                yield from self._here([source])
            else:
                yield answer

    def stop(self) -> None:
        """Kill all processes, so that no thread waits for one, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._all:
                process.kill()

    def _process(self, wait: bool = False) -> _Process | None:
        """This thread's process, once it is ready; None until then, and where it cannot be
        started.

        Args:
            wait: until it is ready.
        """
        own = self._own
        if not hasattr(own, "process"):
            own.process = self._start()
        process: _Process | None = own.process
        if process is None or process.ready(wait):
            return process
        if process.dead:
            self._forget(process)
            own.process = None
        return None

    def _start(self) -> _Process | None:
        with self._lock:
            self._check()
            if len(self._all) >= self._most:
                return None
            try:
                # Bytes: it takes them in one piece, before it imports what they are made of.
                if self._sent is None:
                    self._sent = pickle.dumps(self._settings)
                where = [folder for folder in sys.path if folder]
                message = pickle.dumps((own_code(), where, self._sent))
                process = _Process()
            except Exception:  # settings that cannot be sent; no memory, too many processes, files
                return None
            self._all.append(process)
        process.send(message)
        return process

    def _forget(self, process: _Process) -> int:
        """The code that a dead process ended with."""
        with self._lock:
            self._check()
            self._all.remove(process)
        return process.close()

    def _check(self) -> None:
        """End the work of a thread whose process died because nobody wants more."""
        if self._stopped:
            raise _DiedError

    def _ask(self, process: _Process, files: Sequence[bytes]) -> Sequence[Prediction | None]:
        """What the process answers for files; where it dies, a fresh one is asked for one after
        another."""
        try:
            return process.ask(files)
        except _DiedError:
            self._forget(process)
            del self._own.process
            return [self._ask_alone(file) for file in files]

    def _ask_alone(self, file: bytes) -> Prediction | None:
        """What a process answers for one file that may kill it."""
        process = self._process(wait=True)
        if process is None:
            return None
        try:
            (answer,) = process.ask([file])
        except _DiedError:
            code = self._forget(process)
            if code not in CRASHES:
                # No file does that, but a system that is short of memory or shuts down does, and
                # would do it again.
                self._own.process = None
                return None
            del self._own.process
            problem = f"the process that read it ended with code {code}: damaged or hostile"
            return self._failure(os.fsdecode(file), InputError(problem))
        return answer


class _DiedError(Exception):
    """A process ended, or did not answer as it should."""


class _Process:
    """One process that runs `worker.child`, used by the thread that started it; another one may
    kill it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        import subprocess  # most batches start none

        from edge_runtime.child import python_command

        self._process = subprocess.Popen(
            python_command(_CHILD),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"OPENBLAS_NUM_THREADS": "1", **os.environ},  # starting more takes 130 ms
        )
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._ready = self.dead = False

    def send(self, message: bytes) -> None:
        """Send what it waits for; where it is dead, there will be no reply."""
        with suppress(OSError):
            self._requests.write(message)
            self._requests.flush()

    def ready(self, wait: bool) -> bool:
        """Whether it can be asked; one that died before that is `dead`."""
        if not (self._ready or self.dead) and (wait or _has_more(self._replies)):
            from edge_runtime.child import READY

            self._ready = self._replies.readline(MOST_REPLY) == READY
            self.dead = not self._ready
        return self._ready

    def ask(self, files: Sequence[bytes]) -> Sequence[Prediction | None]:
        """Its answers for files, None where it has none.

        Raises:
            _DiedError: it died.
        """
        try:
            self.send(pickle.dumps(files))
            shapes = parse_json(self._replies.readline(MOST_REPLY))
            return [
                None if shape is None else _answer(shape, file)
                for shape, file in zip(shapes, files, strict=True)
            ]
        except (ValueError, TypeError, KeyError, MemoryError):  # nothing, nonsense
            raise _DiedError from None

    def kill(self) -> None:
        """End it at once; it holds nothing that could be lost."""
        self._process.kill()

    def close(self) -> int:
        """End it, if it has not ended by itself, when no thread uses it any more.

        Returns:
            Its exit code.
        """
        import subprocess

        try:
            code = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._replies.close()
        with suppress(OSError):  # what it did not take any more
            self._requests.close()
        return code


def own_code() -> tuple[str, str]:
    """Which version of this package runs, and from where."""
    return __version__, __file__


def cores() -> int:
    """Cores that this process may use: more processes bring nothing."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _file_name(source: Source) -> bytes | None:
    """The name of a file as the system has it, so that no character of it is lost on the way;
    None for what is no file, or has a name that no file can have."""
    if isinstance(source, (str, os.PathLike)):
        with suppress(UnicodeEncodeError):
            return os.fsencode(source)
    return None


def _has_more(stream: IO[bytes]) -> bool:
    """Whether a read of a pipe would not wait; on Windows, which does not tell, it is waited
    for."""
    import select

    if not hasattr(select, "poll"):
        return True
    poll = select.poll()  # `select` itself fails where many files are open
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))


def _answer(shape: Any, file: bytes) -> Prediction:
    """The answer of which this is the JSON.

    Raises:
        ValueError, TypeError, KeyError: it is none, or not for this file.
    """
    answer = Prediction(**{**shape, "status": Status(shape["status"])})
    if answer.input != os.fsdecode(file):
        raise ValueError(answer.input)
    return answer
