"""Small pictures take each step together; nobody can tell by the answers, nor by their order."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.hostile.files import nifti_bytes
from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError, ModelError
from edge_runtime import classifier as module
from edge_runtime.batch import Unusable
from edge_runtime.classifier import CHUNK, HELD, _chunks
from edge_runtime.decision.prediction import Prediction
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.stack import Stack


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Sources good and bad, small and large, of one slice and of several."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "a.jpg").write_bytes(encode(draw_slice(1)))
    (folder / "cut.png").write_bytes(encode(draw_slice(2), ".png")[:900])
    (folder / "empty.bmp").touch()
    large = encode(draw_slice(3)) + bytes(HELD)
    sources: list[Any] = [
        str(folder / "a.jpg"), folder / "a.jpg", folder / "cut.png", folder / "empty.bmp",
        folder, "nowhere.jpg", "none.nii", encode(draw_slice(4), ".webp"), large, b"text", b"",
        bytearray(encode(draw_slice(5))), draw_slice(6), np.zeros((0, 5)), b"a volume",
        Unusable("folder", InputError("a folder")), encode(np.zeros((1, 200), np.uint8), ".png"),
    ]  # fmt: skip
    return sources


@pytest.fixture(scope="module")
def volume() -> Iterator[None]:
    """`b"a volume"` holds three slices and then a damage."""

    def grays() -> Iterator[np.ndarray]:
        yield from (draw_slice(number) for number in range(3))
        raise InputError("truncated")

    real = module.open_slices

    def open_slices(data: bytes, *how: Any) -> Stack:
        return Stack(4, 0, grays()) if data == b"a volume" else real(data, *how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_slices", open_slices)
        patch.setattr(module, "slices_of", lambda *args: module.numbered(module.open_slices(*args)))
        yield


@pytest.fixture(scope="module")
def alone(classifier: Classifier, pool: list[Any], volume: None) -> list[list[Prediction]]:
    """The answers for each source by itself, a slice at a time."""
    answers: list[list[Prediction]] = []
    for source in pool:
        answers.append([])
        try:
            if isinstance(source, Unusable):
                raise source.error
            answers[-1].extend(classifier.classify_slices(source))
        except InputError as error:
            name = source.name if isinstance(source, Unusable) else source
            answers[-1].append(classifier.failure(name, error))
    return answers


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_chunks_do_not_change_answers(
    data: st.DataObject, classifier: Classifier, pool: list[Any], alone: list[list[Prediction]]
) -> None:
    drawn = data.draw(st.lists(st.integers(0, len(pool) - 1), max_size=24), "sources")
    wanted = [answer for i in drawn for answer in alone[i]]
    size = data.draw(st.integers(1, 9), "size of the chunks")
    parts = [[pool[i] for i in drawn[at : at + size]] for at in range(0, len(drawn), size)]
    assert [answer for part in parts for answer in classifier._chunk(part)] == wanted
    waits = data.draw(st.sets(st.integers(0, 24)), "a None before these")
    sources = [s for at, i in enumerate(drawn) for s in [None] * (at in waits) + [pool[i]]]
    workers = data.draw(st.integers(1, 3), "workers")
    assert list(classifier.classify_many(sources, workers=workers)) == wanted


def test_the_pool_has_all_kinds_of_answers(alone: list[list[Prediction]]) -> None:
    counts = [(len(answers), answers[-1].error is None) for answers in alone]
    assert {(1, True), (1, False), (4, False)} == set(counts)


def test_pictures_that_are_not_small_go_alone(pool: list[Any], alone: list[Any]) -> None:
    """With little memory no picture is small, and the answers are the same."""
    tight = Classifier(limits=ImageLimits(max_memory=1 << 20))
    assert tight._pictures([pool[0]]) == [None]
    assert list(tight.classify_many([pool[0], pool[7]], workers=2)) == alone[0] + alone[7]


@pytest.mark.parametrize("workers", [1, 3])
def test_nothing_waits_behind_a_none(classifier: Classifier, workers: int) -> None:
    answered = 0

    def sources() -> Iterator[Any]:
        for number in range(30):
            yield encode(draw_slice(number % 3))
            if number % 3 == 0:
                yield None
                assert answered == number + 1

    for _ in classifier.classify_many(sources(), workers=workers):
        answered += 1
    assert answered == 30


def test_a_source_that_was_long_in_coming_does_not_wait(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, answered = iter(range(1000)), 0
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))

    def sources() -> Iterator[Any]:
        for number in range(20):
            assert answered == number
            yield encode(draw_slice(number % 3))

    for _ in classifier.classify_many(sources()):
        answered += 1
    assert answered == 20


@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_begin_short_and_end_at_what_is_no_small_picture(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "monotonic", lambda: 0.0)
    sizes = [len(chunk or []) for chunk in _chunks([b""] * 200, workers, CHUNK)]
    assert sum(sizes) == 200
    assert sizes[:-1] == [min(CHUNK, 1 + i // workers) for i in range(len(sizes) - 1)]
    for other in (bytes(HELD + 1), "a.dcm", "b.NII.GZ", draw_slice(0), bytearray(b"x"),
                  Unusable("x", InputError("y"))):  # fmt: skip
        chunks = [*_chunks([b""] * 60 + [b"1", other, b"2", b"3"], 1, CHUNK)]
        (ended,) = [chunk for chunk in chunks if chunk and any(s is other for s in chunk)]
        assert ended[-1] is other
    assert [*_chunks([None, b"", None, None], 1, CHUNK)] == [None, [b""], None, None]


def test_one_decoded_picture_at_a_time(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[weakref.ref[Any]] = []
    real = module.decode_kind

    def watched(*args: Any) -> Any:
        assert all(each() is None for each in decoded)
        gray = real(*args)
        decoded.append(weakref.ref(gray))
        return gray

    monkeypatch.setattr(module, "decode_kind", watched)
    assert len([*classifier._chunk([encode(draw_slice(i)) for i in range(8)])]) == 8
    assert len(decoded) == 8


def failing_at(graph: Any, call: int) -> Callable[[np.ndarray], np.ndarray]:
    """The graph's `run`, which fails at one call."""
    calls, real = iter(range(1000)), graph.run

    def run(pixels: np.ndarray) -> np.ndarray:
        if next(calls) == call:
            raise ModelError("node 7 failed")
        outputs: np.ndarray = real(pixels)
        return outputs

    return run


@pytest.mark.parametrize("call", [0, 1, 5])
def test_answers_before_an_error_of_the_model_come_first(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier()
    (graph,) = classifier._idle
    monkeypatch.setattr(graph, "run", failing_at(graph, call))
    sources = [each for i in range(7) for each in (b"text", encode(draw_slice(i)))]
    answers = classifier._chunk(sources)
    before = [next(answers).error is None for _ in range(2 * call + 1)]
    assert before == [False, True] * call + [False]
    with pytest.raises(ModelError, match="node 7 failed"):
        next(answers)
    assert classifier._idle == [graph]


def test_one_worker_needs_no_thread(
    classifier: Classifier, pool: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    assert len(list(classifier.classify_many(pool[:8]))) == 8


@pytest.mark.parametrize("workers", [1, 2])
def test_answers_come_before_the_error_that_ends_the_sources(
    classifier: Classifier, workers: int
) -> None:
    def sources() -> Iterator[bytes]:
        yield from (encode(draw_slice(number % 3)) for number in range(20))
        raise OSError("unplugged")

    answers: list[Prediction] = []
    with pytest.raises(OSError, match="unplugged"):
        answers.extend(classifier.classify_many(sources(), workers=workers))
    assert len(answers) == 20


def answers_of_two(tight: Classifier, nested: bool) -> int:
    """The answers for two volumes of eight slices that never fit into memory together."""
    volume = np.stack([draw_slice(number)[::2, ::2].astype(np.int16) for number in range(8)], 2)
    one, two = nifti_bytes(volume), nifti_bytes(volume)

    def answers(data: bytes) -> Iterator[Prediction]:
        return tight.classify_many([data], workers=2)

    if nested:
        return sum(1 for _ in answers(one) for _ in answers(two))
    return sum(2 for _ in zip(answers(one), answers(two), strict=True))


@pytest.mark.parametrize("nested", [True, False])
def test_two_batches_of_one_thread_never_wait_for_each_other(nested: bool) -> None:
    """Each has one volume, whose answers are taken in turns with the other's."""
    tight = Classifier(limits=ImageLimits(max_memory=1 << 24))
    counts: list[int] = []
    thread = threading.Thread(
        target=lambda: counts.append(answers_of_two(tight, nested)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert counts == [64 if nested else 16]
