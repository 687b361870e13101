"""The folder that every command of btc-data leaves: whole or to be gone on with, and the same bytes
however often it was stopped."""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.data.boxes import read_boxes
from trainer.data.card import CardText, Source, find_card
from trainer.data.dataset import read_dataset
from trainer.data.partial_labels import read_partial_labels
from trainer.data.tables import read_table
from trainer.prepare import folder as data_folder
from trainer.prepare.folder import JOURNAL, DataFolder, Dropped, NewSlice, Summary
from trainer.prepare.rows import Row

LABELS = ("glioma", "meningioma", "notumor", "tumor", "glioma+meningioma")
CARD = CardText("btc-data test 1.0", (Source("home", "Home", "CC BY 4.0"),), "Two\nlines.")
SETTINGS = {"command": "test", "side": 8}
BOX = (0.25, 0.25, 0.5, 0.75)


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def slice_of(label: str, number: int, masked: bool = False, **said: Any) -> NewSlice:
    row = Row(f"{label}/{number:04d}.png", label, "", "home", **said)
    return NewSlice(picture(hash_of(label, number)), row, picture(0) if masked else None)


def hash_of(label: str, number: int) -> int:
    return LABELS.index(label) * 1000 + number


Inputs = dict[str, tuple[list[NewSlice], list[Dropped]]]
INPUTS: Inputs = {
    "a": ([slice_of("glioma", 1, True, patient="p1", group="g1", box=BOX),
           slice_of("glioma", 2, patient="p1", group="g1")], []),
    "b": ([], [Dropped("b", "damaged")]),
    "c": ([slice_of("notumor", 1, plane="axial", sequence="T1", group="g2")],
          [Dropped("c, part 2", "no head"), Dropped("c, part 3", "no head")]),
    "d": ([slice_of("tumor", 1, True, patient="p2", group="g3")], []),
    "e": ([slice_of("glioma+meningioma", 1), slice_of("meningioma", 1, True, box=BOX)], []),
}  # fmt: skip


def make(out: Path, inputs: Inputs = INPUTS, **groups: str) -> Summary:
    """The folder of some inputs: as a command makes it, which passes over what is done."""
    folder = DataFolder(out, SETTINGS, LABELS)
    for name, (slices, dropped) in inputs.items():
        if folder.dropped_of(name) is None:
            folder.add(name, slices, dropped)
        assert folder.dropped_of(name) == [each.reason for each in dropped]
    return folder.finish(CARD, groups)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    make(out)
    return out


def test_it_holds_the_slices_the_tables_and_the_card(whole: Path, tmp_path: Path) -> None:
    found = make(tmp_path / "out")
    assert sorted(tree(whole)) == sorted([
        "boxes.csv", "croissant.json", "data.toml", "groups.csv", "partial.csv",
        "masks/glioma/0001.png", "masks/meningioma/0001.png", "masks/tumor/0001.png",
        "partial/glioma+meningioma/0001.png", "partial/tumor/0001.png",
        "slices/glioma/0001.png", "slices/glioma/0002.png", "slices/meningioma/0001.png",
        "slices/notumor/0001.png",
    ])  # fmt: skip
    assert found == Summary(
        {"glioma": 2, "glioma+meningioma": 1, "meningioma": 1, "notumor": 1, "tumor": 1},
        patients=2, groups=3, boxes=2, dropped={"damaged": 1, "no head": 2},
    )  # fmt: skip
    assert (whole / "slices/glioma/0001.png").read_bytes() == INPUTS["a"][0][0].encoded
    assert (whole / "masks/glioma/0001.png").read_bytes() == INPUTS["a"][0][0].mask
    rows = read_table(whole / "groups.csv", ("path",))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert rows[-1] == {
        "path": "notumor/0001.png", "label": "notumor", "source": "home", "patient": "",
        "group": "g2", "plane": "axial", "sequence": "T1",
    }  # fmt: skip
    boxes = read_boxes(whole / "boxes.csv", ["glioma/0001.png", "glioma/0002.png"])
    assert tuple(boxes[0]) == BOX
    assert np.isnan(boxes[1]).all()


def test_what_was_made_is_trained_on_as_it_is(whole: Path) -> None:
    card = find_card(whole)
    assert card is not None
    assert card.files == {
        "images": whole / "slices", "groups": whole / "groups.csv", "boxes": whole / "boxes.csv",
        "partial": whole / "partial", "partial_groups": whole / "partial.csv",
    }  # fmt: skip
    assert card.tumour_free == ("notumor",)
    assert card.sources == CARD.sources
    assert dict(card.about) == {"title": "Home", "license": "CC BY 4.0"}
    size = Preprocess(size=16)
    data = read_dataset(card.files["images"], size, groups_csv=card.files["groups"])
    assert data.class_names == ("glioma", "meningioma", "notumor")
    assert len(data) == 4
    assert not data.problems
    # Which classes are free of tumours is told to a training by the card.
    data = replace(data, tumour_free=card.tumour_free)
    partial = read_partial_labels(
        card.files["partial"], size, data, groups_csv=card.files["partial_groups"]
    )
    assert partial.slices.class_names == ("glioma+meningioma", "tumor")


def test_groups_get_new_names(tmp_path: Path) -> None:
    found = make(tmp_path / "out", g1="other", g3="other")
    assert found.groups == 2
    for name, groups in (("groups.csv", {"other", "g2", ""}), ("partial.csv", {"other", ""})):
        assert {row["group"] for row in read_table(tmp_path / "out" / name, ())} == groups


def test_without_masks_boxes_and_partial_labels_there_are_no_such_files(tmp_path: Path) -> None:
    make(tmp_path / "out", {"c": INPUTS["c"]})
    assert sorted(tree(tmp_path / "out")) == [
        "croissant.json", "data.toml", "groups.csv", "slices/notumor/0001.png",
    ]  # fmt: skip


class Stopped(BaseException):
    """As a kill, nothing catches it."""


@contextmanager
def stopping(after: int) -> Iterator[list[str]]:
    """The process ends at its n-th change of the disk, of which but a part is done; gives the
    names of all changes."""
    changes: list[str] = []

    def stop(name: str, before: Callable[[], object] = lambda: None) -> None:
        if len(changes) == after:
            before()
            raise Stopped
        changes.append(name)

    real_replace, real_unlink, real_open = os.replace, pathlib.Path.unlink, io.open

    def new_replace(source: Any, target: Any) -> None:
        stop(f"replace {Path(target).name}")
        real_replace(source, target)

    def new_write(path: Path, data: bytes) -> int:
        def half() -> None:
            with real_open(path, "wb") as stream:
                stream.write(data[: len(data) // 2])

        stop(f"write {path.name}", half)
        with real_open(path, "wb") as stream:
            return stream.write(data)

    def new_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == JOURNAL:
            stop("unlink the journal")
        elif len(changes) == after:
            return  # nobody tidies up after a kill
        real_unlink(path, missing_ok=missing_ok)

    def new_append(path: Path, text: str) -> None:
        def half() -> None:
            with real_open(path, "a", encoding="utf-8") as stream:
                stream.write(text[: len(text) // 2])

        stop("append to the journal", half)
        with real_open(path, "a", encoding="utf-8") as stream:
            stream.write(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", new_replace)
        patch.setattr(pathlib.Path, "write_bytes", new_write)
        patch.setattr(pathlib.Path, "unlink", new_unlink)
        patch.setattr(data_folder, "_append", new_append)
        yield changes


def test_stopped_at_any_change_of_the_disk_it_goes_on(whole: Path, tmp_path: Path) -> None:
    with stopping(10**9) as changes:
        make(tmp_path / "counted")
    assert len(changes) > 30
    for after in range(len(changes)):
        out = tmp_path / str(after)
        with stopping(after), pytest.raises(Stopped):
            make(out)
        make(out)
        assert tree(out) == tree(whole), changes[after]


@settings(max_examples=20, deadline=None)
@given(stops=st.lists(st.integers(0, 20), max_size=6), reverse=st.booleans())
def test_stopped_again_and_again_it_goes_on(whole: Path, stops: list[int], reverse: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        inputs = dict(reversed(INPUTS.items())) if reverse else INPUTS
        finished = False
        for after in stops:
            with stopping(after), suppress(Stopped):
                make(out, inputs)
                finished = True
                break
        if not finished:
            make(out, inputs)
        assert tree(out) == tree(whole)


def begun(out: Path) -> DataFolder:
    """A folder in which all is done but its end."""
    folder = DataFolder(out, SETTINGS, LABELS)
    for name, (slices, dropped) in INPUTS.items():
        folder.add(name, slices, dropped)
    return folder


@pytest.mark.parametrize("place", ["slices/glioma/0002.png", "masks/glioma/0001.png",
                                   "partial/tumor/0001.png"])  # fmt: skip
@pytest.mark.parametrize("how", ["gone", "altered", "empty"])
def test_what_is_missing_or_altered_is_made_again(
    whole: Path, tmp_path: Path, place: str, how: str
) -> None:
    out = tmp_path / "out"
    begun(out)
    if how == "gone":
        (out / place).unlink()
    else:
        data = (out / place).read_bytes()
        (out / place).write_bytes(b"" if how == "empty" else data[:-1] + b"\0")
    assert DataFolder(out, SETTINGS, LABELS).resumed == len(INPUTS) - 1
    make(out)
    assert tree(out) == tree(whole)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert DataFolder(out, SETTINGS, LABELS).resumed == len(INPUTS)
    make(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 10_000), junk=st.sampled_from([b"", b"\0\0\0", b"\xff{", b"\n3\n[]\n{}\n",
                                                         b'\n{"rows": 3, "masks": {}}\n'])
)  # fmt: skip
def test_a_journal_that_was_cut_off_anywhere_costs_no_more(
    whole: Path, cut: int, junk: bytes
) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        begun(out)
        journal = out / JOURNAL
        data = journal.read_bytes()
        head = data.index(b"\n") + 1
        journal.write_bytes(data[: head + cut % (len(data) - head + 1)] + junk)
        make(out)
        assert tree(out) == tree(whole)


def test_inputs_that_are_gone_do_not_stay(tmp_path: Path) -> None:
    begun(tmp_path / "out")
    others = {name: INPUTS[name] for name in "bcde"} | {"a, altered": INPUTS["b"]}
    with pytest.raises(DataError, match=r"1 inputs that were done before .* name another --out"):
        make(tmp_path / "out", others)
    assert not (tmp_path / "out" / "data.toml").exists()


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun(out)
    before = tree(out)
    for settings_, labels in (({**SETTINGS, "side": 9}, LABELS), (SETTINGS, LABELS[:3])):
        with pytest.raises(
            UsageError, match="another command, or one with other options or data, began"
        ):
            DataFolder(out, settings_, labels)
    assert tree(out) == before


def test_a_folder_that_holds_something_is_left_alone(whole: Path, tmp_path: Path) -> None:
    before = tree(whole)
    with pytest.raises(UsageError, match="is not empty; name another --out, or use it as it is"):
        DataFolder(whole, SETTINGS, LABELS)
    assert tree(whole) == before
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty; name another --out$"):
        DataFolder(tmp_path, SETTINGS, LABELS)
    assert tree(tmp_path) == {"file.txt": b"mine"}


def test_a_folder_that_another_process_makes_is_left_alone(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin = (
        "import sys; from pathlib import Path; from trainer.prepare.folder import DataFolder\n"
        f"folder = DataFolder(Path(sys.argv[1]), {SETTINGS!r}, {LABELS!r})\n"
        "print('begun', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", begin, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"begun\n"
            before = tree(out)
            with pytest.raises(UsageError, match="another process makes"):
                DataFolder(out, SETTINGS, LABELS)
            assert tree(out) == before
        finally:
            other.kill()
    make(out)
    assert tree(out) == tree(whole), "a lock does not outlive its process"


def test_a_folder_without_locks_is_made(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    make(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(whole)


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / data_folder.LOCK).mkdir()  # as root, no folder refuses a file
    with pytest.raises(OSError, match="directory") as error:
        DataFolder(tmp_path, SETTINGS, LABELS)
    assert error.value.filename == str(tmp_path)


def test_the_longest_name_is_a_slices(tmp_path: Path) -> None:
    long = slice_of("glioma", 1)
    long = long._replace(row=replace(long.row, path=f"glioma/{'x' * 251}.png"))
    make(tmp_path / "out", {"a": ([long], [])})
    assert (tmp_path / "out" / "slices" / long.row.path).read_bytes() == long.encoded


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "out", SETTINGS, LABELS)
    (tmp_path / "out" / "slices" / "glioma" / "0001.png" / "folder").mkdir(parents=True)
    with pytest.raises(OSError, match="directory") as error:
        folder.add("a", [slice_of("glioma", 1)])
    assert Path(error.value.filename) == tmp_path / "out" / "slices" / "glioma" / "0001.png"


def test_an_empty_folder_and_an_empty_journal_are_free(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / JOURNAL).touch()
    for name in ("empty", "journal"):
        make(tmp_path / name)
        assert tree(tmp_path / name) == tree(whole)


def test_two_slices_of_one_path_are_refused(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "out", SETTINGS, LABELS)
    folder.add("a", [slice_of("glioma", 1)])
    with pytest.raises(DataError, match=r"two slices would be slices/glioma/0001\.png"):
        folder.add("b", [slice_of("glioma", 1)])
    with pytest.raises(DataError, match="two slices would be"):
        folder.add("c", [slice_of("glioma", 2), slice_of("glioma", 2)])
    again = DataFolder(tmp_path / "out", SETTINGS, LABELS)
    assert again.resumed == 1
    with pytest.raises(DataError, match="two slices would be"):
        again.add("b", [slice_of("glioma", 1)])


def test_two_masks_of_one_path_are_refused(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "out", SETTINGS, LABELS)
    folder.add("a", [slice_of("glioma", 1, masked=True)])
    other = slice_of("tumor", 1, masked=True)
    with pytest.raises(DataError, match=r"two masks would be masks/glioma/0001\.png"):
        folder.add("b", [other._replace(row=replace(other.row, path="glioma/0001.png"))])


def test_nothing_to_keep_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no slice for"):
        make(tmp_path / "none", {"b": INPUTS["b"]})
    with pytest.raises(DataError, match="but of one of several classes"):
        make(tmp_path / "partial", {"d": INPUTS["d"]})


def test_a_tumour_is_a_class_where_none_has_a_type(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "out", SETTINGS, ["tumor", "notumor"])
    folder.add("a", [slice_of("tumor", 1), slice_of("notumor", 1)])
    folder.finish(CARD)
    assert (tmp_path / "out/slices/tumor/0001.png").exists()
    assert not (tmp_path / "out/partial.csv").exists()


def test_the_journal_does_not_name_the_inputs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = DataFolder(out, SETTINGS, LABELS)
    folder.add("/data/Doe Jane/1.dcm", [slice_of("glioma", 1)], [Dropped("Jane 2", "damaged")])
    text = (out / JOURNAL).read_text()
    assert "Jane" not in text
    assert json.loads(text.splitlines()[1])["dropped"] == ["damaged"]
    assert DataFolder(out, SETTINGS, LABELS).dropped_of("/data/Doe Jane/1.dcm") == ["damaged"]


def test_the_order_of_the_inputs_changes_nothing(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", dict(reversed(INPUTS.items())))
    assert tree(tmp_path / "out") == tree(whole)
    assert str(tmp_path).encode() not in b"".join(tree(tmp_path / "out").values())


ODD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@settings(max_examples=25, deadline=None)
@given(cells=st.lists(st.tuples(ODD, ODD, ODD, ODD), min_size=1, max_size=4))
def test_odd_texts_stand_in_the_tables_as_they_are(
    cells: list[tuple[str, str, str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        folder = DataFolder(out, SETTINGS, LABELS)
        rows = [
            Row(f"glioma/{i}.png", "glioma", "", source, patient, group, sequence=sequence)
            for i, (source, patient, group, sequence) in enumerate(cells)
        ]
        for row in rows:
            folder.add(row.path, [NewSlice(picture(1), row)])
        folder = DataFolder(out, SETTINGS, LABELS)  # as the journal has them
        assert [folder.dropped_of(row.path) for row in rows] == [[]] * len(rows)
        folder.finish(CARD)
        found = read_table(out / "groups.csv", ("path",))
        assert [tuple(row[key] for key in ("source", "patient", "group", "sequence"))
                for row in found] == cells  # fmt: skip
