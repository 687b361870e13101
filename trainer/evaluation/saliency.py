"""Saliency: heatmaps of where a network looked, and how often that was the tumour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.data.boxes import Boxes
from trainer.evaluation.metrics import share_of
from trainer.models.networks import as_input
from trainer.models.outputs import ModelOutputs

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.float32]
METHODS = {"class_maps": "class maps (Zhou et al., 2016)", "grad_cam": "Grad-CAM (Selvaraju, 2017)"}
BATCH = 64


def heatmaps(
    model: keras.Model | None,
    outputs: ModelOutputs,
    images: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.int64],
) -> Floats | None:
    """One coarse heatmap a slice for the class asked for.

    The network's own class maps where it has them (they pool to the logit, so the map is the
    answer's make-up), else Grad-CAM of `model`; None where there is neither.

    Args:
        images: uint8 N×S×S, as the network saw them.
        classes: N class indices.

    Returns:
        float32 N×H×W, larger where more speaks for the class.
    """
    if outputs.class_maps is not None:
        maps = np.moveaxis(outputs.class_maps, 3, 1)
        return np.ascontiguousarray(maps[np.arange(len(classes)), classes])
    return None if model is None else grad_cam(model, images, classes)


def method_of(model: keras.Model | None) -> str | None:
    """Key of METHODS that `heatmaps` uses for a network; None where there is no network."""
    if model is None:
        return None
    return "class_maps" if any(x.name == "class_maps" for x in model.layers) else "grad_cam"


def grad_cam(
    model: keras.Model, images: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]
) -> Floats:
    """Grad-CAM of the last layer with places (Selvaraju et al., Grad-CAM: visual explanations from
    deep networks via gradient-based localization, 2017). Needs TensorFlow."""
    import keras
    import tensorflow as tf

    last = next(x for x in reversed(model.layers) if len(x.output.shape) == 4)
    cut = keras.Model(model.inputs, [last.output, model.get_layer("softmax").input])
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = tf.constant(as_input(images[start : start + BATCH]))
        wanted = tf.constant(classes[start : start + BATCH])
        with tf.GradientTape() as tape:
            maps, logits = cut(pixels, training=False)
            score = tf.gather(logits, wanted, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2), keepdims=True)
        parts.append(tf.nn.relu(tf.reduce_sum(weights * maps, axis=3)).numpy())
    return np.concatenate(parts)


def peaks(heat: Floats, size: int = 64) -> npt.NDArray[np.float64]:
    """Where each heatmap (N×H×W) is highest after smooth enlargement: N×2 of x and y, as
    fractions of the input's side."""
    import cv2

    places = np.empty((len(heat), 2))
    for i, coarse in enumerate(heat):
        fine = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        y, x = divmod(int(fine.argmax()), size)
        places[i] = (x + 0.5) / size, (y + 0.5) / size
    return places


def pointing_hits(places: npt.NDArray[np.float64], boxes: Boxes) -> npt.NDArray[np.float64]:
    """1 where a peak (N×2) lies in its box (N×4), 0 where not, NaN where there is no box."""
    (x, y), (left, top, right, bottom) = places.T, boxes.T
    inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
    return np.where(np.isnan(left), np.nan, inside.astype(float))


def pointing_chances(boxes: Boxes) -> npt.NDArray[np.float64]:
    """The chance of a peak anywhere in the input to lie in the box: the box's share of it."""
    left, top, right, bottom = np.clip(boxes, 0, 1).T
    chances: npt.NDArray[np.float64] = (right - left) * (bottom - top)
    return chances


def pointing_metrics(
    hits: npt.NDArray[np.float64], chances: npt.NDArray[np.float64], groups: Sequence[str]
) -> dict[str, Any] | None:
    """The pointing game (Zhang et al., Top-down neural attention by excitation backprop, 2016):
    how often the peak lies in the box, beside chance; None without boxes."""
    known = np.flatnonzero(~np.isnan(hits))
    if known.size == 0:
        return None
    return share_of(hits[known], [groups[int(i)] for i in known]) | {
        "chance": float(chances[known].mean())
    }
