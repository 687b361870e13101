"""Logits and predictions of a Keras model or of a model file, for a whole data set."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import write_text
from edge_runtime.model_file import ModelFile

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Dataset, Progress


def logits_of(
    model: keras.Model, images: npt.NDArray[np.uint8], batch_size: int = 128
) -> npt.NDArray[np.float32]:
    """Logits (N×C) of a network that ends in the layer `softmax`, for uint8 images of N×S×S."""
    import keras

    cut = keras.Model(model.inputs, model.get_layer("softmax").input)
    pixels = images[..., None].astype(np.float32)
    return np.asarray(cut.predict(pixels, batch_size=batch_size, verbose=0), dtype=np.float32)


def file_logits(
    model: ModelFile,
    images: npt.NDArray[np.uint8],
    *,
    backend: str = "auto",
    threads: int = 1,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Logits (N×C) of a model file, image by image, as a device computes them."""
    from edge_runtime.interpreters import open_graph

    graph = open_graph(model, backend, threads)
    rows = []
    for done, image in enumerate(images, 1):
        rows.append(graph.run(image))
        if progress is not None:
            progress(done, len(images))
    return np.stack(rows).astype(np.float32)


def softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities (N×C) of logits divided by a temperature."""
    from scipy.special import softmax as scipy_softmax

    probabilities: npt.NDArray[np.float64] = scipy_softmax(
        logits.astype(np.float64) / temperature, axis=1
    )
    return probabilities


def write_predictions(
    path: str | os.PathLike[str], data: Dataset, probabilities: npt.NDArray[np.float64]
) -> None:
    """One row per slice: path, group, source, label, predicted, confidence, p_<label>…"""
    names = data.class_names
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["path", "group", "source", "label", "predicted", "confidence", *(f"p_{n}" for n in names)]
    )
    for i, row in enumerate(probabilities):
        best = int(row.argmax())
        writer.writerow(
            [
                data.paths[i],
                data.groups[i],
                data.sources[i],
                names[int(data.labels[i])],
                names[best],
                f"{row[best]:.6f}",
                *(f"{p:.6f}" for p in row),
            ]
        )
    write_text(Path(path), out.getvalue())
