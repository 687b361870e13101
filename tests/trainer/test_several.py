"""Several DATA as one: what holds across them, and what is each one's own."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.decode import load_gray
from edge_runtime.imaging.preprocess import Preprocess
from trainer.audit.examine import audit
from trainer.audit.files import read_files
from trainer.commands.audit import audit_command
from trainer.commands.evaluate import evaluate_command
from trainer.commands.train import train_command
from trainer.data.card import CardText, Source
from trainer.data.collection import Collection, check_apart, names_of, open_data
from trainer.data.dataset import Dataset, given_away_by_source, originals, read_dataset
from trainer.data.partial_labels import read_partial_labels
from trainer.data.split import split_dataset
from trainer.prepare.folder import DataFolder, NewSlice
from trainer.prepare.rows import Row
from trainer.run import Run
from trainer.synthetic.phantoms import draw_phantom, write_phantoms

BIN = Path(sys.executable).parent
OPTIONS = Preprocess(32)
KNN = ("--model", "knn", "--features", "histogram", "--no-cache", "--size", "32", "--seed", "5")
NOISE = [np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8) for i in range(8)]
# What is said of several only, and where.
OF_SEVERAL = ("origin", "warnings", "each_sha256", "own_groups", "own_sources")
PNG = [cv2.imencode(".png", gray)[1].tobytes() for gray in NOISE]


def equal(one: Dataset, two: Dataset, *but: str) -> bool:
    """Whether two data sets are the same in every field, but for some."""
    for field in fields(Dataset):
        if field.name not in but:
            np.testing.assert_equal(
                getattr(one, field.name), getattr(two, field.name), err_msg=field.name
            )
    return True


def phantom(label: str, *seed: int) -> bytes:
    return cv2.imencode(".png", draw_phantom(label, np.random.default_rng(seed)))[1].tobytes()


def table(path: Path, head: str, rows: Iterable[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *map(",".join, rows)]) + "\n")
    return path


def save(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def call(command: Any, *words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)))


def stderr_of(done: Result) -> str:
    return done.stderr if done.stderr_bytes is not None else done.output


class Drawn(NamedTuple):
    """A slice of a collection and its row in a table."""

    label: str
    picture: int
    group: str
    source: str
    patient: str


slices = st.builds(
    Drawn,
    st.sampled_from("ab"),
    st.integers(0, len(PNG) - 1),
    st.sampled_from(["", "g1", "g2", "g3"]),
    st.sampled_from(["", "here", "there"]),
    st.sampled_from(["", "", "p1", "p2"]),
)
BOTH = [Drawn(label, i, "", "", "") for i, label in enumerate("ab")]
drawn = st.lists(slices, max_size=6).map(lambda more: BOTH + more)


def write_drawn(root: Path, name: str, rows: Sequence[Drawn]) -> Collection:
    """A collection of these slices, each the picture of its number."""
    names = [f"{row.label}/{i}.png" for i, row in enumerate(rows)]
    save(root / name, {n: PNG[row.picture] for n, row in zip(names, rows, strict=True)})
    groups = table(
        root / f"{name}-groups.csv",
        "path,group,source,patient",
        [(n, r.group, r.source, r.patient) for n, r in zip(names, rows, strict=True)],
    )
    boxed = [(n, "0.5", "0.5", "0.2", f"0.{i + 1}") for i, n in enumerate(names[:3])]
    boxes = table(root / f"{name}-boxes.csv", "path,x_center,y_center,width,height", boxed)
    return Collection(root / name, name, "", groups, boxes)


@settings(max_examples=15, deadline=None)
@given(drawn)
def test_one_collection_is_as_its_folder(rows: list[Drawn]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        each = write_drawn(Path(folder), "one", rows)
        whole = read_dataset(
            each.path, OPTIONS, groups_csv=each.groups_csv, boxes_csv=each.boxes_csv
        )
        alone = Collection(each.path, "", "nowhere", each.groups_csv, each.boxes_csv)
        assert equal(whole, read_dataset([alone], OPTIONS))
        assert set(whole.paths) <= {f"{r.label}/{i}.png" for i, r in enumerate(rows)}


@settings(max_examples=25, deadline=None)
@given(drawn, drawn, st.sampled_from([("x", "y"), ("y", "x"), ("x", "x-1"), ("x.", "x")]))
def test_two_are_as_a_folder_that_holds_both(
    first: list[Drawn], second: list[Drawn], names: tuple[str, str]
) -> None:
    first, second = ([row._replace(patient="") for row in rows] for rows in (first, second))
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        parts = [write_drawn(root, n, r) for n, r in zip(names, (first, second), strict=True)]
        data = read_dataset(parts, OPTIONS)
        assert equal(data, read_dataset(parts[::-1], OPTIONS)), "the order says nothing"
        rows, boxes = [], []
        for each in parts:
            assert each.groups_csv is not None
            assert each.boxes_csv is not None
            for row in csv.DictReader(each.groups_csv.open()):
                group = f"{each.name}/{row['group']}" if row["group"] else ""
                source = row["source"] or each.name
                rows.append((f"{each.name}/{row['path']}", group, source, ""))
            lines = each.boxes_csv.read_text().splitlines()[1:]
            boxes += [(f"{each.name}/{line}",) for line in lines]
        merged = table(Path(place) / "g.csv", "path,group,source,patient", rows)
        boxed = table(Path(place) / "b.csv", "path,x_center,y_center,width,height", boxes)
        joined = read_dataset(root, OPTIONS, groups_csv=merged, boxes_csv=boxed)
        assert equal(data, joined, *OF_SEVERAL), "but for the table's name"
        in_order = sorted(names, key=lambda name: f"{name}/")
        alone = [read_dataset(root / name, OPTIONS).sha256 for name in in_order]
        assert data.each_sha256 == tuple(alone)
        shared = read_dataset(parts, OPTIONS, groups_csv=merged, boxes_csv=boxed)
        assert equal(data, shared, "warnings", "own_sources"), (
            "one table of all, whose paths begin with the names"
        )
        theirs, mine = read_files(root), read_files(parts)
        for field in fields(theirs):
            np.testing.assert_equal(getattr(mine, field.name), getattr(theirs, field.name))


def tied(ties: Sequence[set[object]]) -> set[frozenset[int]]:
    """Which of N slices belong together, where slices with a common tie do."""
    parts: list[tuple[set[object], set[int]]] = []
    for i, mine in enumerate(ties):
        near = [part for part in parts if part[0] & mine]
        parts = [part for part in parts if not part[0] & mine]
        known = set(mine).union(*(part[0] for part in near))
        parts.append((known, {i}.union(*(part[1] for part in near))))
    return {frozenset(part[1]) for part in parts}


@settings(max_examples=40, deadline=None)
@given(drawn, drawn)
def test_groups_are_local_and_people_are_not(first: list[Drawn], second: list[Drawn]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [write_drawn(Path(folder), n, r) for n, r in (("x", first), ("y", second))]
        data = read_dataset(parts, OPTIONS)
        rows = {
            f"{each.name}/{row.label}/{i}.png": (each.name, row)
            for each, of_each in zip(parts, (first, second), strict=True)
            for i, row in enumerate(of_each)
        }
        ties: list[set[object]] = []
        for path in data.paths:
            name, row = rows[path]
            mine: set[object] = {("looks", row.picture)}
            if row.group:
                mine.add(("group", name, row.group))
            if row.patient:
                mine.add(("person", row.source or name, row.patient))
            ties.append(mine)
        found = defaultdict(set)
        for i, group in enumerate(data.groups):
            found[group].add(i)
        assert {frozenset(each) for each in found.values()} == tied(ties)
        found_by_audit = audit(parts)
        assert tuple(row[4] for row in found_by_audit.groups) == data.groups
        assert tuple(row[3] for row in found_by_audit.groups) == data.patients


def test_a_group_may_be_called_as_a_file(tmp_path: Path) -> None:
    rows = [
        Drawn("a", 0, "a/0.png", "", ""),
        Drawn("b", 1, "a/0.png", "", ""),
        Drawn("a", 2, "", "", ""),
        Drawn("a", 3, "", "", "p"),
        Drawn("b", 4, "", "", "p"),
    ]
    parts = [write_drawn(tmp_path, name, rows) for name in "xy"]
    data = read_dataset([*parts], OPTIONS)
    groups = dict(zip(data.paths, data.groups, strict=True))
    assert groups["x/a/0.png"] == groups["x/b/1.png"] == groups["y/a/0.png"], "y's are copies"
    assert groups["x/a/3.png"] == groups["x/b/4.png"]
    assert len(set(data.groups)) == 3


def test_names_come_from_the_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/set", "b/set", "set-2"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b/set.zip", "v1.2.zip", "plain"):
        zipfile.ZipFile(tmp_path / name, "w").close()
    (tmp_path / "link").symlink_to(tmp_path / "a" / "set")
    named = [tmp_path / n for n in ("a/set", "b/set", "b/set.zip", "v1.2.zip", "plain", "link")]
    assert names_of(named) == ["set", "set-2", "set-3", "v1.2", "plain", "link"]
    assert names_of([tmp_path / "b" / "set", tmp_path / "set-2", tmp_path / "a" / "set"]) == [
        "set", "set-2", "set-3",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path / "a" / "set")
    assert names_of([Path(), Path("..")]) == ["set", "a"]
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    names_of([odd])[0].encode()  # it stands in tables


def test_no_slice_counts_twice(tmp_path: Path) -> None:
    save(tmp_path, {"a/b/x.png": PNG[0], "ab/x.png": PNG[0], "a/z.zip": b""})
    (tmp_path / "link").symlink_to(tmp_path / "a")
    a, b, link = tmp_path / "a", tmp_path / "a" / "b", tmp_path / "link"
    check_apart([a, tmp_path / "ab", a / "z.zip"])  # a zip in a folder is not read
    for twice in ([a, a], [a, link], [a / "z.zip", link / "z.zip"]):
        with pytest.raises(UsageError, match="the same data as"):
            check_apart(twice)
    for within in ([a, b], [b, link]):
        with pytest.raises(UsageError, match="would count twice"):
            check_apart(within)


def test_each_is_arranged_for_itself(tmp_path: Path) -> None:
    divided = {
        f"{side}/{label}/{i}.png": phantom(label, n, i)
        for n, (side, label) in enumerate(
            (side, label) for side in ("Training", "Testing") for label in ("glioma", "notumor")
        )
        for i in range(9)
    }
    plain = {f"{label}/{i}.png": phantom("pituitary", 7, n, i) for n, label in
             enumerate(("notumor", "other")) for i in range(9)}  # fmt: skip
    parts = [
        Collection(save(tmp_path / "divided", divided), "divided"),
        Collection(save(tmp_path / "Testing", plain), "Testing"),
    ]
    data = read_dataset(parts, OPTIONS)
    assert data.class_names == ("glioma", "notumor", "other")
    assert not data.passed_over
    whose = {
        (path.split("/")[0], split) for path, split in zip(data.paths, data.splits, strict=True)
    }
    assert whose == {("divided", "training"), ("divided", "testing"), ("Testing", "")}
    split = split_dataset(data, "official", 1)
    assert {data.paths[i].split("/")[1] for i in split.test} == {"Testing"}
    assert len(split.test) == 18
    assert {data.paths[i].split("/")[0] for i in split.train} == {"divided", "Testing"}
    assert set(data.sources) == {"divided", "Testing"}
    held_out = split_dataset(data, "grouped", 1)
    sides = (held_out.train, held_out.validation, held_out.test)
    groups = [{data.groups[i] for i in side} for side in sides]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]


def test_what_is_not_read_is_told_with_its_data(tmp_path: Path) -> None:
    one = save(tmp_path / "one", {"a/0.png": PNG[0], "b/0.png": PNG[1], "stray.png": PNG[2],
                                  "a/notes.txt": b"x", "c/bad.png": b"no"})  # fmt: skip
    two = save(tmp_path / "two", {"a/0.png": PNG[3], "a/notes.txt": b"x", "b/bad.png": PNG[4][:99]})
    parts = [Collection(one, "one"), Collection(two, "two")]
    data = read_dataset(parts, OPTIONS)
    assert [path for path, _ in data.problems] == [
        "one/c/bad.png",
        "one/stray.png",
        "two/b/bad.png",
    ]
    assert [each.paths for each in data.passed_over] == [("one/a/notes.txt", "two/a/notes.txt")]
    assert data.warnings == ("no picture of c could be read (1 tried), so it is no class",)
    save(tmp_path / "three", {"a/notes.txt": b"x", "a/bad.png": b""})
    with pytest.raises(DataError, match=r"^three: no readable image"):
        read_dataset([*parts, Collection(tmp_path / "three", "three")], OPTIONS)


def test_a_table_speaks_of_its_own_data(tmp_path: Path) -> None:
    parts = [write_drawn(tmp_path, name, BOTH) for name in "xy"]
    shared = table(tmp_path / "s.csv", "path,group", [("a/0.png", "g"), ("b/1.png", "h")])
    with pytest.raises(DataError, match=r"no row for 4 of 4 .* begins with the name of its zip"):
        read_dataset(parts, OPTIONS, groups_csv=shared)
    boxes = table(
        tmp_path / "b.csv", "path,x_center,y_center,width,height",
        [("a/0.png", *["0.2"] * 4), ("y/b/1.png", *["0.4"] * 4)],
    )  # fmt: skip
    data = read_dataset(parts, OPTIONS, boxes_csv=boxes)
    boxed = [path for path, box in zip(data.paths, data.boxes, strict=True) if not np.isnan(box[0])]
    assert boxed == ["y/b/1.png"], "a/0.png is in both, and no name of either"
    short = table(tmp_path / "y-groups.csv", "path,group", [("a/0.png", "")])
    with pytest.raises(DataError, match=r"^y: y-groups.csv: no row for 1 of 2 images, such as b/1"):
        read_dataset(parts, OPTIONS)
    table(short, "path,group", [("a/0.png", ""), ("b/1.png", "g")])
    assert read_dataset(parts, OPTIONS).warnings == (
        "x: 2 of 2 images have no group in x-groups.csv; they are grouped by looks alone",
        "y: 1 of 2 images have no group in y-groups.csv; they are grouped by looks alone",
    )


def test_a_zip_may_wrap_more_than_its_table_knows(tmp_path: Path) -> None:
    one = write_drawn(tmp_path, "x", BOTH)
    two = write_drawn(tmp_path / "wrapped", "inner", BOTH)
    wrapped = Collection(tmp_path / "wrapped", "y", "", two.groups_csv, two.boxes_csv)
    assert wrapped.groups_csv is not None
    outside = tmp_path / "tables"
    outside.mkdir()
    moved = [Path(shutil.move(t, outside)) for t in (two.groups_csv, two.boxes_csv) if t]
    data = read_dataset([one, Collection(wrapped.path, "y", "", *moved)], OPTIONS)
    assert data.paths == ("x/a/0.png", "x/b/1.png", "y/inner/a/0.png", "y/inner/b/1.png")
    assert not np.isnan(data.boxes).any()
    shared = table(
        tmp_path / "s.csv",
        "path,group",
        [(f"{n}/{p}", n) for n in "xy" for p in ("a/0.png", "b/1.png")],
    )
    data = read_dataset([one, Collection(wrapped.path, "y")], OPTIONS, groups_csv=shared)
    assert data.given_groups == ("x", "x", "y", "y")


def test_pictures_are_found_again(tmp_path: Path) -> None:
    one = Collection(save(tmp_path / "one", {"a/0.png": PNG[0], "b/0.png": PNG[1]}), "one")
    save(tmp_path / "two", {"a/0.png": PNG[2], "b/0.png": PNG[3], "b/notes.txt": b"x"})
    packed = shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "two")
    two = Collection(Path(packed), "two")
    data = read_dataset([two, one], OPTIONS)
    for gray, want in zip(originals(data, range(4)), NOISE, strict=False):
        np.testing.assert_array_equal(gray, want)
    archive = open_data([two, one])
    assert archive.names() == list(data.paths)
    assert [archive.size(name) for name in archive.names()] == [len(png) for png in PNG[:4]]
    assert [other.path for other in archive.others()] == ["two/b/notes.txt"]
    Path(packed).unlink()
    assert originals(data, range(4)) == [None] * 4


def test_partial_slices_name_the_groups_of_their_own_data(tmp_path: Path) -> None:
    here = [Drawn("a", 0, "g1", "s", ""), Drawn("b", 1, "g2", "s", "p1")]
    there = [Drawn("a", 2, "g1", "t", ""), Drawn("b", 3, "g2", "s", "p1")]
    parts = [write_drawn(tmp_path, n, rows) for n, rows in (("x", here), ("y", there))]
    data = read_dataset(parts, OPTIONS, tumour_free=["a"])
    by_path = dict(zip(data.paths, data.groups, strict=True))
    assert by_path["x/b/1.png"] == by_path["y/b/1.png"], "one person"
    rows = [("g1", "", ""), ("g2", "", ""), ("", "s", "p1"), ("", "t", "p1"), ("", "", "")]
    names = [f"tumor/{i}.png" for i in range(5)]
    at = save(
        tmp_path / "partial", dict(zip(names, (PNG[i] for i in (4, 5, 6, 7, 2)), strict=True))
    )
    listed = table(
        tmp_path / "p.csv", "path,group,source,patient",
        [(n, *row) for n, row in zip(names, rows, strict=True)],
    )  # fmt: skip
    for name in "xy":
        partial = read_partial_labels([Collection(at, name, "", listed)], OPTIONS, data)
        assert [set(each) for each in partial.touches] == [
            {by_path[f"{name}/a/0.png"]},
            {by_path["x/b/1.png"]},
            {by_path["x/b/1.png"]},
            set(),
            {by_path["y/a/0.png"]},
        ], "its own g1, the group that g2 was joined to, the person, nobody, a copy"


def test_a_class_that_its_source_gives_away_is_named(tmp_path: Path) -> None:
    def told(first: str, second: str, *sources: str) -> tuple[str, ...]:
        parts = []
        for at, labels in enumerate((first, second)):
            rows = [Drawn(x, 2 * at + i, "", sources[at], "") for i, x in enumerate(labels)]
            shutil.rmtree(tmp_path / "xy"[at], ignore_errors=True)
            parts.append(write_drawn(tmp_path, "xy"[at], rows))
        return given_away_by_source(read_dataset(parts, OPTIONS))

    (words,) = told("aa", "bb", "", "")
    assert words.startswith("a, b: from no source that another class comes from")
    assert not told("aa", "bb", "s", "s")
    assert not told("ab", "bb", "", "")
    (words,) = told("ab", "cc", "", "")
    assert words.startswith("c: ")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two DATA with cards: `home`, a folder with a zip, tables and partial slices, and
    `away.zip` with another collection, of which one patient is of `home` too."""
    root = tmp_path_factory.mktemp("sets")
    write_phantoms(root / "home" / "slices.zip", per_class=24, testing=0.25, seed=3)
    names = sorted(zipfile.ZipFile(root / "home" / "slices.zip").namelist())
    # Patients 0 to 47, two slices each.
    rows = [(n, f"g{i // 2}", "one", f"p{i // 2}") for i, n in enumerate(names)]
    table(root / "home" / "groups.csv", "path,group,source,patient", rows)
    boxed = [(n, *["0.5", "0.5", "0.3", "0.3"]) for n in names if "notumor" not in n]
    table(root / "home" / "boxes.csv", "path,x_center,y_center,width,height", boxed)
    tumors = {f"tumor/{i}.png": phantom("glioma", 5, i) for i in range(8)}
    save(root / "home" / "untyped", tumors)
    rows = [(n, f"g{20 + i}" if i < 4 else f"u{i}", "two", "") for i, n in enumerate(tumors)]
    table(root / "home" / "untyped.csv", "path,group,source,patient", rows)
    (root / "home" / "data.toml").write_text(
        'images = "slices.zip"\ngroups = "groups.csv"\nboxes = "boxes.csv"\npartial = "untyped"\n'
        'partial_groups = "untyped.csv"\ntumour_free = ["notumor"]\ntitle = "Home"\n'
        'license = "CC BY 4.0"\n'
    )
    away = {f"{label}/{i}.png": phantom(label, 6, n, i)
            for n, label in enumerate(("notumor", "cyst")) for i in range(12)
            if label == "notumor"}  # fmt: skip
    save(root / "away-files", away)
    shutil.make_archive(str(root / "away"), "zip", root / "away-files")
    shutil.rmtree(root / "away-files")
    rows = [(n, f"g{i // 2}", "", f"p{i // 2}") for i, n in enumerate(sorted(away))]
    table(root / "away.csv", "path,group,source,patient", rows)
    (root / "away.toml").write_text(
        'groups = "away.csv"\ntitle = "Away"\nlicense = "CC BY 4.0"\n[[sources]]\nname = "one"\n'
    )
    return root


def in_folder(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A console script, as one types it."""
    return subprocess.run(
        [BIN / name, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def predicted(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_command_learns_from_both(sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = in_folder("btc-train", "home", "away.zip", "--protocol", "grouped", "--folds", 2, *KNN,
                     "--out", out, cwd=sets)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in ("home: images: home/slices.zip (data.toml)", "away: groups: away.csv (away.toml)",
                 "home: tumour_free: notumor (data.toml)"):  # fmt: skip
        assert line in done.stderr.splitlines()
    facts = Run.open(out).settings
    assert facts["data"]["images"] == 108
    assert facts["data"]["title"] == "Away; Home"
    assert facts["data"]["license"] == "CC BY 4.0", "each thing once"
    assert facts["data"]["boxes"] == 72
    assert facts["partial"]["images"] == 8
    rows = predicted(out)
    assert len(rows) == 108
    assert {row["source"] for row in rows} == {"one"}, "away's card says so"
    group_of = {row["path"]: row["group"] for row in rows}
    person = defaultdict(set)
    for row in rows:
        if row["patient"]:
            person[row["patient"]].add(row["group"])
    assert all(len(groups) == 1 for groups in person.values())
    assert len({row["patient"] for row in rows}) == 48, "six of away are people of home"
    tested = [{row["group"] for row in predicted(out / fold)} for fold in ("fold-1", "fold-2")]
    assert not tested[0] & tested[1]
    assert group_of["away/notumor/0.png"].startswith("away/")
    again = in_folder("btc-train", sets / "away.zip", sets / "home", "--protocol", "grouped",
                      "--folds", 2, *KNN, "--out", tmp_path / "again", cwd=tmp_path)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert predicted(tmp_path / "again") == rows
    assert Run.open(tmp_path / "again").settings["inputs"] == facts["inputs"]


def test_a_person_is_one_whichever_table_names_them(tmp_path: Path) -> None:
    """A table of all, or of slices of partly known class, calls patients as its writer does; the
    tables of several DATA gain the source's name."""
    rows = [Drawn("a", 0, "", "s", "p1"), Drawn("b", 1, "", "s", "p2")]
    parts = [write_drawn(tmp_path, name, rows) for name in "xy"]
    untyped = {f"{label}/{i}.png": PNG[4 + i] for i, label in enumerate(("a", "a", "b"))}
    mine = zip(untyped, ("p1", "p2", "p3"), strict=True)
    own = table(tmp_path / "u.csv", "path,group,source,patient", [(n, "", "s", p) for n, p in mine])
    place = save(tmp_path / "untyped", untyped)
    of_card, of_option = Collection(place, "x", "", own), Collection(place, "", "", own)
    plain = [
        (f"{n}/{r.label}/{i}.png", "", "s", r.patient) for n in "xy" for i, r in enumerate(rows)
    ]
    shared = table(tmp_path / "s.csv", "path,group,source,patient", plain)
    for groups_csv in (None, shared):
        data = read_dataset(parts, OPTIONS, groups_csv=groups_csv)
        group_of = dict(zip(data.paths, data.groups, strict=True))
        for partial in (of_card, of_option):
            touches = read_partial_labels([partial], OPTIONS, data).touches
            assert touches == ({group_of["x/a/0.png"]}, {group_of["x/b/1.png"]}, set())


def stop(run: Path) -> None:
    """Take a finished cross-validation back to where its first fold was finished."""
    for name in ("predictions.csv", "metrics.json"):
        (run / name).unlink()
    shutil.rmtree(run / "fold-2")
    known = json.loads((run / "run.json").read_text())
    known |= {"status": "started", "data": None, "partial": None, "labels": []}
    (run / "run.json").write_text(json.dumps(known))


@pytest.fixture(scope="module")
def half(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation on both that was stopped between its folds."""
    run = tmp_path_factory.mktemp("runs") / "half"
    words = (sets / "home", sets / "away.zip", "--protocol", "grouped", "--folds", 2)
    done = call(train_command, *words, *KNN, "--out", run)
    assert done.exit_code == 0, done.output
    stop(run)
    return run


def test_it_goes_on_with_the_same_wherever_they_lie(sets: Path, half: Path, tmp_path: Path) -> None:
    moved, run = shutil.copytree(sets, tmp_path / "moved"), shutil.copytree(half, tmp_path / "run")
    done = call(train_command, moved / "away.zip", moved / "home", "--resume", "--out", run)
    assert done.exit_code == 0, done.output
    assert len(predicted(run)) == 108


@pytest.mark.parametrize(
    ("change", "words", "line"),
    [
        ("", "home", "DATA is not the data"),
        ("", "away.zip", "the run was started with --boxes; give the same again"),
        (
            "mv away.zip other.zip; mv away.toml other.toml",
            "home other.zip",
            "DATA is not the data",
        ),
        ("sed -i s/g3,/g4,/ away.csv", "home away.zip", "--groups is not the table"),
        ("sed -i s/one/two/ away.toml", "home away.zip", "--groups is not the table"),
        ("rm away.toml", "home away.zip", "--groups is not the table"),
        ("sed -i s/0.3/0.2/ home/boxes.csv", "home away.zip", "--boxes is not the table"),
        ("sed -i s/u5/u6/ home/untyped.csv", "home away.zip", "--partial-groups is not the table"),
        ("rm home/untyped/tumor/7.png", "home away.zip", "--partial is not the data"),
        ("", "home away.zip --no-card", "the run was started with --groups"),
    ],
)
def test_it_does_not_go_on_with_others(
    sets: Path, half: Path, tmp_path: Path, change: str, words: str, line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    moved = shutil.copytree(sets, tmp_path / "moved")
    subprocess.run(change, shell=True, check=True, cwd=moved)
    monkeypatch.chdir(moved)
    done = call(train_command, *words.split(), "--resume", "--out", half)
    assert isinstance(done.exception, (DataError, UsageError)), done.output
    assert str(done.exception).startswith(line)


def test_notumor_is_tumour_free_whatever_another_card_names(tmp_path: Path) -> None:
    one = {f"{label}/{i}.png": phantom(label, 9, int(i))
           for label in ("glioma", "notumor") for i in "01"}  # fmt: skip
    two = {f"controls/{i}.png": phantom("notumor", 8, int(i)) for i in "01"}
    parts = [Collection(save(tmp_path / n, f), n) for n, f in (("one", one), ("two", two))]
    assert read_dataset(parts, OPTIONS).tumour_free == ("notumor",)
    named = read_dataset(parts, OPTIONS, tumour_free=["controls"])
    assert named.tumour_free == ("controls", "notumor")
    with pytest.raises(DataError, match="every class is named tumour-free"):
        read_dataset(parts, OPTIONS, tumour_free=["controls", "glioma"])
    alone = read_dataset([Collection(tmp_path / "one")], OPTIONS, tumour_free=["glioma"])
    assert alone.tumour_free == ("glioma",), "one DATA is as its card says"


def test_tumours_of_no_stated_type_beside_typed_ones_are_told(sets: Path, tmp_path: Path) -> None:
    files = {f"{label}/{i}.png": phantom("glioma", 7, n, i)
             for n, label in enumerate(("notumor", "tumor")) for i in range(6)}  # fmt: skip
    words = (sets / "home", save(tmp_path / "plain", files), *KNN)
    told = stderr_of(call(train_command, *words, "--out", tmp_path / "run"))
    line = "tumor: learned as a class of its own, though its slices may be of another; they are "
    assert told.count(line) == told.count("learned as a class") == 1
    alone = stderr_of(call(train_command, tmp_path / "plain", *KNN, "--out", tmp_path / "run"))
    assert "learned as a class" not in alone, "here no tumour has a type"


def test_usage(sets: Path, tmp_path: Path) -> None:
    for words, line in (
        (("home", "home"), "home/slices.zip: the same data as home/slices.zip; name it once"),
        (("home", "away.zip", "--partial-groups", "away.csv"),
         "--partial-groups: with several DATA it goes with --partial"),
        ((), "Missing argument 'DATA...'"),
    ):  # fmt: skip
        done = in_folder("btc-train", *words, "--out", tmp_path / "run", *KNN, cwd=sets)
        assert done.returncode == 2, done.stderr
        assert line in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


def test_an_audit_sees_across(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(sets, tmp_path, dirs_exist_ok=True)
    with zipfile.ZipFile(tmp_path / "home" / "slices.zip") as archive:
        name = next(n for n in archive.namelist() if n.startswith("Testing/notumor"))
        copied = load_gray(archive.read(name))[:, ::-1]
    encoded = cv2.imencode(".png", copied)[1].tobytes()
    more = save(tmp_path / "more", {"glioma/copy.png": encoded, "glioma/new.png": PNG[0]})
    done = in_folder("btc-audit", "home", "away.zip", more, "--format", "json", cwd=tmp_path)
    assert done.returncode == 1, "the copy is of a test slice"
    result = json.loads(done.stdout)
    assert result["data"] == "away, home, more"
    (pair,) = result["conflicts"]["pairs"]
    assert {pair["first"], pair["second"]} == {f"home/{name}", "more/glioma/copy.png"}
    assert pair["turn"] == "mirrored"
    assert result["counts"]["sources"]["glioma"] == {"more": 2, "one": 24}
    assert not (tmp_path / "audit" / "data.toml").exists()
    told: list[list[object]] = []
    monkeypatch.setattr("trainer.commands.audit.next_command", told.append)
    monkeypatch.chdir(tmp_path)
    assert call(audit_command, "home", "away.zip").exit_code == 0
    words = [str(word) for word in told[0]]
    assert words == ["btc-train", "home", "away.zip"], "each has a table of its own"
    assert call(audit_command, "home", "away.zip", "--no-card").exit_code == 0
    words = [str(word) for word in told[1]]
    assert words[3:5] == ["--groups", "audit/groups.csv"]
    assert call(audit_command, "home", "away.zip", more).exit_code == 1
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert page.count("data:image/jpeg") >= 2
    rows = list(csv.DictReader(io.StringIO((tmp_path / "audit" / "groups.csv").read_text())))
    assert {row["path"].split("/")[0] for row in rows} == {"home", "away", "more"}
    words = ("home", "away.zip", "more", "--groups", "audit/groups.csv", "--protocol", "grouped")
    trained = in_folder("btc-train", *words, *KNN, "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    line = (
        "--groups replaces home/groups.csv: of its names, partial_groups finds those that are there"
    )
    assert trained.stderr.splitlines().count(line) == 1, "away has no such slices"
    alone = call(train_command, "home", "--groups", "home/groups.csv", *KNN, "--out", "one")
    assert stderr_of(alone).splitlines().count(line) == 1
    assert alone.exit_code == 0
    mine = ("--partial", "home/untyped", "--partial-groups", "home/untyped.csv")
    words = ("home", "--groups", "home/groups.csv", *mine)
    assert line not in stderr_of(call(train_command, *words, *KNN, "--out", "two"))
    group_of = {row["path"]: row["group"] for row in rows}
    assert all(row["group"] == group_of[row["path"]] for row in predicted(tmp_path / "run"))
    again = in_folder("btc-audit", "home", "away.zip", "--groups", "audit/groups.csv", "--out",
                      "audit", cwd=tmp_path)  # fmt: skip
    assert again.returncode == 2
    assert "would replace the table of groups" in again.stderr
    own = in_folder("btc-audit", "home", "away.zip", "--out", "home", cwd=tmp_path)
    assert own.returncode == 2
    assert "would replace the table of groups" in own.stderr


def test_several_are_measured_together(sets: Path, half: Path) -> None:
    words = (half / "fold-1", sets / "home", sets / "away.zip", "--format", "json")
    done = call(evaluate_command, *words)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert any("12 images are in no Testing folder" in line for line in result["warnings"])
    assert sum(each["n"] for each in result["per_class"].values()) == 24
    done = call(evaluate_command, *words, "--split", "all")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert sum(each["n"] for each in result["per_class"].values()) == 108
    assert not any("no Testing folder" in line for line in result["warnings"])


def test_copies_in_data_without_testing_folders_are_learned_from(
    sets: Path, half: Path, tmp_path: Path
) -> None:
    """Like `official`, which tests on the Testing folders and learns from the rest."""
    with zipfile.ZipFile(sets / "home" / "slices.zip") as archive:
        name = next(n for n in archive.namelist() if n.startswith("Testing/glioma"))
        copied = load_gray(archive.read(name))[:, ::-1]
    encoded = cv2.imencode(".png", copied)[1].tobytes()
    more = save(tmp_path / "more", {"glioma/copy.png": encoded})
    seen = []
    for data in ((sets / "home",), (sets / "home", more)):
        out = tmp_path / f"out-{len(data)}"
        assert call(evaluate_command, half / "fold-1", *data, "--out", out).exit_code == 0
        found = [row for row in predicted(out) if row["path"].endswith(name)]
        seen.append([(row["near_duplicate"], row["seen_group"]) for row in found])
    assert seen == [[("0", "0")], [("1", "1")]]


def test_slices_that_a_model_learned_from_are_known_again(
    sets: Path, half: Path, tmp_path: Path
) -> None:
    """Also where it learned from more than is measured, or less."""
    line = "the model was trained on slices of this very data"

    def warned(model: Path, *data: Path) -> bool:
        done = call(evaluate_command, model, *data, "--split", "all", "--format", "json")
        assert done.exit_code == 0, done.output
        return any(line in words for words in json.loads(done.stdout)["warnings"])

    home, away = sets / "home", sets / "away.zip"
    alone = tmp_path / "alone"
    trained = call(train_command, home, *KNN, "--protocol", "grouped", "--out", alone)
    assert trained.exit_code == 0, trained.output
    files = {f"{n}/{i}.png": phantom(n, 77, i) for i in range(2) for n in ("glioma", "notumor")}
    new = save(tmp_path / "new", files)
    assert warned(half / "fold-1", home, away)
    assert warned(half / "fold-1", home)
    assert warned(half / "fold-1", new, away)
    assert warned(alone, home, new)
    assert not warned(half / "fold-1", new)
    assert not warned(alone, away)
    assert not warned(alone, new, away)
    assert "each_sha256" not in Run.open(alone).settings["data"]


def test_a_prepared_folder_is_data_like_any_other(sets: Path, tmp_path: Path) -> None:
    labels = ["glioma", "notumor", "tumor"]
    folder = DataFolder(tmp_path / "made", {}, labels)
    for n, label in enumerate(labels):
        new = [
            NewSlice(phantom(label if label != "tumor" else "glioma", 8, n, i),
                     Row(f"{label}/{i}.png", label, "", "clinic", f"q{i}", f"q{i}",
                         box=(0.4, 0.4, 0.6, 0.6) if label == "glioma" else None))
            for i in range(6)
        ]  # fmt: skip
        folder.add(label, new)
    source = Source("clinic", "Clinic", "CC BY 4.0")
    folder.finish(CardText("btc-data", (source,)))
    done = call(train_command, sets / "home", tmp_path / "made", "--protocol", "grouped", *KNN,
                "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    facts = Run.open(tmp_path / "run").settings
    assert facts["data"]["images"] == 96 + 12
    assert facts["data"]["boxes"] == 72 + 6
    assert facts["partial"]["images"] == 8 + 6
    assert facts["data"]["title"] == "Home; Clinic"
    paths = {row["path"] for row in predicted(tmp_path / "run")}
    assert any(path.startswith("made/glioma/") for path in paths)


def test_volumes_of_several(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("nibabel")
    from tests.trainer.test_training_volumes import groups_by_path, png, scan, volume

    def slices(at: int, *studies: tuple[str, str]) -> dict[str, bytes]:
        return {
            f"{'ab'[i % 2]}/{i}.dcm": scan(10 * at + i, PatientID=who, StudyInstanceUID=study)
            for i, (who, study) in enumerate(studies)
        }

    x = save(tmp_path / "x", slices(1, ("P1", "1"), ("P2", "2")) | {"a/v.nii": volume(1)})
    y = save(tmp_path / "y", slices(2, ("P1", "3"), ("P3", "4")) | {"b/v.nii": volume(2)})
    marked = slices(3, ("ANON", "5"), ("ANON", "6"), ("ANON", "6"))
    z = save(tmp_path / "z", marked | {"b/p.png": png(9)})
    parts = [Collection(each, each.name) for each in (x, y, z)]
    groups = groups_by_path(read_dataset(parts, OPTIONS))
    assert groups["x/a/0.dcm"] == groups["y/a/0.dcm"], "one patient"
    assert len({group for path, group in groups.items() if "x/a/v.nii#" in path}) == 1
    assert groups["z/b/1.dcm"] == groups["z/a/2.dcm"], "one study"
    # Of x: P1, P2 and a volume, of y: P3 and another, of z: two studies and a picture.
    assert len(set(groups.values())) == 8
    data = read_dataset(parts, OPTIONS)
    assert [words for words in data.warnings if words.startswith("z: the DICOM files of 2 studies")]
    assert {row[0]: row[4] for row in audit(parts).groups} == groups
    rows = {"x": ["a/0.dcm,g", "b/1.dcm,g", "v.nii,v"], "y": ["a/0.dcm,g", "b/1.dcm,", "v.nii,v"]}
    tables = [table(tmp_path / f"{n}.csv", "path,group", [(r,) for r in rows[n]]) for n in "xy"]
    boxes = table(
        tmp_path / "b.csv", "path,x_center,y_center,width,height", [("v.nii#3", *["0.4"] * 4)]
    )
    parts = [Collection(x, "x", "", tables[0], boxes), Collection(y, "y", "", tables[1])]
    data = read_dataset(parts, OPTIONS)
    groups = groups_by_path(data)
    assert len({groups[f"{path}"] for path in ("x/a/0.dcm", "x/b/1.dcm", "y/a/0.dcm")}) == 1, (
        "no table keeps apart what it does not know"
    )
    assert groups["x/a/v.nii#2"] == "x/v"
    assert groups["y/b/v.nii#2"] == "y/v"
    boxed = np.flatnonzero(~np.isnan(data.boxes).any(axis=1))
    assert [data.paths[i] for i in boxed] == ["x/a/v.nii#3"]
    assert {row[0]: row[4] for row in audit(parts).groups} == groups
    assert all(gray is not None for gray in originals(data, range(len(data))))
