"""How much memory TFLite Micro would need for a graph: an estimate, made without a device.

The interpreter of a microcontroller keeps everything in one array, the tensor arena. Its head
holds activations and scratch buffers, packed by a memory planner; its tail holds what lives as
long as the model: a struct per tensor and node, and per channel a multiplier and a shift.
The planner is written here anew from its description, and the sizes of the structs are those of
TFLite Micro's headers; both are checked against its Python interpreter, see
`tests/export/test_micro.py`. What a board needs depends on its kernels and compiler as well, so
leave a margin and read `MicroInterpreter::arena_used_bytes()` on the board itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edge_runtime.errors import ModelError

ALIGNMENT = 16  # micro_arena_constants.h: MicroArenaBufferAlignment
CORTEX_M = 4  # bytes of a pointer there; on a 64-bit workstation they are 8

# Persistent bytes, from TFLite Micro's headers of 2024-2026.
_OP_DATA = 80  # kernels/conv.h, OpDataConv and its index for CMSIS-NN: the largest that is common
_PARAMETERS = 32  # builtin_op_data.h: TfLiteConvParams and TfLiteDepthwiseConvParams, 28
# The allocators, the planner, MicroAllocator and SubgraphAllocations: what the Python interpreter
# counts beside the arrays, rounded up.
_BASE = 640

# Temporary bytes in the head, before the plan is made; they matter for the smallest graphs only.
_PLANNED_BUFFER = 40  # greedy_memory_planner.h: per_buffer_size
_SPARE_REQUESTS = 12  # micro_allocator.cc: kMaxScratchBuffersPerOp

_MVE_BLOCK = 124  # CMSIS-NN, arm_nnsupportfunctions.h: CH_IN_BLOCK_MVE

_PER_CHANNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_ELEMENT = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FLOAT16": 2,
    "INT32": 4, "UINT32": 4, "FLOAT32": 4, "INT64": 8, "UINT64": 8, "FLOAT64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Buffer:
    """Something to place: `size` bytes (a multiple of 16), used from step `first` to `last`.

    Steps count operators from 1; 0 is before the first. Both ends are included.
    """

    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both are in use at one time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class ArenaEstimate:
    """Bytes of the tensor arena; an estimate.

    Attributes:
        tensors: the plan of the activations, inputs and outputs included.
        scratch: what the plan grows by with the scratch buffers of the kernels.
        planning: what making the plan takes in place of the plan, where that is more; else 0.
        overhead: what stays for the model's whole life.
    """

    tensors: int
    scratch: int
    planning: int
    overhead: int

    @property
    def total(self) -> int:
        """Size for `tensor_arena`, a multiple of 16."""
        return _aligned(self.tensors + self.scratch + self.planning + self.overhead)


def estimate_arena(
    flatbuffer: bytes, *, pointer_bytes: int = CORTEX_M, optimised: bool = True
) -> ArenaEstimate:
    """Estimate the arena of a TFLite graph.

    For the bundled int8 model it is 1.002 times what TFLite Micro's Python interpreter uses, with
    that interpreter's pointers of 8 bytes and its reference kernels.

    Args:
        flatbuffer: the graph; a zip behind it does not matter.
        pointer_bytes: of the target; the overhead depends on it.
        optimised: count the scratch buffers of the CMSIS-NN kernels, the larger of what their
            builds for DSP and MVE instructions ask for; otherwise those of the reference kernels.

    Raises:
        ModelError: unreadable, more than one subgraph, or a type without a fixed size.
    """
    try:
        graph = _Graph(flatbuffer)
    except ModelError:
        raise
    except Exception as error:  # a damaged flatbuffer raises whatever the damage leads to
        raise ModelError(f"the graph cannot be read: {type(error).__name__}") from None
    activations, scratch = graph.activations(), graph.scratch(optimised)
    tensors = plan_bytes(activations)
    head = plan_bytes([*activations, *scratch])
    planning = graph.planning_bytes(len(activations), len(scratch), pointer_bytes)
    overhead = graph.persistent_bytes(len(scratch), pointer_bytes)
    return ArenaEstimate(tensors, head - tensors, max(planning - head, 0), overhead)


def plan_offsets(buffers: Sequence[Buffer]) -> list[int]:
    """Place buffers as TFLite Micro's GreedyMemoryPlanner does.

    The largest first, each at the lowest offset where it meets nothing that is in use at the same
    time; of equal ones the last first.

    Returns:
        An offset (bytes) for each buffer.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []  # by offset
    for i in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, -i)):
        at = 0
        for j in placed:
            if buffers[i].meets(buffers[j]):
                if offsets[j] - at >= buffers[i].size:
                    break
                at = max(at, offsets[j] + buffers[j].size)
        offsets[i] = at
        placed.append(i)
        placed.sort(key=offsets.__getitem__)
    return offsets


def plan_bytes(buffers: Sequence[Buffer]) -> int:
    """Where the plan of `plan_offsets` ends."""
    ends = (at + buffer.size for at, buffer in zip(plan_offsets(buffers), buffers, strict=True))
    return max(ends, default=0)


class _Graph:
    """The one subgraph of a TFLite model, as far as its memory goes."""

    def __init__(self, flatbuffer: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer, 0))
        if len(model.subgraphs) != 1:
            raise ModelError(f"{len(model.subgraphs)} subgraphs; the estimate knows graphs of one")
        self._types = _names(schema.TensorType)
        self._graph = model.subgraphs[0]
        self._tensors = self._graph.tensors
        self._constant = [
            model.buffers[t.buffer].data is not None and len(model.buffers[t.buffer].data) > 0
            for t in self._tensors
        ]
        ops = _names(schema.BuiltinOperator)
        codes = [ops[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
        self._ops = [(codes[op.opcodeIndex], op) for op in self._graph.operators]

    def activations(self) -> list[Buffer]:
        """What lives in the head: inputs from the start, outputs to the end, all others from the
        operator that writes them to the last that reads them (micro_allocation_info.cc)."""
        first: dict[int, int] = dict.fromkeys(map(int, self._graph.inputs), 0)
        last = dict(first)
        for step, (_, op) in enumerate(self._ops, 1):
            first |= dict.fromkeys(map(int, op.outputs), step)
            last |= dict.fromkeys((int(i) for i in (*op.inputs, *op.outputs) if i >= 0), step)
        last |= dict.fromkeys(map(int, self._graph.outputs), len(self._ops))
        return [
            Buffer(_aligned(self._size(i)), first[i], last[i])
            for i in sorted(first)
            if not self._constant[i]
        ]

    def scratch(self, optimised: bool) -> list[Buffer]:
        """What the kernels of an int8 graph ask for, each while its operator runs."""
        asked = []
        for step, (name, op) in enumerate(self._ops, 1):
            rule = _SCRATCH.get(name)
            if rule is None or self._type(op) != "INT8" or not (optimised or name == "MEAN"):
                continue
            kernel = self._shape(op.inputs[1]) if len(op.inputs) > 1 else []
            out = self._shape(op.outputs[0])
            if size := rule(op.builtinOptions, self._shape(op.inputs[0]), kernel, out):
                asked.append(Buffer(_aligned(size), step, step))
        return asked

    def persistent_bytes(self, scratch: int, pointer: int) -> int:
        """The tail of the arena, with pointers of `pointer` bytes."""
        ends = len(self._graph.inputs) + len(self._graph.outputs)
        # TfLiteEvalTensor; NodeAndRegistration; TfLiteTensor and its quantisation (c/common.h).
        structs = len(self._tensors) * _round(2 * pointer + 4, pointer)
        structs += len(self._ops) * 8 * pointer
        structs += ends * (_round(5 * pointer + 20, pointer) + 3 * pointer + 8)
        kernels = sum(
            _aligned(_OP_DATA) + _PARAMETERS + 2 * _aligned(4 * self._channels(name, op))
            for name, op in self._ops
        )
        return _BASE + structs + kernels + scratch * pointer

    def planning_bytes(self, planned: int, scratch: int, pointer: int) -> int:
        """What the planner keeps in the head while it works (micro_allocation_info.h)."""
        entries = (len(self._tensors) + scratch) * (2 * pointer + 16)
        requests = (scratch + _SPARE_REQUESTS) * (pointer + 8)
        return entries + requests + (planned + scratch) * _PLANNED_BUFFER

    def _type(self, op: Any) -> str:
        """Of the operator's first input."""
        return self._types[self._tensors[op.inputs[0]].type]

    def _channels(self, name: str, op: Any) -> int:
        """Output channels with a multiplier and a shift of their own."""
        if name in _PER_CHANNEL and self._type(op) in ("INT8", "INT16"):
            return self._shape(op.outputs[0])[-1]
        return 0

    def _shape(self, index: int) -> list[int]:
        shape = self._tensors[index].shape
        return [] if shape is None else [int(n) for n in shape]

    def _size(self, index: int) -> int:
        tensor = self._tensors[index]
        kind = self._types[tensor.type]
        if kind not in _ELEMENT:
            raise ModelError(f"a tensor of type {kind} has no fixed size")
        return prod(self._shape(index)) * _ELEMENT[kind]


def _dense(options: Any, pixels: list[int], kernel: list[int], out: list[int]) -> int:
    """CMSIS-NN, arm_convolve_get_buffer_sizes_s8.c: nothing for 1×1, else im2col columns."""
    _, height, width, channels = kernel
    if height == width == options.dilationHFactor == options.dilationWFactor == 1:
        return 0
    # MVE keeps four columns of int8, DSP two of int16; MVE rounds up to 8 elements, DSP to 4.
    return 4 * _round(height * width * channels, 8)


def _depthwise(options: Any, pixels: list[int], kernel: list[int], out: list[int]) -> int:
    """CMSIS-NN, arm_depthwise_conv_get_buffer_sizes_s8.c."""
    _, height, width, channels = kernel
    if pixels[-1] != channels or (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return 0
    dsp = 0 if height == width == 3 else 2 * height * width * channels
    return max(dsp, 4 * _MVE_BLOCK * height * width)


def _fully(options: Any, pixels: list[int], kernel: list[int], out: list[int]) -> int:
    """CMSIS-NN, arm_fully_connected_get_buffer_sizes_s8.c: MVE keeps a sum per output."""
    return 4 * out[-1]


def _average(options: Any, pixels: list[int], kernel: list[int], out: list[int]) -> int:
    """CMSIS-NN, arm_avgpool_get_buffer_sizes_s8.c: DSP keeps a sum per channel."""
    return 4 * out[-1]


def _mean(options: Any, pixels: list[int], axes: list[int], out: list[int]) -> int:
    """TFLite Micro, kernels/reduce_common.cc, in every build: a sum per output, and two short
    lists of axes, which are buffers of their own."""
    return _aligned(4 * prod(out)) + 2 * ALIGNMENT


_SCRATCH: dict[str, Callable[[Any, list[int], list[int], list[int]], int]] = {
    "CONV_2D": _dense,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully,
    "AVERAGE_POOL_2D": _average,
    "MEAN": _mean,
}


def _names(enumeration: Any) -> dict[int, str]:
    """Number -> name of a generated enumeration."""
    return {n: name for name, n in vars(enumeration).items() if not name.startswith("_")}


def _round(size: int, step: int) -> int:
    return -(-size // step) * step


def _aligned(size: int) -> int:
    return _round(size, ALIGNMENT)
