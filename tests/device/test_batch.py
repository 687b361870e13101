"""Order, bounds and promptness of work on several threads."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError
from edge_runtime.batch import AHEAD, MOST_WAITING, Budget, Unusable, each_in_order, in_order
from edge_runtime.imaging.readers import numbered
from edge_runtime.imaging.stack import Stack
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


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=30), st.integers(1, 5))
def test_results_of_items_that_have_many_come_in_order(
    items: list[int | None], workers: int
) -> None:
    def work(item: int) -> Iterator[tuple[int, int]]:
        for part in range(item):
            time.sleep(item % 2 / 5000)
            yield item, part

    done = list(each_in_order(work, items, workers))
    assert done == [(item, part) for item in items if item is not None for part in range(item)]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_result_does_not_wait_for_the_rest_of_its_item(workers: int) -> None:
    asked = threading.Semaphore(0)

    def work(item: int) -> Iterator[int]:
        for part in range(5):
            if part:
                assert asked.acquire(timeout=20), "nobody took the one before"
            yield part

    results = each_in_order(work, [0], workers)
    for part in range(5):
        assert next(results) == part
        asked.release()
    assert list(results) == []


def test_results_before_an_error_come_first() -> None:
    def work(item: int) -> Iterator[int]:
        yield item
        raise ValueError("behind the first")

    for workers in (1, 3):
        results = each_in_order(work, range(9), workers)
        assert next(results) == 0
        with pytest.raises(ValueError, match="behind the first"):
            next(results)


def test_closing_ends_what_is_under_way_after_its_next_result() -> None:
    ended = threading.Event()

    def endless(item: int) -> Iterator[int]:
        try:
            while True:
                yield item
        finally:
            ended.set()

    before = threading.active_count()
    results = each_in_order(endless, [1], 2)
    assert next(results) == 1
    results.close()
    assert ended.is_set()
    assert threading.active_count() == before


def test_few_items_are_begun_while_many_results_wait() -> None:
    """Nobody takes the first item's results: the others stop at a bound, and go on later."""
    second_done, third_begun = threading.Event(), threading.Event()

    def work(item: int) -> Iterator[int]:
        if item == 2:
            third_begun.set()
        yield item
        if item == 0:
            assert second_done.wait(timeout=20)
            assert not third_begun.wait(0.2)
        yield from range(MOST_WAITING)
        if item == 1:
            second_done.set()

    results = each_in_order(work, range(12), 2)
    assert next(results) == 0
    assert sum(1 for _ in results) == 12 * (MOST_WAITING + 1) - 1


def test_who_holds_much_never_waits_for_who_takes_the_results() -> None:
    """The second item gets the memory first and has more results than anybody takes."""
    budget, second_has_it = Budget(10), threading.Event()

    def work(item: int) -> Iterator[int]:
        if item == 0:
            assert second_has_it.wait(timeout=20)
        with budget.taken(10):
            second_has_it.set()
            for _ in range(MOST_WAITING + 50):
                yield item

    counted = list(each_in_order(work, range(4), 2))
    assert counted == [item for item in range(4) for _ in range(MOST_WAITING + 50)]


def test_a_budget_is_never_exceeded() -> None:
    budget, lock, held = Budget(100), threading.Lock(), [0]
    most = 0

    def count(change: int) -> None:
        nonlocal most
        with lock:
            held[0] += change
            most = max(most, held[0])

    def work(item: int) -> Iterator[int]:
        first, then = 10 + item % 7 * 10, 5 + item % 11 * 9
        with budget.taken(first) as reservation:
            count(first)
            count(-first)
            reservation.become(then)
            count(then)
            yield item
            count(-then)

    assert list(each_in_order(work, range(200), 8)) == list(range(200))
    assert held == [0]
    assert 0 < most <= 100
    with budget.taken(1000):  # alone, it may have all that it wants
        pass


@pytest.mark.parametrize("behind", [[], ["nowhere.jpg"]])
def test_a_files_slices_are_answered_as_they_come(behind: list[str]) -> None:
    """The first answer of a volume comes before the last slice is decoded, and a file behind it
    waits for its turn."""
    decoded: list[int] = []
    classifier = Classifier()
    taken = threading.Event()

    def grays() -> Iterator[np.ndarray]:
        for number in range(40):
            decoded.append(number)
            if number == 5:
                assert taken.wait(timeout=20), "the first answer was held back"
            yield draw_slice(number)

    stack = Stack(40, 0, grays())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_runtime.classifier.open_slices", lambda *_: stack)
        patch.setattr("edge_runtime.classifier.slices_of", lambda *_: numbered(stack))
        answers = classifier.classify_many([b"a volume", *behind], workers=3)
        assert next(answers).slice == 0
        assert len(decoded) <= 6
        taken.set()
        assert [answer.slice for answer in answers] == [*range(1, 40), *[None for _ in behind]]


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


OPEN = """
from edge_runtime.batch import each_in_order

def work(item):
    yield from range(5000)

left_open = each_in_order(work, range(100), 2)
print(next(left_open))
"""


def test_a_generator_left_open_does_not_keep_the_process() -> None:
    """Two items wait for results to be taken that nobody will take."""
    done = subprocess.run([sys.executable, "-c", OPEN], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


def test_closing_begins_nothing() -> None:
    """Two items are begun; what they leave waiting keeps the third from it, and so does closing."""
    begun: list[int] = []
    both, full = threading.Barrier(2, timeout=60), threading.Event()

    def work(item: int) -> Generator[int, None, None]:
        begun.append(item)
        both.wait()
        yield from range(MOST_WAITING + 1)
        full.set()

    answers = each_in_order(work, range(100), 2)
    next(answers)
    assert full.wait(60)
    answers.close()
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize("items", [["a"], ["a", None], [None, "a", None, "b", None], []])
def test_an_item_with_no_other_behind_it_needs_no_thread(items: list[str | None]) -> None:
    def work(item: str) -> Generator[tuple[str, threading.Thread], None, None]:
        yield item, threading.current_thread()

    done = list(each_in_order(work, items, 4))
    assert done == [(item, threading.current_thread()) for item in items if item]


def test_what_cannot_be_a_thread_works_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system allows two threads, or none: all is done, in order, and nothing waits."""
    start, begun, answered = threading.Thread.start, 0, 0

    def few(thread: threading.Thread) -> None:
        nonlocal begun
        begun += 1
        if begun > allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    def work(item: int) -> Generator[tuple[int, threading.Thread], None, None]:
        yield item, threading.current_thread()

    def items() -> Iterator[int]:
        for item in range(100):
            yield item
            if not allowed and item:
                assert answered == item + 1
            assert item - answered <= AHEAD * max(allowed, 1)

    monkeypatch.setattr(threading.Thread, "start", few)
    for allowed in (0, 2):
        begun = answered = 0
        threads = set()
        for item, thread in each_in_order(work, items(), 5):
            assert item == answered
            answered += 1
            threads.add(thread)
        assert (answered, begun) == (100, allowed + 1)
        assert (threading.current_thread() in threads) == (allowed == 0)
        assert len(threads) <= max(allowed, 1)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_results_come_before_the_error_that_ends_the_items(workers: int, count: int) -> None:
    def items() -> Iterator[int]:
        yield from range(count)
        raise OSError("unplugged")

    done: list[int] = []
    with pytest.raises(OSError, match="unplugged"):
        done.extend(in_order(abs, items(), workers))
    assert done == list(range(count))


def test_ctrl_c_among_the_items_waits_for_no_result() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(in_order(abs, items(), 3))


@pytest.mark.parametrize("items", [[1], [1, None], [1, None, 2]])
def test_an_item_alone_is_worked_on_as_one_that_may_wait(items: list[int | None]) -> None:
    def work(item: int) -> Generator[str, None, None]:
        yield "in a thread"

    def here(item: int) -> Generator[str, None, None]:
        yield "here"

    assert set(each_in_order(work, items, 4, here=here)) == {"here"}
