"""A source of tumour-free slices left out of a training, from the data to a file for devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_runtime.model.load import read_model
from export.commands.export import command as export_command
from trainer.commands.evaluate import evaluate_command
from trainer.commands.train import train_command
from trainer.synthetic.phantoms import CLASSES, draw_phantom

MODEL = ("--model", "knn", "--features", "histogram", "--no-cache", "--size", "32")
NO_NEWS = "no news to it"


def call(command: Any, *words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)))


def write(folder: Path, label: str, count: int, seed: int) -> None:
    (folder / label).mkdir(parents=True)
    for i in range(count):
        drawn = draw_phantom(label, np.random.default_rng([seed, i]))
        cv2.imwrite(str(folder / label / f"{i}.png"), drawn)


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of all classes, and one of tumour-free slices only."""
    root = tmp_path_factory.mktemp("sources")
    for number, label in enumerate(CLASSES):
        write(root / "main", label, 12, number)
    write(root / "healthy", "notumor", 9, 9)
    return root / "main", root / "healthy"


@pytest.fixture(scope="module")
def run(collections: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left_out") / "run"
    done = call(
        train_command, *collections, "--out", folder, "--protocol", "source:healthy", *MODEL
    )
    assert done.exit_code == 0, (done.output, done.exception)
    return folder


def test_a_source_of_one_class_is_left_out_and_measured(run: Path) -> None:
    settings = json.loads((run / "run.json").read_text())
    assert settings["protocol"] == "source:healthy"
    assert settings["data"]["test"] == 9
    assert len(settings["data"]["each_sha256"]) == 2
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["n"] == 9
    shown = np.sum(metrics["confusion"], axis=1)
    assert dict(zip(settings["labels"], shown.tolist(), strict=True)) == {
        label: 9 * (label == "notumor") for label in CLASSES
    }


@pytest.mark.parametrize("exported", [False, True])
def test_what_the_model_left_out_is_news_to_it(
    run: Path, collections: tuple[Path, Path], exported: bool, tmp_path: Path
) -> None:
    main, healthy = collections
    model = run
    if exported:
        done = call(export_command, run, "--onnx", "--out", tmp_path)
        assert done.exit_code == 0, (done.output, done.exception)
        (model,) = tmp_path.glob("*.onnx")
        assert read_model(model).info.metrics[0]["protocol"] == "source:healthy"
    for data, known in (((healthy,), False), ((main,), True), ((main, healthy), True)):
        done = call(evaluate_command, model, *data, "--format", "json")
        assert done.exit_code == 0, (done.output, done.exception)
        measured = json.loads(done.stdout)
        assert any(NO_NEWS in each for each in measured["warnings"]) == known, data
        if not known:
            own = json.loads((run / "metrics.json").read_text())
            assert measured["n"] == own["n"] == 9
            assert measured["accuracy"] == pytest.approx(own["accuracy"])
