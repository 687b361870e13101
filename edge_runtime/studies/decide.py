"""One answer for a study: its slices are classified, series by series, and the rule decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import PurePath
from typing import TYPE_CHECKING

from edge_runtime.batch import in_order
from edge_runtime.decision.prediction import Prediction, failure
from edge_runtime.decision.study import SeriesAnswers, study_json
from edge_runtime.errors import InputError, UsageError, one_line
from edge_runtime.imaging.stack import Slice
from edge_runtime.studies.study import StudySlice

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier, Heatmaps
    from edge_runtime.decision.heatmap import Explained
    from edge_runtime.studies.study import Study, StudySeries


def classify_study(
    classifier: Classifier, study: Study, *, workers: int = 1, heatmaps: Heatmaps | None = None
) -> Prediction:
    """Classify the slices of a study and answer for all of them.

    Slices are decoded one at a time, a few ahead of those that are classified.

    Args:
        workers: threads that classify, each with an interpreter of its own.
        heatmaps: see `Classifier.classify_slices`.

    Returns:
        The answer, with those for the slices in `slices`, series after series, and what it rests on
        in `study`; with status error where no slice could be used. Series that are left out as a
        whole have no answers.

    Raises:
        UsageError: no worker.
        ModelError: the model fails on a slice, or gives no class maps where heatmaps are asked for.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers: need at least one")
    series = []
    for each in study.series:
        answers = () if each.reason else tuple(_answers(classifier, each, workers, heatmaps))
        series.append(
            SeriesAnswers(
                each.name, each.uid, each.plane, each.sequence, each.distance,
                answers[::-1] if each.falling else answers,
                each.reason, each.volume,
            )
        )  # fmt: skip
    answer = classifier.decide(study.name, study.uid, series, study.passed_over)
    if answer.study is None:  # the model has no rule
        shape = study_json(study.uid, series, None, study.passed_over)
        return replace(answer, study=shape)
    return answer


def _answers(
    classifier: Classifier, series: StudySeries, workers: int, heatmaps: Heatmaps | None
) -> Iterator[Prediction]:
    """Of a series, in its order."""
    overlays = _overlays(heatmaps, series)

    def examined(part: StudySlice) -> Prediction:
        try:
            if isinstance(part.gray, InputError):
                raise part.gray
            gray = Slice(part.number, part.gray)
            return classifier.examine(part.input, gray, part.sha256, overlays)
        except InputError as error:
            return failure(part.input, classifier.model.tag, one_line(error))

    def parts() -> Iterator[StudySlice]:
        """The slices; where they break off, an error stands for what would follow."""
        try:
            yield from series.slices()
        except InputError as error:
            yield StudySlice(series.name, None, None, InputError(one_line(error)))

    yield from in_order(examined, parts(), workers)


def _overlays(heatmaps: Heatmaps | None, series: StudySeries) -> Heatmaps | None:
    """Where overlays go: those of a volume's cuts have names that tell the plane too, since all of
    them are of one file, or of none."""
    volume, plane = series.volume, series.plane
    if volume is None or heatmaps is None or callable(heatmaps):
        return heatmaps
    folder = heatmaps
    from edge_runtime.decision.heatmap import write_overlay

    def write(part: Explained) -> str:
        name = f"{PurePath(part.name).name.partition('.')[0][:80]}-{plane}"
        digest = part.digest or sha256(volume.encode("utf-8", "surrogateescape")).hexdigest()
        return write_overlay(folder, part._replace(name=name, digest=digest))

    return write
