"""What an archive is made of: each file once, in an order that holds, none without a word."""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.archive.places import CHANGED, place_of
from edge_runtime.archive.sources import LIST, MOST_LINE, ONE, TREE, Entry, open_source
from edge_runtime.commands.inputs import expand
from edge_runtime.errors import DataError, InputError, UsageError
from edge_runtime.files import Note
from edge_runtime.imaging.limits import DEFAULT_LIMITS
from tests.archive.conftest import write_files, zip_of

PICTURE = encode(draw_slice(1))
NAMES = st.sampled_from(
    ["a.jpg", "B.PNG", "scan", "n.txt", ".hid.jpg", "z.zip", "v.hdr", "v.img", "v.IMG", "w.hdr",
     "x.img", "DICOMDIR", "dicomdir", "u.dcm", "__MACOSX", "=1.jpg"]
)  # fmt: skip
CONTENTS = st.sampled_from([b"", PICTURE, b"PK\3\4", b"words", bytes(132) + b"DICM"])


def listed(word: object) -> tuple[list[Entry], list[str]]:
    notes: list[Note] = []
    return list(open_source(str(word)).entries(notes.append)), list(map(str, notes))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), CONTENTS, max_size=8))
def test_a_folder_is_gone_through_as_classify_does(
    tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for parts, data in files.items():
        path = folder.joinpath(*parts)
        if not path.exists() and all(p.is_dir() or not p.exists() for p in path.parents):
            write_files(folder, {"/".join(parts): data})
    said: list[str] = []
    found = expand([str(folder)], True, io.StringIO(), said.append, studies=True)
    wanted = [str(path) for path in found if not isinstance(path, tuple)]
    wanted = [path for path in wanted if Path(path).name.upper() != "DICOMDIR"]
    try:
        entries, _ = listed(folder)
    except InputError:
        assert wanted == []
        return
    assert [str(folder / entry.path) for entry in entries] == wanted
    again, _ = listed(folder)
    assert again == entries


def test_what_is_no_image_is_told_once_with_its_count(mixed: Path) -> None:
    entries, notes = listed(mixed)
    assert len(notes) == 1
    assert "passed over 2 files that are no images: 1 .txt, 1 no suffix" in notes[0]
    kinds = {entry.path: entry.kind for entry in entries}
    assert kinds["study/IM0001"] == "dicom"
    assert kinds["volumes/pair.img"] == kinds["volumes/head.nii"] == "nifti"
    assert "volumes/pair.hdr" not in kinds


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
def test_names_and_files_of_every_sort(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    long = "x" * 200
    write_files(folder, {f"{long}/{long}.jpg": PICTURE, "line\nbreak.jpg": PICTURE})
    (folder / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(PICTURE)
    os.mkfifo(folder / "fifo.jpg")
    os.mkfifo(folder / "fifo")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "linked.jpg").symlink_to("line\nbreak.jpg")
    (folder / "round").symlink_to(folder)
    (folder / "device").symlink_to("/dev/zero")
    (folder / "device.png").symlink_to("/dev/zero")
    entries, notes = listed(folder)
    source = open_source(str(folder))
    answers = {}
    for entry in entries:
        try:
            answers[entry.path] = source.read(entry, DEFAULT_LIMITS)
        except InputError as error:
            answers[entry.path] = str(error)
    good = {f"{long}/{long}.jpg", "line\nbreak.jpg", os.fsdecode(b"\xff\xfe.jpg"), "linked.jpg"}
    assert {name for name, data in answers.items() if data == PICTURE} == good
    bad = {name: data for name, data in answers.items() if name not in good}
    assert bad == {
        "fifo.jpg": "not a regular file",
        "device.png": "not a regular file",
        "gone.jpg": "no such file",
        "round": "a link to a folder: name the folder itself",
    }
    assert "2 files that are no images" in notes[0]


def test_lists_hold_paths_folders_and_what_is_not_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"in/a.jpg": PICTURE, "in/z": zip_of({"m.jpg": PICTURE}), "b.txt": b"t"})
    (tmp_path / "empty").mkdir()
    words = [tmp_path / "in", tmp_path / "b.txt", tmp_path / "no.jpg", tmp_path / "empty"]
    lines = "".join(f"{word}\n" for word in [*words, words[1]]).encode() + b"\r\n\n"
    (tmp_path / "list").write_bytes(lines)
    source = open_source(str(tmp_path / "list"))
    assert source.form == LIST
    entries = list(source.entries())
    names = [os.path.relpath(entry.path, tmp_path) for entry in entries]
    assert names == ["in/a.jpg", "in/z", "b.txt", "no.jpg", "empty", "b.txt"]
    assert [entry.kind for entry in entries] == ["jpeg", "zip", "", "", "", ""]
    assert source.read(entries[0], DEFAULT_LIMITS) == PICTURE
    with pytest.raises(InputError, match="no such file"):
        source.read(entries[3], DEFAULT_LIMITS)
    with pytest.raises(InputError, match="no image in it"):
        source.read(entries[4], DEFAULT_LIMITS)


def test_a_list_from_windows(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": PICTURE, "b.jpg": PICTURE})
    lines = f"\ufeff{tmp_path / 'a.jpg'}\r\n\ufeff{tmp_path / 'b.jpg'}\r\n"
    (tmp_path / "list").write_bytes(lines.encode())
    first, second = open_source(str(tmp_path / "list")).entries()
    assert (first.path, first.kind) == (str(tmp_path / "a.jpg"), "jpeg")
    assert second.path.startswith("\ufeff")  # within a text it is no mark of its beginning


def test_stdin_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files(tmp_path, {"a.jpg": PICTURE}) / "a.jpg"
    stream = io.BytesIO(os.fsencode(path) + b"\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    (entry,) = open_source("-").entries()
    assert (entry.path, entry.kind) == (str(path), "jpeg")


def test_a_source_pickles_small_and_reads_the_same(mixed: Path) -> None:
    source = open_source(str(mixed))
    entries = list(source.entries())
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    assert there == source
    good = next(entry for entry in entries if entry.path == "a.png")
    assert there.read(good, DEFAULT_LIMITS) == (mixed / "a.png").read_bytes()


def test_a_source_is_the_same_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker's is."""
    write_files(tmp_path, {"in/a.jpg": PICTURE, "list": b"in/a.jpg\n", "b.jpg": PICTURE})
    monkeypatch.chdir(tmp_path)
    found = []
    for word in ("in", "list", "b.jpg", "."):
        source = open_source(word)
        found.append((pickle.dumps(source), next(source.entries())))
    assert [entry.path for _, entry in found] == ["a.jpg", "in/a.jpg", "b.jpg", "b.jpg"]
    monkeypatch.chdir("/")
    for sent, entry in found:
        assert pickle.loads(sent).read(entry, DEFAULT_LIMITS) == PICTURE


def test_the_halves_of_a_pair_change_together(mixed: Path, tmp_path: Path) -> None:
    files = {name: (mixed / "volumes" / name).read_bytes() for name in ("pair.hdr", "pair.img")}
    source = open_source(str(write_files(tmp_path / "in", files)))
    (entry,) = source.entries()
    assert entry.size == sum(map(len, files.values()))
    assert source.read(entry, DEFAULT_LIMITS)[344:348] == b"n+1\0"
    os.utime(tmp_path / "in" / "pair.hdr", ns=(0, 0))
    with pytest.raises(InputError, match=CHANGED):
        source.read(entry, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nowhere", "no such folder, list or address"),
        ("binary", "no folder, no image, and no list"),
        ("fifo", "no folder, no image, and no list"),
        ("ftp://host/x", "not supported"),
        ("s3://key:secret@bucket/x", "credential"),
        ("s3://key@bucket/x", "credential"),
        ("s3:///x", "no address"),
        ("s3://[bucket/x", "no address"),
        ("s3://bucket/x#y", "no address"),
        ("s3://bucket/x?secret_key=hunter2", "query parameter"),
    ],
)
def test_other_sources_are_refused(tmp_path: Path, word: str, said: str) -> None:
    write_files(tmp_path, {"binary": b"a\0b"})
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=said) as caught:
        open_source(word if "://" in word else str(tmp_path / word))
    assert "secret@" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_empty_folder_and_an_endless_line_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in it"):
        listed(tmp_path / "empty")
    write_files(
        tmp_path, {"no list": b"x" * (MOST_LINE + 1), "nothing": b"\n", "bad": b"s3://a@b/\n"}
    )
    with pytest.raises(UsageError, match="no list of paths"):
        listed(tmp_path / "no list")
    with pytest.raises(InputError, match="no image in it"):
        listed(tmp_path / "nothing")
    with pytest.raises(UsageError, match="credential"):
        listed(tmp_path / "bad")


def test_forms(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.jpg": PICTURE, "z": zip_of({"a.jpg": PICTURE}), "l": b"a.jpg\n"})
    forms = {name: open_source(str(tmp_path / name)).form for name in ("a.jpg", "z", "l", "")}
    assert forms == {"a.jpg": ONE, "z": ONE, "l": LIST, "": TREE}
    place, path = place_of("s3://anonymous@bucket/a%20b/")
    assert path == "bucket/a b"
    assert not isinstance(place, DataError)
