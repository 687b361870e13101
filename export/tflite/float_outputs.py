"""A graph of integers whose outputs are floats: what is inside stays as it is.

LiteRT.js gives its caller float32, int32 and uint8 tensors only. A DEQUANTIZE behind each output of
another type computes what the device computes of it, `(q - zero) * scale` in float32.
"""

from __future__ import annotations

import copy
from typing import Any

from export.tflite.flatbuffer import read_tflite
from export.tflite.repack import write_graph


def with_float_outputs(flatbuffer: bytes) -> bytes:
    """The same graph with a DEQUANTIZE behind each quantised output; their order stays.

    Raises:
        ModelError: unreadable, or of several subgraphs.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = read_tflite(flatbuffer)
    model: Any = graph.schema
    (part,) = model.subgraphs
    floats: dict[int, int] = {}
    for number in dict.fromkeys(graph.outputs):
        if graph.tensors[number].dtype in ("FLOAT32", "INT32"):
            continue
        tensor = copy.deepcopy(part.tensors[number])
        tensor.name = (tensor.name or b"") + b"/float"
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        floats[number] = len(part.tensors)
        part.tensors.append(tensor)
    if floats:
        code = schema.OperatorCodeT(
            deprecatedBuiltinCode=schema.BuiltinOperator.DEQUANTIZE,
            builtinCode=schema.BuiltinOperator.DEQUANTIZE,
            version=2,
        )
        model.operatorCodes.append(code)
        for number, new in floats.items():
            part.operators.append(
                schema.OperatorT(
                    opcodeIndex=len(model.operatorCodes) - 1, inputs=[number], outputs=[new]
                )
            )
    part.outputs = [floats.get(number, number) for number in graph.outputs]
    for signature in model.signatureDefs or ():
        for output in signature.outputs:
            output.tensorIndex = floats.get(output.tensorIndex, output.tensorIndex)
    return write_graph(model)
