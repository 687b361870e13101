"""The public API: a `Classifier` answers with a `Prediction`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge_runtime.batch import in_order
from edge_runtime.errors import InputError, ModelError, UsageError, one_line
from edge_runtime.images import DEFAULT_LIMITS, MIB, ImageLimits, as_gray, read_file
from edge_runtime.inputs import Unusable
from edge_runtime.interpreters import Graph, open_graph
from edge_runtime.model_file import ModelFile, read_model
from edge_runtime.prediction import (
    Prediction,
    Status,
    below_threshold,
    failure,
    probabilities,
    status_of,
)
from edge_runtime.preprocess import frame_of, preprocess
from edge_runtime.slices import Slice, slices_of
from edge_runtime.study import study_answer
from edge_runtime.unfamiliar import Familiarity

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.images import ImageSource
    from edge_runtime.model_info import ModelInfo


class _Seen(NamedTuple):
    """What the graph gave for one slice."""

    logits: npt.NDArray[np.float32]
    strange: bool
    maps: npt.NDArray[np.float32] | None


class Classifier:
    """Classifies slices with one model; usable from several threads.

    Args:
        model: a .tflite or .onnx file from btc-export; default: the bundled model.
        backend: interpreter, see `edge_runtime.interpreters.BACKENDS`.
        threads: threads of each interpreter.
        limits: what is refused unread.
        min_confidence: below it no label is given, whatever the model's own thresholds.
        plane: how a NIfTI volume is cut: axial, coronal or sagittal.

    Raises:
        ModelError: the model cannot be used. UsageError: a `min_confidence` that is no share.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile | None = None,
        *,
        backend: str = "auto",
        threads: int = 1,
        limits: ImageLimits = DEFAULT_LIMITS,
        min_confidence: float = 0.0,
        plane: str = "axial",
    ) -> None:
        self.model = model if isinstance(model, ModelFile) else read_model(model)
        self._backend, self._threads, self._limits = backend, threads, limits
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence {min_confidence} is no share between 0 and 1")
        self._min_confidence, self._plane = min_confidence, plane
        self._familiarity = (
            Familiarity.from_json(self.info.unfamiliar) if self.info.unfamiliar else None
        )
        self._idle: list[Graph] = []  # two threads must never share an interpreter
        with self._graph() as graph:
            self._check_features(graph)

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self.model.info

    def threshold(self, label: str) -> float | None:
        """The confidence from which on a label is given; None where any will do."""
        own = (self.info.thresholds or {}).get(label)
        return max(own or 0.0, self._min_confidence) or own

    def classify(
        self, source: ImageSource, *, value_range: tuple[float, float] | None = None
    ) -> Prediction:
        """Classify a path, the bytes of an encoded image, or an array.

        Args:
            value_range: the values of an array that are black and white, see `as_gray`.

        Raises:
            InputError: the input cannot be read, is no slice or holds several.
            ModelError: the model fails on it.
        """
        if isinstance(source, np.ndarray):
            digest = hashlib.sha256(np.ascontiguousarray(source).data.cast("B")).hexdigest()
            seen = self._look(as_gray(source, value_range))
            return self._answer(_name(source), Slice(None, source), digest, seen)
        answers = self.classify_slices(source)
        answer = next(answers)
        if answer.slice is not None:
            raise InputError("holds several slices: ask for classify_slices")
        return answer

    def classify_slices(
        self, source: ImageSource, *, heatmaps: Path | None = None
    ) -> Iterator[Prediction]:
        """Classify each slice of a file; a picture has one.

        Args:
            heatmaps: folder for an overlay of each slice with the class map of its best guess.

        Raises:
            InputError: the input cannot be read or is no slice.
            ModelError: the model fails on it, or gives no class maps where they are asked for.
        """
        if isinstance(source, np.ndarray):
            yield self.classify(source)
            return
        data = self._read(source)
        digest, name = hashlib.sha256(data).hexdigest(), _name(source)
        for part in slices_of(data, self._limits, self._plane):
            seen = self._look(part.gray, heatmaps is not None)
            answer = self._answer(name, part, digest, seen)
            yield answer if heatmaps is None else self._drawn(answer, part, seen, heatmaps)

    def classify_many(
        self,
        sources: Iterable[ImageSource | Unusable | None],
        *,
        workers: int = 1,
        heatmaps: Path | None = None,
    ) -> Iterator[Prediction]:
        """Classify every slice of every source, in order; a bad input becomes an answer with
        status error.

        Args:
            sources: taken a few ahead of the answers; see `inputs.expand` for those that are
                known to be unusable, and `batch.in_order` for a None.
            workers: threads that decode and classify, each with an interpreter of its own.
            heatmaps: see `classify_slices`.
        """
        work = partial(self._answers, heatmaps=heatmaps)
        for answers in in_order(work, sources, workers):
            yield from answers

    def classify_study(
        self,
        name: str,
        sources: Iterable[ImageSource | Unusable | None],
        *,
        workers: int = 1,
        heatmaps: Path | None = None,
    ) -> Prediction:
        """One answer for the slices of one patient, with the answers behind it in `slices`; see
        `study.study_answer` for the rule."""
        answers = list(self.classify_many(sources, workers=workers, heatmaps=heatmaps))
        return study_answer(name, answers, self)

    def failure(self, source: ImageSource, error: InputError) -> Prediction:
        """The answer with status error for an input that cannot be used."""
        return failure(_name(source), self.model.tag, one_line(error))

    def _read(self, source: str | os.PathLike[str] | bytes) -> bytes:
        if not isinstance(source, bytes):
            return read_file(source, self._limits)
        if len(source) > self._limits.max_bytes:
            raise InputError(f"larger than the limit of {self._limits.max_bytes // MIB} MiB")
        return source

    def _answers(self, source: ImageSource | Unusable, heatmaps: Path | None) -> list[Prediction]:
        if isinstance(source, Unusable):
            return [self.failure(*source)]
        answers = []
        try:
            for answer in self.classify_slices(source, heatmaps=heatmaps):
                answers.append(answer)  # noqa: PERF402 - those before an error count
        except InputError as error:
            answers.append(self.failure(source, error))
        return answers

    @contextmanager
    def _graph(self) -> Iterator[Graph]:
        """An interpreter for as long as it is needed; the list's pop and append are atomic."""
        try:
            graph = self._idle.pop()
        except IndexError:
            graph = open_graph(self.model, self._backend, self._threads)
        try:
            yield graph
        finally:
            self._idle.append(graph)

    def _look(self, gray: npt.NDArray[np.uint8], maps: bool = False) -> _Seen:
        pixels = preprocess(gray, self.info.preprocess)
        with self._graph() as graph:
            logits = graph.run(pixels)
            strange = self._familiarity is not None and bool(
                self._familiarity.is_strange(_given(graph.features()))
            )
            return _Seen(logits, strange, graph.class_maps() if maps else None)

    def _check_features(self, graph: Graph) -> None:
        """The check for unfamiliar inputs must fit the graph's features, before any input."""
        if self._familiarity is None:
            return
        size = self.info.preprocess.size
        graph.run(np.zeros((size, size), np.uint8))
        if _given(graph.features()).shape != self._familiarity.mean.shape:
            raise ModelError("the graph's features are not what its metadata says")

    def _answer(self, name: str, part: Slice, digest: str, seen: _Seen) -> Prediction:
        shares = probabilities(seen.logits, self.info.temperature)
        best = int(shares.argmax())
        label, confidence = self.info.labels[best], float(shares[best])
        threshold = self.threshold(label)
        status = status_of(confidence, threshold, seen.strange)
        reason = None
        if status is Status.UNFAMILIAR:
            reason = "unlike the slices that the model learned from"
        elif status is Status.UNCERTAIN:
            reason = below_threshold(threshold, label)
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
            slice=part.number,
        )

    def _drawn(self, answer: Prediction, part: Slice, seen: _Seen, folder: Path) -> Prediction:
        """The answer with the overlay that was written for it."""
        from dataclasses import replace

        from edge_runtime.heatmap import overlay, write_overlay

        if seen.maps is None:
            raise ModelError("this model gives no class maps, so it has no heatmaps")
        heat = seen.maps[..., int(seen.logits.argmax())]
        picture = overlay(part.gray, heat, frame_of(part.gray, self.info.preprocess))
        path = write_overlay(folder, answer.input, part.number, answer.sha256 or "", picture)
        return replace(answer, heatmap=path)


def _given(features: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    if features is None:
        raise ModelError("the graph's features are not what its metadata says")
    return features


def _name(source: ImageSource) -> str:
    if isinstance(source, np.ndarray):
        return "array"
    return "bytes" if isinstance(source, bytes) else os.fspath(source)
