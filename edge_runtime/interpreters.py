"""LiteRT, tflite-runtime, TensorFlow and ONNX Runtime behind one small call.

A `Graph` is not thread-safe, since the interpreters are not: two threads on one gave exceptions
and, rarely, silently wrong results. Open one per thread.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge_runtime.errors import BackendError, ModelError, one_line
from edge_runtime.model_file import ModelFile

if TYPE_CHECKING:
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]

# Name -> (module that must be there, what installs it), in the order that `auto` tries.
_TFLITE = {
    "litert": ("ai_edge_litert", "pip install ai-edge-litert"),
    "tflite-runtime": ("tflite_runtime", "pip install tflite-runtime 'numpy<2'"),
    "tensorflow": ("tensorflow", "pip install tensorflow"),
}
_ONNX = {"onnxruntime": ("onnxruntime", "pip install 'btc-edge[onnx]'")}
BACKENDS = (*_TFLITE, *_ONNX)


class Graph(Protocol):
    """A loaded graph.

    Attributes:
        backend: the interpreter's name, one of BACKENDS.
        backend_version: its version, empty where it does not tell.
    """

    backend: str
    backend_version: str

    def run(self, pixels: Gray) -> Floats:
        """Logits (C values) of one preprocessed slice (uint8, size×size)."""
        ...

    def class_maps(self) -> Floats | None:
        """The maps (H×W×C) of the last slice, or None where the network has none."""
        ...

    def features(self) -> Floats | None:
        """The penultimate features (F values) of the last slice, or None where it gives none."""
        ...

    def invoke(self) -> None:
        """The bare interpreter call on the slice set last; the floor of every timing."""
        ...


def open_graph(model: ModelFile, backend: str = "auto", threads: int = 1) -> Graph:
    """Load a checked model into an interpreter.

    Args:
        model: from `read_model`, its digest checked.
        backend: one of BACKENDS, or `auto` for the first that is installed.
        threads: threads of the interpreter.

    Raises:
        BackendError: none installed, or one that does not fit the file or this numpy.
        ModelError: the interpreter refuses the graph, or the graph contradicts its metadata.
    """
    name = _choose(model.format, backend)
    try:
        with quiet_stderr():
            if name in _ONNX:
                return _OnnxGraph(model, threads)
            return _TfliteGraph(model, name, threads)
    except ModelError:
        raise
    except Exception as error:  # interpreters raise whatever they like
        raise ModelError(f"{name} cannot load the model: {one_line(error)}") from None


def raw_signature(graph: bytes, kind: str) -> tuple[str, list[int], list[list[int]]]:
    """Input dtype, input shape and output shapes of a graph that says nothing of itself.

    Raises:
        BackendError: no interpreter. ModelError: the interpreter refuses the graph.
    """
    name = _choose(kind, "auto")
    try:
        with quiet_stderr():
            if name in _ONNX:
                import onnxruntime

                session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
                (entry,) = session.get_inputs()
                dtype = {"tensor(float)": "float32"}.get(entry.type, entry.type)
                return dtype, list(entry.shape), [list(o.shape) for o in session.get_outputs()]
            interpreter = _tflite_class(name)[0](model_content=graph)
            (entry,) = interpreter.get_input_details()
            outputs = interpreter.get_output_details()
            shapes = [d["shape"].tolist() for d in (entry, *outputs)]
            return np.dtype(entry["dtype"]).name, shapes[0], shapes[1:]
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name} cannot load the model: {one_line(error)}") from None


def _choose(kind: str, backend: str) -> str:
    fitting = _ONNX if kind == "onnx" else _TFLITE
    if backend == "auto":
        for name, (module, _) in fitting.items():
            if find_spec(module) is not None:
                return name
        raise BackendError(f"no interpreter for .{kind} files: {next(iter(fitting.values()))[1]}")
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; there are auto, {', '.join(BACKENDS)}")
    if backend not in fitting:
        raise BackendError(f"{backend} does not read .{kind} files; use {', '.join(fitting)}")
    module, install = fitting[backend]
    if find_spec(module) is None:
        raise BackendError(f"{backend} is not installed: {install}")
    return backend


class _TfliteGraph:
    def __init__(self, model: ModelFile, backend: str, threads: int) -> None:
        self.backend = backend
        interpreter_class, self.backend_version = _tflite_class(backend)
        self._interpreter: Any = interpreter_class(model_content=model.graph, num_threads=threads)
        self._interpreter.allocate_tensors()
        (entry,) = self._interpreter.get_input_details()
        info = model.info
        if (
            list(entry["shape"]) != list(info.input["shape"])
            or np.dtype(entry["dtype"]).name != info.input["dtype"]
        ):
            raise ModelError("the graph's input is not what its metadata says")
        self._input, self._dtype = entry["index"], entry["dtype"]
        self._shape = tuple(info.input["shape"])
        details = self._interpreter.get_output_details()
        self._outputs = {name: _output(details, i) for name, i in info.outputs.items()}
        _check_shapes({n: d["shape"] for n, d in self._outputs.items()}, len(info.labels))

    def run(self, pixels: Gray) -> Floats:
        self._interpreter.set_tensor(
            self._input, pixels.reshape(self._shape).astype(self._dtype, copy=False)
        )
        self.invoke()
        return _finite(self._read("logits"))

    def class_maps(self) -> Floats | None:
        return self._read("class_maps") if "class_maps" in self._outputs else None

    def features(self) -> Floats | None:
        return self._read("features") if "features" in self._outputs else None

    def invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except Exception as error:
            raise ModelError(f"{self.backend} failed on the model: {one_line(error)}") from None

    def _read(self, name: str) -> Floats:
        """An output of the last slice, without the batch axis."""
        output = self._outputs[name]
        raw = self._interpreter.get_tensor(output["index"])[0]
        scale, zero = output["quantization"]
        if raw.dtype.kind == "f":
            floats: Floats = raw.astype(np.float32, copy=False)
            return floats
        dequantised: Floats = (raw.astype(np.float32) - zero) * np.float32(scale)
        return dequantised


class _OnnxGraph:
    backend = "onnxruntime"

    def __init__(self, model: ModelFile, threads: int) -> None:
        import onnxruntime

        self.backend_version = str(onnxruntime.__version__)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            model.graph, options, providers=["CPUExecutionProvider"]
        )
        info = model.info
        (entry,) = self._session.get_inputs()
        outputs = self._session.get_outputs()
        if entry.type != "tensor(float)" or list(entry.shape) != list(info.input["shape"]):
            raise ModelError("the graph's input is not what its metadata says")
        if max(info.outputs.values()) >= len(outputs):
            raise ModelError(WRONG_OUTPUTS)
        _check_shapes(
            {name: outputs[i].shape for name, i in info.outputs.items()}, len(info.labels)
        )
        self._name = entry.name
        self._shape = tuple(info.input["shape"])
        self._outputs = dict(info.outputs)
        self._feed: dict[str, Any] = {}
        self._last: list[Any] = []

    def run(self, pixels: Gray) -> Floats:
        self._feed = {self._name: pixels.reshape(self._shape).astype(np.float32)}
        self.invoke()
        return _finite(self._read("logits"))

    def class_maps(self) -> Floats | None:
        return self._read("class_maps") if "class_maps" in self._outputs else None

    def features(self) -> Floats | None:
        return self._read("features") if "features" in self._outputs else None

    def _read(self, name: str) -> Floats:
        """An output of the last slice, without the batch axis."""
        values: Floats = self._last[self._outputs[name]][0]
        return values

    def invoke(self) -> None:
        try:
            self._last = self._session.run(None, self._feed)
        except Exception as error:
            raise ModelError(f"{self.backend} failed on the model: {one_line(error)}") from None


def _tflite_class(backend: str) -> tuple[Any, str]:
    if backend == "tensorflow":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
        tensorflow = import_module("tensorflow")
        return tensorflow.lite.Interpreter, str(tensorflow.__version__)
    if backend == "tflite-runtime" and int(np.__version__.partition(".")[0]) >= 2:
        # Its import succeeds and every Interpreter() raises SystemError.
        raise BackendError(
            f"tflite-runtime does not work with numpy {np.__version__}: "
            "pip install 'numpy<2' 'opencv-python-headless<4.12'"
        )
    package = "ai_edge_litert" if backend == "litert" else "tflite_runtime"
    module = import_module(f"{package}.interpreter")
    version = getattr(import_module(package), "__version__", "")
    return module.Interpreter, str(version)


WRONG_OUTPUTS = "the graph's outputs are not what its metadata says"


def _output(outputs: list[dict[str, Any]], index: int) -> dict[str, Any]:
    if index >= len(outputs):
        raise ModelError(WRONG_OUTPUTS)
    return outputs[index]


def _check_shapes(shapes: Mapping[str, Any], classes: int) -> None:
    """Logits are 1×C, class maps 1×H×W×C, features 1×F; axes without a fixed size are refused."""
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


def _finite(logits: Floats) -> Floats:
    if not np.isfinite(logits).all():
        raise ModelError("the model answered with values that are not numbers")
    return logits.astype(np.float32, copy=False)


_stderr_lock = threading.Lock()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for a moment: native code logs there, past Python."""
    with _stderr_lock:
        try:
            sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, ValueError, AttributeError):  # stderr is closed
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
