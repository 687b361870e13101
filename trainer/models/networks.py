"""The networks. All take pixel values 0-255 and end in a softmax; export cuts before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt


class Block(NamedTuple):
    """An inverted residual block: wide by `expand`, a depthwise convolution, narrow again."""

    expand: int
    kernel: int
    stride: int
    filters: int


STEM = 32
FROZEN = ("stem", "block0_", "block1_")  # edges and spots look alike everywhere, and cost most
# EfficientNet-Lite0 (Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020), without
# its head.
LITE0 = (
    Block(1, 3, 1, 16),
    Block(6, 3, 2, 24),
    Block(6, 3, 1, 24),
    Block(6, 5, 2, 40),
    Block(6, 5, 1, 40),
    *(Block(6, 3, 2, 80), *[Block(6, 3, 1, 80)] * 2),
    *[Block(6, 5, 1, 112)] * 3,
    *(Block(6, 5, 2, 192), *[Block(6, 5, 1, 192)] * 3),
    Block(6, 3, 1, 320),
)
# As many of them as fit 300 KB: the last two are five times as wide inside, not six.
EDGE = (*LITE0[:6], Block(5, 3, 1, 80), Block(5, 3, 1, 80))


def build_network(name: str, size: int, classes: int, pretrained: bool = True) -> keras.Model:
    """A network before its training.

    Args:
        name: one of NETWORKS.
        size: side of the input in pixels.
        classes: number of classes.
        pretrained: begin a network of `blocks` with the weights of `read_pretrained`, not with
            random ones; its first layers then keep them.

    Returns:
        A functional model from (batch, size, size, 1) pixel values to (batch, classes)
        probabilities. The layer `logits` gives the input of the last layer, `softmax`.

    Raises:
        UsageError: the pretrained weights are wanted and not installed.
        DataError: they are damaged or of another version.
    """
    import keras

    from trainer.models.pretrained import read_pretrained

    inputs = keras.Input((size, size, 1), name="pixels")
    scaled = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    logits = NETWORKS[name].build(scaled, classes)
    outputs = keras.layers.Softmax(name="softmax")(logits)
    model = keras.Model(inputs, outputs, name=name)
    if pretrained and NETWORKS[name].blocks:
        for layer, weights in read_pretrained(name, pretrained_shapes(name)).items():
            model.get_layer(layer).set_weights(weights)
            model.get_layer(layer).trainable = not layer.startswith(FROZEN)
    return model


def pretrained_shapes(name: str) -> dict[str, tuple[tuple[int, int, int, int], int]]:
    """The layers of a network of `blocks` but the last: by name the kernel's shape (height, width,
    channels in, channels out; of a depthwise layer 1) and the bias's length."""
    shapes = {"stem": ((3, 3, 1, STEM), STEM)}
    width = STEM
    for number, block in enumerate(NETWORKS[name].blocks):
        wide, side = width * block.expand, block.kernel
        if block.expand > 1:
            shapes[f"block{number}_expand"] = (1, 1, width, wide), wide
        shapes[f"block{number}_depthwise"] = (side, side, wide, 1), wide
        shapes[f"block{number}_project"] = (1, 1, wide, block.filters), block.filters
        width = block.filters
    return shapes


def as_input(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Slices (uint8 N×S×S) as the networks take them (N×S×S×1)."""
    return images[..., None].astype("float32")


def _of_blocks(blocks: Sequence[Block], x: Any, classes: int) -> Any:
    """The stem, inverted residual blocks, and class maps.

    Batch normalisation is folded into the convolutions, so there is none to train or to convert.
    It ends in one map per class (Zhou et al., Learning Deep Features for Discriminative
    Localization, 2016), so the class maps are the heatmap, and pools each by the log of the mean of
    the exponentials of its cells (Pinheiro and Collobert, From image-level to pixel-level labeling,
    2015): a tumour that fills one cell of 36 speaks, which in their mean it hardly does.
    """
    from keras import layers

    x = layers.Conv2D(STEM, 3, 2, padding="same", name="stem")(x)
    x = layers.ReLU(6.0)(x)
    width = STEM
    for number, block in enumerate(blocks):
        y = x
        if block.expand > 1:
            y = layers.Conv2D(width * block.expand, 1, name=f"block{number}_expand")(y)
            y = layers.ReLU(6.0)(y)
        y = layers.DepthwiseConv2D(
            block.kernel, block.stride, padding="same", name=f"block{number}_depthwise"
        )(y)
        y = layers.ReLU(6.0)(y)
        y = layers.Conv2D(block.filters, 1, name=f"block{number}_project")(y)
        same = block.stride == 1 and block.filters == width
        x = layers.Add()([x, y]) if same else y
        width = block.filters
    x = layers.Dropout(0.3)(x)
    x = layers.Conv2D(classes, 1, name="class_maps")(x)
    return _log_mean_exp(x)


def _log_mean_exp(maps: Any) -> Any:
    """Class maps (N×H×W×C) to logits (N×C): near the mean of a map's cells where they agree, near
    the largest where one stands out. `edge_runtime.model.pooling` is the same in numpy."""
    from keras import layers, ops

    _, rows, columns, classes = maps.shape
    cells = layers.Reshape((rows * columns, classes), name="cells")(maps)
    summed = ops.logsumexp(cells, axis=1)
    return layers.Rescaling(1.0, -math.log(rows * columns), name="logits")(summed)


def _classic(x: Any, classes: int) -> Any:
    """The classic network of the task: convolutions with max-pooling, then dense layers."""
    from keras import layers

    for filters in (32, 64, 128, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.4)(layers.Flatten()(x))
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.4)(x)
    return layers.Dense(classes, name="logits")(x)


class Network(NamedTuple):
    """A network that `--network` names.

    Attributes:
        about: what it is, in the words of `btc-train --help`.
        build: (scaled pixels, classes) -> the layer `logits`.
        size: side of the input that it was made for, in pixels.
        blocks: what it is made of, where pretrained weights are there for it.
        rate: the share of a recipe's learning rate that suits it.
    """

    about: str
    build: Callable[[Any, int], Any]
    size: int
    blocks: tuple[Block, ...] = ()
    rate: float = 1.0


NETWORKS = {
    "edge": Network(
        "small and quick, and tells where it looks", partial(_of_blocks, EDGE), 96, EDGE
    ),
    "lite0": Network(
        "thirteen times as large, four times the work, and better",
        partial(_of_blocks, LITE0), 128, LITE0, rate=0.5,
    ),
    "classic": Network("convolutions and dense layers", _classic, 128),
}  # fmt: skip
