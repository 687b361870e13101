"""Tumour boxes of a table, in the coordinates of the network's input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from trainer.data.collection import Collection, are_several
from trainer.data.owners import Owner, files_of
from trainer.data.tables import first_folder, key_of, read_table

COLUMNS = ("x_center", "y_center", "width", "height")
ROUNDING = 1e-3  # of a side, in a table of few digits
Boxes = npt.NDArray[np.float64]


def read_box_tables(
    collections: Sequence[Collection],
    names: Sequence[str],
    boxes_csv: str | os.PathLike[str] | None = None,
    owners: Sequence[Owner] = (),
) -> Boxes | None:
    """The boxes of the slices of all collections, see `read_boxes`; None without any table.

    Args:
        names: paths of all N slices.
        boxes_csv: one table of all of them, in place of the collections' own.
        owners: as for `read_boxes`.

    Raises:
        DataError: see `read_boxes`.
    """
    if boxes_csv is not None:
        return read_boxes(boxes_csv, names, owners, several=are_several(collections))
    if all(each.boxes_csv is None for each in collections):
        return None
    boxes = np.full((len(names), 4), np.nan)
    for each in collections:
        if each.boxes_csv is not None:
            members = each.members(names)
            own = each.own_owners(owners, members)
            with each.named_in_errors():
                boxes[list(members.values())] = read_boxes(each.boxes_csv, list(members), own)
    return boxes


def read_boxes(
    path: str | os.PathLike[str],
    names: Sequence[str],
    owners: Sequence[Owner] = (),
    *,
    several: bool = False,
) -> Boxes:
    """The box of each slice: left, top, right, bottom as fractions of the picture's sides.

    Args:
        path: CSV with the columns path, x_center, y_center, width and height, the last four as
            fractions of the image's width or height. A slice may have several rows: their hull
            counts. Slices without a row, or with four empty cells, have no box.
        names: paths of the N slices within the data set.
        owners: whose each slice is, or none: then each is a file of its own.
        several: the first folder of each is the collection's name, which the table knows.

    Returns:
        N×4; a row of NaN where there is no box.

    Raises:
        DataError: an unusable table, one that fits none of the slices, a box that is none: in
            pixels, say, or one of a file of several slices.
    """
    table = Path(path).name
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in read_table(path, ("path", *COLUMNS)):
        found.setdefault(row["path"].strip(), []).append(row)
    boxes = np.full((len(names), 4), np.nan)
    matched = False
    for i, (name, file) in enumerate(zip(names, files_of(names, owners), strict=True)):
        prefix = first_folder(name) if several else ""
        whole = None if file == name else key_of(file.strip(), found, prefix)
        if whole is not None and _with_box(found[whole]):
            raise DataError(
                f"{table}: {whole} is a file of several slices, and a box is of one of them, such "
                f"as {name}"
            )
        key = key_of(name.strip(), found, prefix)
        matched = matched or key is not None or whole is not None
        if key is not None and (rows := _with_box(found[key])):
            boxes[i] = _hull([_corners(row, f"{table}: box of {key}") for row in rows])
    if np.isnan(boxes).all():
        what = "box" if matched else "row"
        raise DataError(f"{table}: no {what} for any of the images")
    return boxes


def _with_box(rows: list[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return [row for row in rows if any(row[column].strip() for column in COLUMNS)]


def into_input(boxes: Boxes, crop_boxes: npt.NDArray[np.floating[Any]]) -> Boxes:
    """Boxes (N×4, fractions of the picture) as fractions of the input's side.

    Args:
        crop_boxes: N×4, where the input lies in each picture, see `crop_box`.

    Returns:
        N×4. A box may reach beyond 0 and 1 where the input does not show all of the picture.
    """
    left, top, right, bottom = crop_boxes.astype(np.float64).T
    wide, tall = right - left, bottom - top
    moved: Boxes = boxes - np.stack([left, top, left, top], axis=1)
    moved /= np.stack([wide, tall, wide, tall], axis=1)
    return moved


def _corners(row: Mapping[str, str], place: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(row[column]) for column in COLUMNS)
    except ValueError:
        raise DataError(f"{place}: not four numbers") from None
    if not (np.isfinite([x, y, width, height]).all() and width >= 0 and height >= 0):
        raise DataError(f"{place}: not a box")
    if not (0 <= x <= 1 and 0 <= y <= 1 and max(width, height) <= 1 + ROUNDING):
        raise DataError(f"{place}: not fractions of the picture's sides; divide pixels by them")
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _hull(boxes: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)
