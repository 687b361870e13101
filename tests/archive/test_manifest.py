"""A manifest is fixed at the start, holds each entry once, and refuses what was altered."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.archive import manifest as module
from edge_runtime.archive.manifest import LARGE, LARGE_VOLUME, Lines, Manifest, cut
from edge_runtime.archive.places import Folder
from edge_runtime.archive.rows import ClassifierSettings, count
from edge_runtime.archive.sources import Entry, open_source
from edge_runtime.classifier import Classifier
from edge_runtime.errors import DataError, UsageError
from tests.archive.conftest import answer, make, rows_of, write_files

KINDS = st.sampled_from(["jpeg", "zip", "nifti", "dicom", ""])
SIZES = st.one_of(st.integers(0, 1000), st.integers(0, 2 * LARGE))
ENTRIES = st.lists(st.builds(Entry, st.uuids().map(str), SIZES, st.just("1"), KINDS), max_size=60)


@settings(deadline=None)
@given(ENTRIES, st.integers(1, 9), st.integers(1, LARGE))
def test_each_entry_is_in_exactly_one_shard(entries: list[Entry], size: int, most: int) -> None:
    shards = list(cut(iter(entries), size, most))
    assert sorted(entry for shard in shards for entry in shard) == sorted(entries)
    for shard in shards:
        assert 0 < len(shard) <= size
        assert len(shard) == 1 or sum(entry.size for entry in shard) <= most
        large = [e for e in shard if e.size >= LARGE
                 or (e.kind in ("zip", "nifti") and e.size >= LARGE_VOLUME)]  # fmt: skip
        assert not large or len(shard) == 1


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    files = {f"{i:02d}.jpg": encode(draw_slice(i)) for i in range(8)}
    return write_files(tmp_path / "in", files)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=30, unique=True))
def test_a_manifest_gives_back_what_was_listed(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes]
) -> None:
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for number, raw in enumerate(names):
        name = os.fsdecode(b"f" + re.sub(b"[/\0]", b"_", raw) + b"%d.jpg" % number)
        (folder / name).write_bytes(b"x" * number)
    source = open_source(str(folder))
    module_part, module.PART = module.PART, 7
    try:
        manifest = Manifest.make(source, str(out), {}, shard_size=3)
    finally:
        module.PART = module_part
    assert Manifest.open(str(out)) == manifest
    again = [entry for n in range(manifest.shards) for entry in manifest.shard(n).entries]
    assert again == list(source.entries())
    assert manifest.missing() == list(range(manifest.shards))
    assert manifest.head["entries"] == len(names)


def test_a_second_run_does_what_is_missing(
    pictures: Path, tmp_path: Path, classifier: Classifier
) -> None:
    source, manifest = make(classifier, pictures, tmp_path / "out", 3)
    answer(classifier, source, manifest, [0, 2])
    again = Manifest.open(manifest.out)
    again.go_on(source, ClassifierSettings.of(classifier).to_json(), None)
    assert again.missing() == [1]
    answer(classifier, source, again)
    assert again.missing() == []
    assert len(rows_of(again)) == 8
    before = {n: Path(again.path_of(n)).read_bytes() for n in range(3)}
    Path(again.path_of(1)).unlink()
    assert again.missing() == [1]
    answer(classifier, source, again)
    assert {n: Path(again.path_of(n)).read_bytes() for n in range(3)} == before


def test_files_that_come_later_are_none_of_it(
    pictures: Path, tmp_path: Path, classifier: Classifier
) -> None:
    source, manifest = make(classifier, pictures, tmp_path / "out")
    write_files(pictures, {"new.jpg": encode(draw_slice(1))})
    answer(classifier, source, Manifest.open(manifest.out))
    assert "new.jpg" not in {row["path"] for row in rows_of(manifest)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_sha256": "0" * 64}, "model_sha256"),
        ({"min_confidence": 0.5}, "min_confidence"),
        ({"plane": "coronal"}, "plane"),
        ({"backend": "onnxruntime"}, "backend"),
        ({"max_pixels": 7}, "max_pixels"),
    ],
)
def test_other_settings_are_refused(
    pictures: Path, tmp_path: Path, settings: ClassifierSettings, change: dict[str, Any], said: str
) -> None:
    source = open_source(str(pictures))
    manifest = Manifest.make(source, str(tmp_path / "out"), settings.to_json())
    with pytest.raises(UsageError, match=f"begun with {said}.*name another place"):
        manifest.go_on(source, settings.to_json() | change, None)


def test_another_source_version_or_shard_size_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(pictures))
    manifest = Manifest.make(source, str(tmp_path / "out"), {}, shard_size=3)
    manifest.go_on(open_source(os.path.relpath(pictures)), {}, 3)
    with pytest.raises(UsageError, match="source"):
        manifest.go_on(open_source(str(tmp_path)), {}, None)
    with pytest.raises(UsageError, match="shard_size"):
        manifest.go_on(source, {}, 4)
    monkeypatch.setattr(module, "__version__", "9.9")
    with pytest.raises(UsageError, match=r"version .*'9\.9'"):
        manifest.go_on(source, {}, None)


@pytest.mark.parametrize("name", ["manifest.json", "manifest/part-00000.parquet"])
@pytest.mark.parametrize("change", ["altered", "cut", "gone", "empty"])
def test_a_damaged_manifest_is_told(pictures: Path, tmp_path: Path, name: str, change: str) -> None:
    out = tmp_path / "out"
    Manifest.make(open_source(str(pictures)), str(out), {})
    path = out / name
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        middle = data.index(b"07.jpg") if name != "manifest.json" else data.index(b"entries") + 11
        altered = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"altered": altered, "cut": data[:-9], "empty": b""}[change])
    with pytest.raises(DataError, match=name.partition("/")[2] or name) as caught:
        Manifest.open(str(out)).shard(0)
    assert "name another place" in str(caught.value)


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["schema", "sha256", "parts", "shards"]), s)))  # fmt: skip
def test_any_other_json_is_no_manifest(
    tmp_path_factory: pytest.TempPathFactory, shape: object
) -> None:
    out = tmp_path_factory.mktemp("out")
    (out / "manifest.json").write_text(json.dumps(shape))
    with pytest.raises(DataError, match=r"damaged|not supported"):
        Manifest.open(str(out))


@pytest.mark.parametrize(
    "change",
    [
        {"parts": [{"first": 0, "file": "../../in/00.jpg", "sha256": "0"}]},
        {"parts": []},
        {"parts": [{"first": 0}]},
        {"shards": "8"},
        {"shards": 0},
        {"settings": None},
        {"source": None},
        {"shards": 10**18},
        {"shards": 9},
        {"entries": 10**18},
        {"entries": -5},
        {"bytes": 1 << 63},
        {"largest": -1},
        {"kinds": {"jpeg": "8"}},
        {"passed_over": [1]},
        {"base": 1},
    ],
)
def test_a_head_that_was_made_up_is_refused(
    pictures: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    Manifest.make(open_source(str(pictures)), str(out), {})
    head = json.loads((out / "manifest.json").read_bytes())
    del head["sha256"]
    for more in ({}, change):
        shape = head | more
        shape["sha256"] = module._digest(shape)
        (out / "manifest.json").write_text(json.dumps(shape))
        if not more:
            Manifest.open(str(out))
    with pytest.raises(DataError, match="damaged"):
        Manifest.open(str(out))


def test_two_runs_that_begin_at_once_do_not_share_a_manifest(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = open_source(str(pictures)), str(tmp_path / "out")
    write = Folder.write

    def the_other_comes_last(self: Folder, path: str, data: bytes) -> None:
        write(self, path, data)
        if path.endswith("manifest.json"):
            monkeypatch.setattr(Folder, "write", write)
            Path(path).unlink()
            Manifest.make(source, out, {"plane": "coronal"})

    monkeypatch.setattr(Folder, "write", the_other_comes_last)
    with pytest.raises(DataError, match="another run was begun there"):
        Manifest.make(source, out, {"plane": "axial"})


def test_what_is_no_shard_is_known(pictures: Path, tmp_path: Path) -> None:
    manifest = Manifest.make(open_source(str(pictures)), str(tmp_path / "out"), {}, shard_size=4)
    names = ("00000000.parquet", "00000002.parquet", "copy.parquet", "notes.txt")
    write_files(tmp_path / "out" / "shards", dict.fromkeys(names, b"x"))
    assert [Path(path).name for path in manifest.foreign()] == list(names[1:3])
    assert manifest.missing() == [1]


def test_a_listing_that_was_ended_leaves_no_part(pictures: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "out", {"manifest/part-00007.parquet": b"of an earlier listing"})
    Manifest.make(open_source(str(pictures)), str(tmp_path / "out"), {})
    assert [path.name for path in (tmp_path / "out" / "manifest").iterdir()] == [
        "part-00000.parquet"
    ]


def test_of_many_lines_some_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NOTES", 3)
    lines = Lines.of("a", "b").plus(Lines.of("c", "d", "e", "f")).plus(Lines.of("g"))
    assert lines == (("a", "b", "c"), 7)
    assert lines.told(2) == ["a", "b", "and 5 more such lines"]
    assert Lines.of("a").told(2) == ["a"]


def test_shards_of_nobody_are_not_taken_for_done(
    pictures: Path, tmp_path: Path, classifier: Classifier
) -> None:
    out = tmp_path / "out"
    source, manifest = make(classifier, pictures, out)
    answer(classifier, source, manifest)
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match="holds shards of another run"):
        make(classifier, pictures, out)


def test_damaged_and_foreign_shards_are_told(
    pictures: Path, tmp_path: Path, classifier: Classifier
) -> None:
    source, manifest = make(classifier, pictures, tmp_path / "out", 3)
    answer(classifier, source, manifest)
    other, foreign = make(classifier, pictures, tmp_path / "other", 4)
    answer(classifier, other, foreign)
    paths = [Path(manifest.path_of(n)) for n in range(3)]
    paths[0].write_bytes(paths[0].read_bytes()[:-20])
    paths[1].write_bytes(Path(foreign.path_of(1)).read_bytes())
    counts = count(manifest, range(3))
    assert [line.partition(": ")[2] for line in counts.damaged.first] == [
        "damaged",
        "of another run",
    ]
    assert counts.rows == 2


def test_what_was_being_written_is_seen_by_no_reader(
    pictures: Path, tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, manifest = make(classifier, pictures, tmp_path / "out", 3)
    seen: list[list[str]] = []
    replace = os.replace

    def watching(part: Any, target: Any) -> None:
        seen.append(sorted(path.name for path in Path(target).parent.iterdir()))
        replace(part, target)

    monkeypatch.setattr(os, "replace", watching)
    answer(classifier, source, manifest)
    assert seen == [[], ["00000000.parquet"], ["00000000.parquet", "00000001.parquet"]]
