"""Batches of a training, made ahead of the model: in a thread, or in processes of their own.

One thread is enough for a processor's cores, which take longer over a batch than it does; an
accelerator would wait for it. Since every example follows from (seed, epoch, number), the bytes
are the same whoever makes them, and a batch whose process died is made again.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from trainer.models.networks import as_input
from trainer.models.recipes import Recipe
from trainer.models.sampler import Example, Feed, Gray, Samples

Grid = tuple[int, int]  # rows and columns of a network's class maps
Tell = Callable[[str], None]

AHEAD = 2  # batches for each process: one in the making, one waiting
MOST_LOST = 3  # times that processes may die without one batch between
IMAGES, PARTIAL = "images.npy", "partial_images.npy"
NOTHING: Gray = np.zeros((0, 0, 0), np.uint8)


class Task(NamedTuple):
    """Which examples of an epoch a batch holds, and the slices that they start from."""

    epoch: int
    numbers: Sequence[int]
    starts: npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Examples side by side.

    Attributes:
        images: uint8, N×S×S.
        targets: float32, N×C.
        masks: float32, N×rows×columns×C, see `box_mask`; None for a network without class maps.
    """

    images: Gray
    targets: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32] | None

    def for_model(self) -> tuple[Any, Any]:
        """What a compiled model takes: pixels, and a target for each output."""
        targets = self.targets if self.masks is None else [self.targets, self.masks]
        return as_input(self.images), targets


def as_batch(examples: Sequence[Example], grid: Grid | None) -> Batch:
    """Examples, at least one, as a batch; `grid` is None for a network without class maps."""
    return Batch(
        np.stack([example.image for example in examples]),
        np.stack([example.target for example in examples]),
        None if grid is None else np.stack([box_mask(example, grid) for example in examples]),
    )


def box_mask(example: Example, grid: Grid) -> npt.NDArray[np.float32]:
    """rows×columns×C: 1 in the cells whose middle is at most half a cell outside the box, in the
    channel of the class; zeros where there is no box."""
    rows, columns = grid
    mask = np.zeros((rows, columns, len(example.target)), np.float32)
    if np.isnan(example.box).any():
        return mask
    left, top, right, bottom = example.box
    down, across = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    inside = (down >= top - 0.5 / rows) & (down <= bottom + 0.5 / rows)
    within = (across >= left - 0.5 / columns) & (across <= right + 0.5 / columns)
    mask += np.einsum("r,c,k->rck", inside, within, example.target)
    return mask


def make_batch(feed: Feed, grid: Grid | None, task: Task) -> Batch:
    """The batch that a task asks for."""
    pairs = zip(task.numbers, task.starts, strict=True)
    return as_batch([feed.example(task.epoch, n, int(start)) for n, start in pairs], grid)


class Makers:
    """Who makes batches; see `open_makers`."""

    def batches(self, tasks: Iterable[Task]) -> Generator[Batch, None, None]:
        """The batches of `tasks`, in their order.

        Raises:
            DataError: processes that make them die again and again.
        """
        raise NotImplementedError


@contextmanager
def open_makers(
    feed: Feed, grid: Grid | None, workers: int = 0, tell: Tell | None = None
) -> Iterator[Makers]:
    """What makes the batches of a training, until the end of the `with`.

    Args:
        workers: processes; with none it is a thread of this one. They see the slices through one
            file in the system's temporary folder, as large as the slices are, so that the system
            holds them once however many look. Each takes some 50 MB of its own.
        tell: called with a line when a process died.

    Raises:
        DataError: no room for that file.
    """
    if not workers:
        with ThreadPoolExecutor(1) as pool:
            yield _Thread(feed, grid, pool)
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix="btc-feed-"))
    except OSError as error:
        raise DataError(f"--feed-workers: no temporary folder: {error.strerror}") from None
    try:
        processes = _Processes(feed, grid, workers, folder, tell)
        try:
            yield processes
        finally:
            processes.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Thread(Makers):
    def __init__(self, feed: Feed, grid: Grid | None, pool: ThreadPoolExecutor) -> None:
        self._feed, self._grid, self._pool = feed, grid, pool

    def batches(self, tasks: Iterable[Task]) -> Generator[Batch, None, None]:
        coming: Future[Batch] | None = None
        for task in tasks:
            ready, coming = coming, self._pool.submit(make_batch, self._feed, self._grid, task)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


class _Processes(Makers):
    """Fresh interpreters (a forked TensorFlow deadlocks), which load no TensorFlow."""

    def __init__(
        self, feed: Feed, grid: Grid | None, workers: int, folder: Path, tell: Tell | None
    ) -> None:
        self._workers, self._tell = workers, tell
        self._start = (
            folder, _mapped(feed.samples, folder), feed.classes, feed.recipe, feed.seed, grid,
        )  # fmt: skip
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, _begin_child, self._start)

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batches(self, tasks: Iterable[Task]) -> Generator[Batch, None, None]:
        coming, waiting, lost = iter(tasks), deque[tuple[Task, Future[Batch]]](), 0
        while True:
            while len(waiting) < AHEAD * self._workers:
                task = next(coming, None)
                if task is None:
                    break
                waiting.append((task, self._submit(task)))
            if not waiting:
                return
            try:
                batch = waiting[0][1].result()
            except BrokenProcessPool:  # it has ended them all
                lost += 1
                self._begin_again(lost)
                waiting = deque((task, self._submit(task)) for task, _ in waiting)
                continue
            lost = 0
            waiting.popleft()
            yield batch

    def _submit(self, task: Task) -> Future[Batch]:
        try:
            with _without_interrupts():  # a process may be started for it
                return self._pool.submit(_make_in_child, task)
        except BrokenProcessPool as error:
            broken: Future[Batch] = Future()
            broken.set_exception(error)
            return broken

    def _begin_again(self, lost: int) -> None:
        if lost > MOST_LOST:
            raise DataError(
                f"the processes of --feed-workers died {lost} times without making a batch, "
                "perhaps for want of memory; give fewer, or none"
            )
        if self._tell is not None:
            self._tell("a process of --feed-workers died; its batches are made again")
        self.stop()
        self._pool = self._new_pool()


def _mapped(samples: Samples, folder: Path) -> Samples:
    """`samples` without the pictures, which are written to `folder` for `_begin_child`."""
    try:
        np.save(folder / IMAGES, samples.images)
        np.save(folder / PARTIAL, samples.partial_images)
    except OSError as error:
        size = (samples.images.nbytes + samples.partial_images.nbytes) >> 20
        raise DataError(
            f"--feed-workers: {size} MiB for the slices cannot be written to {folder.parent} "
            f"({error.strerror}); name another folder in TMPDIR"
        ) from None
    return replace(samples, images=NOTHING, partial_images=NOTHING)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C, which is for this one to answer: not
    even while they start, when Python would show where each was."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_feed: Feed
_grid: Grid | None


def _begin_child(
    folder: Path, samples: Samples, classes: int, recipe: Recipe, seed: int, grid: Grid | None
) -> None:
    """In a process, before its first task."""
    import cv2

    global _feed, _grid
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows too
    cv2.setNumThreads(1)  # the processes are the threads
    images, partial = _open_mapped(folder / IMAGES), _open_mapped(folder / PARTIAL)
    whole = replace(samples, images=images, partial_images=partial)
    _feed, _grid = Feed(whole, classes, recipe, seed), grid
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()


def _open_mapped(path: Path) -> Gray:
    if path.stat().st_size < 1 << 12:  # an empty array cannot be mapped
        empty: Gray = np.load(path)
        return empty
    pictures: Gray = np.load(path, mmap_mode="r").view(np.ndarray)
    return pictures


def _end_with_parent(folder: Path) -> None:
    """However it ends; what it could not delete goes with its processes. (A signal from the system
    at its end, as `edge_runtime.child.end_with_parent` asks for, would leave the file.)"""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _make_in_child(task: Task) -> Batch:
    return make_batch(_feed, _grid, task)
