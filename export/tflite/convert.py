"""Conversion to TFLite."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, UsageError, one_line
from edge_runtime.quiet import quiet_descriptor
from export.tflite.flatbuffer import TfliteGraph
from export.tflite.repack import repack

if TYPE_CHECKING:
    import keras


def has_converter() -> bool:
    """Whether this TensorFlow can write TFLite files: a coming one is without tf.lite."""
    import tensorflow as tf

    return hasattr(getattr(tf, "lite", None), "TFLiteConverter")


def convert_tflite(
    graph: keras.Model, name: str, calibration: npt.NDArray[np.uint8] | None = None
) -> bytes:
    """A TFLite flatbuffer.

    Args:
        graph: from `export_graph`.
        name: `float32`, `float16`, `dynamic`, `int8` or `int16x8`.
        calibration: uint8 N×size×size of the training side, for int8 and int16x8.

    Raises:
        ModelError: the converter fails.
        UsageError: this TensorFlow has none.
    """
    import tensorflow as tf

    if not has_converter():
        raise UsageError(
            f"TensorFlow {tf.__version__} has no tf.lite, which writes every TFLite file, that of "
            "--quantizer ai-edge too: pip install 'tensorflow<2.22', or export --onnx"
        )
    converter = tf.lite.TFLiteConverter.from_keras_model(graph)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if name in ("int8", "int16x8"):
        if calibration is None:
            raise ValueError(f"{name} needs calibration images")
        converter.representative_dataset = partial(_representative, calibration)
    if name == "int16x8":
        sixteen = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [sixteen]
    if name == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.int8
    try:
        with quiet_descriptor(), warnings.catch_warnings():
            # It misses statistics of the inputs, which come from the representative images.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs")
            flatbuffer: bytes = converter.convert()
    except Exception as error:  # the converter raises whatever its parts raise
        raise ModelError(f"the TFLite converter failed: {one_line(error)}") from None
    return repack(flatbuffer)


def _representative(images: npt.NDArray[np.uint8]) -> Iterator[list[npt.NDArray[np.float32]]]:
    for image in images:
        yield [image[None, ..., None].astype(np.float32)]


def output_order(graph: TfliteGraph, wanted: dict[str, int]) -> dict[str, int]:
    """Where the outputs ended up: the converter may change their order.

    Its signature names them `output_0`, `output_1`, … in the order of the Keras graph's outputs.

    Args:
        graph: what was converted.
        wanted: name -> index in the Keras graph, from `export_graph`.

    Raises:
        ModelError: an output got lost.
    """
    try:
        return {
            name: graph.outputs.index(graph.signature[f"output_{i}"]) for name, i in wanted.items()
        }
    except (KeyError, ValueError):
        raise ModelError("the converted graph lacks an output") from None
