"""The one reader of an ONNX graph: its operators and weights, and what they add up to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from edge_runtime.errors import ModelError, one_line

# Types of the numbers that any graph may hold beside its weights: shapes, axes, counts.
_COUNTS = {"INT32", "INT64"}


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX graph, with the package's own object behind it."""

    proto: Any

    @cached_property
    def ops(self) -> dict[str, int]:
        """Operator -> how often."""
        return dict(sorted(Counter(node.op_type for node in self.proto.graph.node).items()))

    @cached_property
    def weights(self) -> Counter[str]:
        """Type -> number of constant tensors."""
        import onnx

        name = onnx.TensorProto.DataType.Name
        return Counter(name(tensor.data_type) for tensor in self.proto.graph.initializer)

    @property
    def scheme(self) -> str:
        """How the graph is quantised, by its own types, in the words of `model.json`."""
        types = self.weights.keys() - _COUNTS
        quantised = "QuantizeLinear" in self.ops and "DequantizeLinear" in self.ops
        if types == {"FLOAT", "INT8"} and quantised:
            return "qdq-int8"
        if types <= {"FLOAT"}:
            return "float32"
        return "float16" if types <= {"FLOAT", "FLOAT16"} else "other types"

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, dense layers and kernels."""
        import onnx

        graph = onnx.shape_inference.infer_shapes(self.proto).graph
        shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        macs = 0
        for node in graph.node:
            if node.op_type == "Conv":  # weights are [out, in, h, w], results [1, out, h, w]
                macs += prod(shapes[node.input[1]]) * prod(shapes[node.output[0]][2:])
            elif node.op_type in ("Gemm", "MatMul"):
                macs += prod(shapes[node.input[1]])
            for attribute in node.attribute:
                if attribute.name in ("support_vectors", "coefficients"):
                    macs += len(attribute.floats)
        return macs


def read_onnx(data: bytes) -> OnnxGraph:
    """Read an ONNX protobuf.

    Raises:
        ModelError: unreadable.
    """
    import onnx

    try:
        return OnnxGraph(onnx.load_from_string(data))
    except Exception as error:  # protobuf raises whatever it meets
        raise ModelError(f"the graph cannot be read: {one_line(error)}") from None
