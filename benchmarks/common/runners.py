"""What reads a model file here, ours or not, and the slices that it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from edge_runtime.imaging.decode import decode
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile
from export.tflite.flatbuffer import read_tflite
from trainer.data.archive import open_archive

Floats = npt.NDArray[np.float32]
Runner = Callable[[npt.NDArray[np.uint8]], Floats]
PLAIN = "onnxruntime, its own defaults"  # without the options of our session
FLOAT_STEP = 1e-3  # rounding of floats in another order


def runners(file: ModelFile) -> dict[str, Runner]:
    """What reads the file here: name -> the logits of one preprocessed slice."""
    if file.format == "tflite":
        return {name: open_graph(file, name).run for name in ("litert", "tensorflow")}
    found = {"onnxruntime": open_graph(file, "onnxruntime").run}
    if file.info.scheme == "qdq":  # OpenCV's kernels for VNNI are wrong on some shapes
        return found | {PLAIN: plain_runner(file)}
    return found | {"OpenCV DNN": opencv_runner(file)}


def opencv_runner(file: ModelFile) -> Runner:
    import cv2

    net = cv2.dnn.readNetFromONNX(np.frombuffer(file.graph, np.uint8))

    def run(pixels: npt.NDArray[np.uint8]) -> Floats:
        net.setInput(pixels[None, ..., None].astype(np.float32), "pixels")
        answer: Floats = np.asarray(net.forward("logits"), np.float32).ravel()
        return answer

    return run


def plain_runner(file: ModelFile) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.graph, options, providers=["CPUExecutionProvider"])

    def run(pixels: npt.NDArray[np.uint8]) -> Floats:
        feed = {"pixels": pixels[None, ..., None].astype(np.float32)}
        answer: Floats = session.run(["logits"], feed)[0][0]
        return answer

    return run


def step_of(file: ModelFile) -> float:
    """One quantisation step of the logits, or of the class maps that the device pools: pooled ones
    differ by no more than their cells do. Of floats, their rounding."""
    if file.format == "tflite":
        graph, answer = read_tflite(file.graph), "class_maps" if file.info.pooling else "logits"
        grid = graph.tensors[graph.outputs[file.info.outputs[answer]]].quantization
        return FLOAT_STEP if grid is None else float(grid.scales[0])
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(file.graph).graph
    last = next(node for node in graph.node if "logits" in node.output)
    if last.op_type != "DequantizeLinear":
        return FLOAT_STEP
    known = {tensor.name: tensor for tensor in graph.initializer}
    return float(numpy_helper.to_array(known[last.input[1]]))


def model_files(folder: Path) -> list[Path]:
    """The model files of a folder.

    Raises:
        DataError: none there.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".tflite", ".onnx"))
    if not paths:
        raise DataError(f"{folder}: no model file")
    return paths


def read_slices(data: Path, count: int, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """Gray slices drawn from a zip or folder.

    Raises:
        DataError: no image in it, or a hostile archive. InputError: one cannot be read.
    """
    archive = open_archive(data)
    names = archive.names()
    if not names:
        raise DataError(f"{data.name}: no image")
    order = np.random.default_rng(seed).permutation(len(names))[:count]
    return [decode(archive.read(names[i])) for i in sorted(order.tolist())]
