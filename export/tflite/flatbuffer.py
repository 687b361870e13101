"""The one reader of a TFLite flatbuffer: its tensors and operators, and what they add up to.

TensorFlow is not needed: LiteRT brings the schema. Whoever changes a graph changes the schema's own
object behind it, `TfliteGraph.schema`, and writes that, see `export.tflite.repack`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, one_line

# Types of tensors whose size does not depend on their content, as numpy stores them.
DTYPES = {
    "BOOL": "?", "INT8": "<i1", "UINT8": "<u1", "INT16": "<i2", "UINT16": "<u2", "INT32": "<i4",
    "UINT32": "<u4", "INT64": "<i8", "UINT64": "<u8", "FLOAT16": "<f2", "FLOAT32": "<f4",
    "FLOAT64": "<f8",
}  # fmt: skip


class Quantization(NamedTuple):
    """A real value is `scale · (integer - zero)`: one of each for the whole tensor, or as many as
    there are places along `axis`."""

    scales: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.int64]
    axis: int


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
        dtype: TFLite's name of the type, as `INT8`.
        buffer: number of its bytes in the file; equal constants may share one.
        data: bytes of a constant (uint8); None where the graph computes the tensor.
        quantization: None where its values are what they are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    data: npt.NDArray[np.uint8] | None
    quantization: Quantization | None

    @property
    def bytes(self) -> int:
        """Size of its values.

        Raises:
            ModelError: a type without a fixed size.
        """
        if self.dtype not in DTYPES:
            raise ModelError(f"a tensor of type {self.dtype} has no fixed size")
        return prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def values(self) -> npt.NDArray[Any] | None:
        """A constant's values, float32 where it is quantised; None for a computed tensor."""
        if self.data is None or self.dtype not in DTYPES:
            return None
        values = np.frombuffer(self.data.tobytes(), DTYPES[self.dtype]).reshape(self.shape)
        if self.quantization is None:
            return values
        scales, zeros, axis = self.quantization
        along = [1] * values.ndim
        along[axis] = len(scales)
        whole = values.astype(np.float64) - zeros.reshape(along)
        return (whole * scales.reshape(along)).astype(np.float32)


@dataclass(frozen=True)
class Operator:
    """One step of a graph: TFLite's name for it, numbers of tensors (-1 for an input that is left
    out), and the schema's object with its options."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True)
class TfliteGraph:
    """A TFLite graph.

    Attributes:
        inputs, outputs: numbers of tensors.
        signature: name of an output -> its tensor's number, in the words of the graph's signature:
            `output_0`, `output_1`, … in the order that the converter was given.
        schema: the object that was read, to be changed and written.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature: dict[str, int]
    schema: Any

    @property
    def input_types(self) -> tuple[str, ...]:
        """Types of its inputs."""
        return tuple(self.tensors[i].dtype for i in self.inputs)

    @property
    def output_types(self) -> tuple[str, ...]:
        """Types of its outputs."""
        return tuple(self.tensors[i].dtype for i in self.outputs)

    @property
    def ops(self) -> dict[str, int]:
        """Operator -> how often."""
        return dict(sorted(Counter(op.name for op in self.operators).items()))

    @property
    def weights(self) -> Counter[str]:
        """Type -> number of constant values that operators read."""
        found: Counter[str] = Counter()
        for tensor in self._used():
            if tensor.data is not None:
                found[tensor.dtype] += prod(tensor.shape)
        return found

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and dense layers."""
        return sum(map(self._macs, self.operators))

    @property
    def integer_only(self) -> bool:
        """Whether no operator reads or writes a float."""
        return not _floats(tensor.dtype for tensor in self._used())

    @cached_property
    def scheme(self) -> str:
        """How the graph is quantised, by its own types, in the words of `model.json`."""
        computed = {tensor.dtype for tensor in self._used() if tensor.data is None}
        if self.integer_only:
            return "int8-full" if "INT16" not in computed else "int16x8 to its ends"
        inside = {tensor.dtype for tensor in self._used((*self.inputs, *self.outputs))}
        if "INT16" in inside and not _floats(inside):
            return "int16x8"
        if computed & {"INT8", "UINT8", "INT16"}:
            return "integers and floats mixed"
        if self.weights["FLOAT16"]:
            return "float16"
        return "dynamic" if self.weights["INT8"] else "float32"

    def _used(self, left_out: Iterable[int] = ()) -> Iterator[Tensor]:
        """What operators read and write, each tensor once."""
        used = {i for op in self.operators for i in (*op.inputs, *op.outputs) if i >= 0}
        return (self.tensors[i] for i in used.difference(left_out))

    def _macs(self, op: Operator) -> int:
        if op.name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return 0
        # Kernels are [out, h, w, in], depthwise ones [1, h, w, out], dense ones [out, in].
        kernel = prod(self.tensors[op.inputs[1]].shape)
        if op.name == "FULLY_CONNECTED":
            return kernel
        _, height, width, _ = self.tensors[op.outputs[0]].shape
        return height * width * kernel


def _floats(types: Iterable[str]) -> bool:
    return any(name.startswith("FLOAT") for name in types)


def read_tflite(flatbuffer: bytes) -> TfliteGraph:
    """Read a TFLite flatbuffer; a zip behind it does not matter. Constants that stand behind the
    flatbuffer, where LiteRT's quantiser puts those of a larger graph, are taken into it.

    Raises:
        ModelError: unreadable, of several subgraphs, or with an operator outside TFLite.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer, 0))
        _take_in(model.buffers, flatbuffer)
        return _graph(schema, model)
    except ModelError:
        raise
    except Exception as error:  # a damaged flatbuffer raises whatever the damage leads to
        raise ModelError(f"the graph cannot be read: {one_line(error)}") from None


def _take_in(buffers: Any, file: bytes) -> None:
    """Give buffers whose bytes stand at an offset of the file (from 2 on, by TFLite's schema) these
    bytes.

    Raises:
        ModelError: the file ends before them.
    """
    for buffer in buffers:
        if buffer.offset > 1:
            end = buffer.offset + buffer.size
            if end > len(file):
                raise ModelError("the graph cannot be read: constants lie outside the file")
            buffer.data = np.frombuffer(file[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0


def _graph(schema: Any, model: Any) -> TfliteGraph:
    if len(model.subgraphs) != 1:
        raise ModelError(f"a graph of {len(model.subgraphs)} subgraphs is not supported")
    (part,) = model.subgraphs
    types, names = _names(schema.TensorType), _names(schema.BuiltinOperator)
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    operators = tuple(
        Operator(
            codes[op.opcodeIndex], _numbers(op.inputs), _numbers(op.outputs), op.builtinOptions
        )
        for op in part.operators
    )
    if any(op.name == "CUSTOM" for op in operators):
        raise ModelError("the graph needs an operator outside TFLite")
    tensors = tuple(_tensor(tensor, types, model.buffers) for tensor in part.tensors)
    inputs, outputs = _numbers(part.inputs), _numbers(part.outputs)
    used = {*inputs, *outputs, *(i for op in operators for i in (*op.inputs, *op.outputs))}
    if not used <= set(range(-1, len(tensors))):
        raise ModelError("the graph cannot be read: it uses a tensor that it does not have")
    return TfliteGraph(
        tensors=tensors,
        operators=operators,
        inputs=inputs,
        outputs=outputs,
        signature={
            output.name.decode(): int(output.tensorIndex)
            for signature in (model.signatureDefs or ())[:1]
            for output in signature.outputs
        },
        schema=model,
    )


def _tensor(tensor: Any, types: dict[int, str], buffers: Any) -> Tensor:
    data, grid, quantization = buffers[tensor.buffer].data, tensor.quantization, None
    if grid is not None and grid.scale is not None:
        scales = np.asarray(grid.scale, np.float32)
        zeros = np.zeros(len(scales)) if grid.zeroPoint is None else grid.zeroPoint
        axis = int(grid.quantizedDimension)
        quantization = Quantization(scales, np.asarray(zeros, np.int64), axis)
    return Tensor(
        name=(tensor.name or b"").decode("utf-8", "replace"),
        shape=_numbers(tensor.shape),
        dtype=types[tensor.type],
        buffer=int(tensor.buffer),
        data=None if data is None or len(data) == 0 else np.asarray(data, np.uint8),
        quantization=quantization,
    )


def _numbers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(map(int, values))


def _names(enumeration: Any) -> dict[int, str]:
    """Number -> name of a generated enumeration."""
    return {n: name for name, n in vars(enumeration).items() if not name.startswith("_")}
