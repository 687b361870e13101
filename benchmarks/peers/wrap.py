"""A network as MediaPipe Tasks wants it: a colour picture in, probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from export.tflite.convert import convert_tflite

if TYPE_CHECKING:
    import keras

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, as OpenCV makes gray (ITU-R BT.601)


def colour_network(network: keras.Model) -> bytes:
    """A float32 .tflite of 1×S×S×3 (RGB, 0-255) to the network's probabilities.

    Args:
        network: of N×S×S×1 (gray, 0-255), with its softmax.

    Raises:
        ModelError: the converter fails.
    """
    import keras

    height, width, _ = network.inputs[0].shape[1:]
    colour = keras.Input((height, width, len(LUMA)), batch_size=1, name="pixels")
    gray = keras.layers.Conv2D(1, 1, use_bias=False, name="gray")
    probabilities = network(gray(colour), training=False)
    gray.set_weights([np.array(LUMA, np.float32).reshape(1, 1, len(LUMA), 1)])
    wrapped = keras.Model(colour, probabilities, name="functional")
    return convert_tflite(wrapped, "float32")
