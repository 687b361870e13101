"""How much memory TFLite Micro would need for a graph: an estimate, made without a device.

The interpreter of a microcontroller keeps everything in one array, the tensor arena. Its head
holds activations and scratch buffers, packed by a memory planner; its tail holds what lives as
long as the model: a struct per tensor and node, and per channel a multiplier and a shift.
The planner is written here anew from its description, and the sizes of the structs are those of
TFLite Micro's headers; both are checked against its Python interpreter, see
`tests/export/tflite/test_micro.py`. What a board needs depends on its kernels and compiler as well,
so leave a margin and read `MicroInterpreter::arena_used_bytes()` on the board itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from export.tflite.flatbuffer import Operator, TfliteGraph, read_tflite

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
    graph = _Memory(read_tflite(flatbuffer))
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


class _Memory:
    """What a graph keeps in memory."""

    def __init__(self, graph: TfliteGraph) -> None:
        self._graph = graph

    def activations(self) -> list[Buffer]:
        """What lives in the head: inputs from the start, outputs to the end, all others from the
        operator that writes them to the last that reads them (micro_allocation_info.cc)."""
        graph = self._graph
        first: dict[int, int] = dict.fromkeys(graph.inputs, 0)
        last = dict(first)
        for step, op in enumerate(graph.operators, 1):
            first |= dict.fromkeys(op.outputs, step)
            last |= dict.fromkeys((i for i in (*op.inputs, *op.outputs) if i >= 0), step)
        last |= dict.fromkeys(graph.outputs, len(graph.operators))
        return [
            Buffer(_aligned(graph.tensors[i].bytes), first[i], last[i])
            for i in sorted(first)
            if graph.tensors[i].data is None
        ]

    def scratch(self, optimised: bool) -> list[Buffer]:
        """What the kernels of an int8 graph ask for, each while its operator runs."""
        asked = []
        for step, op in enumerate(self._graph.operators, 1):
            rule = _SCRATCH.get(op.name)
            if rule is None or self._type(op) != "INT8" or not (optimised or op.name == "MEAN"):
                continue
            shapes = [self._graph.tensors[i].shape for i in (*op.inputs[:2], op.outputs[0])]
            kernel = shapes[1] if len(op.inputs) > 1 else ()
            if size := rule(op.options, shapes[0], kernel, shapes[-1]):
                asked.append(Buffer(_aligned(size), step, step))
        return asked

    def persistent_bytes(self, scratch: int, pointer: int) -> int:
        """The tail of the arena, with pointers of `pointer` bytes."""
        graph = self._graph
        ends = len(graph.inputs) + len(graph.outputs)
        # TfLiteEvalTensor; NodeAndRegistration; TfLiteTensor and its quantisation (c/common.h).
        structs = len(graph.tensors) * _round(2 * pointer + 4, pointer)
        structs += len(graph.operators) * 8 * pointer
        structs += ends * (_round(5 * pointer + 20, pointer) + 3 * pointer + 8)
        kernels = sum(
            _aligned(_OP_DATA) + _PARAMETERS + 2 * _aligned(4 * self._channels(op))
            for op in graph.operators
        )
        return _BASE + structs + kernels + scratch * pointer

    def planning_bytes(self, planned: int, scratch: int, pointer: int) -> int:
        """What the planner keeps in the head while it works (micro_allocation_info.h)."""
        entries = (len(self._graph.tensors) + scratch) * (2 * pointer + 16)
        requests = (scratch + _SPARE_REQUESTS) * (pointer + 8)
        return entries + requests + (planned + scratch) * _PLANNED_BUFFER

    def _type(self, op: Operator) -> str:
        """Of the operator's first input."""
        return self._graph.tensors[op.inputs[0]].dtype

    def _channels(self, op: Operator) -> int:
        """Output channels with a multiplier and a shift of their own."""
        if op.name in _PER_CHANNEL and self._type(op) in ("INT8", "INT16"):
            return self._graph.tensors[op.outputs[0]].shape[-1]
        return 0


Shape = tuple[int, ...]


def _dense(options: Any, pixels: Shape, kernel: Shape, out: Shape) -> int:
    """CMSIS-NN, arm_convolve_get_buffer_sizes_s8.c: nothing for 1×1, else im2col columns."""
    _, height, width, channels = kernel
    if height == width == options.dilationHFactor == options.dilationWFactor == 1:
        return 0
    # MVE keeps four columns of int8, DSP two of int16; MVE rounds up to 8 elements, DSP to 4.
    return 4 * _round(height * width * channels, 8)


def _depthwise(options: Any, pixels: Shape, kernel: Shape, out: Shape) -> int:
    """CMSIS-NN, arm_depthwise_conv_get_buffer_sizes_s8.c."""
    _, height, width, channels = kernel
    if pixels[-1] != channels or (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return 0
    dsp = 0 if height == width == 3 else 2 * height * width * channels
    return max(dsp, 4 * _MVE_BLOCK * height * width)


def _fully(options: Any, pixels: Shape, kernel: Shape, out: Shape) -> int:
    """CMSIS-NN, arm_fully_connected_get_buffer_sizes_s8.c: MVE keeps a sum per output."""
    return 4 * out[-1]


def _average(options: Any, pixels: Shape, kernel: Shape, out: Shape) -> int:
    """CMSIS-NN, arm_avgpool_get_buffer_sizes_s8.c: DSP keeps a sum per channel."""
    return 4 * out[-1]


def _mean(options: Any, pixels: Shape, axes: Shape, out: Shape) -> int:
    """TFLite Micro, kernels/reduce_common.cc, in every build: a sum per output, and two short
    lists of axes, which are buffers of their own."""
    return _aligned(4 * prod(out)) + 2 * ALIGNMENT


_SCRATCH: dict[str, Callable[[Any, Shape, Shape, Shape], int]] = {
    "CONV_2D": _dense,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully,
    "AVERAGE_POOL_2D": _average,
    "MEAN": _mean,
}


def _round(size: int, step: int) -> int:
    return -(-size // step) * step


def _aligned(size: int) -> int:
    return _round(size, ALIGNMENT)
