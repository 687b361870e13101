"""What the benchmark of archives counts as lost, doubled and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.archive import FIELDS, compare, draw_archive
from edge_runtime.classifier import Classifier

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PATHS = [f"0000/{number:08d}.jpg" for number in range(4)]


def test_files_differ_and_are_read(tmp_path: Path) -> None:
    draw_archive(tmp_path, 4)
    paths = [tmp_path / path for path in PATHS]
    answers = list(Classifier().classify_many(paths))
    assert {answer.error for answer in answers} == {None}
    assert len({answer.sha256 for answer in answers}) == 4


def test_lost_doubled_and_wrong_are_counted(tmp_path: Path) -> None:
    folder, answers, out = tmp_path / "in", tmp_path / "answers.jsonl", tmp_path / "out"
    (out / "shards").mkdir(parents=True)
    folder.mkdir()
    draw_archive(folder, 4)
    found = list(Classifier().classify_many([folder / path for path in PATHS]))
    answers.write_text("".join(json.dumps(answer.to_json()) + "\n" for answer in found))

    def write(name: str, *numbers: int) -> None:
        rows = []
        for number in numbers:
            answer = found[number].to_json()
            shares = {f"p_{label}": share for label, share in answer["probabilities"].items()}
            same = {name: answer.get(name) for name in FIELDS}
            rows.append({"path": PATHS[number], **same, **shares})
        pq.write_table(pa.Table.from_pylist(rows), out / "shards" / name)

    write("0.parquet", 0, 1, 2, 3)
    assert compare(folder, answers, out) == {"files": 4, "lost": 0, "doubled": 0, "wrong": 0}
    write("1.parquet", 3)
    assert compare(folder, answers, out)["doubled"] == 1
    write("0.parquet", 0, 1)
    assert compare(folder, answers, out) == {"files": 4, "lost": 1, "doubled": 0, "wrong": 0}
    found[0] = found[1]
    write("0.parquet", 0, 1, 2)
    assert compare(folder, answers, out)["wrong"] == 1
