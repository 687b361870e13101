"""What somebody hands over at once: pictures, volumes, the DICOM files of one study or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from edge_runtime.batch import Unusable
from edge_runtime.decision.prediction import Prediction
from edge_runtime.errors import InputError
from edge_runtime.files import Note
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits
from edge_runtime.imaging.readers import reader_of
from edge_runtime.studies.arrange import How, arrange
from edge_runtime.studies.decide import classify_study
from edge_runtime.studies.files import BEGIN, DropFile, ZipMember, kind_in
from edge_runtime.studies.study import Study

if TYPE_CHECKING:
    from edge_runtime.classifier import Classifier, Heatmaps

__all__ = ["DropFile", "classify_drop", "study_uid"]

TOGETHER = 64  # loose pictures that are classified together


def study_uid(file: DropFile, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """What tells a DICOM file's study from others: its StudyInstanceUID, or a digest of what stands
    there and is no UID; empty where it has none. Only the beginning is read where that holds all
    that stands before the pixels.

    Raises:
        InputError: damaged, over the limits, or the package pydicom is missing.
    """
    kind = kind_in(file.begin())
    if kind is None or kind.name != "dicom":
        raise InputError("no DICOM file")
    reader_of(kind)
    from edge_runtime.imaging.dicom_head import DAMAGED, read_elements, text_of
    from edge_runtime.studies.series import is_uid, is_whole

    for most in (BEGIN, None):
        try:
            data = file.read(limits) if most is None else file.begin(most)
            head, end = read_elements(data, limits, ["StudyInstanceUID"], ((),))
            if most is None or len(data) < most or is_whole(data, end):
                text = text_of(head, "StudyInstanceUID")
                return (
                    text
                    if is_uid(text) or not text
                    else sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
                )
        except InputError:
            if most is None or len(data) < most:
                raise
        except Exception:  # pydicom raises many kinds on a damaged file
            if most is None or len(data) < most:
                raise InputError(DAMAGED) from None
    raise AssertionError("a whole file ends the loop")


def classify_drop(
    classifier: Classifier,
    files: Iterable[DropFile | Unusable],
    *,
    workers: int = 1,
    heatmaps: Heatmaps | None = None,
    tell: Callable[[Note], None] = lambda note: None,
) -> Iterator[Prediction]:
    """One answer for each study (the DICOM files of one StudyInstanceUID and patient, a volume, the
    pictures of one `DropFile.of`) and for each other picture; a file that cannot be used is an
    answer with status error.

    Args:
        files: zips are opened. They may come slowly: what is known is answered meanwhile.
        workers, heatmaps: see `Classifier.classify_many`.
        tell: called with what is left out or guessed.

    Returns:
        The answers in the order of `arrange`: studies of DICOM files come behind all else.

    Raises:
        UsageError: no worker.
        ModelError: the model fails.
    """
    pictures: list[DropFile] = []

    def loose() -> Iterator[Prediction]:
        sources = map(_source, pictures, [classifier.limits] * len(pictures))
        answers = classifier.classify_many(sources, workers=workers, heatmaps=heatmaps)
        for file, answer in zip(pictures, answers, strict=True):
            yield replace(answer, input=file.name)
        pictures.clear()

    how = How(classifier.limits, *classifier.cut)
    for found in arrange(files, how, tell):
        if isinstance(found, DropFile):
            pictures.append(found)
        if len(pictures) >= TOGETHER or not isinstance(found, DropFile):
            yield from loose()
        if isinstance(found, Unusable):
            yield classifier.failure(*found)
        elif isinstance(found, Study):
            yield classify_study(classifier, found, workers=workers, heatmaps=heatmaps)
    yield from loose()


def _source(file: DropFile, limits: ImageLimits) -> str | bytes | Unusable:
    """What the classifier takes for a picture."""
    if not isinstance(file.source, (ZipMember, bytes)):
        return os.fspath(file.source)
    try:
        return file.read(limits)
    except InputError as error:
        return Unusable(file.name, error)
