"""`btc-data join`: what look-alikes of several data sets tell of each other, and the set that they
become."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from tests.trainer.test_near_duplicates import add_kin, draw_slice, draw_smooth
from trainer.commands.data import command as btc_data
from trainer.commands.prepare.join import ALIKE
from trainer.data.card import find_card
from trainer.data.dataset import read_dataset
from trainer.data.near_duplicates import (
    THRESHOLD,
    TURN_NAMES,
    TURNS,
    Pairs,
    find_pairs,
    thumbnail,
)
from trainer.data.partial_labels import read_partial_labels
from trainer.prepare import folder
from trainer.prepare.join import copies
from trainer.prepare.join import job as join
from trainer.prepare.join.copies import CLEAR, INVERSE, NONE, Nearest, turned_box
from trainer.prepare.join.inputs import find_inputs
from trainer.prepare.rows import Box

BOX = (0.25, 0.375, 0.5, 0.625)  # in sixteenths of the sides, so that digits do not matter
Sheet = Sequence[Mapping[str, str]]


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(picture))[1].tobytes()


def table(rows: Sheet) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_set(
    place: Path,
    pictures: Mapping[str, bytes],
    groups: Sheet = (),
    boxes: Mapping[str, Box] | None = None,
    more: str = "",
    partial: Mapping[str, bytes] | None = None,
) -> Path:
    """A data set's folder; it has a card where it has a table."""
    for top, files in (("slices", pictures), ("untyped", partial or {})):
        for name, encoded in files.items():
            file = place / top / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded)
    lines = ['images = "slices"']
    if groups:
        (place / "groups.csv").write_text(table(groups))
        lines.append('groups = "groups.csv"')
    if boxes:
        rows = [
            {"path": path, "x_center": str((left + right) / 2), "y_center": str((top + low) / 2),
             "width": str(right - left), "height": str(low - top)}
            for path, (left, top, right, low) in boxes.items()
        ]  # fmt: skip
        (place / "boxes.csv").write_text(table(rows))
        lines.append('boxes = "boxes.csv"')
    if partial:
        lines.append('partial = "untyped"')
    (place / "data.toml").write_text("\n".join([*lines, more, ""]))
    return place


def row(path: str, group: str, source: str = "", patient: str = "", **more: str) -> dict[str, str]:
    return {"path": path, "group": group, "source": source, "patient": patient, **more}


def run(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(btc_data, ["join", *map(str, words)])
    assert (0 if done.exception is None else 1) == code, done.output
    return done


def read(out: Path, name: str = "groups.csv") -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO((out / name).read_text("utf-8")))
    return {row["path"]: row for row in rows}


def box_of(out: Path, path: str) -> Box:
    cells = read(out, "boxes.csv")[path]
    x, y, width, height = (float(cells[c]) for c in ("x_center", "y_center", "width", "height"))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def tree(out: Path) -> dict[str, bytes]:
    files = (file for file in out.rglob("*") if file.is_file())
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


def groups_as_sets(out: Path) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for path, cells in read(out).items():
        found.setdefault(cells["group"], set()).add(path)
    return {frozenset(paths) for paths in found.values()}


@given(
    st.sampled_from(TURN_NAMES),
    st.tuples(*[st.integers(0, 15)] * 2),
    st.tuples(*[st.integers(1, 8)] * 2),
)
def test_a_box_goes_where_the_turn_takes_its_pixels(
    turn: str, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    left, top = corner
    right, bottom = min(left + size[0], 16), min(top + size[1], 16)
    picture = np.zeros((16, 16), bool)
    picture[top:bottom, left:right] = True
    turned = turned_box((left / 16, top / 16, right / 16, bottom / 16), turn)
    rows, columns = np.nonzero(TURNS[turn](picture))
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert turned == tuple(value / 16 for value in expected)
    back = TURN_NAMES[INVERSE[TURN_NAMES.index(turn)]]
    assert np.array_equal(TURNS[back](TURNS[turn](picture)), picture)


@pytest.mark.parametrize("first", ["known", "bare"])
@pytest.mark.parametrize("turn", TURN_NAMES)
def test_a_turned_copy_takes_patient_source_and_box(tmp_path: Path, turn: str, first: str) -> None:
    """Of another size and contrast, and whichever of the two sets comes first."""
    original = draw_slice(3)
    copy = cv2.resize(np.ascontiguousarray(TURNS[turn](original)), (96, 96)) // 2 + 20
    write_set(
        tmp_path / "known",
        {"glioma/a.png": png(original), "glioma/b.png": png(draw_slice(4))},
        [row("glioma/a.png", "g1", "cheng", "P1", plane="axial"), row("glioma/b.png", "g2")],
        {"glioma/a.png": BOX},
    )
    write_set(tmp_path / "bare", {"glioma/x.png": png(copy), "glioma/y.png": png(draw_slice(5))})
    other = {"known": "bare", "bare": "known"}[first]
    out = tmp_path / "out"
    done = run(tmp_path / first, tmp_path / other, "--out", out)
    rows = read(out)
    taken = rows["bare/glioma/x.png"]
    assert (taken["patient"], taken["source"], taken["plane"]) == ("P1", "cheng", "")
    assert taken["group"] == rows["known/glioma/a.png"]["group"] == "g1"
    assert box_of(out, "bare/glioma/x.png") == pytest.approx(turned_box(BOX, turn), abs=1e-5)
    assert box_of(out, "known/glioma/a.png") == BOX
    assert rows["known/glioma/a.png"]["plane"] == "axial"
    assert rows["bare/glioma/y.png"]["patient"] == ""
    assert rows["bare/glioma/y.png"]["source"] == "bare", "where nothing else says where it is from"
    assert rows["known/glioma/b.png"]["source"] == "known"
    assert set(read(out, "boxes.csv")) == {"bare/glioma/x.png", "known/glioma/a.png"}
    for what in ("patient", "box", "source"):
        assert f"1 slices took their {what} from a look-alike" in done.stdout


def blend(one: np.ndarray, two: np.ndarray, share: float) -> np.ndarray:
    return np.rint((1 - share) * one + share * two.astype(float)).astype(np.uint8)


def test_nothing_comes_through_a_third(tmp_path: Path) -> None:
    """c looks like b, which looks like a, which c does not."""
    steps = [blend(draw_slice(3), draw_slice(7), share) for share in (0.0, 0.25, 0.5)]
    small = [thumbnail(step).astype(float).ravel() for step in steps]
    like = np.corrcoef(small)
    level = (min(like[0, 1], like[1, 2]) + like[0, 2]) / 2
    assert like[0, 2] < level < min(like[0, 1], like[1, 2])
    write_set(tmp_path / "a", {"glioma/a.png": png(steps[0])}, [row("glioma/a.png", "g", "s", "P")])
    write_set(tmp_path / "b", {"glioma/b.png": png(steps[1])})
    write_set(tmp_path / "c", {"glioma/c.png": png(steps[2])})
    out = tmp_path / "out"
    inputs = find_inputs([str(tmp_path / name) for name in "abc"])
    made = join.join_data(inputs, out, made_by="x", threshold=level, skip=nothing, say=nothing)
    rows = read(out)
    assert made.patients == 1
    assert [rows[f"{n}/glioma/{n}.png"]["patient"] for n in "abc"] == ["P", "P", ""]
    assert len({cells["group"] for cells in rows.values()}) == 1


def nothing(*_words: str) -> None:
    pass


def test_of_two_patients_the_nearer_one_must_be_so_clearly(tmp_path: Path) -> None:
    one, two = draw_slice(3), blend(draw_slice(3), draw_slice(7), 0.1)
    between, near = blend(one, two, 0.5), blend(one, two, 0.02)
    rows = [row("glioma/1.png", "g1", "s", "P1"), row("glioma/2.png", "g2", "s", "P2")]
    boxes = dict.fromkeys(("glioma/1.png", "glioma/2.png"), BOX)
    write_set(tmp_path / "a", {"glioma/1.png": png(one), "glioma/2.png": png(two)}, rows, boxes)
    write_set(tmp_path / "b", {"glioma/x.png": png(between), "glioma/y.png": png(near)})
    done = run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    found = read(tmp_path / "out")
    assert found["b/glioma/x.png"]["patient"] == ""
    assert found["b/glioma/y.png"]["patient"] == "P1"
    assert "b/glioma/x.png" not in read(tmp_path / "out", "boxes.csv")
    assert "b/glioma/y.png" in read(tmp_path / "out", "boxes.csv")
    assert "b: glioma/x.png (glioma) looks like slices of several patients" in done.stderr
    assert "1 groups hold slices of several patients" in done.stdout


def test_a_box_is_not_taken_from_another_patient(tmp_path: Path) -> None:
    rows = [row("glioma/1.png", "g1", "s", "P1")]
    one = {"glioma/1.png": png(draw_slice(3))}
    write_set(tmp_path / "a", one, rows, {"glioma/1.png": BOX})
    other = [row("glioma/1.png", "g1", "s", "P2")]
    write_set(tmp_path / "b", one, other)
    run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert set(read(tmp_path / "out", "boxes.csv")) == {"a/glioma/1.png"}
    assert read(tmp_path / "out")["b/glioma/1.png"]["patient"] == "P2"


def test_a_box_of_nobodys_will_do_but_where_the_patient_is_unclear(tmp_path: Path) -> None:
    one, two = draw_slice(3), blend(draw_slice(3), draw_slice(7), 0.1)
    between, other = blend(one, two, 0.5), draw_slice(5)
    drawn = {"glioma/b.png": png(between), "glioma/o.png": png(other)}
    write_set(tmp_path / "boxes", drawn, boxes=dict.fromkeys(drawn, BOX))
    known = {"glioma/1.png": png(one), "glioma/2.png": png(two), "glioma/o.png": png(other // 2)}
    rows = [row(path, f"g{i}", "s", f"P{i}") for i, path in enumerate(known)]
    write_set(tmp_path / "patients", known, rows)
    write_set(tmp_path / "bare", {"glioma/x.png": png(between + 1)})
    out = tmp_path / "out"
    run(tmp_path / "boxes", tmp_path / "patients", tmp_path / "bare", "--out", out)
    boxes = read(out, "boxes.csv")
    assert "patients/glioma/o.png" in boxes
    assert "bare/glioma/x.png" not in boxes
    assert read(out)["boxes/glioma/o.png"]["patient"] == "P2"
    assert read(out)["bare/glioma/x.png"]["patient"] == ""


def test_nothing_is_carried_within_an_input(tmp_path: Path) -> None:
    """Its table has been made with both pictures at hand."""
    picture = draw_slice(3)
    pictures = {"glioma/a.png": png(picture), "glioma/b.png": png(picture[:, ::-1])}
    rows = [row("glioma/a.png", "g1", "s", "P1"), row("glioma/b.png", "g2")]
    write_set(tmp_path / "a", pictures, rows, {"glioma/a.png": BOX})
    run(tmp_path / "a", "--out", tmp_path / "out")
    found = read(tmp_path / "out")["a/glioma/b.png"]
    assert [found[name] for name in ("patient", "source", "group")] == ["", "a", "g1"]
    assert len(read(tmp_path / "out", "boxes.csv")) == 1


def test_a_patient_of_one_group_is_one_whatever_the_source(tmp_path: Path) -> None:
    """As where a copy of another source took the patient over."""
    pictures = {f"c/{i}.png": png(draw_slice(i)) for i in range(3)}
    rows = [row("c/0.png", "g1", "s", "P"), row("c/1.png", "g1", "t", "P"),
            row("c/2.png", "g2", "t", "P")]  # fmt: skip
    write_set(tmp_path / "a", pictures, rows)
    run(tmp_path / "a", "--out", tmp_path / "out")
    found = read(tmp_path / "out").values()
    assert {(cells["patient"], cells["group"]) for cells in found} == {("P", "g1")}


def test_flat_pictures_are_of_one_group_where_they_are_equal(tmp_path: Path) -> None:
    flat = {level: png(np.full((40, 40), level, np.uint8)) for level in (7, 8)}
    write_set(tmp_path / "a", {"c/a.png": flat[7], "c/b.png": flat[8]})
    write_set(tmp_path / "b", {"c/a.png": flat[7]})
    run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert groups_as_sets(tmp_path / "out") == {
        frozenset({"a/c/a.png", "b/c/a.png"}), frozenset({"a/c/b.png"}),
    }  # fmt: skip


@pytest.mark.parametrize("turn", TURN_NAMES)
def test_a_conflict_says_how_the_first_must_be_turned(tmp_path: Path, turn: str) -> None:
    """Also where the second looks more like another."""
    picture = draw_slice(2)
    near = blend(picture, draw_slice(7), 0.05)
    write_set(tmp_path / "a", {"glioma/1.png": png(picture), "glioma/2.png": png(near)})
    write_set(tmp_path / "b", {"other/b.png": png(TURNS[turn](picture))})
    run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    found = list(csv.DictReader((tmp_path / "out/conflicts.csv").open()))
    assert [each["path"] for each in found] == ["a/glioma/1.png", "a/glioma/2.png"]
    assert {(each["other_path"], each["turn"]) for each in found} == {("b/other/b.png", turn)}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 8))
def test_the_nearest_is_that_of_the_definition(data: st.DataObject, n: int) -> None:
    values = np.array(data.draw(st.lists(st.integers(NONE, 2), min_size=n, max_size=n)))
    wants = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    levels = st.sampled_from([0.98, 0.985, 0.99, 0.9925, 1.0])
    every = [(i, j) for i in range(n) for j in range(i + 1, n)]
    chosen = data.draw(st.lists(st.sampled_from(every), unique=True))
    looks = {pair: (np.float32(data.draw(levels)), data.draw(st.integers(0, 7))) for pair in chosen}
    nearest = Nearest(values, wants)
    for (i, j), (level, turn) in looks.items():
        nearest.add(
            Pairs(np.array([i]), np.array([j]), np.array([level]), np.array([turn], np.uint8)),
            np.array([True]),
        )
    both = {**looks, **{(j, i): (level, INVERSE[turn]) for (i, j), (level, turn) in looks.items()}}
    best, unclear = nearest.clearest()
    wanted = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    given, turns = nearest.of(wanted)
    for own in range(n):
        there = sorted(
            (-level, other, turn)
            for (other, to), (level, turn) in both.items()
            if to == own and wants[own] and values[other] != NONE
        )
        mine = [each for each in there if values[each[1]] == wanted[own]]
        assert (given[own], turns[own]) == (mine[0][1:] if mine else (NONE, 0))
        others = [-level for level, other, _ in there if values[other] != values[there[0][1]]]
        near = 1 + (there[0][0] if there else 0)
        clear = not others or 1 - max(others) >= max(CLEAR * near, 1e-9)
        assert best[own] == (there[0][1] if there and clear else NONE)
        assert (own in unclear) == bool(there and not clear)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(0, 10_000))
def test_what_is_taken_over_comes_of_a_look_alike(
    data: st.DataObject, originals: int, seed: int
) -> None:
    """Of another input, directly; and no group is less than its table, its patients and its
    look-alikes make it."""
    thumbnails = add_kin(draw_smooth(originals, seed), THRESHOLD, seed)
    n = len(thumbnails)

    def drawn(few: Sequence[str]) -> list[str]:
        return data.draw(st.lists(st.sampled_from(few), min_size=n, max_size=n))

    inputs = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    slices = copies.Slices(
        inputs=inputs,
        labels=labels,
        agree=np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]], bool),  # free of tumour, one, partial
        partial=labels == 2,
        tumour_free=labels == 0,
        groups=drawn(["", "", "g1", "g2"]),
        sources=drawn(["", "s", "t"]),
        homes=["s"] * n,
        patients=drawn(["", "", "P", "Q"]),
        boxes=[BOX if flag == "x" and label == 1 else None
               for flag, label in zip(drawn(["", "", "x"]), labels, strict=True)],
        pixels=[hashlib.sha256(picture.data).hexdigest() for picture in thumbnails],
        thumbnails=thumbnails,
    )  # fmt: skip
    found = copies.compare(slices, THRESHOLD)
    alike = np.zeros((n, n), bool)
    turns = {}
    for pairs in find_pairs(thumbnails):
        alike[pairs.first, pairs.second] = alike[pairs.second, pairs.first] = True
        turns |= dict(zip(zip(pairs.first, pairs.second, strict=True), pairs.turn, strict=True))
    for taken in (found.patient_of, found.source_of, found.box_of):
        for own in np.flatnonzero(taken != NONE):
            assert alike[own, taken[own]]
            assert inputs[own] != inputs[taken[own]]
            assert slices.agree[labels[own], labels[taken[own]]]
    for own in np.flatnonzero(found.box_of != NONE):
        other = found.box_of[own]
        turn = turns[other, own] if other < own else INVERSE[turns[own, other]]
        assert labels[own] == 1
        assert slices.boxes[own] is None
        assert found.boxes[own] == turned_box(BOX, TURN_NAMES[turn])
        assert found.persons[other] in (found.persons[own], NONE) or not slices.patients[other]
    together = found.groups[:, None] == found.groups[None]
    assert together[alike].all()
    for keys in (
        [(i, g) if g else None for i, g in zip(inputs, slices.groups, strict=True)],
        [(s or "s", p) if p else None
         for s, p in zip(slices.sources, slices.patients, strict=True)],
        [int(p) if p != NONE else None for p in found.persons],
    ):  # fmt: skip
        same = np.array([[a == b and a is not None for a in keys] for b in keys])
        assert together[same].all()
    clash = {frozenset((each.first, each.second)) for each in found.conflicts}
    wrong = alike & ~slices.agree[labels][:, labels]
    assert {i for pair in clash for i in pair} == set(np.flatnonzero(wrong.any(axis=1)))
    assert all(wrong[tuple(pair)] for pair in clash)


def test_names_of_groups_and_patients_are_their_inputs_own(tmp_path: Path) -> None:
    """A patient is the same where source and name are the same."""
    pictures = [png(draw_slice(seed)) for seed in range(6)]
    a = [row("c/0.png", "g1", "s", "P1"), row("c/1.png", "g1", "s", "P1")]
    b = [
        row("c/2.png", "g1", "t", "P1"),  # another person of another source
        row("c/3.png", "g2", "s", "P1"),  # the person of a
        row("c/4.png", "g1", "t", ""),
        row("c/5.png", "", "t", ""),
    ]
    write_set(tmp_path / "a", {f"c/{i}.png": pictures[i] for i in (0, 1)}, a)
    write_set(tmp_path / "b", {f"c/{i}.png": pictures[i] for i in (2, 3, 4, 5)}, b)
    out = tmp_path / "out"
    run(tmp_path / "a", tmp_path / "b", "--out", out)
    named = {path: (r["group"], r["patient"]) for path, r in read(out).items()}
    look = named.pop("b/c/5.png")
    assert look[0].startswith("look-")
    assert look[1] == ""
    assert named == {
        "a/c/0.png": ("g1", "P1"), "a/c/1.png": ("g1", "P1"), "b/c/3.png": ("g1", "P1"),
        "b/c/2.png": ("b/g1", "t/P1"), "b/c/4.png": ("b/g1", ""),
    }  # fmt: skip
    # In the other order the names differ, and nothing else.
    again = tmp_path / "again"
    run(tmp_path / "b", tmp_path / "a", "--out", again)
    assert groups_as_sets(out) == groups_as_sets(again)
    assert read(again)["b/c/2.png"]["group"] == "g1"
    # What was joined is joined again as it is.
    twice = tmp_path / "twice"
    run(out, "--out", twice)
    for name in ("group", "patient", "source"):
        before = {f"out/c/{Path(p).name}": cells[name] for p, cells in read(out).items()}
        assert {path: cells[name] for path, cells in read(twice).items()} == before


def test_a_table_that_missed_turned_copies_is_corrected(tmp_path: Path) -> None:
    picture = draw_slice(2)
    pictures = {
        "glioma/a.png": png(picture),
        "glioma/b.png": png(picture[::-1]),
        "glioma/c.png": png(picture[::-1, ::-1]),
        "glioma/d.png": png(draw_slice(6)),
    }
    write_set(tmp_path / "a", pictures, [row(path, f"g{path[7]}") for path in pictures])
    done = run(tmp_path / "a", "--out", tmp_path / "out")
    assert [r["group"] for r in read(tmp_path / "out").values()] == ["ga", "ga", "ga", "gd"]
    assert (
        "a: 4 slices, 4 groups of its table are 2 now; 3 pairs of look-alikes were in two of them "
        "(1 mirrored, 1 upside down, 1 turned 180)"
    ) in done.stdout


def test_conflicting_labels_are_told_and_nothing_crosses_them(tmp_path: Path) -> None:
    picture, other = draw_slice(2), draw_slice(9)
    write_set(
        tmp_path / "a",
        {"glioma/a.png": png(picture), "glioma/b.png": png(other)},
        [row("glioma/a.png", "g1", "s", "P1"), row("glioma/b.png", "g2", "s", "P2")],
        {"glioma/a.png": BOX, "glioma/b.png": BOX},
    )
    b = {"notumor/x.png": png(picture[:, ::-1]), "meningioma/y.png": png(other // 2)}
    write_set(tmp_path / "b", b)
    done = run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert set(read(tmp_path / "out", "boxes.csv")) == {"a/glioma/a.png", "a/glioma/b.png"}
    rows = read(tmp_path / "out")
    assert all(not cells["patient"] for path, cells in rows.items() if path.startswith("b/"))
    assert rows["b/notumor/x.png"]["group"] == rows["a/glioma/a.png"]["group"]
    listed = list(csv.reader((tmp_path / "out/conflicts.csv").open()))
    assert listed[0] == list(join.CONFLICT_COLUMNS)
    assert [line[:4] for line in listed[1:]] == [
        ["a/glioma/a.png", "glioma", "b/notumor/x.png", "notumor"],
        ["a/glioma/b.png", "glioma", "b/meningioma/y.png", "meningioma"],
    ]
    assert [line[5] for line in listed[1:]] == ["mirrored", "same"]
    assert "a: glioma/a.png (glioma) looks like b: notumor/x.png (notumor): corr" in done.stderr
    assert "2 pairs of look-alikes have conflicting labels" in done.stdout


def test_conflicts_may_be_dropped(tmp_path: Path) -> None:
    picture = draw_slice(2)
    a = {"glioma/a.png": png(picture), "glioma/b.png": png(draw_slice(5))}
    write_set(tmp_path / "a", a)
    write_set(
        tmp_path / "b", {"pituitary/x.png": png(picture), "pituitary/y.png": png(draw_slice(8))}
    )
    words = (tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", "--conflicts", "drop")
    done = run(*words)
    assert set(read(tmp_path / "out")) == {"a/glioma/b.png", "b/pituitary/y.png"}
    assert f"dropped, 2: {join.IN_CONFLICT}" in done.stdout
    assert "both are left out" in done.stderr
    assert not (tmp_path / "out/slices/a/glioma/a.png").exists()


def test_partial_labels_come_into_a_set_of_their_own(tmp_path: Path) -> None:
    """Those of a card, and `tumor` of class folders once another input has types."""
    picture, other = draw_slice(2), draw_slice(5)
    write_set(
        tmp_path / "a",
        {"meningioma/a.png": png(picture), "glioma/g.png": png(draw_slice(4)),
         "notumor/n.png": png(draw_slice(6))},
        [row("meningioma/a.png", "g1", "s", "P1"), row("glioma/g.png", "g2"),
         row("notumor/n.png", "g3")],
        {"meningioma/a.png": BOX},
        partial={"glioma+meningioma/u.png": png(draw_slice(8))},
    )  # fmt: skip
    write_set(tmp_path / "b", {"tumor/x.png": png(picture[:, ::-1]), "tumor/y.png": png(other),
                               "no_tumor/z.png": png(draw_slice(10))})  # fmt: skip
    out = tmp_path / "out"
    done = run(tmp_path / "a", tmp_path / "b", "--out", out)
    rows = read(out, "partial.csv")
    assert set(rows) == {"a/glioma+meningioma/u.png", "b/tumor/x.png", "b/tumor/y.png"}
    assert rows["b/tumor/x.png"]["patient"] == "P1"
    assert rows["b/tumor/x.png"]["group"] == "g1"
    assert set(read(out, "boxes.csv")) == {"a/meningioma/a.png"}
    assert "b/notumor/z.png" in read(out)
    assert not (out / "conflicts.csv").exists()
    assert (
        "b: tumor/x.png (tumor) looks like a: meningioma/a.png (meningioma), of which the class "
        "is known"
    ) in done.stderr
    card = find_card(out)
    assert card is not None
    data = read_dataset(
        card.files["images"], Preprocess(), groups_csv=card.files["groups"],
        boxes_csv=card.files["boxes"], tumour_free=card.tumour_free,
    )  # fmt: skip
    assert data.class_names == ("glioma", "meningioma", "notumor")
    assert not data.warnings
    partial = read_partial_labels(
        card.files["partial"], Preprocess(), data, groups_csv=card.files["partial_groups"]
    )
    assert sorted(partial.slices.paths) == sorted(rows)
    assert sorted(map(sorted, partial.touches)) == [[], [], ["g1"]]


def test_a_partial_label_of_other_classes_is_a_conflict(tmp_path: Path) -> None:
    picture = png(draw_slice(2))
    a = {"glioma/a.png": picture, "pituitary/p.png": png(draw_slice(3))}
    write_set(tmp_path / "a", a)
    b = {"meningioma+pituitary/x.png": picture, "meningioma/m.png": png(draw_slice(4))}
    write_set(tmp_path / "b", b, boxes={"meningioma+pituitary/x.png": BOX, "meningioma/m.png": BOX})
    done = run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert "1 pairs of look-alikes have conflicting labels" in done.stdout
    assert "1 slices with a box" in done.stdout, "a partial slice is learned from without its box"
    assert set(read(tmp_path / "out", "boxes.csv")) == {"b/meningioma/m.png"}


def test_classes_without_a_tumour_are_those_of_all_cards(tmp_path: Path) -> None:
    picture = png(draw_slice(2))
    a = {"clear/a.png": picture, "glioma/g.png": png(draw_slice(3))}
    write_set(tmp_path / "a", a, more='tumour_free = ["clear"]')
    write_set(tmp_path / "b", {"tumor/x.png": picture, "no tumor/n.png": png(draw_slice(5))})
    run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    card = find_card(tmp_path / "out")
    assert card is not None
    assert card.tumour_free == ("clear", "notumor")
    assert (tmp_path / "out/conflicts.csv").is_file(), "a clear head shows no tumour of any type"


def test_a_box_in_a_class_without_tumours_is_left_out(tmp_path: Path) -> None:
    pictures = {"clear/a.png": png(draw_slice(2)), "glioma/b.png": png(draw_slice(3))}
    boxes = dict.fromkeys(pictures, BOX)
    write_set(tmp_path / "a", pictures, boxes=boxes, more='tumour_free = ["clear"]')
    done = run(tmp_path / "a", "--out", tmp_path / "out")
    assert set(read(tmp_path / "out", "boxes.csv")) == {"a/glioma/b.png"}
    assert "1 slices of classes without tumours have a box, such as clear/a.png" in done.stderr


def test_what_is_in_no_split_goes_to_training(tmp_path: Path) -> None:
    """Beside Training and Testing it would be passed over."""
    a = {f"{side}/glioma/{i}.png": png(draw_slice(i)) for i, side in enumerate(["Train", "test"])}
    write_set(tmp_path / "a", a)
    pictures = {"glioma/2.png": png(draw_slice(2)), "site/clinic/other/3.png": png(draw_slice(3))}
    write_set(tmp_path / "b", pictures)
    out = tmp_path / "out"
    done = run(tmp_path / "a", tmp_path / "b", "--out", out)
    assert set(read(out)) == {
        "a/Training/glioma/0.png", "a/Testing/glioma/1.png",
        "b/Training/glioma/2.png", "b/Training/other/3.png",
    }  # fmt: skip
    assert "b: 2 slices are in neither Training nor Testing" in done.stderr
    data = read_dataset(out / "slices", Preprocess())
    assert data.splits.count("training") == 3
    assert not data.passed_over


def test_pictures_are_copied_byte_for_byte_and_counted(tmp_path: Path) -> None:
    picture = draw_slice(2)
    photo = cv2.imencode(".jpg", picture)[1].tobytes()
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr("wrapped/glioma/a.JPG", photo)
        packed.writestr("wrapped/more/glioma/a.jpg", png(draw_slice(3)))
    loose = tmp_path / "loose"
    (loose / "glioma").mkdir(parents=True)
    (loose / "glioma/same.jpeg").write_bytes(photo)
    done = run(tmp_path / "packed.zip", f"other={loose}", "--out", tmp_path / "out")
    files = tree(tmp_path / "out/slices")
    assert files["packed/glioma/a.JPG"] == files["other/glioma/same.jpeg"] == photo
    assert files["packed/glioma/a-2.jpg"] == png(draw_slice(3)), "some disks take it for a.JPG"
    assert "1 slices have the very pixels of one of an earlier input" in done.stdout
    assert "packed: no data card, so nobody knows its licence" in done.stderr
    assert str(tmp_path).encode() not in b"".join(tree(tmp_path / "out").values())


def test_a_bad_file_costs_one_line(tmp_path: Path) -> None:
    good = {"glioma/a.png": png(draw_slice(2)), "glioma/b.png": png(draw_slice(3))}
    write_set(tmp_path / "a", good, [row(path, "g") for path in good])
    clean = run(tmp_path / "a", "--out", tmp_path / "clean")
    bad = {
        "glioma/torn.png": good["glioma/a.png"][:300], "glioma/empty.jpg": b"",
        "glioma/head.nii": nifti(), "loose.png": good["glioma/a.png"],
        "a\u202eb/c.png": good["glioma/b.png"], " train/c.png": good["glioma/b.png"],
    }  # fmt: skip
    for name, data in bad.items():
        (tmp_path / "a/slices" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a/slices" / name).write_bytes(data)
    done = run(tmp_path / "a", "--out", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")
    lines = done.stderr.splitlines()
    for name in bad:
        shown = name.replace("\u202e", "?")
        assert sum(shown in line and line.endswith("; skipped") for line in lines) == 1, name
    assert "btc-data volumes" in done.stderr
    assert len(lines) == len(clean.stderr.splitlines()) + len(bad)
    assert done.stdout.count("dropped, ") == 5
    assert "torn" not in done.stdout


def nifti() -> bytes:
    """A head of three slices."""
    import nibabel

    voxels = np.stack([draw_slice(seed) for seed in range(3)], axis=-1)
    return bytes(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])).to_bytes())


def three_sets(place: Path) -> list[Path]:
    """With something of all: turned copies, tables, a box, a conflict, partial labels."""
    pictures = [draw_slice(seed) for seed in range(9)]
    a = {f"Training/glioma/{i}.png": png(pictures[i]) for i in range(3)}
    a |= {f"Testing/notumor/{i}.png": png(pictures[i]) for i in (3, 4)}
    rows = [row(path, f"g{i}", "s", f"P{i}", sequence="T1") for i, path in enumerate(a)]
    b = {"glioma/0.png": png(pictures[0][:, ::-1]), "notumor/x.png": png(pictures[1].T),
         "notumor/y.png": png(pictures[5])}  # fmt: skip
    c = {"tumor/t.png": png(pictures[2][::-1]), "tumor/u.png": png(pictures[6])}
    return [
        write_set(place / "a", a, rows, {"Training/glioma/0.png": BOX}),
        write_set(place / "b", b, more='license = "CC0"'),
        write_set(place / "c", c),
    ]


def test_the_bytes_are_the_same_on_any_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = three_sets(tmp_path / "here")
    elsewhere = three_sets(tmp_path / "else where")
    run(*sets, "--out", tmp_path / "out")
    for module in ("trainer.data.reading", "trainer.data.near_duplicates"):
        monkeypatch.setattr(f"{module}.workers", lambda: 1)
    monkeypatch.setattr("trainer.data.near_duplicates.ROWS", 2)
    monkeypatch.setattr("trainer.data.near_duplicates.COLUMNS", 3)
    run(*elsewhere, "--out", tmp_path / "other")
    assert tree(tmp_path / "out") == tree(tmp_path / "other")


def stop_after(writes: int) -> Callable[..., None]:
    """A `folder._write` that is interrupted, in the middle of a file."""
    whole = folder._write
    count = 0

    def write(place: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count > writes:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_name(f".part-{place.name}").write_bytes(data[:7])
            raise KeyboardInterrupt
        whole(place, data)

    return write


@pytest.mark.parametrize("writes", [0, 1, 2, 5, 9])
def test_a_stopped_join_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    monkeypatch.setattr(join, "CHUNK", 2)
    sets = three_sets(tmp_path)
    run(*sets, "--out", tmp_path / "unbroken")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_write", stop_after(writes))
        run(*sets, "--out", out, code=1)
    assert not (out / "data.toml").exists()
    journal = (out / folder.JOURNAL).read_text()
    assert str(tmp_path) not in journal
    again: list[Path] = []
    whole = folder._write
    with monkeypatch.context() as patch:
        patch.setattr(
            folder, "_write", lambda place, data: (again.append(place), whole(place, data))
        )
        run(*sets, "--out", out)
    assert len(again) == 10 - writes // 2 * 2, "what was noted is not written again"
    assert tree(out) == tree(tmp_path / "unbroken")


@pytest.mark.parametrize("name", ["groups.csv", "croissant.json", "data.toml", "conflicts.csv"])
def test_a_join_stopped_at_its_tables_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sets = three_sets(tmp_path)
    run(*sets, "--out", tmp_path / "unbroken")
    module = join if name == "conflicts.csv" else folder
    whole = module.write_text

    def write(path: Path, text: str) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        whole(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", write)
        run(*sets, "--out", tmp_path / "out", code=1)
    assert (tmp_path / "out" / folder.JOURNAL).exists()
    run(*sets, "--out", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "unbroken")


def test_a_join_that_goes_on_is_of_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = three_sets(tmp_path)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_write", stop_after(3))
        run(*sets, "--out", out, code=1)
    done = run(*sets, "--out", out, "--conflicts", "drop", code=1)
    assert isinstance(done.exception, UsageError)
    (sets[1] / "slices/notumor/y.png").write_bytes(png(draw_slice(20)))
    done = run(*sets, "--out", out, code=1)
    assert isinstance(done.exception, UsageError)
    assert "name another --out" in str(done.exception)


def test_a_file_that_changes_meanwhile_ends_the_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = write_set(tmp_path / "a", {"glioma/a.png": png(draw_slice(2))})
    compare = copies.compare

    def meanwhile(*words: object, **options: object) -> object:
        (a / "slices/glioma/a.png").write_bytes(png(draw_slice(3)))
        return compare(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(join, "compare", meanwhile)
    done = run(a, "--out", tmp_path / "out", code=1)
    assert isinstance(done.exception, DataError)
    assert "a: glioma/a.png is not what it was a moment ago" in str(done.exception)


def test_the_card_keeps_all_licences_and_sources(tmp_path: Path) -> None:
    own = (
        'license = "CC BY 4.0"\ntitle = "Whole"\n[[sources]]\nname = "cheng"\ntitle = "C"\n'
        'sha256 = "abc"\n'
    )
    a = write_set(tmp_path / "a", {"glioma/a.png": png(draw_slice(2))}, more=own)
    b = write_set(tmp_path / "b", {"glioma/b.png": png(draw_slice(3))}, more='license = "CC0"')
    run(a, b, "--out", tmp_path / "out")
    card = find_card(tmp_path / "out")
    assert card is not None
    assert card.about["license"] == "CC BY 4.0; CC0"
    assert card.about["title"] == "Whole; C"
    assert [source.name for source in card.sources] == ["a", "cheng", "b"]
    file = hashlib.sha256(png(draw_slice(3))).hexdigest()
    assert card.sources[2].sha256 == folder.content_digest([file])
    assert card.sources[1].sha256 == "abc"
    assert read(tmp_path / "out")["a/glioma/a.png"]["source"] == "cheng", "its card has one source"
    again = tmp_path / "again"
    run(tmp_path / "out", "--out", again)
    twice = find_card(again)
    assert twice is not None
    assert (twice.about, twice.sources) == (card.about, card.sources)


def test_inputs_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("set", "more/set", "Testing", ".hidden", "x=y"):
        write_set(tmp_path / name, {"glioma/a.png": png(draw_slice(2))})
    found = find_inputs(["set", "two=more/set", "x=y", "t=Testing"])
    assert [each.name for each in found] == ["set", "two", "x=y", "t"]
    monkeypatch.chdir(tmp_path / "set")
    assert find_inputs(["."])[0].name == "set"
    monkeypatch.chdir(tmp_path)
    for words, why in {
        ("set", "more/set"): "is the name of two inputs",
        ("set", "SET=more/set"): "is the name of two inputs",
        ("Testing",): "one side of a split; name it otherwise, as one=Testing",
        (".hidden",): "hidden folder",
        ("a/b=set",): "cannot be a folder's name",
        ("=set",): "cannot be a folder's name",
        ("nix",): "nix: no such zip file or folder",
        ("a=nix",): "nix: no such zip file or folder",
    }.items():
        with pytest.raises(UsageError, match=why):
            find_inputs(list(words))


def test_the_folder_to_make_lies_in_no_input(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", {"glioma/a.png": png(draw_slice(2))})
    for out in (a, a / "out", tmp_path):
        done = run(a, "--out", out, code=1)
        assert "lie in each other" in str(done.exception)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("x")
    done = run(a, "--out", tmp_path / "full", code=1)
    assert "not empty" in str(done.exception)


def test_data_without_a_picture_ends_the_join(tmp_path: Path) -> None:
    (tmp_path / "a/glioma").mkdir(parents=True)
    (tmp_path / "a/glioma/a.png").write_bytes(b"no picture")
    done = run(tmp_path / "a", "--out", tmp_path / "out", code=1)
    assert isinstance(done.exception, DataError)
    assert "no readable picture" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_card_may_be_passed_over(tmp_path: Path) -> None:
    a = write_set(tmp_path / "a", {"glioma/a.png": png(draw_slice(2))}, more="wrong = 1")
    assert "--no-card" in str(run(a, "--out", tmp_path / "out", code=1).exception)
    run(a, "--no-card", "--out", tmp_path / "out")
    assert set(read(tmp_path / "out")) == {"a/glioma/a.png"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from trainer.commands.prepare import join; "
        "print(sorted({'numpy', 'cv2', 'scipy', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert ALIKE == THRESHOLD


def test_parts_of_one_source_are_of_that_source(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    parts = "".join(f'[[sources]]\nname = "cheng"\nurl = "{part}"\n' for part in (1, 2))
    run(write_set(tmp_path / "a", {"glioma/a.png": png(drawn)}, more=parts),
        "--out", tmp_path / "out")  # fmt: skip
    assert [row["source"] for row in read(tmp_path / "out").values()] == ["cheng"]
    card = find_card(tmp_path / "out")
    assert card is not None
    assert [source.url for source in card.sources] == ["1", "2"]


def test_a_card_that_would_be_too_large_is_refused_before_the_copying(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (20, 64, 64), np.uint8)
    places = [
        write_set(tmp_path / f"set{i}", {"glioma/a.png": png(each)},
                  more=f'citation = "{i}{"c" * 2000}"')
        for i, each in enumerate(drawn)
    ]  # fmt: skip
    done = run(*places, "--out", tmp_path / "out", code=1)
    assert "card of 20 sources would be larger" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_masks_come_along(tmp_path: Path) -> None:
    shape = np.zeros((64, 64), np.uint8)
    masks = {"glioma/a.png": png(shape + 255), "glioma/b.png": png(shape[1:]),
             "glioma/c.png": b"damaged", "glioma/gone.png": png(shape)}  # fmt: skip
    drawn = np.random.default_rng(0).integers(0, 256, (5, 64, 64), np.uint8)
    pictures = {f"glioma/{name}.png": png(each) for name, each in zip("abcd", drawn, strict=False)}
    place = write_set(tmp_path / "one", pictures)
    for name, encoded in masks.items():
        (place / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "masks" / name).write_bytes(encoded)
    other = write_set(tmp_path / "two", {"glioma/a.png": png(drawn[4])})
    done = run(place, other, "--out", tmp_path / "out")
    assert "one: 3 files in masks, such as glioma/b.png, are no PNG of the size" in done.stderr
    found = tmp_path / "out" / "masks"
    kept = {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*.png")}
    assert kept == {"one/glioma/a.png": masks["glioma/a.png"]}
    assert '"mask-files"' in (tmp_path / "out" / "croissant.json").read_text()
    run(tmp_path / "out", "--out", tmp_path / "again")
    assert (tmp_path / "again/masks/out/glioma/a.png").read_bytes() == masks["glioma/a.png"]
