"""Runs and model files of the former version, and its command lines, still work."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.model.load import read_model
from trainer.evaluation.decision_rule import DecisionRule
from trainer.evaluation.predictions import read_predictions
from trainer.former import metrics_of_today, settings_of_today
from trainer.models.checkpoint import Checkpoint
from trainer.models.training import TrainSettings
from trainer.run import Run
from trainer.synthetic.phantoms import write_phantoms

FORMER = Path(__file__).with_name("former")
BIN = Path(sys.executable).parent


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def btc(name: str, *words: object, code: int = 0) -> str:
    return run(BIN / f"btc-{name}", *words, code=code)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slices that the former runs learned from."""
    path = tmp_path_factory.mktemp("former") / "phantoms.zip"
    write_phantoms(path, per_class=40, testing=0.25, seed=5)
    return path


@pytest.fixture
def copied(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(FORMER / request.param, tmp_path / request.param))


def answers_of(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["path"]: row["predicted"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", ["network-int8.tflite", "network.onnx", "classical.onnx"])
def test_a_model_file_is_read_and_answers(name: str, archive: Path, tmp_path: Path) -> None:
    model = FORMER / "files" / name
    assert "brain-mri" in btc("edge", "info", "--model", model)
    out = tmp_path / "out"
    btc("evaluate", model, archive, "--out", out)
    run_name = name.partition(".")[0].partition("-")[0]
    known = answers_of(FORMER / run_name / "predictions.csv")
    now = answers_of(out / "predictions.csv")
    same = sum(now[path] == label for path, label in known.items())
    assert now.keys() == known.keys()
    assert same >= len(known) - (4 if "int8" in name else 1)


@pytest.mark.parametrize("name", ["network", "classical"])
def test_what_is_out_of_distribution_stays_so(name: str) -> None:
    """The check was called `unfamiliar` in runs and in model files."""
    written = json.loads((FORMER / name / "run.json").read_text())["unfamiliar"]
    rule = DecisionRule.from_settings(Run.open(FORMER / name).settings)
    assert written is not None
    assert rule.to_settings()["ood"] == written
    info = read_model(FORMER / "files" / f"{name}.onnx").info
    assert (info.schema, info.ood is not None) == (1, True)


@pytest.mark.parametrize("name", ["network", "classical"])
def test_a_run_is_evaluated_as_it_was(name: str, archive: Path, tmp_path: Path) -> None:
    shown = json.loads(
        btc("evaluate", FORMER / name, archive, "--format", "json", "--out", tmp_path / "out")
    )
    known = json.loads((FORMER / name / "metrics.json").read_text())
    assert shown["n"] == known["n"] == 40
    assert abs(shown["accuracy"] - known["accuracy"]) <= 1 / 40
    for part in ("accuracy", "log_loss"):
        assert shown[part] == pytest.approx(known[part], abs=0.03)


def test_a_run_is_read_under_the_names_of_today() -> None:
    run = Run.open(FORMER / "network")
    assert run.settings["network"] == run.settings["training"]["network"] == "classic"
    assert run.settings["training"]["recipe"]["pretrained"] is True
    assert run.settings["data"]["test_with_near_duplicate"] == 0
    settings = TrainSettings.from_json(run.settings["training"])
    assert (settings.network, settings.recipe.name) == ("classic", "plain")
    metrics, written = run.metrics(), json.loads((run.folder / "metrics.json").read_text())
    assert metrics["baselines"] == written["controls"]
    assert metrics.keys() ^ written.keys() == {
        "baselines", "controls", "without_near_duplicates", "without_twins",
    }  # fmt: skip
    table = read_predictions(run.folder / "predictions.csv", run.labels, "official", "test").table
    assert {"near_duplicate", "pointing_hit"} <= set(table.columns)
    assert not {"twin", "heat_in_box"} & set(table.columns)


def test_what_a_run_with_everything_known_says_is_read_under_the_names_of_today() -> None:
    part = {"n": 3, "controls": {"low_level": {}}}
    former = {"without_twins": part, "without_shared_groups": None, "controls": None,
              "partial": {"n": 2, "called": {"glioma": 2}}}  # fmt: skip
    assert metrics_of_today(former) == {
        "without_near_duplicates": {"n": 3, "baselines": {"low_level": {}}},
        "without_shared_groups": None,
        "baselines": None,
        "partial": {"n": 2, "predicted": {"glioma": 2}},
    }
    first = {"schema": 1, "network": "edge", "data": None, "training": {"features": ["hog"]}}
    assert settings_of_today(first) == first | {"model": "cnn"}
    assert former["without_twins"] is part, "what is given stays as it is"
    assert "controls" in part


def test_a_checkpoint_names_its_losses_as_then_or_now() -> None:
    import keras

    from trainer.models.losses import LocalisationLoss, PartialLabelCrossEntropy

    model, state = Checkpoint(FORMER / "interrupted" / "checkpoint").load() or (None, None)
    assert state is not None
    assert state.epoch == 2
    (loss,) = model.loss
    assert (type(loss), loss.smoothing) == (PartialLabelCrossEntropy, 0.05)
    known = keras.saving.get_registered_object
    assert known("btc>PlaceLoss") is known("btc>LocalisationLoss") is LocalisationLoss
    written = keras.saving.serialize_keras_object(LocalisationLoss())
    assert written["registered_name"] == "btc>LocalisationLoss"
    then = written | {"class_name": "PlaceLoss", "registered_name": "btc>PlaceLoss"}
    then["config"] = {"name": "place"}
    assert type(keras.saving.deserialize_keras_object(then)) is LocalisationLoss


@pytest.mark.slow
@pytest.mark.parametrize(("copied", "form"), [("network", "float32"), ("classical", "onnx")],
                         indirect=["copied"])  # fmt: skip
def test_a_run_is_exported(copied: Path, form: str) -> None:
    btc("export", copied, f"--{form}")
    (made,) = [p for p in (copied / "export").iterdir() if p.suffix in (".tflite", ".onnx")]
    assert json.loads((copied / "export" / "export.json").read_text())[0]["passed"] is True
    assert "brain-mri" in btc("edge", "info", "--model", made)


@pytest.mark.slow
@pytest.mark.parametrize("copied", ["interrupted"], indirect=True)
def test_an_interrupted_training_goes_on(copied: Path, archive: Path) -> None:
    btc("train", archive, "--out", copied, "--resume")
    assert json.loads((copied / "run.json").read_text())["status"] == "finished"
    assert len((copied / "history.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.slow
def test_a_former_command_line_trains(archive: Path, tmp_path: Path) -> None:
    btc("train", archive, "--out", tmp_path / "run", "--network", "seed", "--size", 32,
        "--epochs", 1, "--max-error", 0.2)  # fmt: skip
    out = tmp_path / "run"
    btc("export", out, "--float32", "--max-error", 0.1, "--out", tmp_path / "files")
