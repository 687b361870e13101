"""Less error in an int8 file, at no cost on the device.

Rounded weights are off by a little each, and where inputs are never negative (pixels, and what
ReLU lets through) those differences do not cancel: a channel's outputs all come out too high or too
low. What is the same for every image can be taken off the bias (Nagel et al., Data-Free
Quantization Through Weight Equalization and Bias Correction, 2019).

Of that paper the correction alone is used. On 803 validation slices, the mean of five sets of 64
calibration images, it brought the logits' mean error from 0.084 to 0.060, the largest error of a
probability from 0.145 to 0.094, and agreement with float from 99.30 to 99.65 %; accuracy had lost
nothing and stayed. Equalising channels' ranges instead made the logits' error larger, 0.082 to
0.094 on one set of 256 (weights have a scale per channel here, and ReLU6 fixes the range of most
outputs); narrower ranges took at most 0.005 off.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError
from export.tflite.emulate import pair_layers, run_graph
from export.tflite.flatbuffer import Operator, TfliteGraph, read_tflite
from export.tflite.repack import write_graph

LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def correct_bias(floats: bytes, flatbuffer: bytes, calibration: npt.NDArray[np.uint8]) -> bytes:
    """Take the mean error that rounded weights make off each layer's bias.

    Args:
        floats: a graph as `convert_tflite` gives it in float32.
        flatbuffer: the same in int8.
        calibration: uint8 N×size×size of the training side.

    Returns:
        The file with other biases; the same ops and tensors. A layer without a bias, or with one
        that another layer shares, stays as it is.

    Raises:
        ModelError: the file is not of this graph.
    """
    model, file = read_tflite(floats), read_tflite(flatbuffer)
    made_by = {op.outputs[0]: op for op in file.operators}
    users = Counter(i for op in file.operators for i in op.inputs)
    layers = [layer for layer in pair_layers(model, file) if layer.op in LINEAR]
    ops = [model.operators[layer.place] for layer in layers]
    inputs = _mean_inputs(floats, calibration, [op.inputs[0] for op in ops])
    for layer, op, mean in zip(layers, ops, inputs, strict=True):
        number = [*made_by[layer.tensor[1]].inputs, -1][2]
        weights = model.tensors[op.inputs[1]].values()
        if number < 0 or users[number] > 1 or 1 not in layer.constants or weights is None:
            continue
        lost = _mean_output(op, mean, weights) - _mean_output(op, mean, layer.constants[1])
        _add(file, number, lost)
    return write_graph(file.schema)


def _add(file: TfliteGraph, number: int, values: npt.NDArray[np.float64]) -> None:
    """Add to a bias, in a buffer of its own: equal ones, such as zeros, share one."""
    from ai_edge_litert import schema_py_generated as schema

    bias, model = file.tensors[number], file.schema
    if bias.data is None or bias.quantization is None:
        raise ModelError("the int8 file is not of this graph: a bias is no constant")
    whole = np.frombuffer(bias.data.tobytes(), "<i4")
    mended = whole + np.rint(values / bias.quantization.scales)
    data = np.frombuffer(mended.astype("<i4").tobytes(), np.uint8)
    if sum(tensor.buffer == bias.buffer for tensor in file.tensors) == 1:
        model.buffers[bias.buffer].data = data
    else:
        model.subgraphs[0].tensors[number].buffer = len(model.buffers)
        model.buffers.append(schema.BufferT(data=data))


def _mean_inputs(
    floats: bytes, calibration: npt.NDArray[np.uint8], numbers: list[int]
) -> list[npt.NDArray[np.float64]]:
    """Tensors of the float graph, averaged over images."""
    sums: list[Any] = [0.0] * len(numbers)
    images = calibration[..., None].astype(np.float32)
    for values in run_graph(floats, images, numbers, inside=True):
        sums = [total + value.astype(np.float64) for total, value in zip(sums, values, strict=True)]
    return [total / len(calibration) for total in sums]


def _mean_output(
    op: Operator, mean: npt.NDArray[np.float64], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """What a layer makes of a mean input before its bias, a value per channel, averaged over
    places. Up to there a layer is linear, so this is the mean over images too."""
    import tensorflow as tf

    if op.name == "FULLY_CONNECTED":
        rows: npt.NDArray[np.float64] = mean.reshape(-1, weights.shape[1]).mean(axis=0)
        return rows @ weights.T
    options = op.options
    strides = [1, options.strideH, options.strideW, 1]
    padding = "VALID" if options.padding else "SAME"
    dilations = [options.dilationHFactor, options.dilationWFactor]
    if op.name == "CONV_2D":  # out, h, w, in
        kernel = weights.transpose(1, 2, 3, 0).astype(np.float64)
        out = tf.nn.conv2d(mean, kernel, strides, padding, dilations=dilations)
    else:  # 1, h, w, out
        _, height, width, channels = weights.shape
        shape = (height, width, mean.shape[-1], channels // mean.shape[-1])
        kernel = weights.reshape(shape).astype(np.float64)
        out = tf.nn.depthwise_conv2d(mean, kernel, strides, padding, dilations=dilations)
    places: npt.NDArray[np.float64] = out.numpy().mean(axis=(0, 1, 2))
    return places
