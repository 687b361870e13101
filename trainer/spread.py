"""Trainings as tasks of Ray, over this machine's cores or the nodes of a cluster.

A task is one training, of a fold or of a whole run. It reads the data itself, which takes a small
part of the time that it trains, trains with a fixed number of threads, and writes into its own
folder; so the weights are those of the command that does one after the other with as many threads,
on the same kind of processor. Where a worker or its node dies, the task is done again and goes on
from its checkpoint. Data and run folder must lie where every node sees them under one path.
"""

from __future__ import annotations

import math
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from edge_runtime.cluster import Cluster, Task, open_cluster
from edge_runtime.errors import BtcError, DataError, UsageError, one_line
from trainer.data.collection import Data, collections_of
from trainer.data.heads import Heads
from trainer.models.training import Diverged, TrainSettings
from trainer.run import Run
from trainer.train_job import (
    Job,
    TrainingData,
    needs_keras,
    prepare_process,
    resume_job,
    run_job,
    train_fold,
)

THREADS = 2  # of a training that is asked for no other number; more wait for each other
# What a training's process takes at its peak: the libraries, what a step keeps of each pixel of its
# batch, and copies of the slices (of sides, and as floats).
WITH_KERAS, WITHOUT = 1280 << 20, 700 << 20  # bytes
A_PIXEL = 1 << 10  # bytes
COPIES = 10
REMIND = 3600.0  # seconds without the end of a training, after which it is said what is waited for
LOOK = 1.0  # seconds between looks at how far the folds are

Tell = Callable[[str], None]
Row = Mapping[str, float]  # of history.csv
OnFoldEpoch = Callable[[int, Sequence[Row]], None]


class Trained(NamedTuple):
    """How a task's training ended.

    Attributes:
        host: the machine's name.
        versions: of Python and packages there.
    """

    host: str
    accuracy: float
    seconds: float
    versions: Mapping[str, str | None]


def check_ray() -> None:
    """Refuse before anything is read what needs Ray, where it is not installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("ray") is None:
        raise UsageError("--ray: the package ray is missing: pip install 'btc-edge[train,ray]'")


def threads_of(job: Job) -> int:
    """Threads, and logical CPUs, of each of a job's trainings."""
    return job.threads or THREADS


def travelling(job: Job) -> Job:
    """A job as another process reads it, which may have another working folder."""
    heads = job.heads and Heads(job.heads.place.absolute(), job.heads.table.absolute())
    return replace(
        job,
        data=absolute_data(job.data),
        out=job.out.absolute(),
        groups_csv=_absolute(job.groups_csv),
        boxes_csv=_absolute(job.boxes_csv),
        partial=None if job.partial is None else absolute_data(job.partial),
        partial_groups_csv=_absolute(job.partial_groups_csv),
        deep=_absolute(job.deep),
        heads=heads,
        threads=threads_of(job),
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def absolute_data(data: Data) -> Data:
    """Data by absolute paths, under the same names."""
    if isinstance(data, (str, os.PathLike)):
        return Path(data).absolute()
    return tuple(
        replace(
            each,
            path=each.path.absolute(),
            groups_csv=_absolute(each.groups_csv),
            boxes_csv=_absolute(each.boxes_csv),
        )
        for each in data
    )


def _inputs(job: Job) -> Iterator[Path]:
    """Every file and folder that a job reads."""
    for data in (job.data, job.partial):
        for each in () if data is None else collections_of(data):
            yield from filter(None, (each.path, each.groups_csv, each.boxes_csv))
    heads = (job.heads.place, job.heads.table) if job.heads else ()
    yield from filter(
        None, (job.groups_csv, job.boxes_csv, job.partial_groups_csv, job.deep, *heads)
    )


def memory_of(job: Job, slices: int) -> int:
    """Bytes that one of a job's trainings takes at most, with so many slices."""
    pixels = job.preprocess.size**2
    needed = COPIES * slices * pixels + (WITH_KERAS if needs_keras(job) else WITHOUT)
    if isinstance(job.settings, TrainSettings):
        needed += A_PIXEL * job.settings.batch_size * pixels
    return needed


@dataclass(frozen=True)
class RaySpread:
    """Trains folds as tasks of Ray: a `trainer.train_job.Spread`.

    Attributes:
        address: of a cluster, or None for a local one.
        tell: called with a line on how a fold ended, or what became of its worker.
        epoch: called with a fold's number and the rows of its history after each of its epochs.
    """

    address: str | None
    tell: Tell
    epoch: OnFoldEpoch | None = None

    def __call__(
        self, job: Job, run: Run, numbers: Sequence[int], training_data: TrainingData
    ) -> None:
        """Train the folds.

        Raises:
            Diverged, BtcError: what a fold ended with, after the others have ended.
            KeyboardInterrupt: every task has been ended.
            UsageError, ClusterError: see `open_cluster`.
        """
        partial = training_data.partial
        slices = len(training_data.data) + (0 if partial is None else len(partial))
        mark = str(run.settings["created"])
        tasks = [Task(f"fold {n}", (travelling(job), mark, n)) for n in numbers]
        with open_cluster(
            self.address,
            None,
            cpus=threads_of(job),
            memory=memory_of(job, slices),
            tell=self.tell,
        ) as cluster:
            self.tell(
                f"{len(tasks)} folds, {min(len(tasks), cluster.workers)} at once, "
                f"each with {cluster.needs}"
            )
            folders = {n: run.model_folders[n - 1] for n in numbers}
            with _watched(folders, self.epoch):
                failed = train_all(cluster, tasks, self.tell, run.settings["versions"])
        if failed:
            raise_first(failed)


def train_all(
    cluster: Cluster, tasks: Iterable[Task], tell: Tell, versions: Mapping[str, str | None]
) -> dict[str, Exception]:
    """Run the tasks of trainings (see `train_part`), and say how each ended.

    Args:
        versions: of the packages here; a line tells of a machine that has others.

    Returns:
        The errors of those that failed, by key.
    """
    failed: dict[str, Exception] = {}
    told: set[str] = set()
    ended = cluster.run(train_part, tasks, stalled_after=REMIND, give_up_after=math.inf, tell=tell)
    for key, value, error in ended:
        if error is not None:
            tell(f"{key}: {one_line(error)}")
            failed[key] = error
            continue
        trained: Trained = value
        tell(
            f"{key}: finished on {trained.host}, accuracy {100 * trained.accuracy:.1f} %, "
            f"{trained.seconds:.0f} s of learning"
        )
        other = [f"{k} {v}" for k, v in trained.versions.items() if versions.get(k) != v]
        if other and trained.host not in told:
            told.add(trained.host)
            tell(f"{trained.host} has {', '.join(other)}, not as here: last bits may differ")
    return failed


def raise_first(failed: Mapping[str, Exception]) -> None:
    """Raise the error of the first training that failed for all that did; a divergence only where
    nothing else happened.

    Raises:
        BtcError: of the kind that the error is of.
    """
    first = min(failed, key=lambda key: (isinstance(failed[key], Diverged), key))
    error = failed[first]
    kind: type[BtcError] = type(error) if isinstance(error, BtcError) else DataError
    others = sorted({*failed} - {first})
    more = f"; {', '.join(others)} failed too" if others else ""
    raise kind(f"{first}: {one_line(error)}{more}")


def train_part(job: Job, mark: str, number: int | None) -> Trained:
    """In a worker: train one fold of a job, or all of it, or go on.

    Args:
        job: with absolute paths.
        mark: when the run was made, by which this machine sees that its folder is the driver's.
        number: of the fold, from 1; None: the job is one training.

    Raises:
        DataError: this machine does not see what the job names, or the training ended with one.
    """
    host = platform.node()
    for path in (job.out, *_inputs(job)):
        if not path.exists():
            raise _unseen(host, path)
    if _mark(job.out) != mark:
        raise _unseen(host, job.out)
    try:
        job = prepare_process(job)
    except ModuleNotFoundError as error:
        hint = "pip install 'btc-edge[train,ray]' there"
        raise UsageError(f"{host}: the package {error.name} is missing: {hint}") from None
    if number is not None:
        run = train_fold(job, number)
    else:
        run = Run.open(job.out)
        if run.settings["status"] != "finished":  # its worker may have died just then
            run, job = resume_job(job)
            run_job(job, run)
    return Trained(host, run.metrics()["accuracy"], run.seconds, run.settings["versions"])


def _mark(folder: Path) -> str:
    try:
        return str(Run.open(folder).settings["created"])
    except DataError:
        return ""


def _unseen(host: str, path: Path) -> DataError:
    return DataError(
        f"{host} does not see the {path} of this machine: data, tables and the run folder must lie "
        "on a file system that all nodes share, under the same path"
    )


@contextmanager
def _watched(folders: Mapping[int, Path], epoch: OnFoldEpoch | None) -> Iterator[None]:
    """Tell of every epoch that is finished meanwhile; the folds say so in their folders."""
    if epoch is None:
        yield
        return
    ended = threading.Event()
    told = {n: len(Run(folder, {}).history()) for n, folder in folders.items()}

    def look() -> None:
        for n, folder in folders.items():
            try:
                rows = Run(folder, {}).history()
            except DataError:  # a file server that is not up to date yet
                continue
            for done in range(told[n] + 1, len(rows) + 1):
                epoch(n, rows[:done])
            told[n] = max(told[n], len(rows))

    def watch() -> None:
        while not ended.wait(LOOK):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        look()
