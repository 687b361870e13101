from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError, ModelError
from edge_runtime.decision.prediction import Status, probabilities
from edge_runtime.errors import UsageError
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.readers import size_of
from edge_runtime.model.backends import open_graph
from edge_runtime.model.load import read_model


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


@pytest.fixture(scope="module")
def trusting() -> Classifier:
    """The bundled model without its checks: it answers for drawn pictures too."""
    file = read_model()
    return Classifier(replace(file, info=replace(file.info, thresholds=None, ood=None)))


def test_path_bytes_and_array_agree(classifier: Classifier, tmp_path: Path) -> None:
    picture = draw_slice(1)
    path = tmp_path / "slice.png"
    path.write_bytes(encode(picture, ".png"))
    answers = [classifier.classify(source) for source in (path, path.read_bytes(), picture)]
    assert len({a.confidence for a in answers}) == 1
    assert len({a.label for a in answers}) == 1
    assert answers[0].sha256 == answers[1].sha256
    assert [a.input for a in answers] == [str(path), "bytes", "array"]


def test_sources_of_every_kind_agree(classifier: Classifier, tmp_path: Path) -> None:
    data = encode(draw_slice(1), ".png")
    (tmp_path / "slice.png").write_bytes(data)
    wanted = classifier.classify(data)
    with open(tmp_path / "slice.png", "rb") as stream:
        sources = [bytearray(data), memoryview(data), io.BytesIO(data), stream]
        answers = list(classifier.classify_many(sources, workers=2))
    assert [a.input for a in answers] == ["bytes", "bytes", "stream", "stream"]
    assert {(a.confidence, a.sha256) for a in answers} == {(wanted.confidence, wanted.sha256)}
    assert classifier.classify(io.BytesIO(data)).probabilities == wanted.probabilities


ODD_ARRAYS = {
    "empty": np.zeros((0, 5), np.uint8),
    "nothing": np.zeros((), np.uint8),
    "times": np.zeros((4, 5), "M8[s]"),
    "objects": np.full((4, 5), None),
    "text": np.full((4, 5), "a"),
    "complex": np.zeros((4, 5), complex),
    "records": np.zeros((4, 5), "u1,u1"),
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_arrays_that_are_no_slices(name: str, classifier: Classifier) -> None:
    with pytest.raises(InputError, match="is not a slice"):
        classifier.classify(ODD_ARRAYS[name])
    good = draw_slice(1)
    for workers in (1, 3):
        batch = classifier.classify_many([good, ODD_ARRAYS[name], good], workers=workers)
        assert [a.error is None for a in batch] == [True, False, True]


@pytest.mark.parametrize("kind", [">u2", "<u2", "f2", ">f4", "f8", "g", "?"])
def test_arrays_of_every_number_have_a_digest(kind: str, classifier: Classifier) -> None:
    picture = (draw_slice(1) // 2).astype(kind)
    for array in (picture, picture[::2, ::-1], picture.T):
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        assert classifier.classify(array).sha256 == digest


def test_heatmaps_of_arrays_are_drawn(classifier: Classifier, tmp_path: Path) -> None:
    (answer,) = classifier.classify_slices(draw_slice(1), heatmaps=tmp_path)
    assert answer.heatmap is not None
    assert [str(path) for path in tmp_path.iterdir()] == [str(answer.heatmap)]


def test_answer_is_whole_and_frozen(trusting: Classifier) -> None:
    answer = trusting.classify(draw_slice(2))
    assert answer.status is Status.OK
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.confidence == max(answer.probabilities.values())
    assert (
        answer.label == answer.raw_label == max(answer.probabilities, key=answer.probabilities.get)
    )
    with pytest.raises(FrozenInstanceError):
        answer.label = "other"  # type: ignore[misc]


def test_answers_travel_between_processes(classifier: Classifier) -> None:
    answer = classifier.classify(draw_slice(2))
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert asdict(answer)["probabilities"] == answer.probabilities
    json.dumps(answer.to_json())


def test_failures_are_named_like_answers(classifier: Classifier) -> None:
    sources = [b"text", np.zeros((2, 2, 5)), "nowhere.jpg"]
    assert [a.input for a in classifier.classify_many(sources)] == ["bytes", "array", "nowhere.jpg"]


def test_an_interpreter_that_fails_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def invoke(self) -> None:
            raise RuntimeError("node 7\nfailed")

        def set_tensor(self, *_: object) -> None: ...

    graph, size = open_graph(read_model()), read_model().info.preprocess.size
    monkeypatch.setattr(graph, "_interpreter", Broken())
    with pytest.raises(
        ModelError, match=r"(litert|tflite-runtime) failed on the model: node 7 failed"
    ):
        graph.run(np.zeros((size, size), np.uint8))


def test_threshold_withholds_the_label() -> None:
    file = read_model()
    never = dict.fromkeys(file.info.labels, 1.0)
    strict = replace(file, info=replace(file.info, thresholds=never, ood=None, rules=None))
    answer = Classifier(strict).classify(draw_slice(3))
    assert answer.status is Status.UNCERTAIN
    assert answer.label is None
    assert answer.raw_label in file.info.labels
    assert "threshold" in (answer.reason or "")


def test_a_bad_input_does_not_end_a_batch(trusting: Classifier) -> None:
    good = encode(draw_slice(4))
    answers = list(trusting.classify_many([good, b"text", good[: len(good) // 2], good]))
    assert [a.status.value for a in answers] == ["ok", "error", "error", "ok"]
    assert answers[1].label is None
    assert answers[0].probabilities == answers[3].probabilities
    with pytest.raises(InputError):
        trusting.classify(b"text")


def test_checks_change_the_answer_and_nothing_else(
    classifier: Classifier, trusting: Classifier
) -> None:
    """A drawn head is no slice: it is refused, and what the network said stands beside it."""
    one, two = classifier.classify(draw_slice(4)), trusting.classify(draw_slice(4))
    assert (one.status, two.status) == (Status.UNFAMILIAR, Status.OK)
    assert one.probabilities == two.probabilities
    assert one.raw_label == two.label


def test_eight_threads_answer_like_one(classifier: Classifier) -> None:
    data = [encode(draw_slice(i)) for i in range(10)]
    alone = [classifier.classify(d).probabilities for d in data]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda i: classifier.classify(data[i % 10]).probabilities, range(400))
        )
    assert all(answer == alone[i % 10] for i, answer in enumerate(together))


def test_class_maps_are_pooled_to_the_logits() -> None:
    graph, size = open_graph(read_model()), read_model().info.preprocess.size
    logits = graph.run(cv2.resize(draw_slice(5), (size, size)))
    maps = graph.class_maps()
    assert maps is not None
    assert maps.shape == (6, 6, 4)
    by_hand = np.log(np.exp(maps.astype(np.float64)).mean(axis=(0, 1)))
    np.testing.assert_allclose(logits, by_hand, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_probabilities_by_hand(temperature: float) -> None:
    logits = np.array([1.0, 2.0, -3.0])
    by_hand = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    np.testing.assert_allclose(probabilities(logits, temperature), by_hand)
    assert np.isfinite(probabilities(np.array([1e4, -1e4]))).all()
    assert np.isfinite(probabilities(np.array([9.0, -9.0]), 1e-6)).all()


def test_backends_that_cannot_be() -> None:
    for backend, words in (("onnxruntime", "does not read"), ("abacus", "unknown backend")):
        with pytest.raises(ModelError, match=words):
            Classifier(backend=backend)


def test_graph_that_is_no_graph() -> None:
    file = read_model()
    with pytest.raises(ModelError):
        open_graph(replace(file, graph=file.graph[:1000]))
    wrong = replace(file, info=replace(file.info, labels=("a", "b", "c")))
    with pytest.raises(ModelError, match="outputs are not"):
        open_graph(wrong)


def test_the_size_of_a_source_is_told_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 30)
    stream = io.BytesIO(b"x" * 50)
    stream.seek(10)
    limits = ImageLimits(max_bytes=1000)
    assert size_of(stream, limits) == 40
    assert stream.tell() == 10
    assert size_of(tmp_path / "a", limits) == 30
    assert size_of(tmp_path / "none", limits) == 0, "reading it says why"
    assert size_of(memoryview(np.zeros((10, 1000), np.uint8)), limits) == 10_000
    assert size_of(io.BytesIO(b"x" * 2000), limits) == 1000, "it is refused at the limit"
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb"):
        assert size_of(pipe, limits) == 1000, "a pipe does not tell"
    gone = memoryview(b"x")
    gone.release()
    assert size_of(gone, limits) == 1000


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="plane 'up' is none of axial"):
        Classifier(plane="up")
    with pytest.raises(UsageError, match="0 workers"):
        next(Classifier().classify_many([], workers=0))
