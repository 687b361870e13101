"""What a Keras model or a model file makes of a whole set of slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError
from edge_runtime.model.file_format import ModelFile

if TYPE_CHECKING:
    import keras

    from trainer.data.dataset import Progress

Floats = npt.NDArray[np.float32]
BATCH = 128


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a network for N slices.

    Attributes:
        logits: N×C, finite.
        features: N×F, the penultimate features; None where the network gives none.
        class_maps: N×H×W×C; None where the network has no map per class.
    """

    logits: Floats
    features: Floats | None = None
    class_maps: Floats | None = None

    def __post_init__(self) -> None:
        """Raises ModelError for logits that are no finite numbers: no figure could tell of them,
        since each comparison with one is false."""
        lost = int((~np.isfinite(self.logits).all(axis=1)).sum())
        if lost:
            raise ModelError(
                f"the model gives no finite numbers for {lost} of {len(self.logits)} slices"
            )


def predictor(model: keras.Model) -> Callable[[npt.NDArray[np.uint8]], ModelOutputs]:
    """A function that runs a network which ends in the layer `softmax` on uint8 images of N×S×S."""
    import keras

    outputs = network_outputs(model)
    cut = keras.Model(model.inputs, list(outputs.values()))  # once: each is traced anew

    def look(images: npt.NDArray[np.uint8]) -> ModelOutputs:
        pixels = images[..., None].astype(np.float32)
        answers = cut.predict(pixels, batch_size=BATCH, verbose=0)
        named = zip(outputs, answers, strict=True)
        return ModelOutputs(**{name: np.asarray(values, np.float32) for name, values in named})

    return look


def network_outputs(model: keras.Model) -> dict[str, Any]:
    """The tensors that a network gives away: `logits`, `features`, and `class_maps` where it has
    a map per class. Features are what the last layer with weights sees, averaged over places."""
    import keras

    layers = {layer.name: layer for layer in model.layers}
    outputs = {"logits": layers["softmax"].input}
    if "class_maps" in layers:
        pooled = keras.layers.GlobalAveragePooling2D(name="features")
        return outputs | {
            "features": pooled(layers["class_maps"].input),
            "class_maps": layers["class_maps"].output,
        }
    return outputs | {"features": layers["logits"].input}


def predict_file(
    model: ModelFile,
    images: npt.NDArray[np.uint8],
    *,
    backend: str = "auto",
    threads: int = 1,
    progress: Progress | None = None,
) -> ModelOutputs:
    """Run a model file image by image, as a device does."""
    from edge_runtime.model.backends import open_graph

    graph = open_graph(model, backend, threads)
    rows: dict[str, list[Any]] = {"logits": [], "features": [], "class_maps": []}
    for done, image in enumerate(images, 1):
        rows["logits"].append(graph.run(image))
        rows["features"].append(graph.features())
        rows["class_maps"].append(graph.class_maps())
        if progress is not None:
            progress(done, len(images))

    def stacked(name: str) -> Floats | None:
        values = rows[name]
        return np.stack(values).astype(np.float32) if values and values[0] is not None else None

    return ModelOutputs(
        np.stack(rows["logits"]).astype(np.float32), stacked("features"), stacked("class_maps")
    )


def softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities (N×C) of logits divided by a temperature."""
    from scipy.special import softmax as scipy_softmax

    probabilities: npt.NDArray[np.float64] = scipy_softmax(
        logits.astype(np.float64) / temperature, axis=1
    )
    return probabilities
