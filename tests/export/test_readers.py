"""Readers that are not ours open the files: each test runs the real tool.

Of the two programs that measure a .tflite, LiteRT's package has the one of its own,
`litert-benchmark`; the older `benchmark_model` is in no package of PyPI or Debian.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.load import bundled_model, read_model
from export.formats import FORMATS
from trainer.run import Run
from trainer.synthetic.phantoms import CLASSES, draw_phantom

TFLITE = [name for name, form in FORMATS.items() if form.kind == "tflite"]
ONNX = [name for name, form in FORMATS.items() if form.kind == "onnx"]
BENCHMARK = Path(sys.executable).parent / "litert-benchmark"


@pytest.fixture(scope="module")
def slices(tiny_run: Run) -> np.ndarray:
    """Eight drawn slices as a graph takes them, 8×32×32."""
    pictures = [draw_phantom(CLASSES[i % 4], np.random.default_rng([9, i])) for i in range(8)]
    return np.stack([preprocess(picture, tiny_run.preprocess) for picture in pictures])


def answers(interpreter, pixels: np.ndarray) -> list[np.ndarray]:
    """What a TFLite interpreter gives for one slice, its outputs in their order."""
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], pixels[None, ..., None].astype(entry["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


@pytest.mark.parametrize("name", TFLITE)
def test_tensorflow_reads_the_whole_file(
    files: dict[str, Path], slices: np.ndarray, name: str
) -> None:
    """Zip and all, from its path; and it says what it says of the graph without the zip."""
    import tensorflow as tf

    whole = tf.lite.Interpreter(model_path=str(files[name]))
    bare = tf.lite.Interpreter(model_content=read_model(files[name]).graph)
    assert list(whole.get_signature_list()) == ["serving_default"]
    for pixels in slices:
        for one, two in zip(answers(whole, pixels), answers(bare, pixels), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", [*TFLITE, "bundled"])
def test_litert_measures_the_file(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    model = bundled_model() if name == "bundled" else files[name]
    result = tmp_path / "result.json"
    done = subprocess.run(
        [BENCHMARK, "--model", model, "--num_runs", "3", "--warmup_runs", "1",
         "--result_json", result],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reported = json.loads(result.read_text())
    assert reported["signature"] == "serving_default"
    assert reported["latency"]["num_runs"] == 3
    assert reported["latency"]["min_ms"] > 0


@pytest.mark.parametrize("name", TFLITE)
def test_litert_compiles_the_file(
    files: dict[str, Path], slices: np.ndarray, tmp_path: Path, name: str
) -> None:
    """LiteRT's newer interface, which is not an interpreter, gives the same logits."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.interpreter import Interpreter

    key = "serving_default"
    plain = Interpreter(model_path=str(files[name]))
    model = CompiledModel.from_file(str(files[name]))
    (entry,) = plain.get_input_details()
    (inside,) = model.get_signature_list()[key]["inputs"]
    given = model.create_input_buffer_by_name(key, inside)
    taken = {
        out: model.create_output_buffer_by_name(key, out)
        for out in model.get_signature_list()[key]["outputs"]
    }
    for pixels in slices:
        expected = answers(plain, pixels)[read_model(files[name]).info.outputs["logits"]].ravel()
        given.write(np.ascontiguousarray(pixels[None, ..., None].astype(entry["dtype"])))
        model.run_by_name(key, {inside: given}, taken)
        got = taken["output_0"].read(expected.size, expected.dtype.type)
        step = 1 if expected.dtype.kind == "i" else 1e-3
        np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=step, rtol=0)


@pytest.mark.parametrize("name", TFLITE)
def test_labels_are_an_associated_file(files: dict[str, Path], name: str) -> None:
    """As the TFLite Metadata convention has it: a zip behind the flatbuffer, `labels.txt` in it,
    a label a line in the order of the logits."""
    data = files[name].read_bytes()
    with zipfile.ZipFile(files[name]) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "labels.txt"
        assert archive.read("labels.txt").decode().splitlines() == list(CLASSES)
        start = min(member.header_offset for member in archive.infolist())
    assert data[4:8] == b"TFL3"
    assert data[start : start + 4] == b"PK\3\4"
    assert data[:start] == read_model(files[name]).graph


@pytest.mark.parametrize("name", ONNX)
def test_onnx_checks_and_infers(files: dict[str, Path], name: str) -> None:
    import onnx

    onnx.checker.check_model(str(files[name]), full_check=True)
    proto = onnx.load(files[name])
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    }
    assert shapes["pixels"] == [1, 32, 32, 1]
    assert shapes["logits"] == [1, 4]
    made = {value for node in inferred.graph.node for value in node.output}
    assert made <= shapes.keys()
    assert all(0 not in shapes[value] for value in made), "no axis without a size"


@pytest.mark.parametrize("name", ONNX)
def test_onnx_runtime_reads_the_metadata(files: dict[str, Path], name: str) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(files[name], providers=["CPUExecutionProvider"])
    reported = session.get_modelmeta().custom_metadata_map
    assert json.loads(reported["model.json"])["labels"] == list(CLASSES)


def test_opencv_says_what_onnx_runtime_says(files: dict[str, Path], slices: np.ndarray) -> None:
    import cv2
    import onnxruntime

    session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    net = cv2.dnn.readNetFromONNX(np.frombuffer(files["onnx"].read_bytes(), np.uint8))
    for pixels in slices:
        feed = pixels[None, ..., None].astype(np.float32)
        net.setInput(feed, "pixels")
        for name, expected in zip(names, session.run(names, {"pixels": feed}), strict=True):
            got = net.forward(name)
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, atol=1e-3)
