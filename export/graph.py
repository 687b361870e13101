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
    outputs = network_outputs(model)
    return _fixed(model, list(outputs.values())), {name: i for i, name in enumerate(outputs)}


def features_graph(model: keras.Model) -> tuple[keras.Model, dict[str, int]]:
    """Likewise, with the penultimate `features` as the only output."""
    return _fixed(model, [network_outputs(model)["features"]]), {"features": 0}


def _fixed(model: keras.Model, outputs: list[Any]) -> keras.Model:
    import keras

    height, width, channels = model.inputs[0].shape[1:]
    # Keras numbers unnamed models by a counter of the process, and the names reach the file:
    # with fixed ones (those of a fresh process) the same run gives the same bytes everywhere.
    cut = keras.Model(model.inputs, outputs, name="functional")
    inputs = keras.Input((height, width, channels), batch_size=1, name="pixels")
    results = cut(inputs, training=False)
    return keras.Model(inputs, results, name="functional_1")
