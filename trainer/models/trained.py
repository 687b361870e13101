"""A trained model of either kind, behind one call: slices in, outputs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError
from trainer.features.extractor import Extractor
from trainer.models.classical import ClassicalModel
from trainer.models.outputs import ModelOutputs, network_outputs, predictor
from trainer.run import Run

if TYPE_CHECKING:
    import keras

    from trainer.data.reading import Progress
    from trainer.features.cache import FeatureCache

CNN = "cnn"  # what `--model` and run.json call the network
Pixels = npt.NDArray[np.uint8]


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


@dataclass(frozen=True)
class TrainedModel:
    """A trained model.

    Attributes:
        look: runs it on uint8 slices of N×S×S.
        network: the Keras network, or None for a classical model.
        classical: the classical model, or None for a network.
    """

    look: Callable[[Pixels], ModelOutputs]
    network: keras.Model | None = None
    classical: Classical | None = None


def from_network(network: keras.Model) -> TrainedModel:
    """A network as a trained model."""
    return TrainedModel(predictor(network), network=network)


def from_classical(classical: Classical) -> TrainedModel:
    """A classical model with its features as a trained model."""
    return TrainedModel(
        lambda images: classical.model.observe(classical.extractor(images)), classical=classical
    )


def kind_of(settings: dict[str, Any]) -> str:
    """`cnn`, or the classical model that run.json names."""
    return str(settings.get("model", CNN))


def needs_keras(settings: dict[str, Any]) -> bool:
    """Whether the model of a run.json is, or looks through, a Keras network."""
    if kind_of(settings) == CNN:
        return True
    return bool((settings.get("features") or {}).get("deep_sha256"))


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
    if kind_of(run.settings) == CNN:
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
    model = ClassicalModel.load(
        run.folder / "model.skops", run.settings["model_sha256"], kind_of(run.settings)
    )
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


def deep_features(network: keras.Model) -> tuple[Callable[[Pixels], npt.NDArray[np.float32]], int]:
    """A network's penultimate features: a function from uint8 N×S×S to float32 N×D, and D.

    Slices pass one at a time: what a slice gives must not depend on those beside it.
    """
    import keras

    output = network_outputs(network)["features"]
    cut = keras.Model(network.inputs, output)

    def look(images: Pixels) -> npt.NDArray[np.float32]:
        pixels = images[..., None].astype(np.float32)
        return np.asarray(cut.predict(pixels, batch_size=1, verbose=0), np.float32)

    return look, int(output.shape[-1])
