"""Which slices belong together: a table of groups, joined wherever pictures are near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_runtime.errors import DataError
from trainer.data.near_duplicates import Indices, merge_groups
from trainer.data.tables import key_of, read_table

GroupTable = Mapping[str, Mapping[str, str]]  # the rows of a table of groups, by path


def read_groups(path: str | os.PathLike[str], wanted: set[str]) -> dict[str, dict[str, str]]:
    """The row of each image (`wanted`) in a table with the columns path and group.

    Spaces around a cell do not count. Several rows of one image are joined.

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
    matched = {
        name: rows[key] for name in wanted if (key := key_of(name.strip(), rows)) is not None
    }
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


def group_slices(given: Sequence[str], pixels: Sequence[str], clusters: Indices) -> tuple[str, ...]:
    """The group of each of N slices.

    Args:
        given: the groups of a table; empty where it says nothing.
        pixels: digests of the pictures. Flat ones correlate with nothing, and share a group all
            the same where they are equal.
        clusters: int64 array of N; near-duplicates share a number, and come into one group.
    """
    own = [group or f"look-{digest}" for group, digest in zip(given, pixels, strict=True)]
    return merge_groups(own, clusters)
