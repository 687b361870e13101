"""Two model files side by side, on what a run held out."""

import csv
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.two_files import main
from edge_runtime.model.load import bundled_model
from trainer.synthetic.phantoms import draw_phantom

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def made(folder: Path) -> tuple[Path, Path]:
    """A zip of 12 slices of two sources, and a run that tested half of them."""
    rows, names = [], []
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for i in range(12):
            gray = draw_phantom(CLASSES[i % 4], np.random.default_rng([5, i]))
            names.append(f"{CLASSES[i % 4]}/{i}.png")
            archive.writestr(names[-1], cv2.imencode(".png", gray)[1].tobytes())
            rows.append(f"{names[-1]},g{i},{'here' if i % 3 else 'there'}")
    (folder / "groups.csv").write_text("\n".join(["path,group,source", *rows, ""]))
    (folder / "data.toml").write_text('images = "data.zip"\ngroups = "groups.csv"\n')
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"schema": 1, "model": "cnn", "protocol": "grouped"}))
    with (run / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([name] for name in names[:6])])
    return run, folder / "data.zip"


def test_both_files_are_measured_on_the_test_side(tmp_path: Path) -> None:
    run, data = made(tmp_path)
    file = str(bundled_model())
    words = [str(run), str(data), "--model", file, "--model", file, "--out", str(tmp_path)]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "two_files.json").read_text())
    one, other = result["files"]
    assert one == other, "the same file twice"
    assert {name: side["n"] for name, side in one["sides"].items()} == {
        "all": 6, "here": 4, "there": 2
    }  # fmt: skip
    right = sum(one["sides"][name]["right"]["share"] * n for name, n in (("here", 4), ("there", 2)))
    assert right == pytest.approx(one["sides"]["all"]["right"]["share"] * 6)
    assert "| source here |" in (tmp_path / "two_files.md").read_text("utf-8")


def test_slices_that_are_not_there_are_said(tmp_path: Path) -> None:
    run, data = made(tmp_path)
    with (run / "predictions.csv").open("a") as file:
        file.write("glioma/99.png\n")
    words = [str(run), str(data), "--model", str(bundled_model()), "--model", str(bundled_model())]
    failed = CliRunner().invoke(main, words)
    assert "DATA holds 6 of the 7 slices that RUN tested" in str(failed.exception)
    assert "it takes two" in str(CliRunner().invoke(main, words[:4]).exception)
