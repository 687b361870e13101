"""Whole heads, slice by slice: what a model says of each slice of a volume.

A head of somebody whose slices are in the data is seen by the fold that was tested on that person,
a head of nobody in the data by the first fold; so no model has learned from the head it sees. A
person is known by name: the table's `subject` is the patient, or the group, of the data's tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common.formatting import rate_in_words
from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.head import shows_head
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.imaging.readers import numbered, open_slices
from edge_runtime.labels import NO_TUMOR
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.heads import COLUMNS, Head, files_of, persons_of, read_heads
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.metrics import share_of
from trainer.evaluation.predictions import Predictions
from trainer.models.outputs import open_trained
from trainer.run import Run

SAID = ("predicted_tumour_free", "predicted_tumor", "answered_tumour_free", "answered_tumor")


def measure_heads(
    place: Path, table: Path, folds: Sequence[tuple[Run, Predictions]]
) -> dict[str, Any]:
    """What the folds of a cross-validation say of each head.

    Args:
        place: zip or folder of NIfTI and DICOM files.
        table: CSV of COLUMNS; a path that ends in a slash is a folder of one series, and
            `tumour_slices` says `FIRST-LAST of COUNT`, counted from 0, or nothing.
        folds: each with its predictions.

    Returns:
        `heads`, one row each: what the table says, `fold`, `slices`, SAID (numbers of slices), and
        `with_tumour`: the same of the slices of the known range, or None; `tumour_free`: shares
        over all slices of the heads without a tumour, and `heads_answered_tumor`, the share of
        those heads of which a slice is answered as a tumour.

    Raises:
        DataError: no such table, or a head that cannot be read.
    """
    archive, rows = open_archive(place), read_heads(table)
    tested = {
        person: number
        for number, (_, predictions) in enumerate(folds)
        for column in ("group", "patient")
        for person in persons_of(predictions.texts(column))
    }
    of_fold: dict[int, list[Head]] = defaultdict(list)
    for row in rows:
        of_fold[tested.get(row.subject, 0)].append(row)
    heads = []
    for number, mine in sorted(of_fold.items()):
        run = folds[number][0]
        rule, predict = DecisionRule.from_settings(run.settings), open_trained(run).predict
        for row in mine:
            numbers, images = read_head(archive, row, run.preprocess)
            outputs = predict(images)
            predicted = rule.probabilities(outputs).argmax(axis=1)
            none = predicted == run.labels.index(NO_TUMOR)
            answered = np.array(rule.statuses(outputs, run.labels)) == "ok"
            inside = _inside(row, numbers)
            heads.append(
                {key: getattr(row, key) for key in COLUMNS}
                | {"fold": number + 1, **_counts(none, answered)}
                | {"with_tumour": None if inside is None else _counts(none, answered, inside)}
            )
    return {"heads": heads, "tumour_free": _tumour_free(heads)}


def read_head(
    archive: ImageArchive, head: Head, options: Preprocess
) -> tuple[list[int], npt.NDArray[np.uint8]]:
    """The slices of a head that show it, as a model sees them, and their numbers from 0.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    numbers, images = [], []
    try:
        for i, name in enumerate(files_of(archive, head)):
            for number, gray in numbered(open_slices(archive.read(name))):
                if number is None or shows_head(gray):
                    numbers.append(i if number is None else number)
                    images.append(preprocess(gray, options))
    except InputError as error:
        raise DataError(f"{head.path}: {one_line(error)}") from None
    if not images:
        raise DataError(f"{head.path}: no slice of a head there")
    return numbers, np.stack(images)


def _inside(head: Head, numbers: Sequence[int]) -> npt.NDArray[np.bool_] | None:
    """Which slices lie in the range that the table names."""
    if head.inside is None:
        return None
    first, last = head.inside
    return np.array([first <= number <= last for number in numbers])


def _counts(
    none: npt.NDArray[np.bool_],
    answered: npt.NDArray[np.bool_],
    among: npt.NDArray[np.bool_] | None = None,
) -> dict[str, int]:
    among = np.ones(len(none), bool) if among is None else among
    said = (none, ~none, none & answered, ~none & answered)
    counts = {key: int((hits & among).sum()) for key, hits in zip(SAID, said, strict=True)}
    return {"slices": int(among.sum()), **counts}


def _tumour_free(heads: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Over the heads without a tumour, each person a group; None without any."""
    free = [head for head in heads if head["label"] == NO_TUMOR]
    if not free:
        return None
    groups = [head["subject"] for head in free for _ in range(head["slices"])]

    def share(key: str) -> dict[str, Any]:
        hits = [np.arange(head["slices"]) < head[key] for head in free]
        return share_of(np.concatenate(hits), groups)

    some = np.array([head["answered_tumor"] > 0 for head in free])
    return {
        "heads": len(free),
        **{key: share(key) for key in SAID},
        "heads_answered_tumor": share_of(some, [head["subject"] for head in free]),
    }


def heads_table(result: Mapping[str, Any]) -> list[str]:
    """The heads without a tumour together, and each one with a tumour by itself."""
    lines = [
        "| whole heads | slices | predicted notumor | answered notumor | predicted a tumour "
        "| answered as a tumour |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    order = ("predicted_tumour_free", "answered_tumour_free", "predicted_tumor", "answered_tumor")
    free = result["tumour_free"]
    if free is not None:
        cells = [f"{rate_in_words(free[key])} %" for key in order]
        count = free["predicted_tumor"]["n"]
        lines.append(f"| {free['heads']} without a tumour | {count:,} | {' | '.join(cells)} |")
    for head in result["heads"]:
        if head["label"] == NO_TUMOR:
            continue
        name, inside = f"{head['subject']}, {head['sequence']}", head["with_tumour"]
        parts = {f"{name}, tumour in an unknown part": head}
        if inside is not None:
            rest = {key: head[key] - count for key, count in inside.items()}
            parts = {f"{name}, with the tumour": inside, f"{name}, the other slices": rest}
        for words, counts in parts.items():
            cells = [f"{counts[key]:,}" for key in order]
            lines.append(f"| {words} | {counts['slices']:,} | {' | '.join(cells)} |")
    if free is not None:
        words = rate_in_words(free["heads_answered_tumor"], " %")
        lines += ["", f"Heads without a tumour of which a slice is answered as one: {words}."]
    return lines
