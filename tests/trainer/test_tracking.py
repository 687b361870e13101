"""Trackers are told numbers, each epoch once, and may fail without harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_runtime.errors import UsageError
from edge_runtime.imaging.preprocess import Preprocess
from trainer import tracking
from trainer.commands.train import train_command
from trainer.run import SCHEMA, Run, dump_json
from trainer.tracking import CURVES, Tracking, check_tracker, settings_of


def make_run(folder: Path) -> Run:
    folder.mkdir(parents=True)
    run = Run(folder, {
        "schema": SCHEMA, "name": "tiny", "model": "cnn", "network": "edge", "protocol": "grouped",
        "seed": 1, "preprocess": Preprocess(size=32).to_json(), "labels": ["a", "b"],
        "training": {"epochs": 3, "learning_rate": 0.002, "recipe": {"name": "robust", "paste": 0}},
        "data": {"title": "Ward 7, Jane Roe", "url": "file:///home/roe/scans"},
    })  # fmt: skip
    run.save_settings()
    metrics = {"accuracy": 0.5, "balanced_accuracy": 0.25, "kappa": None}
    (folder / "metrics.json").write_text(dump_json(metrics), "utf-8")
    return run


def history(epochs: int) -> list[dict[str, float]]:
    return [{"epoch": float(e), **dict.fromkeys(CURVES, e / 8)} for e in range(1, epochs + 1)]


def train_in_two(run: Run, name: str) -> list[str]:
    """Two epochs, a stop, and then the third; what was said meanwhile."""
    said: list[str] = []
    first = Tracking(name, said.append)
    for epochs in (1, 2):
        first.epoch(run, history(epochs))
    again = Tracking(name, said.append)
    again.epoch(run, history(3))
    again.finished(run)
    return said


def test_tensorboard_reads_each_epoch_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    run = make_run(tmp_path / "run")
    assert train_in_two(run, "tensorboard") == []
    reader = EventAccumulator(str(run.folder / "tensorboard"))
    reader.Reload()
    for name in CURVES:
        points = [(e.step, float(make_ndarray(e.tensor_proto))) for e in reader.Tensors(name)]
        assert points == [(1, 0.125), (2, 0.25), (3, 0.375)]
    (figure,) = reader.Tensors("test_accuracy")
    assert (figure.step, float(make_ndarray(figure.tensor_proto))) == (3, 0.5)
    content = b"".join(path.read_bytes() for path in run.folder.glob("tensorboard/*"))
    for word in (b"roe", b"Jane", str(tmp_path).encode()):
        assert word not in content
    assert b"recipe_paste" in content


@pytest.mark.parametrize("server", [False, True], ids=["in the run", "at an address"])
def test_mlflow_reads_each_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: bool
) -> None:
    pytest.importorskip("mlflow", reason="needs the package mlflow-skinny")
    pytest.importorskip("sqlalchemy", reason="needs the package sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    run, address = make_run(tmp_path / "run"), f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert train_in_two(run, "mlflow") == []
    assert (run.folder / "mlflow.db").exists() is not server
    client = MlflowClient(address if server else f"sqlite:///{run.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("btc-edge")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    for name in CURVES:
        points = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        assert sorted(points) == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert found.data.metrics["test_balanced_accuracy"] == 0.25
    assert found.data.params == {key: str(value) for key, value in settings_of(run).items()}
    assert found.info.status == "FINISHED"
    said = " ".join([*found.data.params.values(), *found.data.tags.values()])
    assert not any(word in said for word in ("roe", "Jane", str(tmp_path)))


def test_folds_are_trainings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Kept:
        def __init__(self, run: Run) -> None:
            opened.append(run.folder.name)

        def write(self, history: list[dict[str, float]]) -> None: ...

        def finish(self, figures: dict[str, float]) -> None:
            opened.append(f"{figures}")

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", (Kept, "tensorboard", "tensorboard"))
    told = Tracking("tensorboard", lambda words: pytest.fail(words))
    for name in ("fold-1", "fold-2"):
        run = make_run(tmp_path / name)
        for epochs in (1, 2):
            told.epoch(run, history(epochs))
        told.finished(run)
    figures = "{'test_accuracy': 0.5, 'test_balanced_accuracy': 0.25}"
    assert opened == ["fold-1", figures, "fold-2", figures]


def test_a_failure_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(run: Run) -> Any:
        raise ConnectionError("the server is\naway")

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", (away, "mlflow", "mlflow-skinny"))
    said: list[str] = []
    told, run = Tracking("mlflow", said.append), make_run(tmp_path / "run")
    for epochs in (1, 2):
        told.epoch(run, history(epochs))
    told.finished(run)
    assert said == ["--track mlflow failed, the training goes on without: the server is away"]


def test_a_failure_tells_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(run: Run) -> Any:
        raise ConnectionError("API request to http://roe:pa:ss@host:5000/api failed")

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", (away, "mlflow", "mlflow-skinny"))
    said: list[str] = []
    Tracking("mlflow", said.append).epoch(make_run(tmp_path / "run"), history(1))
    assert said[0].endswith("API request to http://…@host:5000/api failed")


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_without_the_package_it_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=rf"needs the package .*: pip install 'btc-edge\[{name}\]"):
        check_tracker(name)


def test_the_command_tracks_a_training(phantom_zip: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    words = [phantom_zip, "--out", out, "--track", "tensorboard", "--network", "classic"]
    words += ["--size", 32, "--epochs", 1]
    done = CliRunner().invoke(train_command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    reader = EventAccumulator(str(out / "tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Tensors("val_loss")] == [1]
    assert [event.step for event in reader.Tensors("test_accuracy")] == [1]
