"""No file answers otherwise on another processor, and the gate knows where one would."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxruntime.quantization
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processors import (
    NEEDS_AVX,
    OPENCV,
    PLAIN,
    PROCESSORS,
    RUNTIMES,
    Job,
    answers,
    as_markdown,
    compare,
    emulator,
)
from edge_runtime.errors import UsageError
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.load import read_model
from export.exporter import Exporter, ExportSettings
from export.formats import FORMATS
from export.gate import run_gate
from export.onnx.network import quantize_onnx
from export.onnx.saturation import differs_by_processor, saturating
from trainer.run import Run

TOOL = Path(sys.executable).parent / "btc-export"
needs_emulator = pytest.mark.skipif(
    emulator() is None, reason="no qemu-x86_64 on this machine (apt-get install qemu-user)"
)


def dense(weights: np.ndarray) -> bytes:
    """A graph with one quantised matrix product: pixels (1×2) to logits (1×1)."""
    constants = {
        "step": np.float32(1), "zero": np.int8(0), "weight": weights, "flat": np.zeros(2, np.int8)
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["pixels", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weight", "step", "zero"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "step", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "step", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "dense",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def test_two_large_weights_are_found() -> None:
    """64 + 64 is the most: 255 · 128 = 32640 fits in 16 bits, 255 · 129 does not."""
    assert saturating(dense(np.array([[64], [-64]], np.int8))) == []
    assert saturating(dense(np.array([[65], [-64]], np.int8))) == ["weight (two weights reach 129)"]
    assert saturating(dense(np.array([[-128], [0]], np.int8))) == []
    assert saturating(dense(np.array([[-128], [1]], np.int8))) != []
    assert saturating(dense(np.array([[255], [255]], np.uint8))) == []
    words = differs_by_processor(dense(np.array([[127], [127]], np.int8)))
    assert words is not None
    assert "depend on the processor" in words
    assert "weight (two weights reach 254)" in words


def test_weights_that_are_no_initialisers_are_found() -> None:
    model = onnx.load_from_string(dense(np.array([[127], [127]], np.int8)))
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    assert saturating(model.SerializeToString()) == ["weight (two weights reach 254)"]


@pytest.fixture(scope="module")
def eight_bits(tiny_run: Run, files: dict[str, Path]) -> ModelFile:
    """The tiny run's onnx-int8 as it was made before: weights of all eight bits."""
    real = onnxruntime.quantization.quantize_static
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            onnxruntime.quantization,
            "quantize_static",
            lambda *words, **options: real(*words, **options | {"reduce_range": False}),
        )
        graph = quantize_onnx(
            read_model(files["onnx"]).graph, tiny_run.calibration_images().pixels[:64]
        )
    info = read_model(files["onnx-int8"]).info
    return parse_model(pack_model(graph, replace(info, thresholds=None), "onnx"))


def test_the_gate_rejects_weights_of_eight_bits(
    tiny_run: Run, files: dict[str, Path], eight_bits: ModelFile, tmp_path: Path
) -> None:
    """Wherever the gate runs: on a processor with VNNI the measured figures are all good."""
    reference = Exporter(tiny_run, ExportSettings(tmp_path, "tiny")).reference
    tolerance = FORMATS["onnx-int8"].tolerance
    validation = tiny_run.validation_images()
    bad = run_gate(eight_bits, validation, reference, tolerance)
    assert not bad.passed
    assert "its answers depend on the processor" in bad.failures[-1]
    assert run_gate(read_model(files["onnx-int8"]), validation, reference, tolerance).passed


def test_verify_refuses_weights_of_eight_bits(eight_bits: ModelFile, tmp_path: Path) -> None:
    path = tmp_path / "old-onnx-int8.onnx"
    path.write_bytes(pack_model(eight_bits.graph, eight_bits.info, "onnx"))
    done = subprocess.run([TOOL, "--verify", path], capture_output=True, text=True)
    assert done.returncode == 3
    assert "depend on the processor" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_device_asks_for_exact_products(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = onnxruntime.InferenceSession

    def spy(graph: bytes, options: onnxruntime.SessionOptions, **words: object) -> object:
        seen.append(options.get_session_config_entry("session.x64quantprecision"))
        return real(graph, options, **words)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    open_graph(read_model(files["onnx-int8"]))
    assert seen == ["1"]


@needs_emulator
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_format_says_the_same_as_on_another_processor(
    processor: str, files: dict[str, Path], eight_bits: ModelFile, tiny_run: Run, tmp_path: Path
) -> None:
    """In each runtime; the file with weights of eight bits shows that the emulation can tell."""
    old = tmp_path / "old-onnx-int8.onnx"
    old.write_bytes(pack_model(eight_bits.graph, eight_bits.info, "onnx"))
    pixels = tiny_run.validation_images().pixels[:24]
    paths = {**files, "old": old}
    keys = [
        (name, runtime)
        for name, path in paths.items()
        for runtime in RUNTIMES[path.suffix[1:]]
        if runtime not in NEEDS_AVX  # and half a minute to start, emulated
    ]
    jobs = [Job(paths[name], runtime, pixels) for name, runtime in keys]
    both = zip(answers(jobs, None), answers(jobs, processor), strict=True)
    found = {key: compare(*pair, 1.0) for key, pair in zip(keys, both, strict=True)}
    saturated = found.pop(("old", PLAIN))["max_steps"]
    if processor == "Haswell":
        assert saturated > 0.5, "the fault, in logits: the emulation can tell"
    assert found.pop(("old", "onnxruntime"))["max_steps"] == 0, "as the device opens it"
    for (name, runtime), row in found.items():
        if (name, runtime) in {("onnx-int8", OPENCV), ("old", OPENCV)}:
            continue  # not promised: its kernels for VNNI are wrong on some shapes
        assert row["differ"] == 0, (name, runtime)
        # Integers are the same; floats are added in another order. Where those are rounded to
        # integers while the graph runs, one on an edge may fall to the next step.
        bound = 0.0 if "int8" in name else {"dynamic": 0.02}.get(name, 1e-3)
        assert row["max_steps"] <= bound, (name, runtime)


def test_the_benchmark_counts_labels_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    here = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]], np.float32)
    there = here + np.array([[0.5, 0.0], [-3.0, 0.0], [0.0, 0.0]], np.float32)
    found = compare(here, there, 0.5)
    assert found == {"same": 2, "differ": 1, "max_steps": 6.0}
    row = {"file": "a.onnx", "runtime": PLAIN, "processor": "Haswell"} | found
    table = as_markdown({"n": 3, "features": "avx2", "rows": [row]})
    assert f"| a.onnx | {PLAIN} | Haswell (AVX2) | 2 | 1 | 6.00 steps |" in table
    monkeypatch.setattr("benchmarks.processors.emulator", lambda: None)
    with pytest.raises(UsageError, match="apt-get install qemu-user"):
        answers([], "Haswell")
