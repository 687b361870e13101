"""The public API: a `Classifier` answers with a `Prediction`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge_runtime.batch import Budget, Reservation, Unusable, each_in_order, in_chunks
from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import (
    Prediction,
    Status,
    below_threshold,
    failure,
    probabilities,
    status_of,
)
from edge_runtime.decision.study import study_answer
from edge_runtime.errors import InputError, ModelError, UsageError, one_line
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.imaging.gray import as_gray
from edge_runtime.imaging.kinds import kind_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits
from edge_runtime.imaging.preprocess import crop_box, preprocess
from edge_runtime.imaging.readers import (
    numbered,
    open_slices,
    read_any,
    size_of,
    slices_of,
)
from edge_runtime.imaging.stack import Slice
from edge_runtime.memory import give_back
from edge_runtime.model.backends import Graph, open_graph
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from edge_runtime.processes import Processes

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.imaging.limits import Encoded, ImageSource
    from edge_runtime.model.metadata import ModelInfo
    from edge_runtime.processes import Source


SMALL = 16  # a file that needs less than this part of the limit is let in without being looked at
CHUNK = 8  # sources that go to a process at once


class _Outputs(NamedTuple):
    """What the graph gave for one slice, and whether it is out-of-distribution."""

    logits: npt.NDArray[np.float32]
    is_ood: bool
    class_maps: npt.NDArray[np.float32] | None


class Classifier:
    """Classifies slices with one model; usable from several threads.

    Args:
        model: a .tflite or .onnx file from btc-export; default: the bundled model.
        backend: interpreter, see `edge_runtime.model.backends.BACKENDS`.
        threads: threads of each interpreter.
        limits: what is refused unread.
        min_confidence: below it no label is given, whatever the model's own thresholds.
        plane: how a NIfTI volume is cut: axial, coronal or sagittal.
        volume: which volume of a NIfTI file of several is meant, from 0; without it such a file
            is refused.

    Raises:
        ModelError: the model cannot be used.
        UsageError: a `min_confidence` that is no probability, or an unknown `plane`.
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
        volume: int | None = None,
    ) -> None:
        self.model = model if isinstance(model, ModelFile) else read_model(model)
        self._backend, self._threads, self._limits = backend, threads, limits
        self._settings = {
            "model": self.model, "backend": backend, "threads": threads, "limits": limits,
            "min_confidence": min_confidence, "plane": plane, "volume": volume,
        }  # fmt: skip
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence {min_confidence} is no probability between 0 and 1")
        if plane not in PLANES:
            raise UsageError(f"plane {plane!r} is none of {', '.join(PLANES)}")
        self._min_confidence, self._plane, self._volume = min_confidence, plane, volume
        self._memory = Budget(limits.max_memory)  # a file that needs more is alone
        ood = self.info.ood
        self._ood_detector = None if ood is None else OodDetector.from_json(ood)
        self._idle: list[Graph] = []  # two threads must never share an interpreter
        with self._graph() as graph:
            self._check_features(graph)

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self.model.info

    def threshold(self, label: str) -> float | None:
        """The confidence from which on a label is given; None where any will do.

        Returns:
            A probability, 0-1: the model's own threshold or `min_confidence`, whichever is higher.
        """
        own = (self.info.thresholds or {}).get(label)
        return max(own or 0.0, self._min_confidence) or own

    def classify(
        self, source: ImageSource, *, value_range: tuple[float, float] | None = None
    ) -> Prediction:
        """Classify a path, an encoded picture (bytes, bytearray, memoryview, or a binary stream),
        or an array.

        Args:
            value_range: the values of an array that are black and white, see `as_gray`.

        Returns:
            The answer, with status ok, uncertain or unfamiliar.

        Raises:
            InputError: the input cannot be read, is no slice or holds several.
            ModelError: the model fails on it.
        """
        if isinstance(source, np.ndarray):
            return next(self._array(source, value_range, None))
        answers = self.classify_slices(source)
        answer = next(answers)
        if answer.slice is not None:
            raise InputError("holds several slices: ask for classify_slices")
        return answer

    def classify_slices(
        self, source: ImageSource, *, heatmaps: Path | None = None
    ) -> Iterator[Prediction]:
        """Classify each slice of a file, one at a time; a picture has one.

        Args:
            heatmaps: folder for an overlay of each slice with the class map of its best guess.

        Returns:
            The answers, in the order of the slices, each computed when it is taken.

        Raises:
            InputError: the input cannot be read or is no slice, or is damaged behind the slices
                that were answered.
            ModelError: the model fails on it, or gives no class maps where they are asked for.
        """
        if isinstance(source, np.ndarray):
            yield from self._array(source, None, heatmaps)
            return
        data = read_any(source, self._limits)
        parts = slices_of(data, self._limits, self._plane, self._volume)
        digest = hashlib.sha256(data).hexdigest()
        yield from self._each(_name(source), digest, parts, heatmaps)

    def classify_many(
        self,
        sources: Iterable[ImageSource | Unusable | None],
        *,
        workers: int = 1,
        heatmaps: Path | None = None,
        processes: bool = False,
    ) -> Iterator[Prediction]:
        """Classify every slice of every source, in order; a bad input becomes an answer with
        status error.

        Args:
            sources: taken a few ahead of the answers; see `commands.inputs.expand` for those that
                are known to be unusable, and `batch.each_in_order` for a None.
            workers: threads that decode and classify, each with an interpreter of its own. Files
                that together would need more memory than the limits allow for one wait for each
                other.
            heatmaps: see `classify_slices`.
            processes: from the 1,000th file on, each worker starts a Python process of its own,
                which classifies what is one small slice: faster, for about 100 MiB of memory each.
                Answers are the same. A file that kills a process becomes an answer with status
                error. Where no process can be started, and for heatmaps, the threads go on.

        Returns:
            The answers, in the order of the sources, as they are known.

        Raises:
            UsageError: no worker.
        """
        if workers < 1:
            raise UsageError(f"{workers} workers: need at least one")
        if processes and workers > 1 and heatmaps is None:
            chunks: Iterator[list[Source] | None] = in_chunks(sources, CHUNK)
            with Processes(self._chunk, self.failure, self._settings) as pool:
                yield from each_in_order(pool.work, chunks, workers, pool.stop)
            return
        work = partial(self._answers, heatmaps=heatmaps, alone=workers == 1)
        yield from each_in_order(work, sources, workers)

    def classify_small(self, paths: Iterable[str]) -> Iterator[Prediction | None]:
        """Classify files that are one slice and need so little memory that several at once do not
        count.

        Returns:
            An answer for each, in their order; None for another file, or one that cannot be used:
            ask for `classify_slices`, which says why.
        """
        for path in paths:
            try:
                yield self._small(path)
            except Exception:  # told by whoever asks again
                yield None

    def classify_study(
        self,
        name: str,
        sources: Iterable[ImageSource | Unusable | None],
        *,
        workers: int = 1,
        heatmaps: Path | None = None,
    ) -> Prediction:
        """One answer for the slices of one patient, with the answers behind it in `slices`; see
        `study.study_answer` for the rule.

        Args:
            name: what the answer calls the study, its `input`.
            sources, workers, heatmaps: see `classify_many`.

        Returns:
            The answer; with status error where no slice could be used.

        Raises:
            UsageError: no worker.
        """
        answers = list(self.classify_many(sources, workers=workers, heatmaps=heatmaps))
        thresholds = {label: self.threshold(label) for label in self.info.labels}
        return study_answer(name, answers, thresholds, self.model.tag)

    def failure(self, source: ImageSource, error: InputError) -> Prediction:
        """The answer with status error for an input that cannot be used.

        Returns:
            An answer whose `error` is one line.
        """
        return failure(_name(source), self.model.tag, one_line(error))

    def _answers(
        self, source: ImageSource | Unusable, heatmaps: Path | None, alone: bool
    ) -> Generator[Prediction, None, None]:
        """The answers for one source, errors among them."""
        if isinstance(source, Unusable):
            yield self.failure(*source)
            return
        try:
            if alone or isinstance(source, np.ndarray):
                yield from self.classify_slices(source, heatmaps=heatmaps)
            else:
                yield from self._in_turn(source, heatmaps)
        except InputError as error:
            yield self.failure(source, error)

    def _chunk(self, sources: Iterable[Source]) -> Generator[Prediction, None, None]:
        for source in sources:
            yield from self._answers(source, heatmaps=None, alone=False)

    def _small(self, path: str) -> Prediction | None:
        limits, little = self._limits, self._limits.max_memory // SMALL
        if size_of(path, limits) >= little:
            return None
        data = read_any(path, limits)
        if kind_of(data) is None:  # a gzip file would be unpacked
            return None
        stack = open_slices(data, limits, self._plane, self._volume)
        if stack.length != 1 or stack.memory > little:
            return None
        return next(self._each(path, hashlib.sha256(data).hexdigest(), numbered(stack), None))

    def _in_turn(self, source: Encoded, heatmaps: Path | None) -> Iterator[Prediction]:
        """As `classify_slices`, once there is memory for this source beside the others."""
        limits, problem = self._limits, None
        size = size_of(source, limits)
        first = size + limits.max_memory // SMALL if size < limits.max_memory // SMALL else None
        with self._memory.taken(first or size + limits.max_memory) as memory:
            try:
                yield from self._held(source, heatmaps, memory, first is None)
            except InputError as error:  # whose traceback would hold the file's bytes
                problem = InputError(one_line(error))
        if problem is not None:
            raise problem

    def _held(
        self, source: Encoded, heatmaps: Path | None, memory: Reservation, large: bool
    ) -> Iterator[Prediction]:
        """The answers; what they need is gone when they end, before the memory is given back."""
        if large:
            give_back()
        data = read_any(source, self._limits)
        stack = open_slices(data, self._limits, self._plane, self._volume)
        if large or stack.memory > self._limits.max_memory // SMALL:
            memory.become(stack.memory + (0 if data is source else len(data)))
            give_back()
        digest = hashlib.sha256(data).hexdigest()
        yield from self._each(_name(source), digest, numbered(stack), heatmaps)

    def _array(
        self,
        source: npt.NDArray[Any],
        value_range: tuple[float, float] | None,
        heatmaps: Path | None,
    ) -> Iterator[Prediction]:
        gray = as_gray(source, value_range)
        digest = hashlib.sha256(np.ascontiguousarray(source).view(np.uint8).data).hexdigest()
        yield from self._each(_name(source), digest, iter([Slice(None, gray)]), heatmaps)

    def _each(
        self, name: str, digest: str, parts: Iterator[Slice], heatmaps: Path | None
    ) -> Iterator[Prediction]:
        for part in parts:
            outputs = self._run(part.gray, heatmaps is not None)
            answer = self._answer(name, part, digest, outputs)
            yield answer if heatmaps is None else self._drawn(answer, part, outputs, heatmaps)

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

    def _run(self, gray: npt.NDArray[np.uint8], class_maps: bool) -> _Outputs:
        pixels = preprocess(gray, self.info.preprocess)
        with self._graph() as graph:
            logits = graph.run(pixels)
            is_ood = self._ood_detector is not None and bool(
                self._ood_detector.is_ood(_given(graph.features()))
            )
            return _Outputs(logits, is_ood, graph.class_maps() if class_maps else None)

    def _check_features(self, graph: Graph) -> None:
        """The check for out-of-distribution inputs must fit the graph's features, before any
        input."""
        if self._ood_detector is None:
            return
        size = self.info.preprocess.size
        graph.run(np.zeros((size, size), np.uint8))
        if _given(graph.features()).shape != self._ood_detector.mean.shape:
            raise ModelError("the graph's features are not what its metadata says")

    def _answer(self, name: str, part: Slice, digest: str, outputs: _Outputs) -> Prediction:
        by_label = probabilities(outputs.logits, self.info.temperature)
        best = int(by_label.argmax())
        label, confidence = self.info.labels[best], float(by_label[best])
        threshold = self.threshold(label)
        status = status_of(confidence, threshold, outputs.is_ood)
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
            probabilities=dict(zip(self.info.labels, by_label.tolist(), strict=True)),
            reason=reason,
            sha256=digest,
            model=self.model.tag,
            slice=part.number,
        )

    def _drawn(
        self, answer: Prediction, part: Slice, outputs: _Outputs, folder: Path
    ) -> Prediction:
        """The answer with the overlay that was written for it."""
        from dataclasses import replace

        from edge_runtime.decision.heatmap import overlay, write_overlay

        if outputs.class_maps is None:
            raise ModelError("this model gives no class maps, so it has no heatmaps")
        heat = outputs.class_maps[..., int(outputs.logits.argmax())]
        picture = overlay(part.gray, heat, crop_box(part.gray, self.info.preprocess))
        path = write_overlay(folder, answer.input, part.number, answer.sha256 or "", picture)
        return replace(answer, heatmap=path)


def _given(features: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    if features is None:
        raise ModelError("the graph's features are not what its metadata says")
    return features


def _name(source: ImageSource) -> str:
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes"
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else "stream"
