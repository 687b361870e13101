"""LiteRT, tflite-runtime, TensorFlow and ONNX Runtime behind one small call.

A `Graph` is not thread-safe, since the interpreters are not: two threads on one gave exceptions
and, rarely, silently wrong results. Open one per thread.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge_runtime.errors import BackendError, ModelError, one_line
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.sessions import OnnxGraph, TfliteGraph
from edge_runtime.quiet import quiet_descriptor

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
        """Logits (C values) of one preprocessed slice (uint8, size×size): `enter`, `answer`."""
        ...

    def enter(self, pixels: Gray) -> None:
        """Set a preprocessed slice; its features are computed where the model takes those."""
        ...

    def answer(self) -> Floats:
        """Logits (C values) of the slice set last."""
        ...

    def class_maps(self) -> Floats | None:
        """The maps (H×W×C) of the last slice, or None where the network has none.

        Raises:
            ModelError: maps that are no finite numbers.
        """
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
    name = choose_backend(model.format, backend)
    try:
        with quiet_descriptor():
            if name in _ONNX:
                return OnnxGraph(model, threads)
            return TfliteGraph(model, name, threads, *_tflite_class(name))
    except ModelError:
        raise
    except Exception as error:  # interpreters raise whatever they like
        raise ModelError(f"{name} cannot load the model: {one_line(error)}") from None


def raw_signature(graph: bytes, kind: str) -> tuple[str, list[int], list[list[int]]]:
    """Input dtype, input shape and output shapes of a graph that says nothing of itself.

    Raises:
        BackendError: no interpreter. ModelError: the interpreter refuses the graph.
    """
    name = choose_backend(kind, "auto")
    try:
        with quiet_descriptor():
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


def choose_backend(kind: str, backend: str = "auto") -> str:
    """The interpreter that `open_graph` takes for a file.

    Args:
        kind: `tflite` or `onnx`.
        backend: one of BACKENDS, or `auto`.

    Raises:
        BackendError: none installed, or one that is not, is unknown or does not read such files.
    """
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
    _check_installed(backend)
    return backend


def interpreter_version(backend: str) -> str:
    """The version of an interpreter, one of BACKENDS; empty where it does not tell.

    Raises:
        BackendError: not installed, broken, or not for this numpy.
    """
    module = _check_installed(backend)
    try:
        with quiet_descriptor():
            if backend in _TFLITE:
                return _tflite_class(backend)[1]
            return str(getattr(import_module(module), "__version__", ""))
    except BackendError:
        raise
    except Exception as error:  # a package that is half there raises whatever it likes
        raise BackendError(f"{backend} cannot be loaded: {one_line(error)}") from None


def _check_installed(backend: str) -> str:
    """The module that an interpreter needs."""
    module, install = (_TFLITE | _ONNX)[backend]
    if find_spec(module) is None:
        raise BackendError(f"{backend} is not installed: {install}")
    return module


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
