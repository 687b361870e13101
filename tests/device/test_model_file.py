from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import Classifier
from edge_runtime.commands.info import _answers
from edge_runtime.errors import ModelError
from edge_runtime.imaging.handcrafted import DEVICE_SETS, extract, names_of
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import pack_model, parse_model
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.metadata import ModelInfo

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
    assert (file.sha256, file.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
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
    [{"schema": 4}, {"schema": 0}, {"schema": None}, {"schema": 2.0}, {"schema": True, "ood": None},
     {"labels": ["a"]}, {"labels": ["a", "a"]}, {"labels": [1, 2]},
     {"temperature": 0}, {"temperature": 1e-300}, {"temperature": 10**400},
     {"temperature": "1"}, {"outputs": {}}, {"outputs": {"logits": -1}},
     {"input": {"dtype": "int8", "shape": [1, 128, 128, 1]}}, {"input": None},
     {"input": {"dtype": "uint8", "shape": [1, 64, 64, 1]}}, {"thresholds": {"x": 0.5}},
     {"thresholds": {"a": 7}}, {"thresholds": {"a": float("nan")}},
     {"target_error": {"x": 0.1}},
     {"target_error": {"a": -1}},
     {"error_bound": {"a": "1"}}, {"confidence": 1.5},
     {"confidence": float("nan")}, {"max_error": float("nan")}, {"max_error": "2"},
     {"quantization": {}}, {"metrics": [3]}, {"graph_sha256": "00"},
     {"pooling": "log-sum-exp"}, {"outputs": {"class_maps": 0}},
     {"pooling": "log-sum-exp", "outputs": {"features": 0}},
     {"pooling": "log-sum-exp", "outputs": {"class_maps": 8}},
     {"pooling": "log-sum-exp", "outputs": {"class_maps": 0, "logits": 1}},
     {"pooling": ["log-sum-exp"], "outputs": {"class_maps": 0}},
     {"pooling": 1, "outputs": {"class_maps": 0}},
     {"schema": "4" * 10**5}, {"schema": [3] * 10**5},
     {"pooling": "x" * 10**5, "outputs": {"class_maps": 0}}],
)  # fmt: skip
def test_impossible_metadata_is_refused(change: dict) -> None:
    shape = json.loads(replace(INFO, graph_sha256="0" * 64).to_json())
    assert ModelInfo.from_json(json.dumps(shape)).labels == ("a", "b")
    with pytest.raises(ModelError) as caught:
        ModelInfo.from_json(json.dumps(shape | change))
    assert len(str(caught.value)) < 300, "one line that can be read"


def test_targets_are_kept_and_an_older_file_has_one_error_rate() -> None:
    info = replace(INFO, thresholds={"a": 0.5, "b": 1.0}, target_error={"a": 0.02, "b": 0.005},
                   confidence=0.9, error_bound={"a": 0.015}, max_error=0.02)  # fmt: skip
    back = parse_model(pack_model(GRAPHS["tflite"], info, "tflite")).info
    assert (back.target_error, back.confidence) == ({"a": 0.02, "b": 0.005}, 0.9)
    assert (back.error_bound, back.max_error) == ({"a": 0.015}, 0.02)
    text = _answers(back)
    assert "a from 0.500 (up to 2 % wrong), b never, each with 90 % confidence" in text
    shape = json.loads(replace(info, graph_sha256="0" * 64).to_json())
    older = {k: v for k, v in shape.items()
             if k not in ("target_error", "confidence", "error_bound")}  # fmt: skip
    old = ModelInfo.from_json(json.dumps(older))
    assert (old.max_error, old.target_error, old.confidence) == (0.02, None, None)
    assert "chosen for 2.0 % errors seen on validation" in _answers(old)


def test_the_check_for_out_of_distribution_inputs_had_another_name() -> None:
    """A version that knows schema 1 only would not see `ood`, and must refuse the file."""
    info = replace(INFO, outputs={"logits": 0, "features": 1}, ood={"method": "some"},
                   graph_sha256="0" * 64)  # fmt: skip
    shape = json.loads(info.to_json())
    assert (shape["schema"], "unfamiliar" in shape) == (2, False)
    former = {k: v for k, v in shape.items() if k != "ood"}
    former |= {"schema": 1, "unfamiliar": shape["ood"]}
    read = ModelInfo.from_json(json.dumps(former))
    assert (read.schema, read.ood) == (1, info.ood)
    assert ModelInfo.from_json(read.to_json()) == info, "written in today's schema"
    assert ModelInfo.from_json(json.dumps(former | {"unfamiliar": None})).ood is None
    with pytest.raises(ModelError, match="ood"):
        ModelInfo.from_json(json.dumps(former | {"unfamiliar": 3}))
    with pytest.raises(ModelError, match="reads 1 to 3: update btc-edge"):
        ModelInfo.from_json(json.dumps(shape | {"schema": 4}))


def test_class_maps_stand_for_logits_where_a_pooling_is_named() -> None:
    info = replace(INFO, outputs={"class_maps": 1, "features": 0}, pooling="log-sum-exp",
                   graph_sha256="0" * 64)  # fmt: skip
    shape = json.loads(info.to_json())
    assert (shape["schema"], shape["pooling"]) == (3, "log-sum-exp")
    assert ModelInfo.from_json(json.dumps(shape)) == replace(info, schema=3)
    with pytest.raises(ModelError, match=r"by 'softest', which this version .* update btc-edge"):
        ModelInfo.from_json(json.dumps(shape | {"pooling": "softest"}))
    with pytest.raises(ModelError, match="pooling beside logits"):
        ModelInfo.from_json(json.dumps(shape | {"outputs": {"class_maps": 1, "logits": 0}}))
    for lost in ({"outputs": {"features": 0}}, {"pooling": None}):
        with pytest.raises(ModelError, match="outputs"):
            ModelInfo.from_json(json.dumps(shape | lost))


def test_a_file_of_schema_2_reads_as_it_did() -> None:
    shape = json.loads(replace(INFO, graph_sha256="0" * 64).to_json())
    assert (shape["schema"], "pooling" in shape) == (2, False)
    read = ModelInfo.from_json(json.dumps(shape))
    assert (read.schema, read.pooling, read.view) == (2, None, None)
    assert replace(read, schema=3) == ModelInfo.from_json(json.dumps(shape | {"schema": 3}))


def test_a_view_takes_a_schema_that_older_versions_refuse() -> None:
    """They would answer what the model withholds; a file without one stays readable for them."""
    bare = replace(INFO, outputs={"logits": 0, "features": 1}, graph_sha256="0" * 64)
    shape = json.loads(bare.to_json())
    assert (shape["schema"], "view" in shape) == (2, False)
    info = replace(bare, view={"method": "some"})
    shape = json.loads(info.to_json())
    assert (shape["schema"], shape["view"]) == (3, {"method": "some"})
    read = ModelInfo.from_json(json.dumps(shape))
    assert read == replace(info, schema=3)
    assert ModelInfo.from_json(read.to_json()) == read
    assert ModelInfo.from_json(json.dumps(shape | {"view": None})).view is None
    for former in (1, 2):
        with pytest.raises(ModelError, match="'view', which came with schema 3"):
            ModelInfo.from_json(json.dumps(shape | {"schema": former}))
    former_check = {"unfamiliar": {"method": "some"}, "ood": None}
    with pytest.raises(ModelError, match="ood"):
        ModelInfo.from_json(json.dumps(shape | former_check))
    for wrong in ({"view": {}}, {"view": 3}, {"view": [1]}, {"outputs": {"logits": 0}}):
        with pytest.raises(ModelError, match="impossible value: view"):
            ModelInfo.from_json(json.dumps(shape | wrong))


def test_no_check_is_lost_under_the_other_name() -> None:
    info = replace(INFO, outputs={"logits": 0, "features": 1}, ood={"method": "some"},
                   graph_sha256="0" * 64)  # fmt: skip
    shape = json.loads(info.to_json())
    bare = {key: value for key, value in shape.items() if key != "ood"}
    for wrong in (
        bare | {"schema": 2, "unfamiliar": shape["ood"]},
        shape | {"schema": 2, "unfamiliar": shape["ood"], "ood": None},
        bare | {"schema": 2, "unfamiliar": {}},
        shape | {"schema": 1},
        shape | {"ood": {}},
        bare | {"schema": 1, "unfamiliar": {}},
    ):
        with pytest.raises(ModelError, match="ood"):
            ModelInfo.from_json(json.dumps(wrong))


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
    assert bundled_model().stat().st_size <= 320_000
    assert len(file.graph) <= 300_000
    assert file.info.labels == ("glioma", "meningioma", "notumor", "pituitary")
    assert file.info.scheme == "int8"
    assert "not for diagnosis" in file.info.intended_use
    assert [metric["protocol"] for metric in file.info.metrics] == ["grouped", "grouped, per study"]
    for metric in file.info.metrics:
        assert metric["interval95"][0] < metric["accuracy"] <= metric["interval95"][1]
    assert set(file.info.thresholds or {}) == set(file.info.labels)
    assert file.info.confidence == 0.9
    for label, bound in (file.info.error_bound or {}).items():
        assert bound <= (file.info.target_error or {})[label]
    assert (file.info.thresholds or {})["notumor"] > 0.5, "no answer without a guard"
    assert file.info.version == "2026.11.26+665a73dc"
    assert file.info.ood is not None


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_model(tmp_path / "no.tflite")


HISTOGRAM = len(names_of(["histogram"], 128))


def with_features(features: object, shape: list[int], dtype: str = "float32") -> str:
    """Metadata of a model that takes features, as JSON."""
    whole = json.loads(replace(INFO, graph_sha256="0" * 64).to_json())
    return json.dumps(
        whole | {"features": features, "input": {"dtype": dtype, "shape": shape, "range": None}}
    )


def test_features_go_round() -> None:
    for sets in (["histogram"], list(DEVICE_SETS), ["hog", "glcm"]):
        length = len(names_of(sets, 128))
        features = {"sets": sets, "length": length}
        info = ModelInfo.from_json(with_features(features, [1, length]))
        assert info.features == features
        assert ModelInfo.from_json(info.to_json()) == info
    assert ModelInfo.from_json(replace(INFO, graph_sha256="0" * 64).to_json()).features is None


@pytest.mark.parametrize(
    "features",
    [{}, [], 3, "histogram", True, ["histogram"], {"sets": ["histogram"]}, {"length": HISTOGRAM},
     {"sets": [], "length": 0}, {"sets": "histogram", "length": HISTOGRAM},
     {"sets": {"histogram": 1}, "length": HISTOGRAM}, {"sets": [1], "length": HISTOGRAM},
     {"sets": [["histogram"]], "length": HISTOGRAM}, {"sets": [None], "length": HISTOGRAM},
     {"sets": ["histogram", "histogram"], "length": 2 * HISTOGRAM},
     {"sets": ["histogram"] * 100_000, "length": HISTOGRAM},
     {"sets": ["histogram"], "length": HISTOGRAM + 1}, {"sets": ["histogram"], "length": True},
     {"sets": ["histogram"], "length": float(HISTOGRAM)}, {"sets": ["histogram"], "length": None},
     {"sets": ["histogram"], "length": str(HISTOGRAM)}, {"sets": ["histogram"], "length": -1},
     {"sets": ["histogram"], "length": 10**400}, {"sets": ["histogram"], "length": [HISTOGRAM]}],
)  # fmt: skip
def test_impossible_features_are_refused(features: object) -> None:
    with pytest.raises(ModelError):
        ModelInfo.from_json(with_features(features, [1, HISTOGRAM]))


@pytest.mark.parametrize("name", ["gabor", "", "\x1b[31m", "x" * 100_000])
def test_unknown_features_ask_for_an_update(name: str) -> None:
    features = {"sets": ["histogram", name], "length": HISTOGRAM}
    with pytest.raises(ModelError, match="this version cannot compute: update btc-edge") as caught:
        ModelInfo.from_json(with_features(features, [1, HISTOGRAM]))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [([1, 128, 128, 1], "float32"), ([1, HISTOGRAM], "uint8"), ([2, HISTOGRAM], "float32"),
     ([HISTOGRAM], "float32"), ([1, HISTOGRAM, 1], "float32"), ([1, 10**9], "float32"),
     ([1, None], "float32")],
)  # fmt: skip
def test_features_want_an_input_of_their_own(shape: list[int], dtype: str) -> None:
    features = {"sets": ["histogram"], "length": HISTOGRAM}
    assert ModelInfo.from_json(with_features(features, [1, HISTOGRAM])).features == features
    with pytest.raises(ModelError):
        ModelInfo.from_json(with_features(features, shape, dtype))


def field(number: int, content: int | str | bytes) -> bytes:
    """One protobuf field."""

    def varint(value: int) -> bytes:
        small = value & 0x7F
        return bytes([small | 0x80]) + varint(value >> 7) if value >> 7 else bytes([small])

    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_metadata_have_a_limit(kind: str) -> None:
    data = pack_model(GRAPHS[kind], replace(INFO, license="x" * (5 << 20)), kind)
    with pytest.raises(ModelError, match="metadata larger than any model's"):
        parse_model(data)


def linear_onnx(weights: np.ndarray) -> bytes:
    """An ONNX graph that multiplies `features` (1×F) by weights (F×C), written by hand."""

    def value(name: str, n: int) -> bytes:
        shape = b"".join(field(1, field(1, size)) for size in (1, n))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, "features") + field(1, "weights") + field(2, "logits") + field(4, "MatMul")
    rows, columns = weights.shape
    tensor = field(1, rows) + field(1, columns) + field(2, 1) + field(8, "weights")
    tensor += field(9, struct.pack(f"<{weights.size}f", *weights.ravel()))
    graph = field(1, node) + field(2, "linear") + field(5, tensor)
    graph += field(11, value("features", rows)) + field(12, value("logits", columns))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def test_a_graph_is_fed_the_features_of_the_slice(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(HISTOGRAM, 2)).astype(np.float32)
    features = {"sets": ["histogram"], "length": HISTOGRAM}
    info = ModelInfo.from_json(with_features(features, [1, HISTOGRAM]))
    path = tmp_path / "linear.onnx"
    path.write_bytes(pack_model(linear_onnx(weights), info, "onnx"))
    file = read_model(path)
    graph = open_graph(file)
    for _ in range(3):
        pixels = rng.integers(0, 256, (128, 128), np.uint8)
        expected = extract(pixels, ["histogram"]) @ weights
        np.testing.assert_allclose(graph.run(pixels), expected, atol=1e-4)
        graph.enter(pixels)
        np.testing.assert_allclose(graph.answer(), expected, atol=1e-4)
    assert Classifier(file).classify(pixels).raw_label == "ab"[int(expected.argmax())]

    other = linear_onnx(weights[1:])
    with pytest.raises(ModelError, match="input is not what its metadata says"):
        open_graph(parse_model(pack_model(other, info, "onnx")))
