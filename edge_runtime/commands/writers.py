"""Answers as a table, JSON, JSON lines or CSV, each written as soon as it is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Protocol

import click

from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.errors import printable
from edge_runtime.tables import guard

FORMATS = ("table", "json", "jsonl", "csv")
COLOURS = {
    Status.OK: "green",
    Status.UNCERTAIN: "yellow",
    Status.UNFAMILIAR: "magenta",
    Status.ERROR: "red",
}


class Writer(Protocol):
    """Takes answers one by one."""

    def write(self, answer: Prediction) -> None:
        """Write one answer."""
        ...

    def close(self) -> None:
        """Write what must stand at the end."""
        ...


def open_writer(
    style: str,
    stream: IO[str],
    labels: Sequence[str],
    *,
    top: int | None = None,
    studies: bool = False,
) -> Writer:
    """A writer for one of FORMATS.

    Args:
        top: how many of the most probable labels to tell; None tells all where there is room.
        studies: whether the answers are for studies.
    """
    if style == "csv":
        return _Csv(stream, labels, top, studies)
    if style == "json":
        return _Json(stream, top)
    return _JsonLines(stream, top) if style == "jsonl" else _Table(stream, top)


def best(probabilities: Mapping[str, float], top: int | None) -> Mapping[str, float]:
    """The `top` most probable labels, the first one first; all as they stand for None."""
    if top is None:
        return probabilities
    return dict(sorted(probabilities.items(), key=lambda pair: -pair[1])[:top])


def _narrowed(answer: Prediction, top: int | None) -> Prediction:
    if top is None or answer.probabilities is None:
        return answer
    parts = answer.slices and tuple(_narrowed(part, top) for part in answer.slices)
    return replace(answer, probabilities=best(answer.probabilities, top), slices=parts)


class _Table:
    """Columns for people; the name comes last, since it alone has no bounded width."""

    def __init__(self, stream: IO[str], top: int | None) -> None:
        self._stream, self._top = stream, top
        self._begun = False
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")

    def write(self, answer: Prediction) -> None:
        if not self._begun:
            top = "" if self._top is None else f"{f'best {self._top}':<{self._width()}}  "
            self._stream.write(f"{'label':<12} {'confidence':>10}  {'status':<10} {top}input\n")
            self._begun = True
        label = answer.label or (f"({answer.raw_label})" if answer.raw_label else "-")
        sure = "-" if answer.confidence is None else f"{100 * answer.confidence:.1f} %"
        status = f"{answer.status.value:<10}"
        if self._colour:
            status = click.style(status, fg=COLOURS[answer.status])
        name = printable(answer.input)
        if answer.slice is not None:
            name += f" [{answer.slice}]"
        if answer.slices is not None:
            counts = ", ".join(f"{n} {word}" for word, n in answer.counts().items())
            number = len(answer.slices)
            name += f" ({number} slice{'s' * (number != 1)}{counts and ': '}{counts})"
        self._stream.write(f"{label:<12} {sure:>10}  {status} {self._top_labels(answer)}{name}\n")

    def _top_labels(self, answer: Prediction) -> str:
        if self._top is None:
            return ""
        probabilities = best(answer.probabilities or {}, self._top).items()
        text = ", ".join(f"{label} {100 * value:.1f} %" for label, value in probabilities)
        return f"{text:<{self._width()}}  "

    def _width(self) -> int:
        return 20 * (self._top or 0)

    def close(self) -> None:
        self._stream.flush()


class _JsonLines:
    def __init__(self, stream: IO[str], top: int | None) -> None:
        self._stream, self._top = stream, top

    def write(self, answer: Prediction) -> None:
        self._stream.write(json.dumps(_narrowed(answer, self._top).to_json()) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class _Json:
    def __init__(self, stream: IO[str], top: int | None) -> None:
        self._stream, self._top = stream, top
        self._before = "[\n "

    def write(self, answer: Prediction) -> None:
        self._stream.write(self._before + json.dumps(_narrowed(answer, self._top).to_json()))
        self._before = ",\n "

    def close(self) -> None:
        self._stream.write("[]\n" if self._before == "[\n " else "\n]\n")
        self._stream.flush()


class _Csv:
    """The columns of the JSON; for studies also `slices`, how many got which answer. Plane and
    sequence came last: every column of before keeps its place."""

    def __init__(
        self, stream: IO[str], labels: Sequence[str], top: int | None, studies: bool
    ) -> None:
        self._stream, self._labels, self._top, self._studies = stream, labels, top, studies
        import csv

        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(
            [
                *("input", "status", "label", "raw_label", "confidence"),
                *(f"p_{label}" for label in labels),
                *("reason", "sha256", "model", "error", "slice", "heatmap"),
                *(["slices"] if studies else []),
                *("plane", "sequence"),
            ]
        )

    def write(self, answer: Prediction) -> None:
        probabilities = best(answer.probabilities or {}, self._top)
        row = [
            *(answer.input, answer.status.value, answer.label, answer.raw_label),
            answer.confidence,
            *(probabilities.get(label) for label in self._labels),
            *(answer.reason, answer.sha256, answer.model, answer.error, answer.slice),
            answer.heatmap,
        ]
        if self._studies:
            row.append("; ".join(f"{n} {word}" for word, n in answer.counts().items()))
        row += [answer.plane, answer.sequence]
        self._writer.writerow([_cell(value) for value in row])
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


def _cell(value: object) -> object:
    """Keep a spreadsheet from taking a file's name for a formula."""
    if isinstance(value, str):
        return guard(value)
    return "" if value is None else value
