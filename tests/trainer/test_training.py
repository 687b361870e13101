"""Trainings through the installed command: repeatable, resumable, complete."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_runtime.errors import DataError, ModelError
from edge_runtime.model.metadata import INTENDED_USE
from trainer.commands.train import train_command
from trainer.run import Run
from trainer.synthetic.phantoms import write_phantoms

BIN = Path(sys.executable).parent
FILES = {
    *("run.json", "model.keras", "history.csv", "metrics.json", "predictions.csv"),
    *("calibration.npz", "validation.npz", "gallery.npz", "report.html", "curves.png"),
    "confusion.png",
}


def command(*words: object) -> list[str]:
    return [str(BIN / "btc-train"), *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=600)


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def wait_for_epoch(process: subprocess.Popen[str], folder: Path, epoch: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "history.csv").is_file() and len(history(folder)) >= epoch:
            return
        time.sleep(0.05)
    pytest.fail("the training did not get so far")


SMALL = ("--epochs", 4, "--batch-size", 16, "--size", 64, "--seed", 5)


@pytest.fixture(scope="module")
def finished(phantom_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = run(phantom_zip, "--out", folder, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "precision" in done.stdout
    assert INTENDED_USE in done.stdout
    return folder


@pytest.mark.slow
def test_run_is_complete(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == FILES
    opened = Run.open(finished)
    assert opened.settings["status"] == "finished"
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["protocol"] == "official"
    assert metrics["n"] == 24
    assert np.sum(metrics["confusion"]) == 24
    calibration, validation = opened.calibration_images(), opened.validation_images()
    together = {image.tobytes() for image in calibration.pixels} & {
        image.tobytes() for image in validation.pixels
    }
    assert not together, "calibration images come from the training side only"
    with (finished / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert metrics["accuracy"] == pytest.approx(right / 24)
    probabilities = opened.load_model().predict(validation.pixels[:4, ..., None], verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_seed_repeats_and_kill_resumes_to_the_same_curve(
    finished: Path, phantom_zip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command(phantom_zip, "--out", folder, *SMALL), stderr=subprocess.DEVNULL, text=True
    )
    wait_for_epoch(process, folder, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Run.open(folder).settings["status"] == "started"
    with pytest.raises(ModelError, match="not finished"):
        Run.open(folder).load_model()
    done = run(phantom_zip, "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert history(folder) == history(finished)
    one, two = (json.loads((f / "metrics.json").read_text()) for f in (finished, folder))
    assert one == two


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_run(phantom_zip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        command(phantom_zip, "--out", folder, "--epochs", 200, "--size", 64),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_for_epoch(process, folder, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert {p.name for p in folder.iterdir()} == FILES | {"checkpoint"}
    assert Run.open(folder).load_model() is not None


@pytest.mark.slow
def test_a_training_that_diverges_keeps_its_best_epoch(
    phantom_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.models import training

    real, losses = training._validate, iter([1.0, math.nan])

    def validate(*words: Any) -> dict[str, float]:
        return real(*words) | {"val_loss": next(losses)}

    monkeypatch.setattr(training, "_validate", validate)
    folder = tmp_path / "run"
    words = [phantom_zip, "--out", folder, *SMALL, "--size", 32]
    done = CliRunner().invoke(train_command, [str(word) for word in words])
    assert done.exit_code == 1
    assert str(done.exception) == (
        "training diverged in epoch 2: the validation loss is nan; start anew with a lower "
        f"--learning-rate or another --seed; {folder} (the best epoch so far is in it)"
    )
    assert {p.name for p in folder.iterdir()} == FILES | {"checkpoint"}
    opened = Run.open(folder)
    assert opened.settings["status"] == "diverged"
    assert len(opened.history()) == 1
    assert opened.load_model() is not None


@pytest.mark.slow
def test_seed_network_trains_and_evaluates(phantom_zip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classic"
    done = run(phantom_zip, "--out", folder, *SMALL, "--epochs", 1, "--network", "classic")
    assert done.returncode == 0, done.stderr
    answer = subprocess.run(
        [str(BIN / "btc-evaluate"), str(folder), str(phantom_zip), "--format", "json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    measured = json.loads(answer.stdout)
    assert measured["accuracy"] == Run.open(folder).metrics()["accuracy"]
    assert measured["n"] == 24


@pytest.mark.slow
def test_a_killed_cross_validation_goes_on_where_it_was(phantom_zip: Path, tmp_path: Path) -> None:
    words = (phantom_zip, "--protocol", "grouped", "--folds", 2, *SMALL, "--epochs", 2,
             "--network", "classic")  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(*words, "--out", whole)
    assert done.returncode == 0, done.stderr
    # As it is when the first fold has just been finished: that need not be trained once more.
    killed.mkdir()
    shutil.copytree(whole / "fold-1", killed / "fold-1")
    settings = json.loads((whole / "run.json").read_text())
    settings |= {"status": "started", "data": None, "partial": None, "labels": []}
    (killed / "run.json").write_text(json.dumps(settings))
    first = (killed / "fold-1" / "model.keras").stat().st_mtime_ns
    process = subprocess.Popen(
        command(phantom_zip, "--out", killed, "--resume"), stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    wait_for_epoch(process, killed / "fold-2", 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run(phantom_zip, "--out", killed, "--resume")
    assert done.returncode == 0, done.stderr
    assert (killed / "fold-1" / "model.keras").stat().st_mtime_ns == first, "not trained again"
    assert len(history(killed / "fold-2")) == 2, "killed after one epoch, then gone on with"
    one, two = (json.loads((f / "metrics.json").read_text()) for f in (whole, killed))
    assert one == two
    assert {p.name for p in killed.iterdir()} >= {"fold-1", "fold-2", "report.html", "run.json"}
    done = run(phantom_zip, "--out", killed, "--resume")
    assert (done.returncode, "finished" in done.stderr) == (2, True)


def test_usage_of_protocols(phantom_zip: Path, tmp_path: Path) -> None:
    for words, line in (
        (("--folds", 3), "add --protocol grouped"),
        (("--protocol", "sideways"), "is not official, grouped or source:NAME"),
        (("--protocol", "source:"), "is not official"),
    ):
        done = run(phantom_zip, "--out", tmp_path / "run", *words)
        assert (done.returncode, line in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_data_is_not_resumed_and_nothing_is_overwritten(
    finished: Path, phantom_zip: Path, tmp_path: Path
) -> None:
    other, folder = tmp_path / "other.zip", tmp_path / "begun"
    write_phantoms(other, per_class=24, testing=0.25, seed=4)
    shutil.copytree(finished, folder)
    settings = json.loads((folder / "run.json").read_text()) | {"status": "started"}
    (folder / "run.json").write_text(json.dumps(settings))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run(other, "--out", folder, "--resume")
    assert (done.returncode, "DATA is not the data that" in done.stderr) == (1, True), done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    done = run(phantom_zip, "--out", finished, "--epochs", 1)
    assert done.returncode == 2
    assert "not empty" in done.stderr
    done = run(phantom_zip, "--out", finished, "--resume")
    assert done.returncode == 2
    assert "finished" in done.stderr


def test_edge_network_is_within_the_device_budget() -> None:
    from trainer.models.networks import NETWORKS, build_network

    network = build_network("edge", NETWORKS["edge"].size, 4)
    macs = 0
    for layer in network.layers:
        if type(layer).__name__ in ("Conv2D", "DepthwiseConv2D"):
            _, height, width, channels = layer.output.shape
            taps = int(np.prod(layer.kernel.shape[:2]))
            inputs = layer.input.shape[-1] if type(layer).__name__ == "Conv2D" else 1
            macs += height * width * channels * taps * inputs
    assert 20e6 < macs <= 30e6
    assert network.count_params() < 230_000
    names = [layer.name for layer in network.layers]
    assert names[-4:] == ["class_maps", "cells", "logits", "softmax"]


def test_no_run_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        Run.open(tmp_path)
    for text in ("[]", "[" * 100_000):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(DataError):
            Run.open(tmp_path)


@pytest.mark.parametrize("name", ["btc-train", "btc-evaluate"])
def test_help_is_quick_and_light(name: str) -> None:
    done = subprocess.run([str(BIN / name), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Exit codes" in done.stdout
    code = (
        "import sys\nfrom trainer.commands.train import main\nsys.argv = ['btc-train', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'cv2', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "line"), [(b"", "not a readable zip"), (None, "does not exist")]
)
def test_bad_data_is_one_line(tmp_path: Path, content: bytes | None, line: str) -> None:
    path = tmp_path / "data.zip"
    if content is not None:
        path.write_bytes(content)
    done = run(path, "--out", tmp_path / "run")
    assert done.returncode == (1 if content is not None else 2)
    assert line in done.stderr
    assert "Traceback" not in done.stderr
