"""Rows are the answers of `btc-edge classify`, whatever a file is."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.archive import rows as rows_module
from edge_runtime.archive.manifest import Manifest
from edge_runtime.archive.places import CHANGED
from edge_runtime.archive.rows import KEY, ClassifierSettings, count, make_shard, schema_of
from edge_runtime.archive.sources import open_source
from edge_runtime.classifier import Classifier
from edge_runtime.commands.main import command
from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.model.metadata import INTENDED_USE
from tests.archive.conftest import UID, answer, make, mixed_files, rows_of, write_files, zip_of
from tests.documents import ARCHIVE, blocks


def classified(*words: object) -> list[dict[str, Any]]:
    """What btc-edge classify says, a dict an answer."""
    line = ["classify", *map(str, words), "--workers", "1", "--format", "jsonl"]
    done = CliRunner().invoke(command, line)
    assert done.exit_code in (0, 1), done.output
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def as_answer(row: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """A row as the command would have printed it."""
    labels = [name.removeprefix("p_") for name in row if name.startswith("p_")]
    fields = {k: v for k, v in row.items() if not k.startswith("p_")}
    del fields["path_bytes"], fields["study"]
    name = fields.pop("path")
    probabilities = {label: row[f"p_{label}"] for label in labels}
    if row["confidence"] is None:
        assert set(probabilities.values()) == {None}
        probabilities = None
    return {**fields, "input": str(Path(folder, name)), "probabilities": probabilities}


def by_input(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(answers, key=lambda a: (a["input"], a["slice"] is None, a["slice"] or 0))


@pytest.fixture(scope="module")
def answered(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Manifest]:
    classifier = Classifier()
    source, manifest = make(classifier, mixed, tmp_path_factory.mktemp("out"))
    answer(classifier, source, manifest)
    return source, manifest


def test_rows_are_the_answers_of_the_command(mixed: Path, answered: tuple[Any, Manifest]) -> None:
    rows = rows_of(answered[1])
    wanted = classified("-r", mixed)
    assert len(wanted) > 25
    assert by_input([as_answer(row, mixed) for row in rows]) == by_input(wanted)
    assert {row["status"] for row in rows} >= {"error", "unfamiliar"}


def test_studies_are_those_of_dicom_files(answered: tuple[Any, Manifest]) -> None:
    studies = {(row["path"], row["study"]) for row in rows_of(answered[1])}
    told = {pair for pair in studies if pair[1] is not None}
    damaged = ("study/damaged.dcm", f"{UID}.7")
    assert told == {("study/IM0001", UID), ("study/two.dcm", UID), damaged}


def test_slices_before_a_damage_keep_their_rows(answered: tuple[Any, Manifest]) -> None:
    found = [row for row in rows_of(answered[1]) if row["path"] == "study/damaged.dcm"]
    first, second = found
    assert (first["slice"], first["error"]) == (0, None)
    assert (second["slice"], second["status"]) == (None, "error")
    assert "damaged" in second["error"]


def test_counts_are_those_of_the_rows(answered: tuple[Any, Manifest]) -> None:
    manifest = answered[1]
    rows = rows_of(manifest)
    counts = count(manifest, range(manifest.shards))
    errors = sum(row["status"] == "error" for row in rows)
    assert (counts.rows, counts.errors, counts.damaged.total) == (len(rows), errors, 0)
    assert errors > 4


def test_a_shard_says_what_it_is(answered: tuple[Any, Manifest], classifier: Classifier) -> None:
    source, manifest = answered
    table = make_shard(classifier, source, manifest.shard(0))
    assert table.schema.equals(schema_of(classifier.info.labels))
    says = json.loads(table.schema.metadata[KEY])
    assert says["model"] == classifier.model.tag
    assert says["intended_use"] == INTENDED_USE
    assert (says["manifest"], says["shard"]) == (manifest.digest, 0)


def test_zips_hold_what_a_folder_would(tmp_path: Path, classifier: Classifier, mixed: Path) -> None:
    files = {name: data for name, data in mixed_files().items() if "pair" not in name}
    write_files(tmp_path / "in", {"all.zip": zip_of(files)})
    source, manifest = make(classifier, tmp_path / "in", tmp_path / "out")
    answer(classifier, source, manifest)
    rows = {row["path"]: row for row in rows_of(manifest)}
    lines = classified("-r", mixed)
    wanted = {os.path.relpath(line["input"], mixed): line for line in lines}
    for name, line in wanted.items():
        if name.startswith(("bad/", "volumes/pair")):  # by its name alone an image
            continue
        row = as_answer(rows.pop(f"all.zip/{name}"), "")
        assert {**row, "input": None} == {**line, "input": None}
    assert {row["status"] for row in rows.values()} <= {"error"}
    (note,) = count(manifest, [0]).passed_over.first
    assert "all.zip: passed over" in note


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zip_of({str(i): bytes(4 << 20) for i in range(20)}), "zip bomb"),
        (zip_of({"../up.jpg": b"x"}), "outside"),
        (zip_of({"a.zip": zip_of({"b.jpg": b"x"})}), "within a zip"),
        (zip_of({"a.jpg": b"\xff\xd8\xff"}, zipfile.ZIP_LZMA), "not supported"),
        (zip_of({"a.txt": b"words"}), "no image"),
        (zip_of({"a.jpg": encode(draw_slice(1))})[:-30], "not a readable zip"),
    ],
    ids=["bomb", "outside", "nested", "lzma", "nothing", "cut"],
)
def test_hostile_zips_are_rows_with_an_error(
    tmp_path: Path, classifier: Classifier, data: bytes, words: str
) -> None:
    write_files(tmp_path / "in", {"z.zip": data, "good.jpg": encode(draw_slice(1))})
    source, manifest = make(classifier, tmp_path / "in", tmp_path / "out")
    answer(classifier, source, manifest)
    good, bad = rows_of(manifest)
    assert (good["path"], good["error"]) == ("good.jpg", None)
    assert bad["status"] == "error"
    assert bad["path"].startswith("z.zip")
    assert words in bad["error"]


def test_one_file_has_no_end_of_slices(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MOST_SLICES", 2)
    picture = draw_slice(1, 64)
    write_files(tmp_path / "in", {"many.dcm": dicom_bytes(np.stack([picture] * 4))})
    source, manifest = make(classifier, tmp_path / "in", tmp_path / "out")
    answer(classifier, source, manifest)
    assert [row["slice"] for row in rows_of(manifest)] == [0, 1, None]
    assert rows_of(manifest)[-1]["error"] == rows_module.TOO_MANY


@pytest.mark.parametrize("change", ["longer", "later", "gone", "replaced by a folder"])
@pytest.mark.parametrize("name", ["a.jpg", "b.zip"])
def test_a_file_that_changed_is_a_row_that_says_so(
    tmp_path: Path, classifier: Classifier, change: str, name: str
) -> None:
    picture = encode(draw_slice(1))
    files = {"a.jpg": picture, "b.zip": zip_of({"m.jpg": picture}), "c.jpg": picture}
    folder = write_files(tmp_path / "in", files)
    source, manifest = make(classifier, folder, tmp_path / "out")
    path = folder / name
    if change == "longer":
        path.write_bytes(files[name] + b" ")
    elif change == "later":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    else:
        path.unlink()
        if change != "gone":
            path.mkdir()
    answer(classifier, source, manifest)
    rows = rows_of(manifest)
    assert len(rows) == 3
    (bad,) = [row for row in rows if row["status"] == "error"]
    assert bad["path"] == name
    assert bad["error"].startswith(CHANGED)


def test_a_folder_that_is_not_there_is_no_fault_of_its_files(
    tmp_path: Path, classifier: Classifier
) -> None:
    folder = write_files(tmp_path / "in", {"a.jpg": encode(draw_slice(1))})
    source, manifest = make(classifier, folder, tmp_path / "out")
    (folder / "a.jpg").unlink()  # a mount point
    with pytest.raises(DataError, match="not on this machine"):
        make_shard(classifier, source, manifest.shard(0))
    folder.rmdir()
    with pytest.raises(DataError, match="not on this machine"):
        make_shard(classifier, source, manifest.shard(0))


def test_a_missing_package_is_no_answer(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    folder = write_files(tmp_path / "in", {"a.dcm": dicom_bytes(draw_slice(1, 64))})
    source, manifest = make(classifier, folder, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.delitem(sys.modules, "edge_runtime.imaging.dicom", raising=False)
    with pytest.raises(UsageError, match=r"need the package pydicom: pip install"):
        make_shard(classifier, source, manifest.shard(0))


def test_limits_refuse_as_the_command_does(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", {
        "large.png": bytes(3 << 20), "small.jpg": encode(draw_slice(1)),
        "z.zip": zip_of({"m.png": b"\x89PNG\r\n\x1a\n" + os.urandom(2 << 20)}),
    })  # fmt: skip
    tight = Classifier(limits=ImageLimits(max_bytes=1 << 20))
    source, manifest = make(tight, folder, tmp_path / "out")
    answer(tight, source, manifest)
    lines = classified("-r", folder, "--max-mib", 1)
    rows = {row["path"]: row["error"] for row in rows_of(manifest)}
    assert rows.pop("z.zip/m.png") == "larger than the limit of 1 MiB"
    assert rows == {Path(line["input"]).name: line["error"] for line in lines}


def test_settings_open_an_equal_classifier(settings: ClassifierSettings) -> None:
    assert settings.backend != "auto"
    assert ClassifierSettings.of(settings.open()).to_json() == settings.to_json()


def test_duckdb_and_pandas_read_all_shards_at_once(answered: tuple[Any, Manifest]) -> None:
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    manifest = answered[1]
    rows = rows_of(manifest)
    shards = Path(manifest.path_of(0)).parent
    query = "select path, slice, p_notumor from read_parquet(?) order by path, slice"
    connection = duckdb.connect()
    found = connection.execute(query, [f"{shards}/*.parquet"]).fetchall()
    key = lambda row: (row[0], row[1] is None, row[1] or 0)  # noqa: E731
    wanted = [(row["path"], row["slice"], row["p_notumor"]) for row in rows]
    assert sorted(found, key=key) == sorted(wanted, key=key)
    frame = pandas.read_parquet(shards)
    assert list(frame["sha256"].isna()) == [row["sha256"] is None for row in rows]
    lost = connection.execute(
        "select count(*) from read_parquet(?) as m anti join read_parquet(?) as s on "
        "s.path = m.path", [f"{manifest.out}/manifest/*.parquet", f"{shards}/*.parquet"],
    ).fetchall()  # fmt: skip
    assert lost == [(0,)]


def test_the_guide_reads_the_result(
    answered: tuple[Any, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("duckdb")
    pytest.importorskip("pandas")
    (tmp_path / "results").symlink_to(answered[1].out)
    monkeypatch.chdir(tmp_path)
    first, second, third = blocks(ARCHIVE, "python")
    exec(first, {})
    said = capsys.readouterr().out
    assert "bad/empty.jpg" in said
    assert UID in said
    exec(second, {})
    exec(third, {})
    assert "0 rows" in capsys.readouterr().out  # no file without a row


def test_a_single_file_is_an_archive_of_one(
    mixed: Path, tmp_path: Path, classifier: Classifier
) -> None:
    word = str(mixed / "a.png")
    source, manifest = make(classifier, word, tmp_path / "out")
    answer(classifier, source, manifest)
    assert open_source(word) == source
    assert [as_answer(row, "") for row in rows_of(manifest)] == classified(word)
