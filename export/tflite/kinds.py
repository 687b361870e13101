"""What a TFLite graph computes with, by the types in the flatbuffer itself.

TensorFlow is not needed: LiteRT brings the schema.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import ModelError, one_line


@dataclass(frozen=True)
class GraphKinds:
    """Types of a TFLite graph.

    Attributes:
        inputs, outputs: of the graph.
        computed: of what operators read and write, constants left out.
        inside: likewise, with the constants and without the graph's own inputs and outputs.
        weights: type -> number of constant values that operators read.
        ops: builtin operator -> how often.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    computed: frozenset[str]
    inside: frozenset[str]
    weights: Counter[str]
    ops: Counter[str]

    @property
    def scheme(self) -> str:
        """How the graph is quantised, by its own types, in the words of `model.json`."""
        if not _floats({*self.computed, *self.weights}):
            return "int8-full" if "INT16" not in self.computed else "int16x8 to its ends"
        if "INT16" in self.inside and not _floats(self.inside):
            return "int16x8"
        if self.computed & {"INT8", "UINT8", "INT16"}:
            return "integers and floats mixed"
        if self.weights["FLOAT16"]:
            return "float16"
        return "dynamic" if self.weights["INT8"] else "float32"


def _floats(kinds: Iterable[str]) -> bool:
    return any(kind.startswith("FLOAT") for kind in kinds)


def graph_kinds(graph: bytes) -> GraphKinds:
    """Read a TFLite graph's types.

    Raises:
        ModelError: unreadable, or an operator outside TFLite.
    """
    from ai_edge_litert import schema_py_generated as schema

    types = {n: name for name, n in vars(schema.TensorType).items() if name[0] != "_"}
    names = {n: name for name, n in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    weights: Counter[str] = Counter()
    ops: Counter[str] = Counter()
    computed: set[str] = set()
    inside: set[str] = set()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph, 0))
        codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
        for part in model.subgraphs:
            kinds = [types[tensor.type] for tensor in part.tensors]
            ops.update(codes[op.opcodeIndex] for op in part.operators)
            used = {int(i) for op in part.operators for i in (*op.inputs, *op.outputs) if i >= 0}
            inside |= {kinds[i] for i in used.difference(part.inputs, part.outputs)}
            for i in used:
                data, shape = model.buffers[part.tensors[i].buffer].data, part.tensors[i].shape
                if data is None or len(data) == 0:
                    computed.add(kinds[i])
                else:
                    weights[kinds[i]] += int(np.prod(shape)) if shape is not None else 1
        first = model.subgraphs[0]
        inputs = tuple(types[first.tensors[i].type] for i in first.inputs)
        outputs = tuple(types[first.tensors[i].type] for i in first.outputs)
    except Exception as error:  # a damaged flatbuffer raises whatever the damage leads to
        raise ModelError(f"the graph cannot be read: {one_line(error)}") from None
    if ops["CUSTOM"]:
        raise ModelError("the graph needs an operator outside TFLite")
    return GraphKinds(inputs, outputs, frozenset(computed), frozenset(inside), weights, ops)
