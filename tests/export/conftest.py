from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.imaging.preprocess import Preprocess, preprocess
from export.exporter import Exporter, ExportSettings
from export.formats import FORMATS
from trainer.evaluation.temperature import fit_temperature
from trainer.models.outputs import predictor
from trainer.run import SCHEMA, Run, dump_json
from trainer.synthetic.phantoms import CLASSES, draw_phantom


def _tiny_network() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(x))
    x = layers.Conv2D(4, 1, name="class_maps")(x)
    x = layers.GlobalAveragePooling2D(name="logits")(x)
    return keras.Model(inputs, layers.Softmax(name="softmax")(x))


def _fit_tiny(pixels: np.ndarray, labels: np.ndarray) -> Any:
    """The tiny network, fitted in doubles: in floats the same seed ends elsewhere on another
    processor, since it adds in another order and the steps of a training magnify that."""
    import keras

    keras.config.set_dtype_policy("float64")
    try:
        doubles = _tiny_network()
        # Smoothed labels keep the logits small, as those of a network that meets real data are.
        doubles.compile(
            keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(label_smoothing=0.2)
        )
        truth = np.eye(4)[labels]
        doubles.fit(pixels[..., None].astype("float64"), truth, epochs=45, batch_size=24, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    model = _tiny_network()
    model.set_weights(doubles.get_weights())
    return model


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run of a tiny network, fitted for a few seconds so that its logits differ.

    Every tenth label of its validation side is another: right on all of so few slices, the network
    would get the lowest temperature there is, and a step of a format would, here and there, be half
    of a probability.
    """
    options = Preprocess(size=32)
    labels = np.arange(240) % 4
    pixels = np.stack(
        [
            preprocess(draw_phantom(CLASSES[c], np.random.default_rng([7, i])), options)
            for i, c in enumerate(labels)
        ]
    )
    model = _fit_tiny(pixels, labels)
    labels[120::10] = (labels[120::10] + 1) % 4
    temperature = fit_temperature(predictor(model)(pixels[120:]).logits, labels[120:])
    folder = tmp_path_factory.mktemp("run")
    run = Run(
        folder,
        {
            "schema": SCHEMA, "status": "finished", "name": "tiny", "model": "cnn",
            "network": "tiny", "seed": 1, "created": "2026-01-01T00:00:00Z",
            "labels": list(CLASSES), "temperature": temperature, "max_error": 0.02,
            "preprocess": options.to_json(), "source_commit": None,
            "data": {"sha256": "0" * 64, "images": 240, "groups": None},
        },
    )  # fmt: skip
    run.save_settings()
    run.save_model(model)
    save_images(folder / "calibration.npz", pixels[:120], labels[:120])
    save_images(folder / "validation.npz", pixels[120:], labels[120:])
    metrics = {"protocol": "grouped", "split": "test", "n": 3, "accuracy": 1.0,
               "balanced_accuracy": 1.0, "interval95": {"accuracy": [1.0, 1.0]},
               "per_class": {}}  # fmt: skip
    (folder / "metrics.json").write_text(dump_json(metrics))
    return run


def save_images(path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    groups = np.array([f"g{i // 3}" for i in range(len(labels))])
    sources = np.array(["a" if i % 3 else "b" for i in range(len(labels))])
    np.savez_compressed(path, pixels=pixels, labels=labels, groups=groups, sources=sources)


@pytest.fixture(scope="session")
def files(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny run in every format, name -> path."""
    exporter = Exporter(tiny_run, ExportSettings(tmp_path_factory.mktemp("files"), "tiny"))
    return {name: exporter.export(form).path for name, form in FORMATS.items()}
