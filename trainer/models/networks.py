"""The networks. Both take pixel values 0-255 and end in a softmax; export cuts before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

NETWORKS = ("edge", "seed")


def build_network(name: str, size: int, classes: int) -> keras.Model:
    """An untrained network.

    Args:
        name: `edge` or `seed`.
        size: side of the input in pixels.
        classes: number of classes.

    Returns:
        A functional model from (batch, size, size, 1) pixel values to (batch, classes)
        probabilities. The layer `logits` gives the input of the last layer, `softmax`.
    """
    import keras

    inputs = keras.Input((size, size, 1), name="pixels")
    scaled = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    logits = (_edge if name == "edge" else _seed)(scaled, classes)
    outputs = keras.layers.Softmax(name="softmax")(logits)
    return keras.Model(inputs, outputs, name=name)


def _edge(x: Any, classes: int) -> Any:
    """A small residual network for int8 on a CPU: 56 M multiply-accumulates at 128×128.

    It ends in one map per class and their mean (Zhou et al., Learning Deep Features for
    Discriminative Localization, 2016), so the class maps are the heatmap. Convolution, batch
    normalisation and ReLU stand in the order that the converter folds into one op.
    """
    from keras import layers

    def conv(x: Any, filters: int, stride: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.95)(x)

    x = layers.ReLU()(conv(x, 16, 2))
    for filters in (24, 64, 112):
        x = layers.MaxPooling2D()(x)
        x = layers.ReLU()(conv(x, filters))
        branch = conv(layers.ReLU()(conv(x, filters)), filters)
        x = layers.ReLU()(layers.Add()([x, branch]))
    x = layers.Dropout(0.3)(x)
    x = layers.Conv2D(classes, 1, name="class_maps")(x)
    return layers.GlobalAveragePooling2D(name="logits")(x)


def _seed(x: Any, classes: int) -> Any:
    """The classic network of the task: convolutions with max-pooling, then dense layers."""
    from keras import layers

    for filters in (32, 64, 128, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.4)(layers.Flatten()(x))
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.4)(x)
    return layers.Dense(classes, name="logits")(x)
