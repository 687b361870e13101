"""Whether an ONNX graph of small integers answers the same on every processor.

ONNX Runtime multiplies unsigned activations with signed weights on x86-64. Without VNNI (AVX2,
AVX-512 of the first generation, SSE4.1) it does so with `pmaddubsw`, which adds two neighbouring
products in 16 bits and clips the sum at 32767. Signed activations are shifted to unsigned ones
first. So a pair of large weights is cut on one processor and not on the other. Weights of seven
bits make that impossible: 255 · (64 + 64) = 32640. See "When and why do I need to try U8U8?" in
the documentation of ONNX Runtime's quantisation.

This is a proof from the weights, not a measurement: it says the same on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MOST_ACTIVATION = 255
MOST_SUM = 2**15 - 1  # of two products
MOST_PAIR = MOST_SUM // MOST_ACTIVATION  # 128: of two weights, without their signs


def saturating(graph: bytes) -> list[str]:
    """The weights of an ONNX graph whose products may be cut, in words; empty means none.

    Which weights become neighbours depends on the layout that a kernel chooses, so that the two
    largest of a tensor count, wherever they stand. Unsigned weights are widened to 16 bits before
    they are multiplied and count as safe.

    Args:
        graph: an ONNX protobuf, from the quantiser or from a file.
    """
    import onnx

    return [
        f"{name} (two weights reach {pair})"
        for name, values in _weights(onnx.load_from_string(graph).graph)
        if (pair := _largest_pair(values)) > MOST_PAIR
    ]


def _weights(graph: Any) -> Iterator[tuple[str, Any]]:
    """Signed 8-bit constants with more than one axis: weights. Biases have one, scales none."""
    import onnx

    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            tensors += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
    for name, tensor in tensors:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            yield name, onnx.numpy_helper.to_array(tensor)


def _largest_pair(values: Any) -> int:
    sizes = np.sort(np.abs(values.astype(np.int32)), axis=None)
    return int(sizes[-2:].sum())


def differs_by_processor(graph: bytes) -> str | None:
    """Why the answers of a graph would depend on the processor, in a line; None if they do not."""
    found = saturating(graph)
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        "its answers depend on the processor: without VNNI, ONNX Runtime cuts the products of "
        f"{found[0]}{more}; at most {MOST_PAIR} is safe, as weights of seven bits are"
    )
