"""Which slices belong together: a table of groups, joined wherever pictures are near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.errors import DataError
from trainer.data.collection import Collection, are_several
from trainer.data.near_duplicates import Indices, merge_groups
from trainer.data.owners import Owner, files_of
from trainer.data.tables import first_folder, key_of, read_table

GroupTable = Mapping[str, dict[str, str]]  # the rows of a table of groups, by path
# How a message goes on where one table speaks of several collections.
ALL_KNOWN = "; with several DATA a path begins with the name of its zip or folder"


def read_group_tables(
    collections: Sequence[Collection],
    paths: Sequence[str],
    groups_csv: str | os.PathLike[str] | None = None,
    owners: Sequence[Owner] = (),
) -> tuple[GroupTable, tuple[str, ...]]:
    """What the tables of groups say of the slices of all collections.

    Among several, the names of groups and patients are a collection's own: before a group stands
    the collection's name, before a patient the source's. A slice of which no table says the source
    is of its collection's.

    Args:
        paths: of all slices.
        groups_csv: one table of all slices, in place of the collections' own. Its paths begin with
            a collection's name, and what it calls groups and patients holds for all.
        owners: as for `read_groups`.

    Returns:
        The rows by path, and sentences on what the tables leave open.

    Raises:
        DataError: see `read_groups`.
    """
    if not are_several(collections):
        table = groups_csv or collections[0].groups_csv
        rows = read_groups(table, paths, owners) if table else {}
        return rows, ungrouped_warning(table, rows)
    if groups_csv is not None:
        shared = read_groups(groups_csv, paths, owners, several=True)
        sources = {each.name: each.source or each.name for each in collections}
        for path, row in shared.items():
            shared[path] = row | {"source": row.get("source") or sources[path.partition("/")[0]]}
        return shared, ungrouped_warning(groups_csv, shared)
    found: dict[str, dict[str, str]] = {}
    warnings: list[str] = []
    for each in collections:
        members = each.members(paths)
        own = each.own_owners(owners, members)
        with each.named_in_errors():
            rows = read_groups(each.groups_csv, list(members), own) if each.groups_csv else {}
        told = ungrouped_warning(each.groups_csv, rows)
        warnings += [f"{each.name}: {words}" for words in told]
        for inner in members:
            found[each.prefix + inner] = _among_several(rows.get(inner, {}), each)
    return found, tuple(warnings)


def _among_several(row: Mapping[str, str], collection: Collection) -> dict[str, str]:
    """A row of a collection's own table as all can read it."""
    source = row.get("source") or collection.source or collection.name
    group, patient = row.get("group", ""), row.get("patient", "")
    return {
        **row,
        "source": source,
        "group": group and collection.prefix + group,
        "patient": patient and f"{source}/{patient}",
    }


def one_group_a_person(table: GroupTable) -> GroupTable:
    """Rows of which those of one source and one patient are of one group: they are one person's,
    whichever collection they are in."""
    numbers: dict[object, int] = {}
    people, own, paths = [], [], []
    for path, row in table.items():
        source, patient = row.get("source"), row.get("patient")
        known = source and patient
        if known or row["group"]:
            person = (source, patient) if known else path
            people.append(numbers.setdefault(person, len(numbers)))
            own.append(row["group"] or f"patient-{source}/{patient}")
            paths.append(path)
    merged = merge_groups(own, np.array(people, dtype=np.int64))
    new = dict(zip(paths, merged, strict=True))
    return {path: row | {"group": new.get(path, "")} for path, row in table.items()}


def read_groups(
    path: str | os.PathLike[str],
    paths: Sequence[str],
    owners: Sequence[Owner] = (),
    *,
    several: bool = False,
) -> dict[str, dict[str, str]]:
    """The row of each image (`paths`) in a table with the columns path and group, and what else it
    has, such as plane and sequence.

    Spaces around a cell do not count. Several rows of one image are joined. A row of a file holds
    for all its slices, but for what the row of a slice says otherwise.

    Args:
        owners: whose each image is, or none: then each is a file of its own.
        several: the first folder of each image is the collection's name, which the table knows.

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
        prefix = first_folder(name) if several else ""
        keys = [key_of(each.strip(), rows, prefix) for each in dict.fromkeys((file, name))]
        for row in (rows[key] for key in keys if key is not None):
            said = {column: cell for column, cell in row.items() if cell}
            matched[name] = {**row, **matched.get(name, {}), **said}
    wanted = set(paths)
    if len(matched) < len(wanted):
        missing = min(wanted - set(matched))
        raise DataError(
            f"{Path(path).name}: no row for {len(wanted) - len(matched)} of {len(wanted)} images, "
            f"such as {missing}" + ALL_KNOWN * several
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
