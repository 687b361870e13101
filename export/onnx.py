"""Conversion to ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_runtime.errors import ModelError, one_line
from edge_runtime.interpreters import quiet_stderr

if TYPE_CHECKING:
    import keras

OPSET = 17  # ONNX Runtime reads it from 1.12 on


def convert_onnx(graph: keras.Model, outputs: dict[str, int]) -> bytes:
    """An ONNX protobuf with float32 input and the outputs of `graph`, checked in full.

    Args:
        graph, outputs: from `export_graph`; the outputs keep their order and get their names.

    Raises:
        ModelError: tf2onnx or the checker refuses it.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx

    shape = tuple(graph.inputs[0].shape)
    signature = (tf.TensorSpec(shape, tf.float32, name="pixels"),)
    try:
        with quiet_stderr():
            proto, _ = tf2onnx.convert.from_keras(graph, input_signature=signature, opset=OPSET)
        _canonical_names(proto.graph, sorted(outputs, key=outputs.__getitem__))
        del proto.metadata_props[:]
        proto.doc_string = proto.graph.doc_string = ""
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # converters raise whatever their parts raise
        raise ModelError(f"the ONNX conversion failed: {one_line(error)}") from None
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _canonical_names(graph: Any, outputs: list[str]) -> None:
    """Rename everything by its place: tf2onnx numbers by a counter that never starts again, so
    that two exports of one run would differ. Outputs are called what they are."""
    names = {graph.input[0].name: "pixels", "": ""}
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


def onnx_ops(data: bytes) -> dict[str, int]:
    """Op -> how often."""
    from collections import Counter

    import onnx

    nodes = onnx.load_from_string(data).graph.node
    return dict(sorted(Counter(node.op_type for node in nodes).items()))
