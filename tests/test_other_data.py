"""Three other classes, with names that break careless code, through every command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.synthetic.phantoms import draw_phantom

BIN = Path(sys.executable).parent
# Class folder -> what is drawn in it.
CLASSES = {"Ödem (links) [a]": "glioma", "kein Befund": "notumor", "mass & 'rest'": "pituitary"}
pytestmark = pytest.mark.slow


def run(name: str, *words: object, code: int = 0) -> str:
    done = subprocess.run(
        [str(BIN / name), *map(str, words)], capture_output=True, text=True, timeout=600
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of 16 patients a class, with a table of groups and one of boxes beside them."""
    folder = tmp_path_factory.mktemp("Daten mit Leerzeichen (1)") / "köpfe"
    rows = []
    for c, (label, drawn) in enumerate(CLASSES.items()):
        for i in range(32):
            split = "Testing" if i % 4 == 0 else "Training"
            name = f"{split}/{label}/Schnitt [{i}] – Größe, n°{i}; 'x'.png"
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            picture = draw_phantom(drawn, np.random.default_rng([c, i]))
            place.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            rows.append(
                (name, f"g{c}-{i // 2}", "süd" if i % 3 else "nord", f"Müller {c}/{i // 2}")
            )
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "group", "source", "patient"])
        writer.writerows(rows)
    with (folder / "boxes.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "x_center", "y_center", "width", "height"])
        writer.writerows((row[0], 0.5, 0.5, 0.4, 0.4) for row in rows[::2])
    return folder


@pytest.fixture(scope="module")
def official(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("Läufe") / "erster [1]"
    said = run("btc-train", data, "--groups", data / "groups.csv", "--boxes", data / "boxes.csv",
               "--out", out, "--epochs", 2, "--size", 64, "--batch-size", 8)  # fmt: skip
    assert all(name in said for name in CLASSES), "no name is taken for markup"
    return out


def test_audit(data: Path, tmp_path: Path) -> None:
    run("btc-audit", data, "--groups", data / "groups.csv", "--out", tmp_path / "audit")
    found = json.loads((tmp_path / "audit" / "audit.json").read_text("utf-8"))
    assert found["leak"]["test_images"] == 24
    assert set(found["leak"]["by_class"]) == set(CLASSES)


def test_train_export_classify(official: Path, data: Path, tmp_path: Path) -> None:
    metrics = json.loads((official / "metrics.json").read_text("utf-8"))
    assert set(metrics["per_class"]) == set(CLASSES)
    assert metrics["per_study"]["n"] == 24
    assert set(metrics["per_source"]) == {"süd", "nord"}
    assert metrics["heatmap"]["n"] == 24
    run("btc-export", official, "--int8", "--onnx", "--out", tmp_path, "--name", "köpfe",
        "--min-agreement", 0, "--max-accuracy-drop", 1)  # fmt: skip
    slices = sorted((data / "Testing").rglob("*.png"))
    for model in (tmp_path / "köpfe-int8.tflite", tmp_path / "köpfe-onnx.onnx"):
        answers = json.loads(run("btc-edge", "classify", "--model", model, "--format", "json",
                                 *slices[::6]))  # fmt: skip
        assert [a["input"] for a in answers] == [str(s) for s in slices[::6]]
        assert all(a["raw_label"] in CLASSES for a in answers)
        assert set(answers[0]["probabilities"]) == set(CLASSES)
        assert "köpfe" in run("btc-edge", "info", "--model", model)
        run("btc-evaluate", model, data, "--groups", data / "groups.csv", "--boxes",
            data / "boxes.csv", "--out", tmp_path / "évaluation")  # fmt: skip
        measured = json.loads((tmp_path / "évaluation" / "metrics.json").read_text("utf-8"))
        assert measured["n"] == 24
        assert (tmp_path / "évaluation" / "report.html").is_file()
    run("btc-edge", "benchmark", "--model", tmp_path / "köpfe-int8.tflite", "--images",
        data / "Testing", "--queries", 10, "--seconds", 0)  # fmt: skip


def test_folds_and_sources(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Kreuz validierung"
    words = (data, "--groups", data / "groups.csv", "--epochs", 1, "--size", 32, "--batch-size", 8)
    run("btc-train", *words, "--out", out, "--protocol", "grouped", "--folds", 2)
    pooled = json.loads((out / "metrics.json").read_text("utf-8"))
    assert pooled["n"] == 96, "every slice is tested once"
    assert [fold["n"] for fold in pooled["folds"]] == [
        json.loads((out / f"fold-{k}" / "metrics.json").read_text("utf-8"))["n"] for k in (1, 2)
    ]
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["path"] for row in rows}) == 96
    right = [row["label"] == row["predicted"] for row in rows]
    assert pooled["accuracy"] == pytest.approx(np.mean(right))
    folds: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(row["group"], set()).add(row["fold"])
    assert all(len(f) == 1 for f in folds.values()), "a group is tested in one fold"
    assert "report.html" in {p.name for p in out.iterdir()}
    source = tmp_path / "quelle"
    run("btc-train", *words, "--out", source, "--protocol", "source:nord")
    metrics = json.loads((source / "metrics.json").read_text("utf-8"))
    assert set(metrics["per_source"]) == {"nord"}
    wrong = subprocess.run(
        [str(BIN / "btc-export"), str(out), "--int8"], capture_output=True, text=True
    )
    assert wrong.returncode != 0
    assert "fold-1" in wrong.stderr.splitlines()[-1]
