"""What a table of groups says of a data set, what the pictures say against it, and the table that
an audit leaves."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.labels import normalise_label
from trainer.audit.files import Files
from trainer.data.groups import GroupTable, column
from trainer.data.tables import csv_text

LISTED = 100
GROUP_COLUMNS = ("path", "label", "source", "patient", "group")  # of groups.csv
Clusters = npt.NDArray[np.int64]


def capped(found: Sequence[Any]) -> dict[str, Any]:
    """How many, and the first LISTED of them."""
    return {"count": len(found), "examples": list(found[:LISTED])}


def group_facts(
    files: Files, table: GroupTable, clusters: Clusters, merged: Sequence[str]
) -> dict[str, Any]:
    """Groups and patients on both sides of the split, and where table and pictures disagree.

    Args:
        table: rows by path, see `trainer.data.groups.read_groups`; empty where there is none.
        clusters: int64 array of N, see `NearDuplicates`.
        merged: N group names, see `group_slices`.
    """
    facts: dict[str, Any] = {
        "given": None,
        "merged": len(set(merged)),
        "largest": max(Counter(merged).values()),
        "on_both_sides": _on_both_sides(files, merged),
        "table": None,
    }
    if table:
        given, patients = column(table, files.paths, "group"), column(table, files.paths, "patient")
        facts["given"] = len(set(given) - {""})
        facts["table"] = {
            "clusters_split": capped(_split_clusters(files, clusters, given)),
            "given_groups_on_both_sides": _on_both_sides(files, given),
            "patients_on_both_sides": _on_both_sides(files, patients),
            "patients_with_several_labels": capped(_several_labels(files, patients)),
            "label_disagreements": capped(
                _disagreements(files, column(table, files.paths, "label"))
            ),
        }
    return facts


def as_csv(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of GROUP_COLUMNS as CSV."""
    return csv_text(GROUP_COLUMNS, rows)


def digest_of(table: bytes) -> str:
    """The digest by which an audit knows its own groups.csv again."""
    return hashlib.sha256(table).hexdigest()


def _on_both_sides(files: Files, owners: Sequence[str]) -> dict[str, Any]:
    """Owners (groups or patients) with images in Testing and elsewhere; "" is nobody."""
    sides: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for owner, split in zip(owners, files.splits, strict=True):
        sides[owner][split == "testing"] += 1
    sides.pop("", None)
    both = {owner: counts for owner, counts in sorted(sides.items()) if all(counts)}
    return {
        **capped([{"name": o, "training": a, "testing": b} for o, (a, b) in both.items()]),
        "test_images": sum(testing for _, testing in both.values()),
    }


def _split_clusters(files: Files, clusters: Clusters, given: Sequence[str]) -> list[dict[str, Any]]:
    """Clusters of near-duplicates with images in more than one group of the table."""
    members: dict[int, dict[str, str]] = defaultdict(dict)  # cluster -> group -> first image
    for path, cluster, group in zip(files.paths, clusters.tolist(), given, strict=True):
        if group:
            members[cluster].setdefault(group, path)
    return [
        {"groups": list(firsts)[:10], "paths": list(firsts.values())[:10]}
        for firsts in members.values()
        if len(firsts) > 1
    ]


def _several_labels(files: Files, patients: Sequence[str]) -> list[dict[str, Any]]:
    labels: dict[str, set[str]] = defaultdict(set)
    for patient, label in zip(patients, files.labels, strict=True):
        labels[patient].add(label)
    labels.pop("", None)
    return [{"patient": p, "labels": sorted(s)} for p, s in sorted(labels.items()) if len(s) > 1]


def _disagreements(files: Files, labels: Iterable[str]) -> list[dict[str, str]]:
    return [
        {"path": path, "folder": label, "table": other}
        for path, label, other in zip(files.paths, files.labels, labels, strict=True)
        if other and normalise_label(other) != label
    ]
