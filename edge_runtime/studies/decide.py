"""One answer for a study, from the answers for its slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_runtime.batch import Unusable
from edge_runtime.decision.prediction import Prediction
from edge_runtime.errors import InputError
from edge_runtime.studies.study import Study, StudySlice

if TYPE_CHECKING:
    import numpy.typing as npt

    from edge_runtime.classifier import Classifier, Heatmaps


def classify_study(
    classifier: Classifier, study: Study, *, workers: int = 1, heatmaps: Heatmaps | None = None
) -> Prediction:
    """The answer for a study, with the answers for its slices and its `study`, see docs/shapes.md.

    Args:
        workers, heatmaps: see `Classifier.classify_many`.

    Raises:
        UsageError: no worker.
        ModelError: the model fails.
    """
    seen: list[StudySlice] = []
    starts: list[int] = []

    def sources() -> Iterator[Unusable | npt.NDArray[Any]]:
        for series in study.series:
            starts.append(len(seen))
            for part in series.slices() if series.reason is None else ():
                gray = part.gray
                # The error stands in the place of the pixels, which are not kept.
                seen.append(part._replace(gray=InputError()))
                yield Unusable(part.input, gray) if isinstance(gray, InputError) else gray

    whole = classifier.classify_study(study.name, sources(), workers=workers, heatmaps=heatmaps)
    slices = [
        replace(answer, input=part.input, slice=part.number, sha256=part.sha256)
        for answer, part in zip(whole.slices or (), seen, strict=True)
    ]
    ends = [*starts[1:], len(seen)]
    shape = {
        "uid": study.uid,
        "tumor": None,
        "type": None,
        "findings": [],
        "series": [
            {
                "uid": series.uid, "name": series.name, "plane": series.plane,
                "sequence": series.sequence, "first": start, "slices": end - start,
                "used": series.reason is None, "reason": series.reason,
            }
            for series, start, end in zip(study.series, starts, ends, strict=True)
        ],
        "passed_over": [passed._asdict() for passed in study.passed_over],
    }  # fmt: skip
    return replace(whole, slices=tuple(slices), study=shape)
