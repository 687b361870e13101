"""What `btc-data join` gives back of tables that are known, and how long it takes.

    python -m benchmarks.join ../shared/data

DATA is the folder with brain-tumor-mri.zip, groups.csv and boxes.csv and, where they are there,
tumor-untyped, healthy-ixi and healthy-ms, each a zip and a table.

1. The groups of groups.csv, corrected: the main set joined with nothing but its own tables.
2. Patients and boxes given back. One picture of each of Cheng's slices is made to look like the
   collection's original: 512 pixels, 16 bits, gray levels of another scale, half of them mirrored
   or turned. These carry patients and boxes; the main set, without its tables, is joined with them,
   and what its slices got is compared with the tables. A picture of the main set counts as another
   slice's where they correlate below COPY. What this cannot show: the originals are made of the
   main set's own pictures, enlarged; a collection's true originals may differ from their copies by
   more.
3. All of the data joined.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import FOLDER, out_option, publish
from benchmarks.common.formatting import NOTHING, machine_in_words
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError, DataError
from edge_runtime.files import write_bytes, write_text
from edge_runtime.imaging.decode import decode
from trainer.audit.files import Files, read_files
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.boxes import read_boxes
from trainer.data.card import CardText, Source
from trainer.data.groups import GroupTable, column, read_groups
from trainer.data.near_duplicates import TURN_NAMES, TURNS, find_pairs, has_near_duplicate
from trainer.data.tables import read_table
from trainer.prepare.folder import SLICES, write_description
from trainer.prepare.join.copies import turned_box
from trainer.prepare.join.inputs import find_inputs
from trainer.prepare.join.job import CONFLICTS, join_data
from trainer.prepare.rows import Box, Row

MAIN = "brain-tumor-mri"
OTHERS = ("healthy-ixi", "healthy-ms")
UNTYPED = "tumor-untyped"
SOURCE = "cheng"  # whose slices have patients and boxes
COPY = 0.995  # correlation of two pictures of one slice: so there are 3,064, as many as Cheng has
SIDE = 512  # pixels
TURNED = 0.5
GOOD = 0.5  # of a box: intersection over union
BENDS = {"linear": (1.0, 1.0), "bent": (0.7, 1.4)}  # powers that gray levels are raised to

Gray = npt.NDArray[np.uint8]
Rows = Mapping[str, Mapping[str, str]]  # of a table, by path


@dataclass(frozen=True)
class Truth:
    """The main set, and what its tables say.

    Attributes:
        archive: its pictures.
        files: their facts.
        table: a row of each.
        boxes: N×4, NaN where there is none.
    """

    archive: ImageArchive
    files: Files
    table: GroupTable
    boxes: npt.NDArray[np.float64]


def read_truth(data: Path) -> Truth:
    """The main set of the folder."""
    archive = open_archive(data / f"{MAIN}.zip")
    files = read_files(data / f"{MAIN}.zip")
    table = read_groups(data / "groups.csv", files.paths)
    return Truth(archive, files, table, read_boxes(data / "boxes.csv", files.paths))


def write_card(data: Path, name: str, place: Path, tables: Mapping[str, str]) -> Path:
    """A folder with a zip of the data, its tables and a card.

    Args:
        tables: by key of the card.
    """
    place.mkdir(parents=True)
    lines = [f'title = "{name}"']
    for key, file in {"images": f"{name}.zip", **tables}.items():
        shutil.copy(data / file, place / file)
        lines.append(f'{key} = "{file}"')
    write_text(place / "data.toml", "\n".join([*lines, ""]))
    return place


def main_card(data: Path, place: Path, *, partial: bool) -> Path:
    """The main set with its tables and, where it is asked for, the untyped slices."""
    tables = {"groups": "groups.csv", "boxes": "boxes.csv"}
    if partial:
        tables |= {"partial": f"{UNTYPED}.zip", "partial_groups": f"{UNTYPED}.csv"}
    return write_card(data, MAIN, place, tables)


def measure_groups(data: Path, place: Path) -> dict[str, Any]:
    """The groups of the main set's own table, corrected."""
    inputs = find_inputs([str(main_card(data, place / "main", partial=False))])
    said: list[str] = []
    out = place / "corrected"
    done = join_data(inputs, out, made_by="", skip=lambda *_: None, say=said.append)
    (main,) = done.inputs
    rows = {row["path"]: row for row in read_table(out / "groups.csv", ("path",))}
    conflicts = out / CONFLICTS
    listed = read_table(conflicts, ("path",)) if conflicts.exists() else []
    same = sum(rows[c["path"]]["patient"] == rows[c["other_path"]]["patient"] != "" for c in listed)
    before = read_table(data / "groups.csv", ("path", "group"))
    merged: dict[str, dict[str, str]] = {}
    for row in before:
        of = merged.setdefault(rows[f"main/{row['path']}"]["group"], {})
        of[row["group"]] = row["source"]
    joined = [of for of in merged.values() if len(of) > 1]
    return {
        "slices": main.slices,
        "groups": main.groups,
        "became": main.became,
        "crossing": dict(main.crossing),
        "joined_by_source": _counted(source for of in joined for source in set(of.values())),
        "groups_of_several_patients": done.crowded,
        "conflicts": done.conflicts,
        "conflicts_of_one_patient": same,
    }


def originals(truth: Truth, among: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """One picture of each slice of SOURCE among some: indices, no two of them copies."""
    own = np.flatnonzero((np.asarray(_sources(truth)) == SOURCE) & among)
    copies: dict[int, set[int]] = {}
    for pairs in find_pairs(truth.files.thumbnails[own], threshold=COPY):
        for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            copies.setdefault(second, set()).add(first)
    taken: set[int] = set()
    for at in range(len(own)):
        if not copies.get(at, set()) & taken:
            taken.add(at)
    return own[sorted(taken)]


def like_original(gray: Gray, bend: tuple[float, float], rng: np.random.Generator) -> Any:
    """A slice as a scanner's own file may hold it: SIDE×SIDE, 16 bits, of another scale, with some
    noise."""
    import cv2

    large = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    levels = (large / 255) ** rng.uniform(*bend)
    levels += rng.normal(0, 0.01, levels.shape).astype(np.float32)
    return np.clip(rng.uniform(800, 4000) * levels + rng.uniform(0, 100), 0, 65535).astype(
        np.uint16
    )


def write_originals(
    truth: Truth, chosen: npt.NDArray[np.int64], bend: tuple[float, float], place: Path
) -> Path:
    """A prepared set of `like_original` slices with their patients and boxes."""
    import cv2

    rng = np.random.default_rng(0)
    rows = []
    for number, at in enumerate(chosen.tolist()):
        path = truth.files.paths[at]
        turn = TURN_NAMES[rng.integers(1, len(TURN_NAMES)) if rng.random() < TURNED else 0]
        picture = like_original(decode(truth.archive.read(path)), bend, rng)
        turned = np.ascontiguousarray(TURNS[turn](picture))
        encoded = cv2.imencode(".png", turned, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        name = f"{truth.files.labels[at]}/{number:04d}.png"
        write_bytes(place / SLICES / name, encoded)
        said = truth.table[path]
        box: Box | None = None
        if not np.isnan(truth.boxes[at]).any():
            left, top, right, bottom = truth.boxes[at].tolist()
            box = turned_box((left, top, right, bottom), turn)
        rows.append(
            Row(name, truth.files.labels[at], "", SOURCE, said["patient"], said["patient"], box=box)
        )
    rows.sort(key=lambda row: row.path)
    write_description(place, SLICES, rows, CardText("benchmarks.join", (Source(SOURCE),)))
    return place


def measure_given_back(
    data: Path, truth: Truth, place: Path, kind: str, *, apart: bool
) -> dict[str, Any]:
    """What slices without tables got of others that carry patients and boxes.

    Args:
        kind: of BENDS.
        apart: whether the originals are those of Training only, and Testing is given back.
    """
    asked = truth.files.tested if apart else np.ones(len(truth.files), bool)
    chosen = originals(truth, ~asked if apart else asked)
    known = write_originals(truth, chosen, BENDS[kind], place / "known")
    bare = data / f"{MAIN}.zip"
    if apart:
        bare = place / MAIN
        for at in np.flatnonzero(asked).tolist():
            path = truth.files.paths[at]
            write_bytes(bare / path, truth.archive.read(path))
    begun = time.perf_counter()
    out = place / "out"
    _run_join([str(known), f"{MAIN}={bare}"], out)
    seconds = time.perf_counter() - begun
    paths = [truth.files.paths[at] for at in np.flatnonzero(asked)]
    got = _of_main(out, paths)
    small = truth.files.thumbnails
    own = np.asarray(_sources(truth))[asked] == SOURCE
    alike = own & has_near_duplicate(small[asked], small[chosen])
    lost = {
        f"{MAIN}/{path}" for path, is_own in zip(paths, own, strict=True)
        if is_own and not got[path]["patient"]
    }  # fmt: skip
    ends = read_boxes(out / "boxes.csv", [f"{MAIN}/{path}" for path in paths])
    return {
        "kind": kind,
        "apart": apart,
        "originals": len(chosen),
        "slices": len(paths),
        "seconds": seconds,
        "alike": int(alike.sum()),
        "none_in_conflict": len(lost & _in_conflict(out)),
        **compare(paths, got, truth.table, ends, truth.boxes[asked]),
    }


def compare(
    paths: Sequence[str],
    got: Rows,
    table: GroupTable,
    boxes: npt.NDArray[np.float64],
    true: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """What N slices got, beside what is true of them.

    Args:
        got: the row of each in the joined table.
        table: the true one.
        boxes, true: N×4, NaN where there is none.
    """
    counts = dict.fromkeys(("right", "wrong", "none", "others", "others_given"), 0)
    for path in paths:
        patient, has = table[path]["patient"], got[path]["patient"]
        if table[path]["source"] != SOURCE:
            counts["others"] += 1
            counts["others_given"] += has != ""
        else:
            counts["none" if not has else "right" if has == patient else "wrong"] += 1
    known, there = ~np.isnan(true).any(axis=1), ~np.isnan(boxes).any(axis=1)
    overlaps = overlap(boxes[known & there], true[known & there])
    return {
        **counts,
        "boxes": int(known.sum()),
        "boxes_given": len(overlaps),
        "boxes_good": int((overlaps > GOOD).sum()),
        "median_overlap": float(np.median(overlaps)) if len(overlaps) else None,
        "boxes_given_to_others": int((there & ~known).sum()),
    }


def overlap(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of N boxes and N others (left, top, right, bottom)."""
    low, high = np.maximum(one[:, :2], two[:, :2]), np.minimum(one[:, 2:], two[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (one, two)]
    found: npt.NDArray[np.float64] = shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
    return found


def measure_all(data: Path, place: Path) -> dict[str, Any]:
    """All sets of the folder, joined."""
    partial = (data / f"{UNTYPED}.zip").exists()
    sets = [main_card(data, place / "main", partial=partial)]
    there = [name for name in OTHERS if (data / f"{name}.zip").exists()]
    sets += [write_card(data, name, place / name, {"groups": f"{name}.csv"}) for name in there]
    out = place / "out"
    begun = time.perf_counter()
    peak, cpu = _run_join(list(map(str, sets)), out)
    seconds = time.perf_counter() - begun
    rows = [
        row
        for table in ("groups.csv", "partial.csv")
        if (out / table).exists()
        for row in read_table(out / table, ("path",))
    ]
    return {
        "inputs": _counted(row["path"].partition("/")[0] for row in rows),
        "slices": len(rows),
        "groups": len({row["group"] for row in rows}),
        "patients": len({row["patient"] for row in rows} - {""}),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak,
    }


def _run_join(words: Sequence[str], out: Path) -> tuple[float, float]:
    """Run the command; its peak memory in MiB and its CPU seconds.

    Raises:
        BtcError: it failed.
    """
    tool = Path(sys.executable).parent / "btc-data"
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [str(tool), "join", *words, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = said.read()[-200:]
    if child.returncode != 0:
        raise BtcError(f"btc-data join ended with exit code {child.returncode}: {last}")
    scale = 1024 if sys.platform == "darwin" else 1
    return usage.ru_maxrss / 1024 / scale, usage.ru_utime + usage.ru_stime


def _sources(truth: Truth) -> tuple[str, ...]:
    return column(truth.table, truth.files.paths, "source")


def _in_conflict(out: Path) -> set[str]:
    """Paths of slices that look like one whose label excludes theirs."""
    file = out / CONFLICTS
    rows = read_table(file, ("path", "other_path")) if file.exists() else []
    return {row[name] for row in rows for name in ("path", "other_path")}


def _of_main(out: Path, paths: Iterable[str]) -> Rows:
    """The rows of a joined table by their paths in the main set."""
    rows = {row["path"]: row for row in read_table(out / "groups.csv", ("path", "patient"))}
    try:
        return {path: rows[f"{MAIN}/{path}"] for path in paths}
    except KeyError as error:
        raise DataError(f"the joined table has no row of {error}") from None


def _counted(names: Iterable[str]) -> dict[str, int]:
    there = list(names)
    return {name: there.count(name) for name in sorted(set(there))}


def measure(data: Path) -> dict[str, Any]:
    """All figures as one dict; see the module's text."""
    truth = read_truth(data)

    def within(work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as place:
            return work(Path(place))

    variants = (("linear", False), ("bent", False), ("linear", True))
    return {
        "machine": machine_facts(),
        "corrected": within(lambda place: measure_groups(data, place)),
        "given_back": [
            within(lambda p, k=kind, a=apart: measure_given_back(data, truth, p, k, apart=a))  # type: ignore[misc]
            for kind, apart in variants
        ],
        "all": within(lambda place: measure_all(data, place)),
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """The result as tables."""
    fixed, whole = result["corrected"], result["all"]
    turns = ", ".join(f"{count:,} {turn}" for turn, count in fixed["crossing"].items()) or "none"
    of = ", ".join(f"{count:,} {name}" for name, count in fixed["joined_by_source"].items())
    return "\n".join(
        [
            f"Groups of the main set's own table, corrected: {fixed['slices']:,} slices, "
            f"{fixed['groups']:,} groups become {fixed['became']:,}. Pairs of look-alikes that the "
            f"table has in two groups: {sum(fixed['crossing'].values()):,} ({turns}). Groups made "
            f"of several, by source: {of or 'none'}. Groups with several patients: "
            f"{fixed['groups_of_several_patients']:,}. Look-alikes with conflicting labels: "
            f"{fixed['conflicts']:,} pairs, {fixed['conflicts_of_one_patient']:,} of them of one "
            "patient.",
            "",
            "Patients and boxes given back to slices without tables. Originals: one picture of "
            f"each slice, enlarged to {SIDE} pixels and 16 bits, half of them mirrored or turned; "
            "gray levels of another scale, or also bent by a power of "
            f"{BENDS['bent'][0]:g} to {BENDS['bent'][1]:g}. They are made of the main set's own "
            "pictures: a collection's true originals may differ by more. Alike: how many slices "
            "look like a picture that an original was made of. None, in brackets: slices whose "
            "label excludes that of the original, from which nothing is taken.",
            "",
            "| originals | of | gray levels | given back to | alike | right patient | wrong "
            "| none (by label) | boxes given | median overlap "
            f"| over {GOOD:g} | others with a patient |",
            "|--:|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            *map(_given_back_row, result["given_back"]),
            "",
            "All of the data joined: "
            + ", ".join(f"{count:,} of {name}" for name, count in whole["inputs"].items())
            + f"; {whole['slices']:,} slices, {whole['groups']:,} groups, {whole['patients']:,} "
            f"patients. Whole command: {whole['seconds']:.1f} s ({whole['cpu_seconds']:.1f} s of "
            f"CPU), {whole['peak_mib']:,.0f} MiB. {machine_in_words(result['machine'])}.",
            "",
        ]
    )


def _given_back_row(row: Mapping[str, Any]) -> str:
    asked = row["right"] + row["wrong"] + row["none"]
    median = NOTHING if row["median_overlap"] is None else f"{row['median_overlap']:.3f}"
    cells = (
        f"{row['originals']:,}",
        "Training" if row["apart"] else "all",
        row["kind"],
        f"{asked:,} {'of Testing' if row['apart'] else 'slices'}",
        f"{row['alike']:,}",
        f"{row['right']:,}",
        f"{row['wrong']:,}",
        f"{row['none']:,} ({row['none_in_conflict']:,})",
        f"{row['boxes_given']:,} of {row['boxes']:,}",
        median,
        f"{row['boxes_good']:,}",
        f"{row['others_given']:,} of {row['others']:,}",
    )
    return f"| {' | '.join(cells)} |"


@click.command()
@click.argument("data", type=FOLDER)
@out_option
def main(data: Path, out: Path) -> None:
    """Measure btc-data join on the sets of the folder DATA."""
    result = measure(data)
    publish(out, "join", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.join", extra="train")
