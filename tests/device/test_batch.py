"""Order, bounds and promptness of work on several threads."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import Classifier, InputError
from edge_runtime.batch import AHEAD, in_order
from edge_runtime.inputs import Unusable
from tests.device.conftest import draw_slice, encode
from tests.device.test_cli import TOOL, edge


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.integers(0, 99))), st.integers(1, 5))
def test_results_come_in_the_order_of_the_items(items: list[int | None], workers: int) -> None:
    def slow(item: int) -> int:
        time.sleep(item % 3 / 1000)
        return item * 2

    done = list(in_order(slow, items, workers))
    assert done == [2 * item for item in items if item is not None]


@pytest.mark.parametrize("workers", [2, 4])
def test_only_a_few_items_are_taken_ahead(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(10_000):
            taken += 1
            yield item

    results = in_order(lambda item: item, items(), workers)
    for expected in range(50):
        assert next(results) == expected
        assert taken <= expected + AHEAD * workers + 1
    results.close()
    assert taken < 100


def test_workers_do_work_at_once() -> None:
    together = threading.Barrier(3, timeout=300)  # breaks unless three are inside
    assert list(in_order(lambda item: together.wait() >= 0, range(9), 3)) == [True] * 9


def test_an_error_ends_the_batch_and_the_threads() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    before = threading.active_count()
    results = in_order(work, range(10_000), 3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert threading.active_count() == before


def test_workers_do_not_change_answers(slices: Path) -> None:
    sources = [*sorted(slices.rglob("*.*")), b"text", "nowhere.jpg", draw_slice(3)]
    sources.append(Unusable("folder", InputError("a folder")))
    classifier = Classifier()
    alone = list(classifier.classify_many(sources))
    assert [a.status.value for a in alone[-4:]] == ["error", "error", "unfamiliar", "error"]
    for workers in (2, 5):
        assert list(classifier.classify_many(sources, workers=workers)) == alone
    one, four = (
        edge("classify", "-r", slices, "--format", "csv", "--workers", n).stdout for n in (1, 4)
    )
    assert one == four


def test_interpreters_are_kept_for_the_next_batch(slices: Path) -> None:
    classifier = Classifier()
    paths = sorted(slices.rglob("*.*")) * 3
    list(classifier.classify_many(paths, workers=3))
    kept = {id(graph) for graph in classifier._idle}
    assert 1 <= len(kept) <= 3
    list(classifier.classify_many(paths, workers=len(kept)))
    assert {id(graph) for graph in classifier._idle} == kept


@pytest.mark.parametrize("workers", [1, 4])
def test_a_program_that_waits_for_each_answer_gets_it(slices: Path, workers: int) -> None:
    """A list that comes line by line must not wait for more lines to be worked on."""
    names = sorted(map(str, slices.rglob("*.png")))
    with subprocess.Popen(
        [TOOL, "classify", "-", "--format", "jsonl", "--workers", str(workers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as tool:  # fmt: skip
        assert tool.stdin is not None
        assert tool.stdout is not None
        watchdog = threading.Timer(60, tool.kill)
        watchdog.start()
        for name in names:
            tool.stdin.write(name + "\n")
            tool.stdin.flush()
            assert json.loads(tool.stdout.readline())["input"] == name
        tool.stdin.close()
        assert tool.wait(timeout=300) == 0
        watchdog.cancel()


@pytest.mark.slow
def test_eight_threads_on_one_classifier_for_ten_thousand_calls() -> None:
    classifier = Classifier()
    data = [encode(draw_slice(i)) for i in range(25)]
    alone = [classifier.classify(d) for d in data]
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda i: classifier.classify(data[i % 25]) == alone[i % 25],
                            range(10_000))  # fmt: skip
        assert all(together)
    assert len({id(graph) for graph in classifier._idle}) <= 8
