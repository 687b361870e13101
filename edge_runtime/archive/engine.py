"""The missing shards of an archive, made by the workers of a cluster.

A shard is a task: the worker that gets it opens the source and the model once, makes the answers
and has them where they belong, whole; what comes back are a few counts. So a shard is there or is
not, whatever dies: it is made again by another worker, or by the next run. Two runs at once write
the same bytes to the same names: wasteful, and no harm.

A shard that ends its worker each time is looked into: its halves are tried, then theirs, down to
the files that do it. These become answers with status error, and the shard is made with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.archive.manifest import Manifest, Shard
from edge_runtime.archive.rows import ClassifierSettings, make_shard, write_shard
from edge_runtime.archive.sources import Source
from edge_runtime.cluster import (
    Cluster,
    ClusterError,
    Done,
    Task,
    TaskError,
    WorkerDiedError,
    open_cluster,
)
from edge_runtime.decision.prediction import Status
from edge_runtime.errors import DataError, one_line, printable

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier

STALLED_AFTER = 300  # seconds without a shard, after which a line says what is waited for
GIVE_UP_AFTER = 3600  # and after which the run ends; the slowest of shards takes minutes
TRIES = 2  # times more that a shard or a part of it is tried whose worker died
TOGETHER = 8  # shards that are looked into together, or put off in a row until it is no accident
SUSPICIOUS = 32  # parts of shards of which none can be made: then it is not the files
SHARD = "shard "
BREAKS = (WorkerDiedError, MemoryError, TaskError)  # what a file may do to whoever reads it


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        shards: done, of `of_shards` that were missing.
        rows, errors: answers in them, and those with status error.
        seconds: since there were workers to ask.
    """

    shards: int
    of_shards: int
    rows: int
    errors: int
    seconds: float


class Summary(NamedTuple):
    """What a run did: shards, rows in them, rows with status error; and seconds from its start to
    its end, those that Ray takes included."""

    shards: int
    rows: int
    errors: int
    seconds: float


class Reader(NamedTuple):
    """What a worker opens once."""

    source: Source
    classifier: Classifier
    out: str


def run(
    manifest: Manifest,
    source: Source,
    settings: ClassifierSettings,
    *,
    address: str | None = None,
    workers: int | None = None,
    memory: int | None = None,
    tell: Callable[[str], None],
    progress: Callable[[Progress], None] = lambda so_far: None,
) -> Summary:
    """Make the shards of an archive that are missing. With none, no cluster is opened.

    Args:
        address, workers: see `open_cluster`.
        memory: bytes that each worker asks for; default: what the settings say that it may need.
        tell: is given a line on what goes wrong.
        progress: is called when the workers are there, and as shards end.

    Raises:
        UsageError, ClusterError: see `open_cluster` and `Cluster.run`; shards that cannot be made.
        ModelError: the model cannot be used on a node.
        DataError, OSError: the source, or the place of the answers, is gone or full. What is done
            stays, and the next run goes on with it.
    """
    start = monotonic()
    missing = manifest.missing()
    if not missing:
        return Summary(0, 0, 0, 0.0)
    if workers is not None:
        workers = min(workers, len(missing))
    needed = settings.memory() if memory is None else memory
    with open_cluster(address, workers, memory=needed, tell=tell) as cluster:
        once = partial(_open, source, settings, manifest.out)
        job = _Job(cluster, once, manifest, len(missing), tell, progress)
        job.run(missing)
    return Summary(job.shards, job.rows, job.errors, monotonic() - start)


def _open(source: Source, settings: ClassifierSettings, out: str) -> Reader:
    """In a worker: once."""
    import cv2

    cv2.setNumThreads(1)  # the other cores have workers of their own
    return Reader(source, settings.open(), out)


def _make(reader: Reader, shard: Shard) -> tuple[int, int]:
    """In a worker: have a shard's answers where they belong; rows, and those with status error."""
    import pyarrow.compute as pc

    table = make_shard(reader.classifier, reader.source, shard)
    write_shard(reader.out, shard.number, table)
    return table.num_rows, pc.sum(pc.equal(table["status"], Status.ERROR.value)).as_py() or 0


def _try(reader: Reader, part: Shard) -> None:
    """In a worker: see whether the answers for a part of a shard can be made."""
    make_shard(reader.classifier, reader.source, part)


class _Part(NamedTuple):
    """Entries of a shard, from `start` to before `stop`."""

    number: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"shard {self.number}, files {self.start} to {self.stop - 1}"

    @property
    def is_one(self) -> bool:
        """Whether it is a file alone."""
        return self.stop - self.start == 1

    def halves(self) -> tuple[_Part, _Part]:
        """The two of it."""
        middle = (self.start + self.stop) // 2
        return self._replace(stop=middle), self._replace(start=middle)


class _Job:
    """One run: what is left of it, and what became of the rest."""

    def __init__(
        self,
        cluster: Cluster,
        once: Callable[[], Reader],
        manifest: Manifest,
        of_shards: int,
        tell: Callable[[str], None],
        progress: Callable[[Progress], None],
    ) -> None:
        self._ask = partial(
            cluster.run,
            once=once,
            retries=TRIES,
            stalled_after=STALLED_AFTER,
            give_up_after=GIVE_UP_AFTER,
            tell=tell,
        )
        self._manifest, self._of_shards = manifest, of_shards
        self._tell, self._progress = tell, progress
        self._unmade: list[str] = []
        self._since = monotonic()
        self.shards = self.rows = self.errors = 0

    def run(self, missing: Sequence[int]) -> None:
        """Make all shards."""
        self._show()
        put_off = self._make_all(missing, is_last=False)
        if put_off:
            self._tell(f"{len(put_off)} shards that were put off are tried again")
            self._make_all(put_off, is_last=True)
        if self._unmade:
            raise ClusterError(
                f"{len(self._unmade)} shards are not made, such as {self._unmade[0]}, which ends "
                "its process though none of its files does alone: give the workers more memory"
            )

    def _make_all(self, numbers: Sequence[int], is_last: bool) -> list[int]:
        """Make shards, and look into those that end their workers.

        Returns:
            Those that were put off: their source, or the place of the answers, did not answer.
        """
        waiting = iter(numbers)
        put_off: list[int] = []
        while True:
            broken: dict[int, Exception] = {}
            in_a_row = 0
            for done in self._ask(_make, self._tasks(waiting, broken)):
                number = int(done.key.removeprefix(SHARD))
                if done.error is None:
                    in_a_row = 0
                    self._count(done)
                elif isinstance(done.error, BREAKS):
                    broken[number] = done.error
                elif isinstance(done.error, DataError) and not is_last and in_a_row < TOGETHER:
                    in_a_row += 1
                    put_off.append(number)
                    self._tell(f"{done.key} is put off: {one_line(done.error)}")
                else:
                    raise done.error
            if not broken:
                return put_off
            self._make_without(self._find(broken))

    def _tasks(self, waiting: Iterator[int], broken: Mapping[int, Exception]) -> Iterator[Task]:
        """One task a shard, until enough have ended their workers to be looked into."""
        while len(broken) < TOGETHER:
            number = next(waiting, None)
            if number is None:
                return
            yield Task(f"{SHARD}{number}", (self._manifest.shard(number),))

    def _find(self, broken: Mapping[int, Exception]) -> dict[int, dict[int, str]]:
        """Which files of shards end the process that reads them, and what stands in their rows.

        Raises:
            ClusterError: whatever is read ends it.
        """
        found: dict[int, dict[int, str]] = {number: {} for number in broken}
        failed = {_Part(number, 0, len(self._manifest.shard(number).entries)): error
                  for number, error in broken.items()}  # fmt: skip
        while failed:
            parts: dict[str, _Part] = {}
            for part, error in failed.items():
                if part.is_one:
                    found[part.number][part.start] = _problem(error)
                else:
                    parts |= {str(half): half for half in part.halves()}
            failed = self._failing(parts)
            if failed and len(failed) == len(parts) >= SUSPICIOUS:
                error = next(iter(failed.values()))
                raise ClusterError(
                    f"none of {len(parts)} parts of shards can be made, so it is not their files: "
                    f"{one_line(error)}"
                )
        return found

    def _failing(self, parts: Mapping[str, _Part]) -> dict[_Part, Exception]:
        """Those parts of shards that end their workers."""
        failed: dict[_Part, Exception] = {}
        for done in self._ask(_try, (Task(key, (self._cut(parts[key]),)) for key in parts)):
            if isinstance(done.error, BREAKS):
                failed[parts[done.key]] = done.error
            elif done.error is not None:
                raise done.error
        return failed

    def _cut(self, part: _Part) -> Shard:
        shard = self._manifest.shard(part.number)
        return shard._replace(entries=shard.entries[part.start : part.stop])

    def _make_without(self, found: Mapping[int, Mapping[int, str]]) -> None:
        """Make shards in which some files are not read, but have rows that say why."""
        for done in self._ask(_make, map(self._without, found, found.values())):
            if done.error is None:
                self._count(done)
            elif isinstance(done.error, BREAKS):
                self._unmade.append(done.key)
            else:
                raise done.error

    def _without(self, number: int, problems: Mapping[int, str]) -> Task:
        shard = self._manifest.shard(number)
        entries = list(shard.entries)
        for place, problem in sorted(problems.items()):
            entries[place] = entries[place]._replace(problem=problem)
            self._tell(f"{printable(entries[place].path)}: {problem}")
        return Task(f"{SHARD}{number}", (shard._replace(entries=tuple(entries)),))

    def _count(self, done: Done) -> None:
        rows, errors = done.value
        self.shards, self.rows, self.errors = (
            self.shards + 1,
            self.rows + rows,
            self.errors + errors,
        )
        self._show()

    def _show(self) -> None:
        seconds = monotonic() - self._since
        self._progress(Progress(self.shards, self._of_shards, self.rows, self.errors, seconds))


def _problem(error: Exception) -> str:
    """What stands in the row of a file that is not read for that."""
    if isinstance(error, WorkerDiedError):
        return "ended the process that read it, each time: damaged or hostile"
    return "not enough memory for it" if isinstance(error, MemoryError) else one_line(error)
