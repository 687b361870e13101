"""The second way to int8: the same graph and images, another quantiser, the same gate."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime.errors import UsageError
from edge_runtime.model.load import read_model
from export.calibration_images import choose_calibration_images
from export.commands.export import command
from export.exporter import Exported, Exporter, ExportSettings
from export.formats import AI_EDGE, FORMATS
from export.tflite.ai_edge import LARGEST_BIAS, check_package, quantize_ai_edge
from export.tflite.convert import convert_tflite
from export.tflite.emulate import run_graph
from export.tflite.flatbuffer import read_tflite
from export.verify import verify_file
from trainer.run import Run

needs_quantizer = pytest.mark.skipif(
    find_spec("litert_quantizer") is None,
    reason="needs the package litert-quantizer",
)


@pytest.fixture(scope="module")
def exported(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    settings = ExportSettings(tmp_path_factory.mktemp("ai-edge"), "tiny", quantizer=AI_EDGE)
    return Exporter(tiny_run, settings).export(FORMATS["int8"])


@needs_quantizer
def test_its_file_passes_the_gate_and_is_what_it_says(exported: Exported) -> None:
    assert exported.gate.failures == ()
    assert exported.to_json()["quantizer"] == AI_EDGE
    assert any(what == "scheme" for what, _ in verify_file(exported.path).findings)
    graph = read_tflite(read_model(exported.path).graph)
    assert (graph.scheme, graph.input_types) == ("int8-full", ("UINT8",))
    assert set(graph.output_types) == {"INT8"}


@needs_quantizer
def test_it_keeps_the_layers_of_the_first(exported: Exported, files: dict[str, Path]) -> None:
    assert (
        read_tflite(read_model(exported.path).graph).ops
        == read_tflite(read_model(files["int8"]).graph).ops
    )


@needs_quantizer
def test_the_same_run_gives_the_same_bytes(
    exported: Exported, tiny_run: Run, tmp_path: Path
) -> None:
    again = Exporter(tiny_run, ExportSettings(tmp_path, "tiny", quantizer=AI_EDGE))
    assert again.export(FORMATS["int8"]).sha256 == exported.sha256


def _dead_channel() -> Any:
    """Two channels: one of plain weights, one with next to none and a bias."""
    import keras

    inputs = keras.Input((8, 8, 1), batch_size=1, name="pixels")
    layer = keras.layers.Conv2D(2, 1)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.array([[[[0.01, 1e-9]]]], "float32"), np.array([0.1, 1.5], "float32")])
    return model


@needs_quantizer
def test_a_bias_beside_no_weights_is_kept() -> None:
    floats = convert_tflite(_dead_channel(), "float32")
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8)
    images[0, 0, :2] = 0, 255
    made = quantize_ai_edge(floats, images)
    graph = read_tflite(made)
    (layer,) = (op for op in graph.operators if op.name == "CONV_2D")
    bias = graph.tensors[layer.inputs[2]]
    assert bias.data is not None
    assert np.abs(np.frombuffer(bias.data.tobytes(), "<i4").astype(np.int64)).max() <= LARGEST_BIAS
    (out,) = graph.outputs
    for (value,), image in zip(run_graph(made, images[..., None], [out]), images, strict=True):
        assert value[0, ..., 1] == pytest.approx(1.5, abs=0.02)
        assert value[0, ..., 0] == pytest.approx(image * 0.01 + 0.1, abs=0.03)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_quantizer.quantizer", None)
    with pytest.raises(UsageError, match=r"needs the package litert-quantizer: pip install"):
        check_package()


def test_it_goes_with_int8_only(tiny_run: Run) -> None:
    words = [str(tiny_run.folder), "--float32", "--quantizer", AI_EDGE]
    result = CliRunner().invoke(command, words)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "--quantizer: goes with --int8"


@needs_quantizer
def test_calibration_is_that_of_the_first(exported: Exported, tiny_run: Run) -> None:
    chosen = choose_calibration_images(tiny_run.calibration_images(), 64, 0)
    assert exported.calibration is not None
    assert exported.calibration["images"] == len(chosen)
