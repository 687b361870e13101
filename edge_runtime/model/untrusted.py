"""Models that may be hostile: tried in a process of their own before this one loads them.

An interpreter trusts its file: a damaged graph may read outside its buffers. The trial tells
whether the graph loads, runs and answers with numbers; it is no proof that the file is harmless.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.child import end_with_parent, limit_child, python_command
from edge_runtime.errors import (
    BackendError,
    BtcError,
    ModelError,
    UnsignedModelError,
    one_line,
)
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.json_text import parse_json
from edge_runtime.model.backends import Graph, open_graph, raw_signature
from edge_runtime.model.file_format import ModelFile, is_tflite, parse_model, split_tflite
from edge_runtime.model.metadata import READABLE, ModelInfo

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

SECONDS = 60  # TensorFlow alone takes several to load
MEMORY = 4 << 30
NEEDED = "a model without model.json must take 1xNxNx1 gray levels 0-255 and give logits"
_CHILD = "from edge_runtime.model.untrusted import child; child()"

Report = dict[str, Any]


def try_unsigned(data: bytes) -> ModelFile:
    """A model without digest, if it survives its trial.

    Its `model.json` counts where it has one. Otherwise the labels come from `labels.txt`, or are
    numbered, and the preprocessing is the usual one at the size that the graph takes.

    Raises:
        ModelError: the trial failed, or the graph is of another kind.
        BackendError: there is no interpreter to try it with.
    """
    report = try_apart(data, _CHILD)
    info = ModelInfo.from_json(str(report.get("info")))
    schema = report.get("schema")  # the file's own; the info may be written in a newer one
    if type(schema) is int and schema in READABLE:
        info = replace(info, schema=schema)
    graph, kind = _graph_of(data)[:2]
    return ModelFile(info, graph, kind, hashlib.sha256(data).hexdigest(), len(data))


def try_apart(data: bytes, code: str) -> Report:
    """Try a model file in a process of its own, which ends with this one at the latest.

    Args:
        code: for that process; it calls `answer_trial`.

    Returns:
        What it reported.

    Raises:
        ModelError: the trial failed, or the process died or took over SECONDS.
        BackendError: there is no interpreter to try it with.
    """
    try:
        done = subprocess.run(
            python_command(code), input=data, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"a trial in another process took over {SECONDS} s") from None
    try:
        report = parse_json(done.stdout)
    except ValueError:  # it died, or something else wrote there
        report = None
    if not (isinstance(report, dict) and report):
        raise ModelError(
            f"a trial in another process ended with code {done.returncode}: damaged or hostile"
        )
    if "error" in report:
        raise (BackendError if report.get("missing") else ModelError)(str(report["error"]))
    return report


def answer_trial(trial: Callable[[bytes], Report]) -> None:
    """In the other process: try the model on stdin, and print the report as JSON, or what is
    wrong."""
    end_with_parent()
    limit_child(MEMORY, 2 * SECONDS)
    try:
        report = trial(sys.stdin.buffer.read())
    except BtcError as error:
        report = {"error": one_line(error), "missing": isinstance(error, BackendError)}
    print(json.dumps(report))


def child() -> None:
    """The trial of a model without digest; its metadata is reported."""
    answer_trial(_trial)


def run_trial_slices(graph: Graph, size: int) -> list[Floats]:
    """The logits of noise, of a gray slice and of a black one: whatever a model is asked first in
    the process that trusts it, it has been asked here.

    Raises:
        ModelError: it does not run, or answers with what is no number.
    """
    drawn = (
        np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8) for seed in range(3)
    )
    flat = (np.full((size, size), level, np.uint8) for level in (128, 0))
    return [graph.run(pixels) for pixels in (*drawn, *flat)]


def _trial(data: bytes) -> Report:
    try:
        file = parse_model(data)
        guessed = False
    except UnsignedModelError:
        file, guessed = _unsigned(data)
    for logits in run_trial_slices(open_graph(file), file.info.preprocess.size):
        if guessed and (logits >= 0).all() and abs(float(logits.sum()) - 1) < 0.02:
            raise ModelError(f"its output looks like probabilities; {NEEDED}")
    return {"info": file.info.to_json(), "schema": file.info.schema}


def _unsigned(data: bytes) -> tuple[ModelFile, bool]:
    """A file without digest, and whether its metadata had to be guessed."""
    graph, kind, text, labels = _graph_of(data)
    digest = hashlib.sha256(graph).hexdigest()
    if text is None:
        info = _guess(graph, kind, labels, digest)
    else:
        shape = parse_json(text)
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
