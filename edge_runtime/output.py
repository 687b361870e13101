"""Answers as a table, JSON, JSON lines or CSV, each written as soon as it is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import IO, Protocol

from edge_runtime.classifier import Prediction
from edge_runtime.errors import printable

FORMATS = ("table", "json", "jsonl", "csv")


class Writer(Protocol):
    """Takes answers one by one."""

    def write(self, answer: Prediction) -> None:
        """Write one answer."""
        ...

    def close(self) -> None:
        """Write what must stand at the end."""
        ...


def open_writer(style: str, stream: IO[str], labels: Sequence[str]) -> Writer:
    """A writer for one of FORMATS."""
    if style == "csv":
        return _Csv(stream, labels)
    if style == "json":
        return _Json(stream)
    return _JsonLines(stream) if style == "jsonl" else _Table(stream)


class _Table:
    """Columns for people; the name comes last, since it alone has no bounded width."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._begun = False

    def write(self, answer: Prediction) -> None:
        if not self._begun:
            self._stream.write(f"{'label':<12} {'confidence':>10}  {'status':<10} input\n")
            self._begun = True
        label = answer.label or (f"({answer.raw_label})" if answer.raw_label else "-")
        sure = "-" if answer.confidence is None else f"{100 * answer.confidence:.1f} %"
        name = printable(answer.input)
        self._stream.write(f"{label:<12} {sure:>10}  {answer.status.value:<10} {name}\n")

    def close(self) -> None:
        self._stream.flush()


class _JsonLines:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, answer: Prediction) -> None:
        self._stream.write(json.dumps(answer.to_json()) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class _Json:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._before = "[\n "

    def write(self, answer: Prediction) -> None:
        self._stream.write(self._before + json.dumps(answer.to_json()))
        self._before = ",\n "

    def close(self) -> None:
        self._stream.write("[]\n" if self._before == "[\n " else "\n]\n")
        self._stream.flush()


class _Csv:
    def __init__(self, stream: IO[str], labels: Sequence[str]) -> None:
        self._stream, self._labels = stream, labels
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(
            [
                *("input", "status", "label", "raw_label", "confidence"),
                *(f"p_{label}" for label in labels),
                *("reason", "sha256", "model", "error"),
            ]
        )

    def write(self, answer: Prediction) -> None:
        shares = answer.probabilities or {}
        row = [
            *(answer.input, answer.status.value, answer.label, answer.raw_label),
            answer.confidence,
            *(shares.get(label) for label in self._labels),
            *(answer.reason, answer.sha256, answer.model, answer.error),
        ]
        self._writer.writerow([_cell(value) for value in row])
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


def _cell(value: object) -> object:
    """Keep a spreadsheet from taking a file's name for a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return "" if value is None else value
