"""Slices whose class is only known to be one of several."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime.errors import DataError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.commands.audit import audit_command
from trainer.commands.evaluate import evaluate_command
from trainer.commands.train import train_command
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.partial_labels import PartialLabels, allowed_classes, divide, read_partial_labels
from trainer.data.split import fold_splits, split_dataset
from trainer.synthetic.phantoms import CLASSES, draw_phantom

OPTIONS = Preprocess(size=32)
BIN = Path(sys.executable).parent


def write_slices(path: Path, names: dict[str, np.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, gray in names.items():
            archive.writestr(name, cv2.imencode(".png", gray)[1].tobytes())
    return path


def head(seed: int, label: str = "glioma") -> np.ndarray:
    return draw_phantom(label, np.random.default_rng([9, seed]))


@pytest.fixture(scope="module")
def typed(phantom_zip: Path) -> Dataset:
    return read_dataset(phantom_zip, OPTIONS)


@pytest.fixture(scope="module")
def typed_pictures(phantom_zip: Path) -> list[np.ndarray]:
    with zipfile.ZipFile(phantom_zip) as archive:
        return [
            cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_GRAYSCALE)
            for n in sorted(archive.namelist())
        ]


@pytest.fixture(scope="module")
def partial_zip(typed_pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve new heads, and mirror images of the first 24 typed ones."""
    names = {f"tumor/new_{i:02d}.png": head(i) for i in range(12)}
    names |= {f"tumor/old_{i:02d}.png": p[:, ::-1] for i, p in enumerate(typed_pictures[:24])}
    return write_slices(tmp_path_factory.mktemp("partial") / "tumors.zip", names)


def test_a_folder_names_the_classes() -> None:
    free = ("notumor",)
    assert allowed_classes("tumor", CLASSES, free).tolist() == [True, True, False, True]
    assert allowed_classes("glioma + Meningioma_tumor", CLASSES, free).tolist() == [1, 1, 0, 0]
    assert allowed_classes("Tumour", ("a", "b", "c"), ("b", "c")).tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="schwannoma"):
        allowed_classes("glioma+schwannoma", CLASSES, free)
    with pytest.raises(DataError, match="--tumour-free"):
        allowed_classes("tumor", ("a", "b"), ())


def test_sets_become_targets(typed: Dataset, tmp_path: Path) -> None:
    zipped = write_slices(
        tmp_path / "sets.zip", {"glioma+pituitary/a.png": head(1), "tumor/b.png": head(2)}
    )
    partial = read_partial_labels(zipped, OPTIONS, typed)
    assert partial.targets.tolist() == [[1, 0, 0, 1], [1, 1, 0, 1]]
    everything = write_slices(tmp_path / "all.zip", {"+".join(CLASSES) + "/a.png": head(1)})
    with pytest.raises(DataError, match="teaches nothing"):
        read_partial_labels(everything, OPTIONS, typed)


@pytest.mark.parametrize("protocol", ["official", "grouped"])
def test_what_is_tested_is_never_learned(typed: Dataset, partial_zip: Path, protocol: str) -> None:
    partial = read_partial_labels(partial_zip, OPTIONS, typed)
    split = split_dataset(typed, protocol, seed=1)
    train, test = divide(partial, typed, split, seed=1)
    assert not set(train) & set(test)
    apart = {typed.groups[i] for i in (*split.validation, *split.test)}
    for i in train:
        assert not partial.touches[i] & apart, "a mirror image of a held-out slice is held out"
    tested = {typed.groups[i] for i in split.test}
    for i in range(len(partial)):
        if partial.touches[i] & tested:
            assert i in test
    fresh = [i for i, t in enumerate(partial.touches) if not t]
    assert len(fresh) == 12
    assert 0 < sum(i in test for i in fresh) < 12


def test_every_new_slice_is_tested_once_over_the_folds(typed: Dataset, partial_zip: Path) -> None:
    partial = read_partial_labels(partial_zip, OPTIONS, typed)
    counts = np.zeros(len(partial), int)
    for split in fold_splits(typed, 3, seed=1):
        counts[divide(partial, typed, split, seed=1)[1]] += 1
    assert (counts == 1).all()


def test_a_source_under_test_is_not_learned_from(typed: Dataset, partial_zip: Path) -> None:
    from dataclasses import replace

    partial = read_partial_labels(partial_zip, OPTIONS, typed)
    sources = tuple("far" if i % 2 else "near" for i in range(len(partial)))
    partial = PartialLabels(replace(partial.slices, sources=sources), partial.sets, partial.touches)
    labels = replace(typed, sources=tuple("far" if i % 5 == 0 else "near" for i in range(96)))
    split = split_dataset(labels, "source:far", seed=1)
    train, test = divide(partial, labels, split, seed=1)
    assert not any(partial.slices.sources[i] == "far" for i in train)
    assert {i for i, s in enumerate(sources) if s == "far"} <= set(test)


@pytest.mark.slow
def test_the_command_learns_and_measures(
    phantom_zip: Path, partial_zip: Path, tmp_path: Path
) -> None:
    words = [BIN / "btc-train", phantom_zip, "--partial", partial_zip, "--protocol", "grouped",
             "--folds", 2, "--epochs", 1, "--size", 32, "--out", tmp_path / "run"]  # fmt: skip
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())["partial"]
    with (tmp_path / "run" / "partial.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert measured["n"] == len(rows) == 36
    outside = [row["predicted"] == "notumor" for row in rows]
    assert [row["outside"] == "1" for row in rows] == outside
    assert all(row[f"p_{row['predicted']}"] == row["confidence"] for row in rows)
    assert measured["outside"]["share"] == pytest.approx(np.mean(outside))
    answered = [o and row["status"] == "ok" for o, row in zip(outside, rows, strict=True)]
    assert measured["outside_answered"]["share"] == pytest.approx(np.mean(answered))
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["partial"]["images"] == 36
    assert settings["training"]["recipe"]["partial_labels"] > 0
    assert "predicted outside" in done.stdout
    assert "predicted outside" in (tmp_path / "run" / "report.html").read_text()


def test_files_that_are_not_read_are_told_for_both_kinds_of_data(
    phantom_zip: Path, tmp_path: Path
) -> None:
    names: dict[str, bytes] = {"tumor/bad\x1b[31m.png": b"no image", "tumor/notes.txt": b"x"}
    with zipfile.ZipFile(tmp_path / "partial.zip", "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
        for i in range(4):
            archive.writestr(f"tumor/{i}.png", cv2.imencode(".png", head(i))[1].tobytes())
    shutil.copy(phantom_zip, tmp_path / "data.zip")
    with zipfile.ZipFile(tmp_path / "data.zip", "a") as archive:
        archive.writestr("Training/glioma/half.png", b"\x89PNG")
    words = [tmp_path / "data.zip", "--partial", tmp_path / "partial.zip", "--model", "knn",
             "--features", "histogram", "--size", 32, "--no-cache",
             "--out", tmp_path / "run"]  # fmt: skip
    done = CliRunner().invoke(train_command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    skipped = [line for line in done.output.splitlines() if line.endswith("skipped")]
    assert [line.partition(":")[0] for line in skipped] == [
        "Training/glioma/half.png", "tumor/bad?[31m.png", "tumor/notes.txt"
    ]  # fmt: skip
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (settings["data"]["unreadable"], settings["partial"]["unreadable"]) == (1, 1)
    assert settings["partial"]["passed_over"] == 1


@pytest.mark.parametrize("option", ["--groups", "--boxes", "--partial-groups"])
def test_a_folder_is_no_table(option: str, phantom_zip: Path, tmp_path: Path) -> None:
    for command in (train_command, evaluate_command, audit_command):
        if option in {name for param in command.params for name in param.opts}:
            paths = [phantom_zip] * sum(isinstance(p, click.Argument) for p in command.params)
            done = CliRunner().invoke(command, [*map(str, paths), option, str(tmp_path)])
            assert done.exit_code == 2
            assert "is a directory" in done.output


def test_usage(phantom_zip: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("path,group\n")
    done = subprocess.run(
        [str(BIN / "btc-train"), str(phantom_zip), "--partial-groups", str(table), "--out",
         str(tmp_path / "run")], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--partial" in done.stderr
    assert not (tmp_path / "run").exists()
