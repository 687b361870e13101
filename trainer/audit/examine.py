"""An audit of a data set: does its test side measure anything?

Answers with plain data, ready for JSON; `trainer.audit.page` writes it down.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.audit.files import NOT_MRI, ODDITIES, Files, read_files
from trainer.audit.groups import LISTED, as_csv, capped, digest_of, group_facts
from trainer.audit.near_duplicates import (
    Best,
    NearDuplicates,
    equal_sets,
    find_near_duplicates,
    same_pixels,
)
from trainer.audit.shortcuts import measure_shortcuts
from trainer.data.collection import (
    Data,
    are_several,
    collections_of,
    owners_among,
    tables_of,
    title_of,
)
from trainer.data.groups import (
    GroupTable,
    column,
    group_slices,
    one_group_a_person,
    read_group_tables,
)
from trainer.data.layout import PassedOver
from trainer.data.near_duplicates import THRESHOLD, TURN_NAMES, Pairs
from trainer.data.owners import ties_of
from trainer.data.reading import Progress, label_warning

SCHEMA = 2
PER_TURN = 4  # leaking pairs listed for each turn
SIZES = 20  # picture sizes listed


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        result: the content of audit.json.
        groups: the rows of groups.csv, in the order of GROUP_COLUMNS.
        passed_over: files that are no pictures to learn from.
        warnings: sentences on volumes, and on what the table leaves open.
    """

    result: dict[str, Any]
    groups: Sequence[tuple[str, ...]]
    passed_over: Sequence[PassedOver] = ()
    warnings: Sequence[str] = ()

    @property
    def leaks(self) -> bool:
        """Whether a test image has a near-duplicate in training."""
        return bool(self.result["leak"]["with_near_duplicate_in_training"])

    @property
    def untrainable(self) -> tuple[str, ...]:
        """The classes that have test images and nothing to learn from."""
        return tuple(self.result["one_sided"]["no_training_images"])


def audit(
    data: Data,
    groups_csv: str | os.PathLike[str] | None = None,
    *,
    reading: Progress | None = None,
    comparing: Progress | None = None,
) -> Audit:
    """Audit a zip or folder of labelled slices, or several collections together.

    Args:
        data: with Training/ and Testing/, or class folders alone.
        groups_csv: table with the columns path and group, optionally label, source, patient, in
            place of the collections' own.
        reading, comparing: called with (done, total).

    Raises:
        DataError: no readable image, a hostile archive, an unusable table.
    """
    collections = collections_of(data)
    files = read_files(data, reading)
    owners, marked = owners_among(collections, files.paths, files.owners)
    files = replace(files, owners=owners)
    table, left_open = read_group_tables(collections, files.paths, groups_csv, files.owners)
    if are_several(collections):
        table = one_group_a_person(table)
    tables = tables_of(collections, files.paths, groups_csv)
    found = examine(title_of(data), files, table, comparing, tables)
    return replace(found, warnings=(*files.notes, *marked, *found.warnings, *left_open))


def examine(
    name: str,
    files: Files,
    table: GroupTable,
    progress: Progress | None = None,
    tables: Sequence[str] = (),
) -> Audit:
    """The audit of files whose facts have been read.

    Args:
        name: of the data set.
        table: rows by path; empty where there is none.
        progress: called with (pictures compared, N).
        tables: see `ties_of`.
    """
    duplicates = find_near_duplicates(files, progress=progress)
    given = column(table, files.paths, "group")
    ties, warnings = ties_of(files.owners, given, tables)
    merged = group_slices(given, files.pixels, duplicates.clusters, *ties)
    copies = same_pixels(files)
    leak = _leak(files, duplicates, copies)
    near = _near_duplicates(files, duplicates)
    conflicts = duplicates.conflicts
    result = {
        "schema": SCHEMA,
        "data": name,
        "images": len(files),
        "answer": answer(leak, near),
        "threshold": THRESHOLD,
        "leak": leak,
        "near_duplicates": near,
        "exact_copies": {
            "same_bytes": _copies(files, equal_sets([(digest,) for digest in files.digests])),
            "same_pixels": _copies(files, copies),
        },
        "conflicts": {
            "count": conflicts.count,
            "pairs": [_pair(files, conflicts.pairs, i) for i in range(len(conflicts.pairs))],
        },
        "unreadable": [{"path": path, "reason": reason} for path, reason in files.problems],
        "passed_over": [
            {"kind": each.kind, "reason": each.reason, **capped(each.paths)}
            for each in files.passed_over
        ],
        "one_sided": _one_sided(files),
        "oddities": _oddities(files),
        "counts": _counts(files, table),
        "shortcuts": measure_shortcuts(files.file_statistics, files.labels, merged),
        "groups": group_facts(files, table, duplicates.clusters, merged),
    }
    known = (column(table, files.paths, "source"), column(table, files.paths, "patient"))
    rows = list(zip(files.paths, files.labels, *known, merged, strict=True))
    result["groups_csv_sha256"] = digest_of(as_csv(rows).encode("utf-8", "surrogatepass"))
    warnings += label_warning(zip(files.labels, files.formats, strict=True))
    return Audit(result, rows, files.passed_over, warnings)


def answer(leak: dict[str, Any], near_duplicates: dict[str, Any]) -> str:
    """The result in one sentence.

    Args:
        leak, near_duplicates: `leak` and `near_duplicates` of audit.json.
    """
    tested, found = leak["test_images"], leak["with_near_duplicate_in_training"]
    if tested == 0:
        found, images = near_duplicates["images_with_near_duplicate"], near_duplicates["images"]
        return (
            f"There is no Testing folder; {found:,} of {images:,} images "
            f"({share(found, images)}) have a near-duplicate"
        )
    verb = "has" if found == 1 else "have"
    part = f"{found:,} of {tested:,} test images ({share(found, tested)})"
    return f"{part} {verb} a near-duplicate in training"


def share(part: int, whole: int) -> str:
    """A share in whole percent that does not round to none or all."""
    percent = round(100 * part / max(whole, 1))
    if part and percent == 0:
        return "under 1 %"
    return "over 99 %" if part < whole and percent == 100 else f"{percent} %"


def _leak(files: Files, duplicates: NearDuplicates, copies: list[list[int]]) -> dict[str, Any]:
    tested = files.tested
    caught = tested & (duplicates.across.partner >= 0)
    by_class: dict[str, dict[str, int]] = {}
    for label in sorted(set(files.labels)):
        of_class = np.array([other == label for other in files.labels])
        by_class[label] = {
            "test_images": int((tested & of_class).sum()),
            "with_near_duplicate_in_training": int((caught & of_class).sum()),
        }
    turns = duplicates.across.turn
    copied = 0
    for members in copies:
        in_test = int(tested[members].sum())
        copied += in_test if in_test < len(members) else 0
    return {
        "test_images": int(tested.sum()),
        "with_near_duplicate_in_training": int(caught.sum()),
        "with_exact_copy_in_training": copied,
        "by_class": by_class if tested.any() else {},
        "by_turn": {name: int((caught & (turns == t)).sum()) for t, name in enumerate(TURN_NAMES)},
        "examples": [
            _pair(files, _best_pairs(duplicates.across, chosen), i)
            for chosen in _worst(files, duplicates, caught)
            for i in range(len(chosen))
        ],
    }


def _one_sided(files: Files) -> dict[str, list[str]]:
    """Classes with images on one side of the split only; none where there is no Testing folder."""
    labels, tested = np.asarray(files.labels), files.tested
    sides = {name: set(labels[side].tolist()) for name, side in (("t", tested), ("l", ~tested))}
    if not sides["t"]:
        return {"no_training_images": [], "no_test_images": []}
    return {
        "no_training_images": sorted(sides["t"] - sides["l"]),
        "no_test_images": sorted(sides["l"] - sides["t"]),
    }


def _worst(files: Files, duplicates: NearDuplicates, caught: np.ndarray) -> Iterator[np.ndarray]:
    """For each turn, the test images most like one in training: first those whose partner has
    another label; one from each cluster before a second one."""
    best = duplicates.across
    labels = np.asarray(files.labels)
    for turn in range(len(TURN_NAMES)):
        of_turn = np.flatnonzero(caught & (best.turn == turn))
        agrees = labels[of_turn] == labels[best.partner[of_turn]]
        order = of_turn[np.lexsort((of_turn, -best.correlation[of_turn], agrees))]
        first = np.unique(duplicates.clusters[order], return_index=True)[1]
        rest = np.setdiff1d(np.arange(len(order)), first)
        yield order[np.concatenate([np.sort(first), rest])[:PER_TURN].astype(np.int64)]


def _best_pairs(best: Best, chosen: np.ndarray) -> Pairs:
    return Pairs(chosen, best.partner[chosen], best.correlation[chosen], best.turn[chosen])


def _pair(files: Files, pairs: Pairs, i: int) -> dict[str, Any]:
    first, second = int(pairs.first[i]), int(pairs.second[i])
    return {
        "first": files.paths[first],
        "second": files.paths[second],
        "first_label": files.labels[first],
        "second_label": files.labels[second],
        "turn": TURN_NAMES[pairs.turn[i]],
        "correlation": round(float(pairs.correlation[i]), 4),
        "across": (files.splits[first] == "testing") != (files.splits[second] == "testing"),
        "same_bytes": files.digests[first] == files.digests[second],
    }


def _near_duplicates(files: Files, duplicates: NearDuplicates) -> dict[str, Any]:
    sizes = np.bincount(duplicates.clusters)
    with_one = (duplicates.within.partner >= 0) | (duplicates.across.partner >= 0)
    return {
        "images": len(files),
        "images_with_near_duplicate": int(with_one.sum()),
        "clusters": int((sizes > 1).sum()),
        "largest_cluster": int(sizes.max()),
        "pairs": {
            name: {"within": int(duplicates.counts[t, 0]), "across": int(duplicates.counts[t, 1])}
            for t, name in enumerate(TURN_NAMES)
        },
    }


def _copies(files: Files, sets: list[list[int]]) -> dict[str, Any]:
    tested = files.tested
    across = [len(set(tested[members].tolist())) == 2 for members in sets]
    order = np.argsort(~np.array(across, bool), kind="stable")[:LISTED]
    return {
        "sets": len(sets),
        "images": sum(map(len, sets)),
        "sets_across": sum(across),
        "examples": [[files.paths[i] for i in sets[s][:10]] for s in order],
    }


def _oddities(files: Files) -> dict[str, Any]:
    names = list(ODDITIES)
    found: dict[str, Any] = {}
    for at, name in enumerate(names):
        if name not in NOT_MRI:
            paths = [files.paths[i] for i in np.flatnonzero(files.odd[:, at])]
            found[name] = {"rule": ODDITIES[name], **capped(paths)}
    doubts = files.odd[:, [names.index(name) for name in NOT_MRI]]
    reasons = np.array(list(NOT_MRI))
    doubted = [
        {"path": files.paths[i], "reasons": reasons[doubts[i]].tolist()}
        for i in np.flatnonzero(doubts.any(axis=1))
    ]
    found["not_mri_like"] = {"rule": dict(NOT_MRI), **capped(doubted)}
    return found


def _counts(files: Files, table: GroupTable) -> dict[str, Any]:
    sizes = Counter(f"{width}×{height}" for width, height in files.sizes.tolist())
    common = dict(sizes.most_common(SIZES))
    if other := sum(sizes.values()) - sum(common.values()):
        common["other"] = other
    counts: dict[str, Any] = {
        "classes": _by_label(files, [split or "none" for split in files.splits]),
        "modes": _by_label(files, files.modes),
        "formats": _by_label(files, files.formats),
        "sizes": common,
    }
    if table:
        counts["sources"] = _by_label(files, column(table, files.paths, "source"))
    return counts


def _by_label(files: Files, values: Iterable[str]) -> dict[str, dict[str, int]]:
    """Number of images by label, then by value."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for label, value in zip(files.labels, values, strict=True):
        found[label][value] += 1
    return {label: dict(sorted(found[label].items())) for label in sorted(found)}
