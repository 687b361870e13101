"""Examples made in processes: the same bytes, and no harm where a process dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.training import drawn_samples
from edge_runtime.errors import DataError
from trainer.models.feed import Batch, Makers, Task, make_batch, open_makers
from trainer.models.recipes import RECIPES
from trainer.models.sampler import Feed

GRID = (2, 2)


def new_feed() -> Feed:
    samples, others = drawn_samples(40, 32)
    partial = {"partial_images": others.images, "partial_targets": np.ones((8, 4), np.float32)}
    recipe = replace(RECIPES["robust"], partial_labels=0.3)
    return Feed(replace(samples, **partial), 4, recipe, 7)


FEED = new_feed()


def tasks(epoch: int, size: int) -> list[Task]:
    order = FEED.order(epoch)
    firsts = range(0, len(order), size)
    return [
        Task(epoch, range(n, n + len(order[n : n + size])), order[n : n + size]) for n in firsts
    ]


def as_bytes(batches: Iterator[Batch]) -> list[tuple[Any, ...]]:
    return [
        tuple((part.shape, part.dtype, part.tobytes()) for part in batch if part is not None)
        for batch in batches
    ]


def expected(epoch: int, size: int) -> list[tuple[Any, ...]]:
    return as_bytes(make_batch(FEED, GRID, task) for task in tasks(epoch, size))


@pytest.fixture(scope="module", params=[0, 1, 2])
def makers(request: pytest.FixtureRequest) -> Iterator[Makers]:
    with open_makers(FEED, GRID, request.param) as opened:
        yield opened


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 3), st.integers(1, 40))
def test_the_bytes_are_the_same_whoever_makes_them(makers: Makers, epoch: int, size: int) -> None:
    assert as_bytes(makers.batches(tasks(epoch, size))) == expected(epoch, size)


def test_a_batch_whose_process_died_is_made_again() -> None:
    told: list[str] = []
    with open_makers(FEED, GRID, 2, told.append) as makers:
        batches = makers.batches(tasks(1, 4))
        first = [next(batches)]
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
        assert as_bytes(iter([*first, *batches])) == expected(1, 4)
    assert told == ["a process of --feed-workers died; its batches are made again"]


class Deadly:
    """What ends the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_processes_that_always_die_end_the_training_with_a_line() -> None:
    feed = new_feed()
    feed.recipe = Deadly()  # type: ignore[assignment]
    with (
        open_makers(feed, GRID, 1) as makers,
        pytest.raises(DataError, match=r"died 4 times without making a batch.*give fewer"),
    ):
        list(makers.batches(tasks(0, 40)))


def test_no_room_for_the_slices_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    before = set(Path(tempfile.gettempdir()).glob("btc-feed-*"))
    with (
        pytest.raises(DataError, match=r"cannot be written .*No space left on device.*TMPDIR"),
        open_makers(FEED, GRID, 1),
    ):
        pass
    assert set(Path(tempfile.gettempdir()).glob("btc-feed-*")) <= before


PARENT = """
import multiprocessing, sys, time
from tests.trainer.models.test_feed_workers import FEED, GRID, tasks
from trainer.models.feed import open_makers
if __name__ == "__main__":
    try:
        with open_makers(FEED, GRID, 2) as makers:
            for batch in makers.batches(tasks(0, 4)):
                pass
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            time.sleep(600)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A process with two of its own, which has made an epoch; and those."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(folder)}, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    children = [psutil.Process(int(word)) for word in process.stdout.readline().split()]
    assert len(children) == 2
    assert [path.name[:9] for path in folder.iterdir()] == ["btc-feed-"]
    return process, children


def test_the_processes_and_their_file_end_with_a_killed_parent(tmp_path: Path) -> None:
    process, children = started(tmp_path)
    process.kill()
    assert psutil.wait_procs(children, 60)[1] == []
    deadline = time.monotonic() + 60
    while any(tmp_path.iterdir()):
        assert time.monotonic() < deadline
    process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to a group")
def test_ctrl_c_ends_them_without_a_word(tmp_path: Path) -> None:
    process, children = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert psutil.wait_procs(children, 60)[1] == []
    assert list(tmp_path.iterdir()) == []
