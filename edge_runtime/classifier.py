"""The public API: a `Classifier` answers with a `Prediction`."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import InputError, ModelError, one_line
from edge_runtime.images import DEFAULT_LIMITS, ImageLimits, as_gray, decode, read_file
from edge_runtime.interpreters import Graph, open_graph
from edge_runtime.model_file import ModelFile, read_model
from edge_runtime.preprocess import preprocess
from edge_runtime.unfamiliar import Familiarity

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.images import ImageSource
    from edge_runtime.model_info import ModelInfo


class Status(str, Enum):
    """What an answer is worth."""

    OK = "ok"
    UNCERTAIN = "uncertain"  # below the model's threshold for this label
    UNFAMILIAR = "unfamiliar"  # not like the slices that the model learned from
    ERROR = "error"


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Attributes:
        input: the path as given; `bytes` or `array` for data in memory.
        status: see `Status`.
        label: the answer; None unless the status is ok.
        raw_label: the network's best guess, whatever the status; None on error.
        confidence: its probability, 0-1.
        probabilities: of all labels, in the model's order.
        reason: why the status is not ok.
        sha256: digest of the input's bytes.
        model: name, version, quantisation and digest of the model file.
        error: one line; None unless the status is error.
    """

    input: str
    status: Status
    label: str | None
    raw_label: str | None
    confidence: float | None
    probabilities: Mapping[str, float] | None
    reason: str | None
    sha256: str | None
    model: str
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The answer as `btc-edge classify --format json` gives it."""
        return {
            "input": self.input,
            "status": self.status.value,
            "label": self.label,
            "raw_label": self.raw_label,
            "confidence": self.confidence,
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "reason": self.reason,
            "sha256": self.sha256,
            "model": self.model,
            "error": self.error,
        }


class Classifier:
    """Classifies slices with one model; usable from several threads.

    Args:
        model: a .tflite or .onnx file from btc-export; default: the bundled model.
        backend: interpreter, see `edge_runtime.interpreters.BACKENDS`.
        threads: threads of each interpreter.
        limits: what is refused unread.

    Raises:
        ModelError: the model cannot be used.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile | None = None,
        *,
        backend: str = "auto",
        threads: int = 1,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        self.model = model if isinstance(model, ModelFile) else read_model(model)
        self._backend, self._threads, self._limits = backend, threads, limits
        self._familiarity = (
            Familiarity.from_json(self.info.unfamiliar) if self.info.unfamiliar else None
        )
        self._local = threading.local()  # an interpreter for each thread: they cannot share one
        self._check_features(self._graph())

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self.model.info

    def classify(self, source: ImageSource) -> Prediction:
        """Classify a path, the bytes of an encoded image, or an array (see `as_gray`).

        Raises:
            InputError: the input cannot be read or is no slice.
            ModelError: the model fails on it.
        """
        data: bytes | memoryview
        if isinstance(source, np.ndarray):
            gray = as_gray(source)
            data = np.ascontiguousarray(source).data.cast("B")
        else:
            data = source if isinstance(source, bytes) else read_file(source, self._limits)
            gray = decode(data, self._limits)
        graph = self._graph()
        logits = graph.run(preprocess(gray, self.info.preprocess))
        strange = self._familiarity is not None and bool(
            self._familiarity.is_strange(_given(graph.features()))
        )
        return self._answer(_name(source), logits, strange, hashlib.sha256(data).hexdigest())

    def classify_many(self, sources: Iterable[ImageSource]) -> Iterator[Prediction]:
        """Classify in order, one by one; a bad input becomes an answer with status error."""
        for source in sources:
            try:
                yield self.classify(source)
            except InputError as error:
                yield self.failure(source, error)

    def failure(self, source: ImageSource, error: InputError) -> Prediction:
        """The answer with status error for an input that cannot be used."""
        return Prediction(
            input=_name(source),
            status=Status.ERROR,
            label=None,
            raw_label=None,
            confidence=None,
            probabilities=None,
            reason=None,
            sha256=None,
            model=self.model.tag,
            error=one_line(error),
        )

    def _graph(self) -> Graph:
        graph: Graph | None = getattr(self._local, "graph", None)
        if graph is None:
            graph = self._local.graph = open_graph(self.model, self._backend, self._threads)
        return graph

    def _check_features(self, graph: Graph) -> None:
        """The check for unfamiliar inputs must fit the graph's features, before any input."""
        if self._familiarity is None:
            return
        size = self.info.preprocess.size
        graph.run(np.zeros((size, size), np.uint8))
        if _given(graph.features()).shape != self._familiarity.mean.shape:
            raise ModelError("the graph's features are not what its metadata says")

    def _answer(
        self, name: str, logits: npt.NDArray[np.float32], strange: bool, digest: str
    ) -> Prediction:
        shares = probabilities(logits, self.info.temperature)
        best = int(shares.argmax())
        label, confidence = self.info.labels[best], float(shares[best])
        threshold = (self.info.thresholds or {}).get(label)
        status = status_of(confidence, threshold, strange)
        reason = None
        if status is Status.UNFAMILIAR:
            reason = "unlike the slices that the model learned from"
        elif status is Status.UNCERTAIN:
            reason = f"confidence below {threshold:.3f}, the threshold of {label}"
        return Prediction(
            input=name,
            status=status,
            label=label if status is Status.OK else None,
            raw_label=label,
            confidence=confidence,
            probabilities=dict(zip(self.info.labels, shares.tolist(), strict=True)),
            reason=reason,
            sha256=digest,
            model=self.model.tag,
        )


def status_of(confidence: float, threshold: float | None, strange: bool) -> Status:
    """What an answer is worth: the rule of every model, on the device and in evaluations.

    Args:
        confidence: of the best guess, 0-1.
        threshold: of its label; None where the model has none. At 1 nothing is sure enough, not
            even a confidence that rounds to 1.
        strange: whether the input is unlike what the model learned from.
    """
    if strange:
        return Status.UNFAMILIAR
    sure = threshold is None or (confidence >= threshold and threshold < 1)
    return Status.OK if sure else Status.UNCERTAIN


def _given(features: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    if features is None:
        raise ModelError("the graph's features are not what its metadata says")
    return features


def _name(source: ImageSource) -> str:
    if isinstance(source, np.ndarray):
        return "array"
    return "bytes" if isinstance(source, bytes) else os.fspath(source)


def probabilities(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Softmax of logits divided by a temperature, over the last axis, in float64."""
    raw = logits.astype(np.float64)
    shares = np.exp((raw - raw.max(axis=-1, keepdims=True)) / temperature)
    normalised: npt.NDArray[np.float64] = shares / shares.sum(axis=-1, keepdims=True)
    return normalised
