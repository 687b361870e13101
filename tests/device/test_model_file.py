from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ModelError
from edge_runtime.model_file import bundled_model, pack_model, parse_model, read_model
from edge_runtime.model_info import ModelInfo
from edge_runtime.preprocess import Preprocess

INFO = ModelInfo(
    name="test",
    version="1",
    created="2026-01-01T00:00:00Z",
    labels=("a", "b"),
    preprocess=Preprocess(),
    input={"dtype": "uint8", "shape": [1, 128, 128, 1], "range": [0, 255]},
    outputs={"logits": 0},
    quantization={"scheme": "int8-full"},
)
TFLITE = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4
ONNX = b"\x08\x08\x12\x04test" + b"\x3a\x05graph"
GRAPHS = {"tflite": TFLITE, "onnx": ONNX}


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_round_trip(kind: str) -> None:
    data = pack_model(GRAPHS[kind], INFO, kind)
    file = parse_model(data)
    assert (file.format, file.graph) == (kind, GRAPHS[kind])
    assert file.info == replace(INFO, graph_sha256=file.info.graph_sha256)
    assert file.tag == f"test 1 int8 {file.sha256[:8]}"
    assert data == pack_model(GRAPHS[kind], INFO, kind), "the same bytes each time"


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["tflite", "onnx"]), st.integers(0, 10**6), st.integers(1, 255))
def test_no_flipped_byte_changes_the_graph_or_the_answer(kind: str, at: int, flip: int) -> None:
    data = bytearray(pack_model(GRAPHS[kind], INFO, kind))
    whole = parse_model(bytes(data))
    at %= len(data)
    data[at] ^= flip
    try:
        file = parse_model(bytes(data))
    except ModelError:
        return
    # Only the zip's bookkeeping (dates, flags) may differ unnoticed.
    assert (file.graph, file.info) == (whole.graph, whole.info)


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_every_byte_behind_the_graph_is_guarded(kind: str) -> None:
    data = bytearray(pack_model(GRAPHS[kind], INFO, kind))
    whole = parse_model(bytes(data))
    for at in range(len(GRAPHS[kind]), len(data)):
        for flip in (1, 16, 128):
            data[at] ^= flip
            try:
                file = parse_model(bytes(data))
                assert (file.graph, file.info) == (whole.graph, whole.info), at
            except ModelError:
                pass
            data[at] ^= flip


def test_numbers_that_no_float_holds_are_refused() -> None:
    shape = json.loads(replace(INFO, graph_sha256="0" * 64).to_json())
    with pytest.raises(ModelError):
        ModelInfo.from_json(json.dumps(shape | {"thresholds": {"a": 10**400}}))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["tflite", "onnx"]), st.integers(0, 10**6))
def test_no_truncated_file_is_accepted(kind: str, at: int) -> None:
    data = pack_model(GRAPHS[kind], INFO, kind)
    with pytest.raises(ModelError):
        parse_model(data[: at % len(data)])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_model_error(data: bytes) -> None:
    for content in (data, b"\0\0\0\0TFL3" + data):
        with pytest.raises(ModelError):
            parse_model(content)


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"labels": ["a"]}, {"labels": ["a", "a"]}, {"labels": [1, 2]},
     {"temperature": 0}, {"temperature": 1e-300}, {"temperature": 10**400},
     {"temperature": "1"}, {"outputs": {}}, {"outputs": {"logits": -1}},
     {"input": {"dtype": "int8", "shape": [1, 128, 128, 1]}}, {"input": None},
     {"input": {"dtype": "uint8", "shape": [1, 64, 64, 1]}}, {"thresholds": {"x": 0.5}},
     {"thresholds": {"a": 7}}, {"quantization": {}}, {"metrics": [3]}, {"graph_sha256": "00"}],
)  # fmt: skip
def test_impossible_metadata_is_refused(change: dict) -> None:
    shape = json.loads(replace(INFO, graph_sha256="0" * 64).to_json())
    assert ModelInfo.from_json(json.dumps(shape)).labels == ("a", "b")
    with pytest.raises(ModelError):
        ModelInfo.from_json(json.dumps(shape | change))


def test_missing_fields_and_unknown_fields() -> None:
    shape = json.loads(replace(INFO, graph_sha256="0" * 64).to_json())
    ModelInfo.from_json(json.dumps(shape | {"of the future": 1}))
    for name in ("labels", "preprocess", "input", "outputs", "quantization", "name"):
        with pytest.raises(ModelError):
            ModelInfo.from_json(json.dumps({k: v for k, v in shape.items() if k != name}))
    for text in ("", "[]", "3", "{", "[" * 100_000):
        with pytest.raises(ModelError):
            ModelInfo.from_json(text)


def test_bundled_model_says_what_it_is() -> None:
    file = read_model()
    assert bundled_model().stat().st_size <= 500_000
    assert file.info.labels == ("glioma", "meningioma", "notumor", "pituitary")
    assert file.info.scheme == "int8"
    assert "not for diagnosis" in file.info.intended_use
    assert [figure["protocol"] for figure in file.info.metrics] == ["grouped", "grouped, per study"]
    for figure in file.info.metrics:
        assert figure["interval95"][0] < figure["accuracy"] <= figure["interval95"][1]
    assert set(file.info.thresholds or {}) == set(file.info.labels)
    assert file.info.unfamiliar is not None


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "no.tflite")
