"""Conversion to TFLite, and what the flatbuffer says of itself afterwards."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, one_line
from edge_runtime.quiet import quiet_descriptor
from export.tflite.repack import repack

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class GraphFacts:
    """What is in a TFLite graph.

    Attributes:
        ops: builtin op -> how often.
        macs: multiply-accumulates of convolutions and dense layers.
        integer_only: no tensor that the graph computes with is a float.
    """

    ops: dict[str, int]
    macs: int
    integer_only: bool


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
    """
    import tensorflow as tf

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


def output_order(flatbuffer: bytes, wanted: dict[str, int]) -> dict[str, int]:
    """Where the outputs ended up: the converter may change their order.

    Its signature names them `output_0`, `output_1`, … in the order of the graph's outputs.

    Raises:
        ModelError: an output got lost.
    """
    from ai_edge_litert.interpreter import Interpreter

    with quiet_descriptor():
        interpreter = Interpreter(model_content=flatbuffer)
        named = interpreter.get_signature_runner().get_output_details()
    places = [detail["index"] for detail in interpreter.get_output_details()]
    try:
        return {name: places.index(named[f"output_{i}"]["index"]) for name, i in wanted.items()}
    except (KeyError, ValueError):
        raise ModelError("the converted graph lacks an output") from None


def graph_facts(flatbuffer: bytes) -> GraphFacts:
    """Read ops, multiply-accumulates and dtypes from the flatbuffer itself.

    Raises:
        ModelError: an op outside the TFLite builtins.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer, 0))
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    ops: Counter[str] = Counter()
    macs = 0
    kinds: set[int] = set()
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            if number == schema.BuiltinOperator.CUSTOM:
                raise ModelError(f"the graph needs an op outside TFLite: {code.customCode!r}")
            ops[names[number]] += 1
            tensors = subgraph.tensors
            kinds |= {tensors[i].type for i in (*op.inputs, *op.outputs) if i >= 0}
            macs += _macs(names[number], op, tensors)
    floats = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64}
    return GraphFacts(dict(sorted(ops.items())), macs, not kinds & floats)


def _macs(name: str, op: Any, tensors: Any) -> int:
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return 0
    kernel = [int(n) for n in tensors[op.inputs[1]].shape]
    if name == "FULLY_CONNECTED":
        return int(np.prod(kernel))
    out = [int(n) for n in tensors[op.outputs[0]].shape]
    places = out[1] * out[2]
    # CONV_2D kernels are [out, h, w, in]; depthwise ones [1, h, w, out].
    return places * int(np.prod(kernel))
