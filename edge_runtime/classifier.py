"""The public API: a `Classifier` answers with a `Prediction`."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np

from edge_runtime.batch import Budget, Reservation, Unusable, each_in_order
from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import (
    Prediction,
    SliceFacts,
    Status,
    below_threshold,
    failure,
    softmax,
    status_of,
)
from edge_runtime.decision.study import (
    SeriesAnswers,
    StudyRule,
    pooled_answer,
    study_answer,
)
from edge_runtime.decision.view import Seen, View
from edge_runtime.errors import InputError, ModelError, UsageError, one_line
from edge_runtime.imaging.decode import decode_kind
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.imaging.gray import as_gray
from edge_runtime.imaging.head import head_share
from edge_runtime.imaging.kinds import VOLUME_SUFFIXES, kind_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits, read_source
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
from edge_runtime.model.backends import Graph, choose_backend, open_graph
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.picked import Chosen, read_chosen
from edge_runtime.processes import Processes, cores

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.decision.heatmap import Explained
    from edge_runtime.imaging.limits import Encoded, ImageSource
    from edge_runtime.model.metadata import ModelInfo
    from edge_runtime.processes import Source

    Heatmaps = Path | Callable[[Explained], str | None]


SMALL = 16  # a file that needs less than this part of the limit is let in without being looked at
CHUNK = 32  # small pictures that go through each step together, or are asked of a process at once
HELD = 1 << 18  # bytes of an encoded picture in memory that may wait for others
PATIENCE = 1e-3  # seconds: a source that was longer in coming waits for no other


class _Input(NamedTuple):
    """A picture as the model sees it, what the answer calls it, and the digest of its file."""

    name: str
    pixels: npt.NDArray[np.uint8]
    digest: str


class _Outputs(NamedTuple):
    """What the graph gave for one slice."""

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None
    class_maps: npt.NDArray[np.float32] | None


class Classifier:
    """Classifies slices with one model; usable from several threads.

    Args:
        model: a .tflite or .onnx file from btc-export, or a folder of them, which stands for the
            one that `btc-edge benchmark --pick` chose there on this machine, see `read_chosen`;
            or `small` or `large`, the models that come with the package; default: `small`.
        backend: interpreter, `auto` or one of `edge_runtime.model.backends.BACKENDS`; default:
            what a folder's file was picked for, else `auto`.
        threads: threads of each interpreter; default: likewise, else 1.
        limits: what is refused unread.
        min_confidence: below it no label is given, whatever the model's own thresholds.
        plane: how a NIfTI volume is cut: axial, coronal or sagittal; None: axial, and as a study
            in all of them.
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
        backend: str | None = None,
        threads: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        min_confidence: float = 0.0,
        plane: str | None = None,
        volume: int | None = None,
    ) -> None:
        chosen = Chosen(model) if isinstance(model, ModelFile) else read_chosen(model)
        self.model = chosen.file
        self._backend = chosen.backend if backend is None else backend
        self._threads = chosen.threads if threads is None else threads
        self._limits = limits
        self._settings = {
            "model": self.model, "backend": self._backend, "threads": self._threads,
            "limits": limits, "min_confidence": min_confidence, "plane": plane, "volume": volume,
        }  # fmt: skip
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence {min_confidence} is no probability between 0 and 1")
        if plane not in (None, *PLANES):
            raise UsageError(f"plane {plane!r} is none of {', '.join(PLANES)}")
        self._min_confidence, self._volume = min_confidence, volume
        self._asked, self._plane = plane, plane or PLANES[0]
        self._memory = Budget(limits.max_memory)  # a file that needs more is alone
        part = limits.max_memory // SMALL
        self._small = replace(
            limits, max_bytes=min(limits.max_bytes, part), max_memory=min(limits.max_memory, part)
        )
        self._runtime = choose_backend(self.model.format, self._backend)
        self._info = self.model.info.for_runtime(self._runtime)
        ood, view = self.info.ood, self.info.view
        self._ood_detector = None if ood is None else OodDetector.from_json(ood)
        self._view = None if view is None else View.from_json(view)
        rule = self.info.study
        self._rule = None if rule is None else StudyRule.from_json(rule, self.info.labels)
        self._tag = self.model.tag
        self._thresholds = {label: self.threshold(label) for label in self.info.labels}
        self._idle: list[Graph] = []  # two threads must never share an interpreter
        graph = self._take_graph()
        self._check_features(graph)
        self._idle.append(graph)

    @property
    def limits(self) -> ImageLimits:
        """What is refused unread."""
        return self._limits

    @property
    def cut(self) -> tuple[str | None, int | None]:
        """In which plane a NIfTI volume is cut, if one was asked for, and which of several is
        meant."""
        return self._asked, self._volume

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of another `Classifier` that gives the same answers, the interpreter that
        was chosen among them; they pickle."""
        return {**self._settings, "backend": self._runtime}

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself, with the decision rule for the runtime that runs it."""
        return self._info

    @property
    def runtime(self) -> str:
        """What runs the model, one of `edge_runtime.model.backends.BACKENDS`."""
        return self._runtime

    @property
    def fitted_here(self) -> bool | None:
        """Whether temperature, thresholds and the check for out-of-distribution slices were fitted
        on what the model answers in this runtime, of whichever version; None where the file does
        not say what they were fitted with. Where they were not they may not hold."""
        return self.model.info.is_fitted_for(self._runtime)

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
        name, data = _name(source), read_any(source, self._limits)
        picture = self._picture(name, data, self._limits)
        if picture is not None:
            return self._answer(name, None, picture.digest, self._run(picture.pixels, False))
        parts = slices_of(data, self._limits, self._plane, self._volume)
        answer = next(self._each(name, sha256(data).hexdigest(), parts, None))
        if answer.slice is not None:
            raise InputError("holds several slices: ask for classify_slices")
        return answer

    def classify_slices(
        self, source: ImageSource, *, heatmaps: Heatmaps | None = None
    ) -> Iterator[Prediction]:
        """Classify each slice of a file, one at a time; a picture has one.

        Args:
            heatmaps: folder for an overlay of each slice with the class map of its best guess; or
                a function that is called with each slice and that map, in the thread that answers,
                and says what stands in `heatmap`.

        Returns:
            The answers, in the order of the slices, each computed when it is taken.

        Raises:
            InputError: the input cannot be read or is no slice, or is damaged behind the slices
                that were answered.
            ModelError: the model fails on it, or gives no class maps where they are asked for.
        """
        yield from self._slices(source, heatmaps, False)

    def classify_many(
        self,
        sources: Iterable[ImageSource | Unusable | None],
        *,
        workers: int = 1,
        heatmaps: Heatmaps | None = None,
        processes: bool = False,
    ) -> Iterator[Prediction]:
        """Classify every slice of every source, in order; a bad input becomes an answer with
        status error.

        Args:
            sources: taken a few ahead of the answers. Small pictures are gathered, CHUNK at most,
                before they are answered together, so with one worker too an answer may wait for
                sources to come; a None among them says that the next may be long in coming, and
                all before it is answered first. It is so too where they raise.
                See `commands.inputs.expand` for those that are known to be unusable.
            workers: threads that decode and classify, each with an interpreter of its own. Files
                that together would need more memory than the limits allow for one wait for each
                other.
            heatmaps: see `classify_slices`.
            processes: after 2,000 files each worker, but no more than there are cores,
                starts a Python process, which classifies what is one small slice: faster, but each
                needs memory as a program of its own. Answers are the same. A file that kills a
                process becomes an answer with status error. Where no process can be started, and
                for heatmaps, the threads go on.

        Returns:
            The answers, in the order of the sources, as they are known.

        Raises:
            UsageError: no worker.
        """
        if workers < 1:
            raise UsageError(f"{workers} workers: need at least one")
        here = partial(self._chunk, heatmaps=heatmaps)
        work = partial(here, alone=False)
        chunks = _chunks(sources, workers, CHUNK if heatmaps is None else 1)
        if processes and workers > 1 and heatmaps is None:
            # Of each process, of which there are no more than cores: half for a file, half to
            # decode it.
            share = self._limits.max_memory // min(workers, cores())
            limits = replace(self._limits, max_memory=share // 2 * SMALL)
            settings = {**self._settings, "limits": limits}
            with Processes(
                work, self.failure, settings, partial(self._memory.taken, share)
            ) as pool:
                yield from each_in_order(pool.work, chunks, workers, pool.stop, here)
            return
        yield from each_in_order(work, chunks, workers, here=here)

    def classify_small(self, paths: Sequence[str]) -> list[Prediction | None]:
        """Classify files that are one slice and need at most a SMALL-th of the memory that the
        limits allow.

        Returns:
            An answer for each, in their order; None for another file, or one that cannot be used:
            ask for `classify_slices`, which says why.
        """
        pictures = self._pictures(paths)
        outputs = iter(self._run_all([picture for picture in pictures if picture is not None]))
        answers: list[Prediction | None] = []
        for path, picture in zip(paths, pictures, strict=True):
            answer = None
            with suppress(Exception):  # it is told by whoever asks again
                if picture is None:
                    answer = self._small_slice(path)
                elif isinstance(seen := next(outputs, None), _Outputs):
                    answer = self._answer(path, None, picture.digest, seen)
            answers.append(answer)
        return answers

    def classify_study(
        self,
        name: str,
        sources: Iterable[ImageSource | Unusable | None],
        *,
        workers: int = 1,
        heatmaps: Heatmaps | None = None,
    ) -> Prediction:
        """One answer for the slices of one patient, with the answers behind it in `slices`.

        The slices count as one series, in the order of the sources; what is known of a study's
        series is told to `studies.decide.classify_study`. For the rule see `decide`.

        Args:
            name: what the answer calls the study, its `input`.
            sources, workers, heatmaps: see `classify_many`.

        Returns:
            The answer; with status error where no slice could be used.

        Raises:
            UsageError: no worker.
        """
        if workers < 1:
            raise UsageError(f"{workers} workers: need at least one")
        here = partial(self._chunk, heatmaps=heatmaps, facts=self._rule is not None)
        chunks = _chunks(sources, workers, CHUNK if heatmaps is None else 1)
        answers = each_in_order(partial(here, alone=False), chunks, workers, here=here)
        return self.decide(
            name, None, [SeriesAnswers(name, None, None, None, None, tuple(answers))]
        )

    def examine(
        self, name: str, part: Slice, digest: str | None, heatmaps: Heatmaps | None = None
    ) -> Prediction:
        """The answer for a slice of a study that is decoded already.

        Args:
            name: what the answer calls the file.
            digest: of the file's bytes, or None.
            heatmaps: see `classify_slices`.

        Raises:
            InputError, ModelError: as `classify_slices`.
        """
        return next(self._each(name, digest, iter([part]), heatmaps, self._rule is not None))

    def decide(
        self,
        name: str,
        uid: str | None,
        series: Sequence[SeriesAnswers],
        passed_over: Sequence[tuple[str, str]] = (),
    ) -> Prediction:
        """One answer for a study, by the model's rule for studies, see `study.study_answer`; of a
        model file without one by `study.pooled_answer`, over all series.

        Args:
            name, uid: of the study.
            series: with the answers of `examine`.
            passed_over: files that gave no slice, and why.
        """
        if self._rule is not None:
            return study_answer(
                name, uid, series, self._rule, self._tag, self._view, passed_over,
                self._min_confidence,
            )  # fmt: skip
        answers = [a for each in series for a in each.answers]
        return pooled_answer(name, answers, self._thresholds, self._tag, self._view)

    def failure(self, source: ImageSource, error: InputError) -> Prediction:
        """The answer with status error for an input that cannot be used.

        Returns:
            An answer whose `error` is one line.
        """
        return failure(_name(source), self._tag, one_line(error))

    def _chunk(
        self,
        sources: Sequence[Source],
        heatmaps: Heatmaps | None = None,
        alone: bool = True,
        facts: bool = False,
    ) -> Generator[Prediction, None, None]:
        """The answers for several sources, in order, errors among them.

        Small pictures take each step one after the other, so that the processor's caches hold its
        code and data. All else goes alone when its turn comes, and so does what fails on the way.

        Args:
            alone: nothing else is worked on meanwhile, so no memory is reserved: while an answer
                waits to be taken, others may wait for that memory.
            facts: answers bring what a study's rule wants to know beside them.
        """
        plain = heatmaps is None and not facts and any(map(_is_plain, sources))
        pictures = self._pictures(sources) if plain else [None] * len(sources)
        outputs = iter(self._run_all([picture for picture in pictures if picture is not None]))
        for source, picture in zip(sources, pictures, strict=True):
            if picture is None:
                yield from self._answers(source, heatmaps, alone, facts)
                continue
            seen = next(outputs)
            if isinstance(seen, Exception):
                raise seen
            try:
                answer = self._answer(picture.name, None, picture.digest, seen)
            except InputError as error:
                answer = failure(picture.name, self._tag, one_line(error))
            yield answer

    def _pictures(self, sources: Sequence[Source]) -> list[_Input | None]:
        """The model's inputs for those that are small pictures. One is decoded at a time."""
        with self._memory.taken(self._small.max_bytes + self._small.max_memory):
            return [self._small_picture(source) for source in sources]

    def _small_picture(self, source: Source) -> _Input | None:
        """The model's input; None for a source that is no small picture, or none at all: what is
        wrong with it is told when its turn comes."""
        if not _is_plain(source):
            return None
        try:
            data = read_source(source, self._small)
            return self._picture(_name(source), data, self._small)
        except Exception:
            return None

    def _picture(self, name: str, data: bytes, limits: ImageLimits) -> _Input | None:
        """The model's input for a file that is a picture; None for one of another kind.

        Raises:
            InputError: a picture that cannot be used.
        """
        kind = kind_of(data)
        if kind is None or not kind.is_picture:
            return None
        pixels = preprocess(decode_kind(data, kind, limits), self.info.preprocess)
        return _Input(name, pixels, sha256(data).hexdigest())

    def _run_all(self, pictures: Sequence[_Input]) -> list[_Outputs | Exception]:
        """What the graph gives for each picture; the last may be the error that ended it, which
        comes behind the answers before it."""
        outputs: list[_Outputs | Exception] = []
        if not pictures:
            return outputs
        try:
            graph = self._take_graph()
            try:
                for picture in pictures:
                    seen = _Outputs(graph.run(picture.pixels), graph.features(), None)
                    outputs.append(seen)  # one by one: those before an error stay
            finally:
                self._idle.append(graph)
        except Exception as error:
            outputs.append(error)
        return outputs

    def _answers(
        self, source: Source, heatmaps: Heatmaps | None, alone: bool, facts: bool
    ) -> Generator[Prediction, None, None]:
        """The answers for one source, errors among them."""
        if isinstance(source, Unusable):
            yield self.failure(*source)
            return
        try:
            if alone or isinstance(source, np.ndarray):
                yield from self._slices(source, heatmaps, facts)
            else:
                yield from self._in_turn(source, heatmaps, facts)
        except InputError as error:
            yield self.failure(source, error)

    def _slices(
        self, source: ImageSource, heatmaps: Heatmaps | None, facts: bool
    ) -> Iterator[Prediction]:
        """As `classify_slices`."""
        if isinstance(source, np.ndarray):
            yield from self._array(source, None, heatmaps, facts)
            return
        data = read_any(source, self._limits)
        parts = slices_of(data, self._limits, self._plane, self._volume)
        yield from self._each(_name(source), sha256(data).hexdigest(), parts, heatmaps, facts)

    def _small_slice(self, path: str) -> Prediction | None:
        """The answer for a small file of one slice that is no picture; None for another."""
        data = read_any(path, self._small)
        kind = kind_of(data)  # not of a gzip file, which would have to be unpacked
        if kind is None or kind.is_picture:
            return None
        stack = open_slices(data, self._small, self._plane, self._volume)
        if stack.length != 1:
            return None
        return next(self._each(path, sha256(data).hexdigest(), numbered(stack), None))

    def _in_turn(
        self, source: Encoded, heatmaps: Heatmaps | None, facts: bool
    ) -> Iterator[Prediction]:
        """As `classify_slices`, once there is memory for this source beside the others."""
        limits, problem = self._limits, None
        size = size_of(source, limits)
        first = size + limits.max_memory // SMALL if size < limits.max_memory // SMALL else None
        with self._memory.taken(first or size + limits.max_memory) as memory:
            try:
                yield from self._held(source, heatmaps, facts, memory, first is None)
            except InputError as error:  # whose traceback would hold the file's bytes
                problem = InputError(one_line(error))
        if problem is not None:
            raise problem

    def _held(
        self,
        source: Encoded,
        heatmaps: Heatmaps | None,
        facts: bool,
        memory: Reservation,
        large: bool,
    ) -> Iterator[Prediction]:
        """The answers; what they need is gone when they end, before the memory is given back."""
        if large:
            give_back()
        data = read_any(source, self._limits)
        stack = open_slices(data, self._limits, self._plane, self._volume)
        if large or stack.memory > self._limits.max_memory // SMALL:
            memory.become(stack.memory + (0 if data is source else len(data)))
            give_back()
        digest = sha256(data).hexdigest()
        yield from self._each(_name(source), digest, numbered(stack), heatmaps, facts)

    def _array(
        self,
        source: npt.NDArray[Any],
        value_range: tuple[float, float] | None,
        heatmaps: Heatmaps | None,
        facts: bool = False,
    ) -> Iterator[Prediction]:
        gray = as_gray(source, value_range)
        digest = sha256(np.ascontiguousarray(source).view(np.uint8).data).hexdigest()
        yield from self._each(_name(source), digest, iter([Slice(None, gray)]), heatmaps, facts)

    def _each(
        self,
        name: str,
        digest: str | None,
        parts: Iterator[Slice],
        heatmaps: Heatmaps | None,
        facts: bool = False,
    ) -> Iterator[Prediction]:
        for part in parts:
            pixels = preprocess(part.gray, self.info.preprocess)
            outputs = self._run(pixels, facts or heatmaps is not None)
            answer = self._answer(name, part.number, digest, outputs)
            if facts:
                crop = crop_box(part.gray, self.info.preprocess)
                seen = SliceFacts(head_share(part.gray), crop, outputs.class_maps)
                answer = replace(answer, facts=seen)
            yield answer if heatmaps is None else self._drawn(answer, part, outputs, heatmaps)

    def _take_graph(self) -> Graph:
        """An interpreter, to be appended to the idle ones when it is no longer needed; the list's
        pop and append are atomic."""
        try:
            return self._idle.pop()
        except IndexError:
            return open_graph(self.model, self._backend, self._threads)

    def _run(self, pixels: npt.NDArray[np.uint8], class_maps: bool) -> _Outputs:
        """What the graph gives for a preprocessed slice."""
        graph = self._take_graph()
        try:
            logits = graph.run(pixels)
            return _Outputs(logits, graph.features(), graph.class_maps() if class_maps else None)
        finally:
            self._idle.append(graph)

    def _check_features(self, graph: Graph) -> None:
        """The check for out-of-distribution inputs, and the head for plane and sequence, must fit
        the graph's features, before any input."""
        detector, view = self._ood_detector, self._view
        wanted = {len(detector.mean)} if detector is not None else set()
        wanted |= {view.features} if view is not None else set()
        if not wanted:
            return
        size = self.info.preprocess.size
        graph.run(np.zeros((size, size), np.uint8))
        if any(_given(graph.features()).shape != (length,) for length in wanted):
            raise ModelError("the graph's features are not what its metadata says")

    def _answer(
        self, name: str, number: int | None, digest: str | None, outputs: _Outputs
    ) -> Prediction:
        info, detector, view = self.info, self._ood_detector, self._view
        by_label = softmax(outputs.logits.tolist(), info.temperature)
        confidence = max(by_label)
        label = info.labels[by_label.index(confidence)]
        threshold = self._thresholds[label]
        is_ood = detector is not None and detector.is_outside(_given(outputs.features))
        seen, objection = Seen(), None
        if view is not None and not is_ood:
            seen = view.look(_given(outputs.features))
            objection = view.objection(seen)
        status = status_of(confidence, threshold, is_ood, objection is None)
        reason = objection
        if status is Status.UNFAMILIAR:
            reason = "unlike the slices that the model learned from"
        elif status is Status.UNCERTAIN and objection is None:
            reason = below_threshold(threshold, label)
        return Prediction(
            input=name,
            status=status,
            label=label if status is Status.OK else None,
            raw_label=label,
            confidence=confidence,
            probabilities=dict(zip(info.labels, by_label, strict=True)),
            reason=reason,
            sha256=digest,
            model=self._tag,
            slice=number,
            plane=seen.plane,
            sequence=seen.sequence,
        )

    def _drawn(
        self, answer: Prediction, part: Slice, outputs: _Outputs, heatmaps: Heatmaps
    ) -> Prediction:
        """The answer with the path of the overlay that was written for it, if one was."""
        from edge_runtime.decision.heatmap import Explained, write_overlay

        maps = outputs.class_maps
        explained = Explained(
            name=answer.input,
            number=part.number,
            digest=answer.sha256 or "",
            gray=part.gray,
            heat=None if maps is None else maps[..., int(outputs.logits.argmax())],
            crop_box=crop_box(part.gray, self.info.preprocess),
        )
        if not isinstance(heatmaps, Path):
            return replace(answer, heatmap=heatmaps(explained))
        return replace(answer, heatmap=write_overlay(heatmaps, explained))


def _chunks(
    sources: Iterable[Source | None], workers: int, most: int
) -> Iterator[list[Source] | None]:
    """The sources that go together, at most so many, and each None.

    One that is no small picture ends its chunk, since it may be large or long; and one that was
    long in coming, since the next may be. The first chunks are short, so that the first answer
    comes early and a short list keeps all workers busy.
    """
    chunk: list[Source] = []
    made, asked = 0, monotonic()
    try:
        for source in sources:
            if source is not None:
                chunk.append(source)
            full = len(chunk) >= min(most, 1 + made // workers) or not _is_plain(source)
            if chunk and (full or monotonic() - asked > PATIENCE):
                yield chunk
                chunk, made = [], made + 1
            if source is None:
                yield None
            asked = monotonic()
    except Exception:  # of the sources: their error comes behind what was gathered
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _is_plain(source: Source | None) -> TypeGuard[str | os.PathLike[str] | bytes]:
    """Whether a source may be a small picture, as far as can be told before it is read."""
    if isinstance(source, bytes):
        return len(source) <= HELD
    if isinstance(source, (str, os.PathLike)):
        return not os.fsdecode(source).lower().endswith(VOLUME_SUFFIXES)
    return False


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
