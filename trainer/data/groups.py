"""Which slices belong together: a table of groups, joined wherever pictures are near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_runtime.errors import DataError
from trainer.data.near_duplicates import Indices, merge_groups
from trainer.data.owners import Owner, files_of
from trainer.data.tables import key_of, read_table

GroupTable = Mapping[str, Mapping[str, str]]  # the rows of a table of groups, by path


def read_groups(
    path: str | os.PathLike[str], paths: Sequence[str], owners: Sequence[Owner] = ()
) -> dict[str, dict[str, str]]:
    """The row of each image (`paths`) in a table with the columns path and group.

    Spaces around a cell do not count. Several rows of one image are joined. A row of a file holds
    for all its slices, but for what the row of a slice says otherwise.

    Args:
        owners: whose each image is, or none: then each is a file of its own.

    Raises:
        DataError: an unusable table, two rows that say different things of one image, or an image
            without a row.
    """
    rows: dict[str, dict[str, str]] = {}
    for row in read_table(path, ("path", "group")):
        cells = {column: cell.strip() for column, cell in row.items()}
        before = rows.setdefault(cells["path"], cells)
        for column in ("group", "source", "patient", "label"):
            one, other = before.get(column, ""), cells.get(column, "")
            if one and other and one != other:
                raise DataError(
                    f"{Path(path).name}: two rows of {cells['path']} contradict each other: "
                    f"{column} {one} and {column} {other}"
                )
        before |= {column: cell for column, cell in cells.items() if cell}
    matched: dict[str, dict[str, str]] = {}
    for name, file in zip(paths, files_of(paths, owners), strict=True):
        keys = [key_of(each.strip(), rows) for each in dict.fromkeys((file, name))]
        for row in (rows[key] for key in keys if key is not None):
            said = {column: cell for column, cell in row.items() if cell}
            matched[name] = {**row, **matched.get(name, {}), **said}
    wanted = set(paths)
    if len(matched) < len(wanted):
        missing = min(wanted - set(matched))
        raise DataError(
            f"{Path(path).name}: no row for {len(wanted) - len(matched)} of {len(wanted)} images, "
            f"such as {missing}"
        )
    return matched


def column(table: GroupTable, paths: Sequence[str], name: str) -> tuple[str, ...]:
    """A column of the table for each image; empty where it says nothing."""
    return tuple(table.get(path, {}).get(name, "") for path in paths)


def ungrouped_warning(path: str | os.PathLike[str] | None, table: GroupTable) -> tuple[str, ...]:
    """A sentence on the images that a table of groups (see `read_groups`) has no group for; none
    where all have one."""
    blank = sum(not row["group"] for row in table.values())
    if path is None or not blank:
        return ()
    return (
        f"{blank:,} of {len(table):,} images have no group in {Path(path).name}; they are grouped "
        "by looks alone",
    )


def group_slices(given: Sequence[str], pixels: Sequence[str], *ties: Indices) -> tuple[str, ...]:
    """The group of each of N slices.

    Args:
        given: the groups of a table; empty where it says nothing.
        pixels: digests of the pictures. Flat ones correlate with nothing, and share a group all
            the same where they are equal.
        ties: int64 arrays of N; slices that share a number in one of them come into one group:
            near-duplicates (`clusters`), and slices of one owner (`ties_of`).
    """
    own = [group or f"look-{digest}" for group, digest in zip(given, pixels, strict=True)]
    return merge_groups(own, *ties)
