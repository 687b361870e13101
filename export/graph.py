"""From the trained Keras model to the graph that leaves: a batch of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.models.outputs import network_outputs

if TYPE_CHECKING:
    import keras


def export_graph(model: keras.Model) -> tuple[keras.Model, dict[str, int]]:
    """Cut before the layer `softmax` and fix the batch to 1 (a free batch adds shape ops).

    Args:
        model: a functional network whose last layer is called `softmax`.

    Returns:
        The graph and its outputs, name -> index: `logits`, the penultimate `features` (an average
        over places at most), and the `class_maps` of networks that have them, at no extra cost.
    """
    return _named(model, network_outputs(model))


def maps_graph(model: keras.Model) -> tuple[keras.Model, dict[str, int]]:
    """Likewise without the pooling of the class maps, which come first in place of the logits."""
    outputs = network_outputs(model)
    return _named(model, {name: outputs[name] for name in ("class_maps", "features")})


def pooling_of(model: keras.Model) -> str | None:
    """How a network pools its class maps, where integers cannot do that well: one of
    `edge_runtime.model.pooling.POOLINGS`. None where they can, or where it has no such maps."""
    kinds = {type(operation).__name__ for operation in model.operations}
    has_maps = "class_maps" in network_outputs(model)
    return "log-sum-exp" if has_maps and "Logsumexp" in kinds else None


def features_graph(model: keras.Model) -> tuple[keras.Model, dict[str, int]]:
    """Likewise, with the penultimate `features` as the only output."""
    return _named(model, {"features": network_outputs(model)["features"]})


def _named(model: keras.Model, outputs: dict[str, Any]) -> tuple[keras.Model, dict[str, int]]:
    """The graph of these outputs, and name -> index of each."""
    import keras

    height, width, channels = model.inputs[0].shape[1:]
    # Keras numbers unnamed models by a counter of the process, and the names reach the file:
    # with fixed ones (those of a fresh process) the same run gives the same bytes everywhere.
    cut = keras.Model(model.inputs, list(outputs.values()), name="functional")
    inputs = keras.Input((height, width, channels), batch_size=1, name="pixels")
    results = cut(inputs, training=False)
    graph = keras.Model(inputs, results, name="functional_1")
    return graph, {name: index for index, name in enumerate(outputs)}
