"""A graph in an interpreter: how a slice goes in and how answers come out.

Open them with `edge_runtime.model.backends.open_graph`, whose `Graph` they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import ModelError, one_line
from edge_runtime.model.pooling import POOLINGS

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.model.file_format import ModelFile
    from edge_runtime.model.metadata import ModelInfo

    Gray = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]

WRONG_OUTPUTS = "the graph's outputs are not what its metadata says"
_ONNX_NUMBERS = re.compile(r"tensor\((float|float16|double|u?int(8|16|32|64))\)")


class _Graph:
    """What both kinds of graph share: the way in and the way out."""

    backend: str
    backend_version: str
    _always_finite = False  # whether every level of the quantised answer is a finite number

    def __init__(self, info: ModelInfo) -> None:
        self._shape = tuple(info.input["shape"])
        self._dtype = np.dtype(info.input["dtype"])
        self._sets = None if info.features is None else list(info.features["sets"])
        self._outputs: dict[str, Any] = dict(info.outputs)
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the outputs, with the batch axis
        self._pool = None if info.pooling is None else POOLINGS[info.pooling].pool
        self._answer = "logits" if self._pool is None else "class_maps"

    def enter(self, pixels: Gray) -> None:
        values: npt.NDArray[Any] = pixels
        if self._sets is not None:
            from edge_runtime.imaging.handcrafted import extract

            values = extract(pixels, self._sets)
        values = values.reshape(self._shape)
        self._set(values if values.dtype == self._dtype else values.astype(self._dtype))

    def answer(self) -> Floats:
        self.invoke()
        given = self._read(self._answer)
        if not self._always_finite:
            _check_finite(given)
        return given if self._pool is None else self._pool(given)

    def run(self, pixels: Gray) -> Floats:
        self.enter(pixels)
        return self.answer()

    def class_maps(self) -> Floats | None:
        if "class_maps" not in self._outputs:
            return None
        maps = self._read("class_maps")
        _check_finite(maps)
        return maps

    def features(self) -> Floats | None:
        return self._read("features") if "features" in self._outputs else None

    def invoke(self) -> None:
        try:
            self._call()
        except Exception as error:
            raise ModelError(f"{self.backend} failed on the model: {one_line(error)}") from None

    def _set(self, values: npt.NDArray[Any]) -> None:
        """Keep or copy the input."""
        raise NotImplementedError

    def _call(self) -> None:
        """The bare call; raises whatever the interpreter raises."""
        raise NotImplementedError

    def _read(self, name: str) -> Floats:
        """An output of the last slice, without the batch axis.

        Raises:
            ModelError: of another shape than the graph declares. Interpreters let a shape depend
                on the input.
        """
        raw = self._raw(name)
        if raw.shape != self._shapes[name]:
            raise ModelError(WRONG_OUTPUTS)
        return self._floats(name, raw[0])

    def _raw(self, name: str) -> npt.NDArray[Any]:
        """An output of the last slice as the interpreter gives it."""
        raise NotImplementedError

    def _floats(self, name: str, raw: npt.NDArray[Any]) -> Floats:
        """What the values of an output stand for."""
        return _as_float32(raw)


class TfliteGraph(_Graph):
    """A .tflite in an interpreter of `interpreter_class`."""

    def __init__(
        self, model: ModelFile, backend: str, threads: int, interpreter_class: Any, version: str
    ) -> None:
        info = model.info
        super().__init__(info)
        self.backend, self.backend_version = backend, version
        self._interpreter: Any = interpreter_class(model_content=model.graph, num_threads=threads)
        self._interpreter.allocate_tensors()
        (entry,) = self._interpreter.get_input_details()
        if tuple(entry["shape"]) != self._shape or np.dtype(entry["dtype"]) != self._dtype:
            raise ModelError("the graph's input is not what its metadata says")
        self._input = entry["index"]
        details = self._interpreter.get_output_details()
        self._outputs = {name: _output(details, i) for name, i in info.outputs.items()}
        if not all(np.dtype(d["dtype"]).kind in "fiu" for d in self._outputs.values()):
            raise ModelError(WRONG_OUTPUTS)
        declared = {name: details["shape"] for name, details in self._outputs.items()}
        self._shapes = _checked_shapes(declared, len(info.labels))
        self._levels = {name: _levels(output) for name, output in self._outputs.items()}
        levels = self._levels[self._answer]
        self._always_finite = levels is not None and bool(np.isfinite(levels).all())

    def _set(self, values: npt.NDArray[Any]) -> None:
        self._interpreter.set_tensor(self._input, values)

    def _call(self) -> None:
        self._interpreter.invoke()

    def _raw(self, name: str) -> npt.NDArray[Any]:
        raw: npt.NDArray[Any] = self._interpreter.get_tensor(self._outputs[name]["index"])
        return raw

    def _floats(self, name: str, raw: npt.NDArray[Any]) -> Floats:
        levels = self._levels[name]
        if levels is not None:
            looked_up: Floats = levels.take(raw, mode="wrap")
            return looked_up
        return _as_float32(raw) if raw.dtype.kind == "f" else _dequantised(raw, self._outputs[name])


class OnnxGraph(_Graph):
    """An .onnx in ONNX Runtime."""

    backend = "onnxruntime"

    def __init__(self, model: ModelFile, threads: int) -> None:
        import onnxruntime

        info = model.info
        super().__init__(info)
        self.backend_version = str(onnxruntime.__version__)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Files of others may hold 8-bit weights, whose products ONNX Runtime cuts on x86-64 without
        # VNNI. Those of btc-export hold 7 bits: the option leaves them alone and costs nothing.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            model.graph, options, providers=["CPUExecutionProvider"]
        )
        (entry,) = self._session.get_inputs()
        outputs = self._session.get_outputs()
        if entry.type != "tensor(float)" or tuple(entry.shape) != self._shape:
            raise ModelError("the graph's input is not what its metadata says")
        if max(info.outputs.values()) >= len(outputs):
            raise ModelError(WRONG_OUTPUTS)
        if not all(_ONNX_NUMBERS.fullmatch(outputs[i].type) for i in info.outputs.values()):
            raise ModelError(WRONG_OUTPUTS)
        declared = {name: outputs[i].shape for name, i in info.outputs.items()}
        self._shapes = _checked_shapes(declared, len(info.labels))
        self._dtype = np.dtype(np.float32)
        self._name = entry.name
        self._feed: dict[str, Any] = {}
        self._last: list[Any] = []

    def _set(self, values: npt.NDArray[Any]) -> None:
        self._feed = {self._name: values}

    def _call(self) -> None:
        self._last = self._session.run(None, self._feed)

    def _raw(self, name: str) -> npt.NDArray[Any]:
        raw: npt.NDArray[Any] = self._last[self._outputs[name]]
        return raw


@np.errstate(all="ignore")  # a hostile scale; an answer that is no number is refused
def _dequantised(raw: npt.NDArray[Any], output: Mapping[str, Any]) -> Floats:
    scale, zero = output["quantization"]
    values: Floats = (raw.astype(np.float32) - zero) * np.float32(scale)
    return values


def _levels(output: Mapping[str, Any]) -> Floats | None:
    """What each level of an output of 8 bits stands for, from 0 on; a negative level -n is the
    n-th from the end. None for other outputs. One look-up costs a third of the arithmetic."""
    dtype = np.dtype(output["dtype"])
    if dtype.kind not in "iu" or dtype.itemsize != 1:
        return None
    return _dequantised(np.arange(256, dtype=np.uint8).view(dtype), output)


def _output(outputs: list[dict[str, Any]], index: int) -> dict[str, Any]:
    if index >= len(outputs):
        raise ModelError(WRONG_OUTPUTS)
    return outputs[index]


def _checked_shapes(shapes: Mapping[str, Any], classes: int) -> dict[str, tuple[int, ...]]:
    """Logits are 1×C, class maps 1×H×W×C, features 1×F; axes without a fixed size are refused."""
    checked = {}
    rank = {"logits": 2, "class_maps": 4, "features": 2}
    for name, shape in shapes.items():
        sizes = list(shape)
        if (
            len(sizes) != rank.get(name, len(sizes))
            or sizes[:1] != [1]
            or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes)
            or (name in ("logits", "class_maps") and sizes[-1] != classes)
        ):
            raise ModelError(WRONG_OUTPUTS)
        checked[name] = tuple(map(int, sizes))
    return checked


def _as_float32(values: npt.NDArray[Any]) -> Floats:
    """What is too large becomes infinite, without a warning."""
    if values.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _check_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise ModelError("the model answered with values that are not numbers")
