"""What a training is asked for. This module needs Keras at hand; import it late."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

TINY = 1e-7  # the least probability that counts


# Keras saves a class under the name that was registered last; checkpoints of version 0.1.0 know it
# under the one before.
@keras.saving.register_keras_serializable(package="btc")
@keras.saving.register_keras_serializable(package="btc", name="SetCrossEntropy")
class PartialLabelCrossEntropy(keras.losses.Loss):
    """Cross-entropy for targets that may allow several classes.

    The loss of a slice is the negative log of the summed probability of its allowed classes (Jin
    and Ghahramani, Learning with Multiple Labels, 2002); with one allowed class this is the
    categorical cross-entropy. A share `smoothing` of it is spread over all classes.

    Takes targets (N×C, 1 for each allowed class) and probabilities (N×C).
    """

    def __init__(
        self, smoothing: float = 0.0, name: str = "partial_label_cross_entropy", **rest: Any
    ):
        super().__init__(name=name, **rest)
        self.smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        likely = ops.clip(y_pred, TINY, 1.0)
        wanted = -ops.log(ops.sum(y_true * likely, axis=-1))
        spread = -ops.mean(ops.log(likely), axis=-1)
        return (1 - self.smoothing) * wanted + self.smoothing * spread

    def get_config(self) -> dict[str, Any]:
        return {"smoothing": self.smoothing, "name": self.name}


@keras.saving.register_keras_serializable(package="btc")
@keras.saving.register_keras_serializable(package="btc", name="PlaceLoss")
class LocalisationLoss(keras.losses.Loss):
    """Asks a slice's own class map to lie within the tumour's box.

    The map of the true class becomes a distribution over places by a softmax; the loss is the
    negative log of its share within the box. Slices without a box cost nothing.

    Takes masks (N×h×w×C, 1 within the box in the channel of the class) and class maps alike.
    """

    def __init__(self, name: str = "localisation", **rest: Any):
        super().__init__(name=name, **rest)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        _, height, width, classes = y_pred.shape
        flat = (-1, height * width, classes)
        places = ops.softmax(ops.reshape(y_pred, flat), axis=1)
        inside = ops.sum(places * ops.reshape(y_true, flat), axis=(1, 2))
        boxed = ops.cast(ops.max(y_true, axis=(1, 2, 3)) > 0, y_pred.dtype)
        return -boxed * ops.log(ops.clip(inside, TINY, 1.0))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable(package="btc")  # type: ignore[untyped-decorator]
def accuracy(y_true: Any, y_pred: Any) -> Any:
    """Whether the likeliest class is an allowed one."""
    best = ops.one_hot(ops.argmax(y_pred, axis=-1), y_pred.shape[-1])
    return ops.sum(best * y_true, axis=-1)
