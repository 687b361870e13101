"""The answers for one body: as `btc-edge classify --format json` gives them, with pictures."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.decision.heatmap import Explained, overlay
from edge_runtime.files import Note
from edge_runtime.imaging.kinds import ZIP
from edge_runtime.studies.drop import DropFile, classify_drop

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edge_runtime.classifier import Classifier
    from edge_runtime.decision.prediction import Prediction

NAME = "upload"  # what answers call a body: its file's name was never sent
LONGEST_SIDE = 256  # pixels of a picture
QUALITY = 85  # of its JPEG
MOST_PICTURES = 512  # slices of one body that are shown; some 20 MiB


class Reply(NamedTuple):
    """The JSON of a body's answers, how many slices got which status, and what was left out or
    guessed, without a name."""

    text: bytes
    statuses: Counter[str]
    notes: list[str]


def answer_body(classifier: Classifier, data: bytes, study: bool, pictures: bool) -> Reply:
    """Classify a body.

    Args:
        study: one answer for a patient, as `btc-edge classify --study`.
        pictures: with each slice as it is shown and its overlay, both as `data:` URIs, null where
            there is none; of more than MOST_PICTURES slices every second, fourth, ….

    Raises:
        ModelError: the model fails on it.
    """
    shown = Pictures() if pictures else None
    notes: list[str] = []
    answers = list(_answers(classifier, data, study, shown, lambda note: notes.append(note.text)))
    statuses = Counter(answer.status.value for answer in _leaves(answers))
    array = [answer.to_json() for answer in answers]
    if shown is not None:
        for part in _slices(array):
            part.update(shown.of(part["heatmap"]), heatmap=None)
    return Reply(json.dumps(array).encode(), statuses, notes)


def _answers(
    classifier: Classifier,
    data: bytes,
    study: bool,
    heatmaps: Pictures | None,
    tell: Callable[[Note], None],
) -> Iterator[Prediction]:
    if study or data.startswith(ZIP):
        file = DropFile(NAME, data, NAME if study else "")
        yield from classify_drop(classifier, [file], heatmaps=heatmaps, tell=tell)
    else:
        for answer in classifier.classify_many([data], heatmaps=heatmaps):
            yield replace(answer, input=NAME)


def _leaves(answers: Iterable[Prediction]) -> Iterator[Prediction]:
    """The answers for slices."""
    for answer in answers:
        yield from (answer,) if answer.slices is None else answer.slices


def _slices(array: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Likewise, as JSON."""
    for answer in array:
        yield from answer.get("slices", (answer,))


class Pictures:
    """Small pictures of the slices that were answered, each under a name that its answer has for a
    heatmap meanwhile. Of many slices MOST_PICTURES at most, with the same distance between them."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, str | None]] = {}
        self._seen, self._step = 0, 1

    def __call__(self, part: Explained) -> str:
        """Draw a slice, see `Classifier.classify_slices`."""
        number, self._seen = self._seen, self._seen + 1
        if number % self._step == 0 and len(self._kept) == MOST_PICTURES:
            self._kept = dict(list(self._kept.items())[::2])
            self._step *= 2
        if number % self._step == 0:
            self._kept[str(number)] = _drawn(part)
        return str(number)

    def of(self, name: str | None) -> dict[str, str | None]:
        """`picture` and `overlay` of a slice, each a `data:` URI or None."""
        return self._kept.get(name or "") or {"picture": None, "overlay": None}


def _drawn(part: Explained) -> dict[str, str | None]:
    import cv2
    import numpy as np

    gray = part.gray
    if max(gray.shape) > LONGEST_SIDE:
        height, width = (max(1, round(n * LONGEST_SIDE / max(gray.shape))) for n in gray.shape)
        gray = np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    coloured = None if part.heat is None else overlay(gray, part.heat, part.crop_box)
    return {
        "picture": _data_uri(gray),
        "overlay": None if coloured is None else _data_uri(coloured),
    }


def _data_uri(picture: npt.NDArray[np.uint8]) -> str:
    import cv2

    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{b64encode(data).decode()}"
