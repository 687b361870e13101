"""What the tables of a prepared data set say of a slice, and these tables as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.boxes import COLUMNS as BOX_FRACTIONS
from trainer.data.tables import csv_text

COLUMNS = ("path", "label", "source", "patient", "group", "plane", "sequence")
DOUBT = "doubt"  # a column where some label is doubted
DIGITS = 6  # of a box's fractions

Box = tuple[float, float, float, float]  # left, top, right, bottom: fractions of the sides


@dataclass(frozen=True)
class Row:
    """What the tables say of a slice.

    Attributes:
        path: of the picture, below `slices` (or `partial`).
        label: its class; of a slice in `partial`, the classes.
        sha256: of the picture's file.
        source: the collection, hospital or scanner that it comes from.
        patient, group: as in a table of groups; empty where nobody knows.
        plane: one of `geometry.PLANES`, or empty.
        sequence: such as T1, or empty.
        box: the tumour's, or None.
        doubt: why the label is doubted; empty where it is not.
    """

    path: str
    label: str
    sha256: str
    source: str = ""
    patient: str = ""
    group: str = ""
    plane: str = ""
    sequence: str = ""
    box: Box | None = None
    doubt: str = ""


def columns_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns of these rows' table of groups."""
    return (*COLUMNS, DOUBT) if any(row.doubt for row in rows) else COLUMNS


def groups_text(rows: Sequence[Row]) -> str:
    """A table of groups, see `trainer.data.groups`."""
    columns = columns_of(rows)
    return csv_text(columns, ([getattr(row, column) for column in columns] for row in rows))


def boxes_text(rows: Sequence[Row]) -> str:
    """A table of boxes, see `trainer.data.boxes`."""
    cells = []
    for row in rows:
        if row.box is not None:
            left, top, right, bottom = row.box
            fractions = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            cells.append([row.path, *(f"{value:.{DIGITS}f}" for value in fractions)])
    return csv_text(("path", *BOX_FRACTIONS), cells)
