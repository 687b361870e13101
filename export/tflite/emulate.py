"""An int8 file beside the float graph it came from: the same layers, run as either has them.

A TFLite graph cannot mix kernels of both kinds, so a layer "as in the file" is the float graph
with that layer's rounded weights and with its output rounded and clipped to the file's steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError
from edge_runtime.quiet import quiet_descriptor
from export.tflite.flatbuffer import Operator, TfliteGraph
from export.tflite.repack import write_graph

Floats = npt.NDArray[np.float32]
INPUT, ROUNDING = "QUANTIZE", ("QUANTIZE", "DEQUANTIZE")
MOVES = ("MAX_POOL_2D", "RESHAPE", "TRANSPOSE")  # hand values on in the steps they came in
DEAD = 1e-4  # of the strongest channel's weights


class Layer(NamedTuple):
    """An op of both graphs: `place` among the float one's (-1 for the input), `tensor` that it
    puts out in each, and the `constants` that the file computes with, by input slot."""

    place: int
    op: str
    shape: tuple[int, ...]
    tensor: tuple[int, int]
    step: float
    zero: int
    constants: dict[int, Floats] = {}  # noqa: RUF012 - of a tuple, and never written to
    weight_sqnr: float | None = None
    weight_spread: float | None = None


class Errors:
    """Running sums over images of a layer's true and seen outputs."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.signal = self.noise = 0.0
        self.values = self.outside = 0
        self.low, self.high = float("inf"), float("-inf")
        # Half a step beyond an end still rounds to it, with no more error than elsewhere.
        self._ends = [(end - layer.zero) * layer.step for end in (-128.5, 127.5)]

    def add(self, true: Floats, seen: Floats) -> None:
        self.signal += float(np.square(true, dtype=np.float64).sum())
        self.noise += float(np.square(true - seen, dtype=np.float64).sum())
        self.values += true.size
        self.outside += int(((true < self._ends[0]) | (true > self._ends[1])).sum())
        self.low, self.high = min(self.low, float(true.min())), max(self.high, float(true.max()))

    @property
    def rmse(self) -> float:
        return float(np.sqrt(self.noise / max(self.values, 1)))

    @property
    def sqnr(self) -> float | None:
        return _decibels(self.signal, self.noise)


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * float(np.log10(signal / noise)) if signal > 0 and noise > 0 else None


def pair_layers(model: TfliteGraph, file: TfliteGraph) -> list[Layer]:
    """The layers that a float graph and its int8 file have, in order; the converter keeps it.

    Raises:
        ModelError: the file is not of this graph.
    """
    floats = model.operators
    integers = [op for op in file.operators if op.name not in ROUNDING]
    if [op.name for op in floats] != [op.name for op in integers]:
        raise ModelError("the int8 file is not of this graph: its layers differ")
    pixels = _layer(model, file, -1, INPUT, (model.inputs[0], file.inputs[0]))
    layers = [pixels._replace(zero=pixels.zero - 128)]  # uint8 outside, one step apart from int8
    for place, (op, other) in enumerate(zip(floats, integers, strict=True)):
        layer = _layer(model, file, place, op.name, (op.outputs[0], other.outputs[0]))
        layers.append(_with_constants(layer, model, op, file, other))
    return layers


def _layer(
    model: TfliteGraph, file: TfliteGraph, place: int, name: str, tensor: tuple[int, int]
) -> Layer:
    mine, other = model.tensors[tensor[0]], file.tensors[tensor[1]]
    grid = other.quantization
    if grid is None or mine.shape != other.shape:
        raise ModelError("the int8 file is not of this graph: its outputs differ")
    return Layer(place, name, mine.shape, tensor, float(grid.scales[0]), int(grid.zeros[0]))


def _with_constants(
    layer: Layer, model: TfliteGraph, op: Operator, file: TfliteGraph, other: Operator
) -> Layer:
    """The layer with its weights and bias as the file rounds them, and how well it does."""
    constants, sqnr, spread = {}, None, None
    for slot, (mine, theirs) in enumerate(zip(op.inputs, other.inputs, strict=False)):
        if mine < 0 or theirs < 0:
            continue
        true, seen = model.tensors[mine].values(), file.tensors[theirs].values()
        if true is None or seen is None or true.dtype != np.float32:
            continue
        constants[slot] = seen
        grid = file.tensors[theirs].quantization
        if slot == 1 and grid is not None:
            sqnr = _decibels(float(np.square(true).sum()), float(np.square(true - seen).sum()))
            peaks = np.abs(true).max(axis=tuple(i for i in range(true.ndim) if i != grid.axis))
            alive = peaks[peaks > peaks.max() * DEAD]
            spread = float(alive.max() / alive.min()) if len(alive) else None
    return layer._replace(constants=constants, weight_sqnr=sqnr, weight_spread=spread)


def run_file(
    floats: bytes, flatbuffer: bytes, images: npt.NDArray[np.uint8], layers: list[Layer]
) -> list[Errors]:
    """The errors of each layer as they add up in the file."""
    errors = [Errors(layer) for layer in layers]
    pixels = images[..., None]
    ours, theirs = ([layer.tensor[side] for layer in layers] for side in (0, 1))
    for trues, seens in zip(
        run_graph(floats, pixels.astype(np.float32), ours, inside=True),
        run_graph(flatbuffer, pixels, theirs, inside=True),
        strict=True,
    ):
        for error, true, seen in zip(errors, trues, seens, strict=True):
            error.add(true, seen)
    return errors


def run_emulated(
    model: TfliteGraph,
    layers: list[Layer],
    images: npt.NDArray[np.uint8],
    output: int,
    errors: Errors | None = None,
) -> Floats:
    """An output (N×…) of the float graph with `layers` as in the file.

    Args:
        output: its tensor's number.
        errors: of one of them, to be counted.
    """
    pixels = fed = images[..., None].astype(np.float32)
    for layer in layers:
        if layer.place < 0:  # a device hands over pixels as they are; the file may scale them
            fed = (pixels - 128 - layer.zero) * np.float32(layer.step)
    flatbuffer, true = _emulate(model, layers, errors.layer if errors else None)
    wanted = [output] if errors is None or true is None else [output, true, errors.layer.tensor[0]]
    rows = []
    for number, (row, *outputs) in enumerate(run_graph(flatbuffer, fed, wanted)):
        rows.append(row[0])
        if errors is not None and outputs:
            errors.add(*outputs)
        elif errors is not None and errors.layer.place < 0:
            errors.add(pixels[number], fed[number])
    return np.stack(rows)


def _emulate(
    graph: TfliteGraph, layers: list[Layer], probe: Layer | None = None
) -> tuple[bytes, int | None]:
    """The float graph with `layers` as in the file.

    Returns:
        A flatbuffer, and the number of a tensor that holds what `probe` would put out in float;
        its output as in the file keeps its own number. Both are outputs of the graph.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = copy.deepcopy(graph.schema)
    part, chosen = model.subgraphs[0], {layer.place: layer for layer in layers}
    rounding = []
    for name in ROUNDING:
        number = getattr(schema.BuiltinOperator, name)
        code = schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=number, version=2)
        rounding.append(len(model.operatorCodes))
        model.operatorCodes.append(code)
    operators, true = part.operators, None
    part.operators = []
    for place, op in enumerate(operators):
        layer = chosen.get(place)
        if layer is None or layer.op in MOVES:
            part.operators.append(op)
            continue
        if layer is probe:
            exact = copy.deepcopy(op)
            true = _add_tensor(model, op.outputs[0])
            exact.outputs = [true]
            part.operators.append(exact)
            part.outputs = [*part.outputs, true, op.outputs[0]]
        last = op.outputs[0]
        op.inputs = [
            _add_tensor(model, i, layer.constants[slot]) if slot in layer.constants else i
            for slot, i in enumerate(op.inputs)
        ]
        plain, rounded = _add_tensor(model, last), _add_tensor(model, last)
        part.tensors[rounded].type = schema.TensorType.INT8
        part.tensors[rounded].quantization = schema.QuantizationParametersT(
            scale=[layer.step], zeroPoint=[layer.zero]
        )
        op.outputs = [plain]
        part.operators.append(op)
        for code, before, after in zip(rounding, (plain, rounded), (rounded, last), strict=True):
            part.operators.append(
                schema.OperatorT(opcodeIndex=code, inputs=[before], outputs=[after])
            )
    return write_graph(model), true


def _add_tensor(model: Any, like: int, values: Floats | None = None) -> int:
    """The number of a new tensor, shaped like another, computed or of constant values."""
    from ai_edge_litert import schema_py_generated as schema

    tensors = model.subgraphs[0].tensors
    tensor = copy.deepcopy(tensors[like])
    tensor.name = f"{len(tensors)}".encode()
    if values is not None:
        tensor.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
    tensors.append(tensor)
    return len(tensors) - 1


def run_graph(
    flatbuffer: bytes, images: npt.NDArray[Any], wanted: list[int], inside: bool = False
) -> Iterator[list[Floats]]:
    """Tensors of a graph for one image after the other, dequantised.

    Args:
        images: N×S×S×1, as the graph takes them.
        wanted: their numbers.
        inside: whether others than outputs are among them; slower.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # The default delegate would keep what is between its ops to itself.
    plain, fast = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO
    with quiet_descriptor():
        interpreter = Interpreter(
            model_content=flatbuffer,
            experimental_preserve_all_tensors=inside,
            experimental_op_resolver_type=plain if inside else fast,
        )
        interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    grids = {d["index"]: d["quantization"] for d in interpreter.get_tensor_details()}
    for image in images:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        values = []
        for number in wanted:
            raw, (step, zero) = interpreter.get_tensor(number), grids[number]
            if raw.dtype.kind != "f":
                raw = (raw.astype(np.float32) - zero) * np.float32(step)
            values.append(raw)
        yield values
