"""The commands of README and guides run as they stand, on synthetic slices under their names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tomllib

from tests.documents import GUIDES, ROOT, blocks, commands
from tests.test_schemas import problems
from trainer.synthetic.phantoms import draw_phantom, write_phantoms


def make_tables(folder: Path) -> None:
    """The benchmarks that put finished runs into tables, on the runs of the commands."""
    runs = [folder / "runs" / name for name in ("folds-former", "source", "official")]
    data, results = folder / "brain-tumor-mri.zip", folder / "results"
    model = folder / "runs" / "grouped" / "export" / "brain-mri-int8.tflite"
    models = folder / "runs" / "models"
    (models / "cnn").mkdir(parents=True)
    for name, run in zip(("folds", "source"), runs, strict=False):
        (models / "cnn" / name).symlink_to(run)
    for words in (
        ("honest", *runs, "--out", results),
        ("robust", runs[0], data, "--source", runs[1], "--official", runs[2], "--main", "home",
         "--out", results),
        ("models", data, models, "--groups", folder / "groups.csv", "--only", "cnn", "--only",
         "svm-deep", "--only", "svm-region", "--timed", 10, "--out", results),
        ("card", model, folder / "runs" / "grouped", "--results", results, "--out",
         folder / "card.md"),
        ("runtimes", model.parent, data, "--images", 10, "--out", results),
        ("calibration", folder / "runs" / "grouped", "--images", 4, "--seeds", 1, "--out",
         results),
        ("recipes", data, "--boxes", folder / "boxes.csv", "--partial",
         folder / "tumor-untyped.zip", "--folds", 1, "--epochs", 1, "--out", results),
    ):  # fmt: skip
        command = [sys.executable, "-m", f"benchmarks.{words[0]}", *map(str, words[1:])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{words[0]}\n{done.stderr[-2000:]}"
    robust = (results / "robust.md").read_text("utf-8")
    assert "trained without `other`, tested on it" in robust
    assert robust in (folder / "card.md").read_text("utf-8")
    assert "| fold 1 | glioma |" in (results / "answers.md").read_text("utf-8")
    compared = (results / "models.md").read_text("utf-8")
    assert "deep features" in compared
    assert "region (30)" in compared
    assert "deep features (80)" in (models / "models.html").read_text("utf-8")


def check_schemas(folder: Path) -> None:
    """What the commands left keeps the schemas in docs/schemas."""
    found = 0
    for path in folder.rglob("*.json"):
        if path.stem in {"run", "metrics", "export", "audit", "benchmark", "picked"}:
            assert problems(path.stem, json.loads(path.read_text("utf-8"))) == [], path
            found += 1
    assert found > 10


@pytest.mark.slow
def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_phantoms(tmp_path / "brain-tumor-mri.zip", per_class=16, seed=2)
    with zipfile.ZipFile(tmp_path / "brain-tumor-mri.zip") as archive:
        names = archive.namelist()
        for name in names:
            if name.startswith("Testing/"):
                place = tmp_path / "scans" / name.removeprefix("Testing/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
        (tmp_path / "slice.jpg").write_bytes(archive.read(names[0]))
        (tmp_path / "patient-1").mkdir()
        for name in names[:3]:
            (tmp_path / "patient-1" / Path(name).name).write_bytes(archive.read(name))
        with zipfile.ZipFile(tmp_path / "disc.zip", "w") as disc:
            disc.writestr("patient-2/slice.jpg", archive.read(names[0]))
    rows = [f"{name},g{i},{'other' if i % 6 == 0 else 'home'}" for i, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(["path,group,source", *rows, ""]))
    boxes = [f"{name},0.5,0.5,0.3,0.3" for name in names if "notumor" not in name]
    header = "path,x_center,y_center,width,height"
    (tmp_path / "boxes.csv").write_text("\n".join([header, *boxes, ""]))
    with zipfile.ZipFile(tmp_path / "tumor-untyped.zip", "w") as archive:
        for i in range(len(names)):
            gray = draw_phantom("glioma", np.random.default_rng([8, i]))
            archive.writestr(f"tumor/{i}.png", cv2.imencode(".png", gray)[1].tobytes())
    untyped = [f"tumor/{i}.png,u{i // 2},home" for i in range(len(names))]
    (tmp_path / "tumor-untyped.csv").write_text("\n".join(["path,group,source", *untyped, ""]))
    for i, name in enumerate(("healthy-ixi.zip", "healthy-ms.zip")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for j in range(12):
                gray = draw_phantom("notumor", np.random.default_rng([9, i, j]))
                archive.writestr(f"notumor/{j}.png", cv2.imencode(".png", gray)[1].tobytes())
    (tmp_path / "data").mkdir()
    (card,) = blocks(ROOT / "docs" / "training.md", "toml")
    (tmp_path / "data" / "data.toml").write_text(card)
    for name in tomllib.loads(card).values():
        if (tmp_path / str(name)).is_file():
            os.link(tmp_path / name, tmp_path / "data" / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in commands():
        if line.startswith("btc-train") and "--model" not in line and "/grouped" not in line:
            line += " --epochs 2"  # the run that is exported must have learned
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PATH": path}, timeout=1200,
        )  # fmt: skip
        # An audit that finds a leak says so with exit code 1.
        codes = {0, 1} if line.startswith("btc-audit") else {0}
        assert done.returncode in codes, f"{line}\n{done.stderr[-2000:]}"
        assert done.stdout.strip() or ">" in line or line.startswith("btc-plot"), line
    make_tables(tmp_path)
    for code in (code for guide in GUIDES for code in blocks(guide, "python")):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    check_schemas(tmp_path)
