"""Answers what comes into a folder: each file or study once, whatever happens.

The order of steps is what makes it so; a process may end between any two of them:

1. The files are looked at and read: their stamps, their digests.
2. The journal promises an answer: its subject, its number, its file's name (`Journal.begin`).
3. The files are classified.
4. They are looked at again. What changed meanwhile is taken back, and comes again.
5. The answer is written, whole or not at all (`files.replacing`), under the promised name.
6. `on_answer` is called, at least once for each answer.
7. The journal keeps that it is answered, with the stamps of step 1 (`Journal.finish`).

Before 7 the journal does not know the files, so that the next scan finds them again and nothing is
lost. From 2 on the name is fixed, so that whoever begins again writes the same file, and not a
second one. A file that ends the process each time gets an answer with status error at last.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import count
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import rmtree
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.batch import in_order
from edge_runtime.decision.prediction import Prediction, Status, failure
from edge_runtime.errors import (
    BtcError,
    DataError,
    InputError,
    UsageError,
    needs_package,
    one_line,
)
from edge_runtime.files import is_hidden, write_text
from edge_runtime.imaging.kinds import halves_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB, ImageLimits
from edge_runtime.services.arrivals import Arrivals, Work
from edge_runtime.services.job import ID, SHORT, Job, Naming, study_id
from edge_runtime.services.journal import Journal, Record, Seen, Stamp
from edge_runtime.studies.drop import DropFile, classify_drop

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier

TOGETHER = 32  # small pictures whose jobs are one transaction, and so are their answers
WRITERS = 16  # threads that write answers
MOST_TRIES = 5  # processes that may end over one subject
WAKE = 0.5  # seconds after which a signal is heard at the latest
HINT = "pip install 'btc-edge[dicom]'"  # the readers of other kinds say it themselves
NOT_WRITTEN = "the answer cannot be written"
_PART = f".part-{'[0-9a-f]' * 12}.json"  # of `files.replacing`
_READ = os.O_RDONLY | sum(getattr(os, f"O_{w}", 0) for w in ("BINARY", "NOFOLLOW", "NONBLOCK"))


class Answered(NamedTuple):
    """An answer whose file is written.

    Attributes:
        prediction: one of its answers; a zip file may have several.
        files: that it is for.
        record: of the journal.
    """

    prediction: Prediction
    files: tuple[DropFile, ...]
    record: Record


class Watcher:
    """Answers what comes into a folder.

    Args:
        folder: with its subfolders.
        out: folder of the answers, one JSON file each: the array of `btc-edge classify --format
            json`. None: beside the files.
        journal: of the folder.
        settle: seconds for which a file must not change before it is read.
        quiet: seconds for which no further file of a study must come.
        rescan: seconds after which the whole folder is looked at again, since what `notify` tells
            may be incomplete.
        workers: threads that decode and classify.
        limits: of what is read; those of the classifier.
        heatmaps: folder for overlays, see `Classifier.classify_slices`.
        names: whether answers in `out`, and lines, name files. Beside the files answers do.
        again: whether what another model answered is answered anew.
        tell: called with a line on what happened.
        on_answer: called in the thread of `run` with each answer of `Job.handed_over`. Where it
            raises an `OSError` or a `BtcError`, that is told, and the subject is answered again
            later.
        on_known: likewise, with files that came once more and were answered before.

    Raises:
        UsageError: see `check_places`.
    """

    def __init__(
        self,
        classifier: Classifier,
        folder: Path,
        out: Path | None,
        journal: Journal,
        *,
        settle: float = 2.0,
        quiet: float = 30.0,
        rescan: float = 60.0,
        workers: int = 1,
        limits: ImageLimits = DEFAULT_LIMITS,
        heatmaps: Path | None = None,
        names: bool = False,
        again: bool = False,
        tell: Callable[[str], None] = lambda line: None,
        on_answer: Callable[[Answered], None] | None = None,
        on_known: Callable[[tuple[DropFile, ...]], None] | None = None,
    ) -> None:
        check_places(folder, out, heatmaps, journal.path)
        self._classifier, self._model = classifier, classifier.model.tag
        self._folder, self._out, self._journal = folder, out or folder, journal
        self._roots = dict.fromkeys((folder, folder.absolute(), folder.resolve()))
        self._by_path, self._names = names or out is None, names
        self._rescan, self._workers, self._limits = rescan, workers, limits
        self._heatmaps, self._again = heatmaps, again
        self._say, self._on_answer, self._on_known = tell, on_answer, on_known
        self._arrivals = Arrivals(
            folder, knows=self._knows, pass_over=self._pass_over, tell=self._tell,
            settle=settle, quiet=quiet, limits=limits,
        )  # fmt: skip
        self._heard: SimpleQueue[str] = SimpleQueue()
        self._ready: deque[Work] = deque()
        self._next_scan = -inf  # at once
        self._looked_back = False  # at what an earlier process left
        self.failed = False  # whether any answer is an error, or was not delivered

    def notify(self, path: str | os.PathLike[str]) -> None:
        """Something happened to a file or folder in the watched one, or (its own path) somewhere
        in it. From any thread."""
        self._heard.put(os.fspath(path))

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop` is set; what is being worked on then is finished first.

        Raises:
            DataError: the journal is damaged.
            ModelError: the model fails.
        """
        while not stop.is_set():
            self._wait(self.step(monotonic()))

    def run_once(self, stop: threading.Event) -> None:
        """Answer what is in the folder now, and what comes while that settles.

        Raises:
            DataError: the journal is damaged.
            ModelError: the model fails.
        """
        pause = self.step(monotonic())
        while not stop.is_set() and self._arrivals.is_there and not self._looked_back:
            self._wait(pause)
            pause = self.step(monotonic())
        self.failed |= not self._arrivals.is_there or self._arrivals.unread

    def step(self, now: float) -> float:
        """Do what is due, of the work one batch.

        Args:
            now: seconds by a clock that only goes forward.

        Returns:
            Seconds until something more is due, as far as is known.

        Raises:
            DataError: the journal is damaged.
            ModelError: the model fails.
        """
        try:
            self._hear(now)
            if now >= self._next_scan:
                self._next_scan = now + self._rescan
                self._arrivals.scan(now)
            self._ready.extend(self._arrivals.ready(now))
            if self._ready:
                self._work(self._batch())
                return 0.0
            if not self._looked_back and self._arrivals.is_there and not self._is_due(now):
                self._looked_back = True
                self._give_up_gone()
        except sqlite3.OperationalError as error:  # as on a full disk
            self.failed = True
            self._say(f"the journal cannot be written: {error}: tried again later")
            while self._ready:  # the next scan finds them again
                self._arrivals.release(self._ready.popleft())
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._journal.path}: the journal is damaged: {error}") from None
        due, rest = self._arrivals.until(now), max(0.0, self._next_scan - now)
        return rest if due is None else min(rest, due)

    def _is_due(self, now: float) -> bool:
        """Whether anything waits for its turn."""
        return bool(self._ready) or self._arrivals.until(now) is not None

    def _give_up_gone(self) -> None:
        """What was promised an answer and is not here once all that is here has had its turn."""
        for subject in self._journal.interrupted():
            kind, _, name = subject.partition(":")
            if kind == "study":
                shown = self._shown(name)
                self._say(f"{shown}: its files are gone, or cannot be read, before its turn")
            elif self._arrivals.stamp(name) is None:
                self._tell(name, "gone before its turn")
            else:  # a line has said why it is left
                continue
            self._journal.give_up(subject)

    def _wait(self, seconds: float) -> None:
        """Until something is heard, or a signal may have come."""
        with suppress(Empty):
            if seconds > 0:
                self._heard.put(self._heard.get(timeout=min(seconds, WAKE)))

    def _hear(self, now: float) -> None:
        paths: dict[str, None] = {}
        with suppress(Empty):
            while True:
                paths[self._heard.get_nowait()] = None
        for path in map(Path, paths):
            below = next((path.relative_to(r) for r in self._roots if path.is_relative_to(r)), None)
            if below is not None and below.parts:
                self._arrivals.look(os.fspath(below), now)
            elif below is not None:
                self._next_scan = -inf

    def _batch(self) -> list[Work]:
        """What is worked on together: small pictures, or one of anything else."""
        batch = [self._ready.popleft()]
        if self._goes_along(batch[0]):
            while self._ready and len(batch) < TOGETHER and self._goes_along(self._ready[0]):
                batch.append(self._ready.popleft())
        return batch

    def _goes_along(self, work: Work) -> bool:
        """What an earlier process ended over goes alone, to be blamed for nothing but itself."""
        return work.light and not self._journal.was_interrupted(work.subject)

    def _work(self, batch: Sequence[Work]) -> None:
        """All steps of some subjects."""
        jobs: list[Job] = []
        try:
            with self._journal.at_once():
                jobs += filter(None, map(self._begin, batch))
            classified = list(in_order(self._classify, jobs, self._workers))
            # Writing is waiting for the disk, which does it for several at once.
            written = in_order(self._write, classified, WRITERS)
            self._finish([job for job in written if self._hand_over(job)])
        finally:
            for work in batch:
                self._arrivals.release(work)
        for job in jobs:
            if job.changed:
                self._take_back(job)
            elif job.missing is not None:
                self._leave(job, job.missing)
            elif job.problem is not None:
                self.failed = True
                self._tell_of(job, f"{job.problem}: tried again later")

    def _begin(self, work: Work) -> Job | None:
        """Steps 1 and 2; None where nothing is to be answered."""
        stamps = {path: self._arrivals.stamp(path) for path in work.paths}
        if any(stamps[path] not in (None, stamp) for path, stamp in work.paths.items()):
            self._come_again(work)  # it changed while it waited for its turn
            return None
        files = self._read(work)
        if not files:
            return None
        job = Job(work, files, self._by_path)
        record = self._journal.begin(
            work.subject, job.content, self._model, job.answer_names(), self._again
        )
        if record is None:
            self._tell_of(job, "answered before")
            try:
                if self._on_known is not None:
                    self._on_known(self._drop(job))
            except (OSError, BtcError) as error:
                self.failed = True
                self._tell_of(job, f"{one_line(error)}: tried again later")
                return None
            self._journal.already(work.subject, job.content, files)
            return None
        job.record = record
        return job

    def _read(self, work: Work) -> tuple[Seen, ...]:
        """The files of a subject, with those behind its former answers that are still there: in the
        place of one there may be a file of another study by now, whose answer is another."""
        paths = set(work.paths)
        for path in work.paths:
            other = self._other_half(path)
            if any(os.path.islink(self._folder / half) for half in other):  # noqa: PTH114
                why = "its other half is a link: not followed"
                self._arrivals.refuse(path, self._arrivals.stamp(path), why)
                return ()
            paths |= other
        former = () if work.uid is None else self._journal.files_of(work.subject)
        known = {seen.path: seen.sha256 for seen in former if seen.path not in work.paths}
        files, gone = [], 0
        for path in sorted(paths | known.keys()):
            stamp = self._arrivals.stamp(path)
            if stamp is None and path in work.paths:
                self._tell(path, "gone before its turn")
            if stamp is None:
                gone += path in known
                continue
            try:
                seen = Seen(path, stamp, self._digest(path))
            except OSError as error:
                self._arrivals.cannot_read(path, stamp, f"cannot be read: {error.strerror}")
                continue
            if known.get(path, seen.sha256) == seen.sha256:
                files.append(seen)
            else:
                gone += 1
        if gone and work.uid is not None:
            self._say(f"{self._shown(work.uid)}: {gone} files of former answers are gone")
        return tuple(files)

    def _other_half(self, path: str) -> set[str]:
        """Of a pair of files."""
        if not halves_of(path):
            return set()
        from edge_runtime.imaging.nifti_pair import other_half

        other = other_half(self._folder / path)
        return set() if other is None else {os.path.relpath(other, self._folder)}

    def _digest(self, path: str) -> str:
        """SHA-256 of a file; of one that is refused for its size, of its begin and its size."""
        digest, left = sha256(), self._limits.max_bytes
        with open(os.open(self._folder / path, _READ), "rb", buffering=0) as stream:
            while left > 0 and (block := stream.read(min(MIB, left))):
                digest.update(block)
                left -= len(block)
            size = os.fstat(stream.fileno()).st_size
        if size > self._limits.max_bytes:
            digest.update(str(size).encode())
        return digest.hexdigest()

    def _classify(self, job: Job) -> Job:
        """Step 3, in any thread."""
        try:
            job.answers = self._answers(job)
            job.missing = _missing(job.answers)
        except InputError as error:
            job.answers = self._failure(job, one_line(error))
        except ModuleNotFoundError as error:
            job.missing = f"needs the package {error.name}: {HINT}"
        except MemoryError:
            job.answers = self._failure(job, "not enough memory for this")
        except OSError as error:  # of an overlay; what cannot be read is an `InputError`
            job.problem = f"{NOT_WRITTEN}: {error.strerror or error}"
        except BtcError:
            raise  # of the model
        except Exception as error:  # one bad file must not end the service for all others
            line = f"unexpected {type(error).__name__}: {one_line(error)}"
            job.answers = self._failure(job, line)
        return job

    def _answers(self, job: Job) -> tuple[Prediction, ...]:
        if job.record.tries > MOST_TRIES:
            return self._failure(job, f"the program ended {MOST_TRIES} times over it")
        workers = 1 if job.work.light else self._workers
        answers = classify_drop(
            self._classifier, job.drop(self._folder),
            workers=workers, heatmaps=self._overlays(job), tell=job.notes.append,
        )  # fmt: skip
        naming = Naming(job, self._folder)
        return tuple(map(naming.answer, answers)) or self._failure(job, "no image in it")

    def _overlays(self, job: Job) -> Path | None:
        """Where the overlays lie until the answer is written."""
        return self._heatmaps and self._heatmaps / f".part-{job.id[:ID]}"

    def _failure(self, job: Job, error: str) -> tuple[Prediction, ...]:
        return (failure(job.name, self._model, error),)

    def _write(self, job: Job) -> Job:
        """Steps 4 and 5, in any thread."""
        job.changed = any(self._arrivals.stamp(f.path) != f.stamp for f in job.files)
        overlays = self._overlays(job)
        try:
            if job.is_kept:
                kept: dict[Path, Path] = {}
                job.answers = tuple(self._kept(a, job, kept) for a in job.answers)
                self._write_answers(job)
        except OSError as error:
            job.problem = f"{NOT_WRITTEN}: {error.strerror or error}"
        if overlays is not None:
            rmtree(overlays, ignore_errors=True)
        return job

    def _kept(self, answer: Prediction, job: Job, kept: dict[Path, Path]) -> Prediction:
        """The answer with its overlays moved to where they stay, which `kept` gets to know: slices
        of one name and content share one."""
        parts = answer.slices and tuple(self._kept(part, job, kept) for part in answer.slices)
        if answer.heatmap is None or self._heatmaps is None:
            return replace(answer, slices=parts)
        made = Path(answer.heatmap)
        if made not in kept:
            names = map(self._heatmaps.joinpath, self._overlay_names(made, answer, job))
            place = next(path for path in names if path not in kept)
            kept[made] = kept[place] = place
            os.replace(made, place)
        return replace(answer, slices=parts, heatmap=os.fspath(kept[made]))

    def _overlay_names(self, made: Path, answer: Prediction, job: Job) -> Iterator[str]:
        """What an overlay may be called, the first one first."""
        stem = made.stem
        if not self._names:
            middle = "" if answer.slice is None else f"-{answer.slice:04d}"
            stem = f"{job.id[:SHORT]}{middle}-{(answer.sha256 or '')[:8]}"
        if job.record.number > 1:  # those of former answers stay
            stem += f".{job.record.number}"
        yield f"{stem}{made.suffix}"
        for number in count(2):  # a volume has a slice of each number in every plane
            yield f"{stem}-{number}{made.suffix}"

    def _write_answers(self, job: Job) -> None:
        path = self._out / job.record.name
        if job.record.tries > 1:
            for part in path.parent.glob(_PART):  # of the process that ended
                part.unlink(missing_ok=True)
        lines = ",\n ".join(json.dumps(answer.to_json()) for answer in job.answers)
        write_text(path, f"[\n {lines}\n]\n")

    def _hand_over(self, job: Job) -> bool:
        """Step 6; whether the answer is delivered."""
        if self._on_answer is not None and job.is_kept:
            try:
                for answer in job.handed_over:
                    self._on_answer(Answered(answer, self._drop(job), job.record))
            except (OSError, BtcError) as error:
                job.problem = one_line(error)
        return job.is_kept

    def _drop(self, job: Job) -> tuple[DropFile, ...]:
        """The files of a job, as `on_answer` gets them."""
        return tuple(DropFile(f.path, self._folder / f.path) for f in job.files)

    def _finish(self, done: Sequence[Job]) -> None:
        """Step 7."""
        self._journal.finish((p.record, _status(p.answers), p.files) for p in done)
        for job in done:
            self.failed |= any(map(_has_error, job.answers))
            number = job.record.number
            anew = "" if number == 1 else f" anew, as answer {number}"
            for note in job.notes:
                if self._names:
                    self._say(str(note))
                else:
                    self._tell_of(job, note.text)
            self._tell_of(job, f"answered{anew}: {_status(job.answers)}")

    def _take_back(self, job: Job) -> None:
        """A file changed while it was worked on: it comes again."""
        self._journal.abandon(job.record)
        self._tell_of(job, "changed while it was worked on: it comes again")
        self._come_again(job.work)

    def _leave(self, job: Job, reason: str) -> None:
        """Have no answer until the next start, since it is no fault of the files."""
        self.failed = True
        self._journal.abandon(job.record)
        for file in job.files:
            self._arrivals.leave(file.path, file.stamp, reason)
        self._tell_of(job, f"{reason}: tried again after a restart")

    def _come_again(self, work: Work) -> None:
        for path in work.paths:
            self.notify(self._folder / path)

    def _knows(self, path: str, stamp: Stamp) -> bool:
        return self._journal.knows(path, stamp, self._model if self._again else None)

    def _pass_over(self, path: str, stamp: Stamp) -> None:
        self._journal.pass_over(path, stamp)
        self._tell(path, "no image: passed over")

    def _tell(self, path: str, line: str) -> None:
        """Of a file that has no id. Its path's own digest could be found by trying paths, so it is
        one with the journal's key."""
        if path and not self._names:
            path = sha256(self._journal.key + os.fsencode(path)).hexdigest()[:SHORT]
        self._say(f"{path}: {line}" if path else line)

    def _shown(self, uid: str) -> str:
        """What lines call a study."""
        return uid if self._names else study_id(uid)[:SHORT]

    def _tell_of(self, job: Job, line: str) -> None:
        shown = job.work.uid or job.work.path
        self._say(f"{shown if self._names else job.id[:SHORT]}: {line}")


def check_places(folder: Path, out: Path | None, heatmaps: Path | None, journal: Path) -> None:
    """Refuse a folder that cannot be watched, and places that would make what is written input.

    Raises:
        UsageError: the folder is none; answers or heatmaps would lie in it, or the journal, unless
            it is hidden.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    home = folder.resolve()
    for place in (out, heatmaps):
        if place is not None and place.resolve().is_relative_to(home):
            raise UsageError(f"{place}: lies in the watched folder; name one outside of it")
    at = journal.resolve()
    if at.is_relative_to(home) and not any(map(is_hidden, at.relative_to(home).parts)):
        raise UsageError(f"{journal}: lies in the watched folder; name one outside of it")


def _has_error(answer: Prediction) -> bool:
    parts = (answer, *(answer.slices or ()))
    return any(part.status is Status.ERROR for part in parts)


def _missing(answers: Sequence[Prediction]) -> str | None:
    """Why nothing of a subject is answered, where a package is all that it takes."""
    parts = [part for answer in answers for part in answer.slices or (answer,)]
    if all(part.status is Status.ERROR for part in parts):
        return next(filter(needs_package, (part.error or "" for part in parts)), None)
    return None


def _status(answers: Sequence[Prediction]) -> str:
    """Of all answers for a subject, in a word or several."""
    return ", ".join(sorted({answer.status.value for answer in answers}))
