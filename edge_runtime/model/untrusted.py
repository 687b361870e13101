"""Models that may be hostile: tried in a process of their own before this one loads them.

An interpreter trusts its file: a damaged graph may read outside its buffers. The trial tells
whether the graph loads, runs and answers with numbers; it is no proof that the file is harmless.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import numpy as np

from edge_runtime.errors import BtcError, ModelError, UnsignedModelError, one_line
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile, is_tflite, parse_model, split_tflite
from edge_runtime.model.metadata import ModelInfo

SECONDS = 60  # TensorFlow alone takes several to load
MEMORY = 4 << 30
NEEDED = "a model without model.json must take 1xNxNx1 gray levels 0-255 and give logits"
_CHILD = "from edge_runtime.model.untrusted import child; child()"


def try_unsigned(data: bytes) -> ModelFile:
    """A model without digest, if it survives its trial.

    Its `model.json` counts where it has one. Otherwise the labels come from `labels.txt`, or are
    numbered, and the preprocessing is the usual one at the size that the graph takes.

    Raises:
        ModelError: the trial failed, or the graph is of another kind.
    """
    info = try_apart(data)
    graph, kind = _graph_of(data)[:2]
    return ModelFile(info, graph, kind, hashlib.sha256(data).hexdigest(), len(data))


def try_apart(data: bytes) -> ModelInfo:
    """Load and run a model file in a process of its own; its metadata is returned.

    Raises:
        ModelError: it does not run, or the process died or took over SECONDS.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD], input=data, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"a trial in another process took over {SECONDS} s") from None
    try:
        report = json.loads(done.stdout)
        error, text = report.get("error"), report.get("info")
    except (ValueError, AttributeError):  # it died, or something else wrote there
        error = text = None
    if text is None:
        raise ModelError(
            str(error)
            if error
            else f"a trial in another process ended with code {done.returncode}: damaged or hostile"
        )
    return ModelInfo.from_json(text)


def child() -> None:
    """Load and run the model on stdin and print its metadata as JSON, or what is wrong."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass
    try:
        report: dict[str, Any] = {"info": _trial(sys.stdin.buffer.read()).to_json()}
    except BtcError as error:
        report = {"error": one_line(error)}
    print(json.dumps(report))


def _trial(data: bytes) -> ModelInfo:
    try:
        file = parse_model(data)
        guessed = False
    except UnsignedModelError:
        file, guessed = _unsigned(data)
    opened, size = open_graph(file), file.info.preprocess.size
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)
        logits = opened.run(pixels)
        if guessed and (logits >= 0).all() and abs(float(logits.sum()) - 1) < 0.02:
            raise ModelError(f"its output looks like probabilities; {NEEDED}")
    return file.info


def _unsigned(data: bytes) -> tuple[ModelFile, bool]:
    """A file without digest, and whether its metadata had to be guessed."""
    graph, kind, text, labels = _graph_of(data)
    digest = hashlib.sha256(graph).hexdigest()
    if text is None:
        info = _guess(graph, kind, labels, digest)
    else:
        shape = json.loads(text)
        if not isinstance(shape, dict):
            raise ModelError("the model's metadata is not a JSON object")
        info = ModelInfo.from_json(json.dumps(shape | {"graph_sha256": digest}))
    return ModelFile(info, graph, kind, "", len(data)), text is None


def _graph_of(data: bytes) -> tuple[bytes, str, bytes | None, list[str]]:
    """The graph's bytes, its kind, `model.json` where there is one, and labels."""
    if not is_tflite(data):
        return data, "onnx", None, []
    try:
        graph, text, labels = split_tflite(data)
    except ModelError:
        return data, "tflite", None, []
    return graph, "tflite", text, labels


def _guess(graph: bytes, kind: str, labels: list[str], digest: str) -> ModelInfo:
    """Metadata from what the graph itself tells."""
    from edge_runtime.model.backends import raw_signature

    dtype, shape, outputs = raw_signature(graph, kind)
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 1:
        raise ModelError(f"its input is {'x'.join(map(str, shape))}; {NEEDED}")
    flat = {s[-1]: i for i, s in enumerate(outputs) if len(s) == 2 and s[-1] >= 2}
    classes = len(labels) or min(flat, default=0)  # features are more than classes
    if classes not in flat:
        raise ModelError(f"none of its outputs is 1xC; {NEEDED}")
    return ModelInfo(
        name="unsigned",
        version="unknown",
        created="unknown",
        labels=tuple(labels or (f"class {i}" for i in range(classes))),
        preprocess=Preprocess(size=shape[1]),
        input={"dtype": dtype, "shape": shape, "range": [0, 255]},
        outputs={"logits": flat[classes]},
        quantization={"scheme": "unknown"},
        graph_sha256=digest,
    )
