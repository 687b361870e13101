"""Running any model on a whole set of slices: a network, a classical model, or a model file.

Each is a function from uint8 slices (N×S×S) to `ModelOutputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.outputs import outputs_of
from trainer.features.extractor import Extractor
from trainer.models.classical import ClassicalModel, Floats
from trainer.models.networks import as_input
from trainer.run import CNN, Run

if TYPE_CHECKING:
    import keras

    from trainer.data.reading import Progress
    from trainer.features.cache import FeatureCache

Pixels = npt.NDArray[np.uint8]
BATCH = 128


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a model for N slices.

    Attributes:
        logits: N×C, finite.
        features: N×F, the penultimate features; None where the model gives none.
        class_maps: N×H×W×C; None where the model has no map per class.
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


Predict = Callable[[Pixels], ModelOutputs]


@dataclass(frozen=True)
class Classical:
    """A classical model with what it needs to look at slices.

    Attributes:
        model: from features to logits.
        extractor: from slices to features.
        network: the network whose features are among them, or None.
    """

    model: ClassicalModel
    extractor: Extractor
    network: keras.Model | None

    def predict(self, images: Pixels) -> ModelOutputs:
        """Outputs for slices; the features are the principal components."""
        return self.predict_features(self.extractor(images))

    def predict_features(self, features: Floats) -> ModelOutputs:
        """Outputs for what the extractor gave."""
        return ModelOutputs(*self.model.predict(features))


@dataclass(frozen=True)
class TrainedModel:
    """A trained model of either kind.

    Attributes:
        predict: runs it.
        network: the Keras network, or None for a classical model.
        classical: the classical model, or None for a network.
    """

    predict: Predict
    network: keras.Model | None = None
    classical: Classical | None = None


def from_network(network: keras.Model) -> TrainedModel:
    """A network as a trained model."""
    return TrainedModel(predictor(network), network=network)


def from_classical(classical: Classical) -> TrainedModel:
    """A classical model with its features as a trained model."""
    return TrainedModel(classical.predict, classical=classical)


def open_trained(
    run: Run, cache: FeatureCache | None = None, progress: Progress | None = None
) -> TrainedModel:
    """The model that a finished run holds.

    Args:
        cache: of features, for a classical model.
        progress: called with (done, total) while features are computed.

    Raises:
        ModelError: no model yet, an altered one, or one that cannot be read safely.
    """
    if run.kind == CNN:
        return from_network(run.load_model())
    run.check_single()
    features = run.settings.get("features")
    if features is None:
        raise ModelError(f"{run.folder}: no model yet; the training has not finished")
    network = None
    if features["deep_sha256"] is not None:
        network = run.load_model("deep.keras", features["deep_sha256"])
    extractor = make_extractor(
        features["sets"], run.preprocess.size, network, features["deep_sha256"], cache, progress
    )
    if len(extractor.names) != features["length"]:
        raise ModelError(
            f"{run.folder}: learned from {features['length']} features where this version "
            f"computes {len(extractor.names)}; train again"
        )
    model = ClassicalModel.load(run.folder / "model.skops", run.settings["model_sha256"], run.kind)
    return from_classical(Classical(model, extractor, network))


def make_extractor(
    sets: Sequence[str],
    size: int,
    network: keras.Model | None,
    network_sha256: str | None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Extractor:
    """The extractor of some feature sets; `deep` among them is the penultimate features of
    `network`."""
    if network is None:
        return Extractor(sets, size, cache=cache, progress=progress)
    deep, length = deep_features(network)
    return Extractor(
        sets, size, cache=cache, progress=progress,
        deep=deep, deep_key=network_sha256 or "", deep_length=length,
    )  # fmt: skip


def predictor(model: keras.Model) -> Predict:
    """A function that runs a network which ends in the layer `softmax`."""
    import keras

    outputs = network_outputs(model)
    cut = keras.Model(model.inputs, list(outputs.values()))  # once: each is traced anew

    def predict(images: Pixels) -> ModelOutputs:
        answers = cut.predict(as_input(images), batch_size=BATCH, verbose=0)
        named = zip(outputs, answers, strict=True)
        return ModelOutputs(**{name: np.asarray(values, np.float32) for name, values in named})

    return predict


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


def deep_features(network: keras.Model) -> tuple[Callable[[Pixels], Floats], int]:
    """A network's penultimate features: a function from uint8 N×S×S to float32 N×D, and D.

    Slices pass one at a time: what a slice gives must not depend on those beside it.
    """
    import keras

    output = network_outputs(network)["features"]
    cut = keras.Model(network.inputs, output)

    def features(images: Pixels) -> Floats:
        return np.asarray(cut.predict(as_input(images), batch_size=1, verbose=0), np.float32)

    return features, int(output.shape[-1])


def predict_file(
    model: ModelFile,
    images: Pixels,
    *,
    backend: str = "auto",
    threads: int = 1,
    progress: Progress | None = None,
) -> ModelOutputs:
    """Run a model file image by image, as a device does."""
    return ModelOutputs(**outputs_of(model, images, backend, threads, progress))
