"""A network that pools its class maps by exponentials: graphs of floats do it, those of integers
leave it to the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.load import read_model
from edge_runtime.verify import verify_file as verify_as_a_device
from export.exporter import Exporter, ExportSettings
from export.formats import FORMATS
from export.graph import pooling_of
from export.tflite.c_array import c_files
from export.verify import verify_file
from trainer.models.networks import _log_mean_exp, build_network
from trainer.models.outputs import predictor
from trainer.run import SCHEMA, Run
from trainer.synthetic.phantoms import CLASSES, draw_phantom

from .conftest import save_images

SIZE = 32


@pytest.fixture(scope="module")
def network() -> Any:
    """A tiny one that ends as `edge` does; its maps are spread as those of a trained one. Wide
    enough for `dynamic`: the converter leaves kernels of fewer than 1024 values as they are."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIZE, SIZE, 1), name="pixels")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.ReLU(6.0)(keras.layers.Conv2D(40, 3, 4, padding="same")(x))
    maps = keras.layers.Conv2D(4, 3, 2, padding="same", name="class_maps")
    outputs = keras.layers.Softmax(name="softmax")(_log_mean_exp(maps(x)))
    maps.set_weights([maps.get_weights()[0] * 10, np.zeros(4)])
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module")
def run(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options, labels = Preprocess(size=SIZE), np.arange(24) % 4
    draws = (draw_phantom(CLASSES[c], np.random.default_rng([9, i])) for i, c in enumerate(labels))
    pixels = np.stack([preprocess(draw, options) for draw in draws])
    folder = tmp_path_factory.mktemp("pooled")
    run = Run(
        folder,
        {
            "schema": SCHEMA, "status": "finished", "name": "pooled", "model": "cnn",
            "network": "edge", "seed": 1, "created": "2026-01-01T00:00:00Z",
            "labels": list(CLASSES), "temperature": 1.0, "max_error": 0.02,
            "preprocess": options.to_json(), "source_commit": None,
            "data": {"sha256": "0" * 64, "images": 24, "groups": None},
        },
    )  # fmt: skip
    run.save_settings()
    run.save_model(network)
    save_images(folder / "calibration.npz", pixels, labels)
    save_images(folder / "validation.npz", pixels, labels)
    (folder / "metrics.json").write_text(
        '{"protocol": "grouped", "split": "test", "n": 3, "accuracy": 1.0, "per_class": {},'
        ' "balanced_accuracy": 1.0, "interval95": {"accuracy": [1.0, 1.0]}}'
    )
    return run


@pytest.fixture(scope="module")
def exporter(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    return Exporter(run, ExportSettings(tmp_path_factory.mktemp("pooled_files"), "pooled"))


@pytest.fixture(scope="module")
def packed(run: Run, exporter: Exporter) -> dict[str, ModelFile]:
    pixels = run.calibration_images().pixels
    return {
        name: parse_model(exporter.packed(form, pixels if form.calibrated else None))
        for name, form in FORMATS.items()
    }


def logits_of(file: ModelFile, pixels: np.ndarray) -> np.ndarray:
    graph = open_graph(file)
    return np.stack([graph.run(image) for image in pixels])


def test_only_exponentials_are_left_to_the_device(network: Any) -> None:
    assert pooling_of(network) == "log-sum-exp"
    assert pooling_of(build_network("edge", SIZE, 4, pretrained=False)) == "log-sum-exp"
    assert pooling_of(build_network("classic", SIZE, 4)) is None
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(4, 1, name="class_maps")(inputs)
    mean = keras.layers.GlobalAveragePooling2D(name="logits")(maps)
    assert pooling_of(keras.Model(inputs, keras.layers.Softmax(name="softmax")(mean))) is None


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_answers_as_the_network(
    name: str, network: Any, run: Run, packed: dict[str, ModelFile]
) -> None:
    form, info = FORMATS[name], packed[name].info
    left = form.integers
    assert info.pooling == ("log-sum-exp" if left else None)
    assert set(info.outputs) == {"class_maps", "features", *["logits"] * (not left)}
    pixels = run.validation_images().pixels[:6]
    wanted, seen = predictor(network)(pixels), logits_of(packed[name], pixels)
    spread = float(wanted.class_maps.max() - wanted.class_maps.min())
    near = 1e-4 if form.tolerance == FORMATS["float32"].tolerance else 0.1
    np.testing.assert_allclose(seen, wanted.logits, atol=near * spread)


def test_an_int8_graph_stays_integer_and_is_verified_as_such(
    exporter: Exporter, packed: dict[str, ModelFile], tmp_path: Path
) -> None:
    file = packed["int8"]
    path = tmp_path / "pooled-int8.tflite"
    path.write_bytes(pack_model(file.graph, file.info, "tflite"))
    for verify in (verify_as_a_device, verify_file):
        assert dict(verify(path).findings)["runs"].endswith("4 logits")
    assert "EXP" not in dict(verify_file(path).findings)["ops"]
    (header, _) = c_files(path.read_bytes(), "pooled", 1).values()
    assert "// A class's logit is log(mean(exp(x))) over all cells x of its map," in header
    assert read_model(path).info == file.info


def test_the_pooling_of_a_quantised_onnx_stays_float(packed: dict[str, ModelFile]) -> None:
    nodes = onnx.load_from_string(packed["onnx-int8"].graph).graph.node
    reached, ops = {"class_maps"}, []
    for node in nodes:
        if reached.intersection(node.input):
            reached.update(node.output)
            ops.append(node.op_type)
    assert {"ReduceMax", "Exp", "ReduceSum", "Log"} <= set(ops)
    assert "QuantizeLinear" not in ops
    assert "logits" in reached
    assert any(node.op_type == "QuantizeLinear" for node in nodes)


def test_a_diagnosis_pools_too(exporter: Exporter) -> None:
    found = exporter.diagnose()
    assert found.reference.logit == 0
    assert found.file.logit > 0
    assert [row.name for row in found.layers if row.name == "class_maps"] == ["class_maps"]
    assert found.emulated.logit == pytest.approx(found.file.logit, rel=0.5)
