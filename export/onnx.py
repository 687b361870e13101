"""Conversion to ONNX."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, one_line
from edge_runtime.interpreters import quiet_stderr

if TYPE_CHECKING:
    import keras

OPSET = 17  # ONNX Runtime reads it from 1.12 on
IR_VERSION = 8  # that opset's own; ONNX Runtime 1.17, the oldest supported, reads up to 9


def convert_onnx(graph: keras.Model, outputs: dict[str, int]) -> bytes:
    """An ONNX protobuf with float32 input and the outputs of `graph`, checked in full.

    Args:
        graph, outputs: from `export_graph`; the outputs keep their order and get their names.

    Raises:
        ModelError: tf2onnx or the checker refuses it.
    """
    import tensorflow as tf
    import tf2onnx

    shape = tuple(graph.inputs[0].shape)
    signature = (tf.TensorSpec(shape, tf.float32, name="pixels"),)
    try:
        with quiet_stderr():
            proto, _ = tf2onnx.convert.from_keras(graph, input_signature=signature, opset=OPSET)
        canonical_names(proto.graph, "pixels", sorted(outputs, key=outputs.__getitem__))
        return checked(proto)
    except Exception as error:  # converters raise whatever their parts raise
        raise ModelError(f"the ONNX conversion failed: {one_line(error)}") from None


def checked(proto: Any) -> bytes:
    """The bytes of a model without anything that says when or with what it was made.

    Raises:
        Exception: whatever the checker raises on a model that is not in order.
    """
    import onnx

    del proto.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    proto.ir_version = IR_VERSION
    used = {node.domain for node in proto.graph.node}
    domains = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(domains)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def quantize_onnx(data: bytes, calibration: npt.NDArray[np.uint8]) -> bytes:
    """An ONNX graph with int8 weights (a scale for each channel) and int8 activations.

    Static quantisation by ONNX Runtime's own quantiser in its QDQ form: every int8 tensor stands
    between QuantizeLinear and DequantizeLinear, which a runtime fuses. Input and outputs stay
    floats. Signed on both sides: unsigned activations saturate on x86 without VNNI.

    Args:
        data: from `convert_onnx`.
        calibration: uint8 N×size×size of the training side.

    Raises:
        ModelError: the quantiser or the checker refuses it.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    feeds = ({"pixels": image[None, ..., None].astype(np.float32)} for image in calibration)
    reader = SimpleNamespace(get_next=lambda: next(feeds, None))
    logging.disable(logging.WARNING)  # it recommends a tool that needs another package
    try:
        with quiet_stderr(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            quantize_static(
                onnx.load_from_string(data),
                path,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt8,
            )
            return checked(onnx.load(path))
    except Exception as error:  # as above
        raise ModelError(f"the ONNX quantisation failed: {one_line(error)}") from None
    finally:
        logging.disable(logging.NOTSET)


def canonical_names(graph: Any, entry: str, outputs: list[str]) -> None:
    """Rename everything by its place: tf2onnx numbers by a counter that never starts again, so
    that two exports of one run would differ. Input and outputs are called what they are."""
    names = {graph.input[0].name: entry, "": ""}
    names |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        for j, value in enumerate(node.output):
            names.setdefault(value, f"value_{i}_{j}")
    known = {tensor.name: tensor for tensor in graph.initializer}
    used = [value for node in graph.node for value in node.input if value in known]
    for i, value in enumerate(dict.fromkeys(used)):
        names.setdefault(value, f"weight_{i}")
    ordered = [known[value] for value in dict.fromkeys(used)]
    del graph.initializer[:]
    graph.initializer.extend(ordered)
    del graph.value_info[:]
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = names[item.name]
    for node in graph.node:
        node.input[:] = [names[value] for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    graph.name = "btc-edge"


def onnx_facts(data: bytes) -> tuple[dict[str, int], int]:
    """Op -> how often, and the multiply-accumulates of convolutions, dense layers and kernels."""
    from collections import Counter

    import onnx

    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    graph = proto.graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    macs = 0
    for node in graph.node:
        if node.op_type == "Conv":  # weights are [out, in, h, w], results [1, out, h, w]
            macs += int(np.prod(shapes[node.input[1]]) * np.prod(shapes[node.output[0]][2:]))
        elif node.op_type in ("Gemm", "MatMul"):
            macs += int(np.prod(shapes[node.input[1]]))
        for attribute in node.attribute:
            if attribute.name in ("support_vectors", "coefficients"):
                macs += len(attribute.floats)
    return dict(sorted(Counter(node.op_type for node in graph.node).items())), macs
