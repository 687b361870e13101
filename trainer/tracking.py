"""Curves, settings and figures of a training for TensorBoard or MLflow, `btc-train --track`.

Off by default. What leaves are numbers and names of settings: no path, no name of a file. A
tracker that fails is told of once, and the training goes on without it. A training that goes on
has each epoch once: TensorBoard's file is written anew from the history, MLflow is asked which
epochs it has.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.errors import UsageError, one_line
from edge_runtime.files import write_text
from edge_runtime.json_text import parse_json
from trainer.run import Run

Row = Mapping[str, float]
CURVES = ("loss", "accuracy", "learning_rate", "val_loss", "val_accuracy")
FIGURES = ("accuracy", "balanced_accuracy", "kappa", "log_loss", "brier", "ece")
SETTINGS = ("model", "network", "protocol", "seed")


class Tracker(Protocol):
    """One training at one place."""

    def write(self, history: list[dict[str, float]]) -> None:
        """Tell of the epochs so far, a row each, from the first on."""
        ...

    def finish(self, figures: dict[str, float]) -> None:
        """Tell the figures of the test side, and close."""
        ...


def settings_of(run: Run) -> dict[str, str | int | float]:
    """What a training was started with, flat: names and numbers of options."""
    found: dict[str, Any] = {key: run.settings.get(key) for key in SETTINGS}
    for part in (run.settings["training"], run.settings["preprocess"]):
        for key, value in part.items():
            nested = value if isinstance(value, dict) else {"": value}
            found |= {f"{key}_{name}".rstrip("_"): each for name, each in nested.items()}
    return {
        key: value if isinstance(value, (int, float)) else str(value)
        for key, value in found.items()
        if value is not None
    }


def figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The test side's figures that are one number."""
    found = {f"test_{key}": metrics.get(key) for key in FIGURES}
    return {key: float(value) for key, value in found.items() if value is not None}


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir RUN`."""

    def __init__(self, run: Run) -> None:
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        folder = run.folder / "tensorboard"
        for before in folder.glob("events.out.tfevents.*"):
            before.unlink()  # all that it says is in the history
        self._writer = tf.summary.create_file_writer(str(folder))
        self._summary, self._written = tf.summary, 0
        with self._writer.as_default(step=0):
            api.hparams(settings_of(run))

    def write(self, history: list[dict[str, float]]) -> None:
        """See `Tracker`."""
        with self._writer.as_default():
            for row in history[self._written :]:
                for name in CURVES:
                    self._summary.scalar(name, row[name], step=int(row["epoch"]))
        self._written = len(history)
        self._writer.flush()

    def finish(self, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        with self._writer.as_default(step=self._written):
            for name, value in figures.items():
                self._summary.scalar(name, value)
        self._writer.close()


class Mlflow:
    """A run of MLflow at MLFLOW_TRACKING_URI, or in RUN/mlflow.db."""

    def __init__(self, run: Run) -> None:
        # Before the import: it reports its use otherwise, and asks a server that is away for
        # minutes.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        local = f"sqlite:///{(run.folder / 'mlflow.db').resolve().as_posix()}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or local)
        self._id = self._known(run) or self._start(run)
        known = self._client.get_metric_history(self._id, CURVES[-1])
        self._written = {int(entry.step) for entry in known}

    def _known(self, run: Run) -> str | None:
        """The run that a training which goes on has already, if it is there."""
        from mlflow.exceptions import MlflowException

        try:
            found = str(parse_json((run.folder / "mlflow.json").read_text("utf-8"))["run_id"])
            self._client.get_run(found)
        except (OSError, ValueError, KeyError, MlflowException):
            return None
        return found

    def _start(self, run: Run) -> str:
        name = "btc-edge"
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else (
            experiment.experiment_id
        )  # fmt: skip
        fold = f" {run.folder.name}" if run.folder.name.startswith("fold-") else ""
        made = self._client.create_run(number, run_name=f"{run.settings['name']}{fold}")
        for key, value in settings_of(run).items():
            self._client.log_param(made.info.run_id, key, value)
        found = str(made.info.run_id)
        write_text(run.folder / "mlflow.json", json.dumps({"run_id": found}) + "\n")
        return found

    def write(self, history: list[dict[str, float]]) -> None:
        """See `Tracker`."""
        for row in history:
            step = int(row["epoch"])
            if step not in self._written:
                for name in CURVES:  # the last of them tells that an epoch is whole
                    self._client.log_metric(self._id, name, row[name], step=step)
                self._written.add(step)

    def finish(self, figures: dict[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=max(self._written, default=0))
        self._client.set_terminated(self._id)


TRACKERS: dict[str, tuple[Callable[[Run], Tracker], str, str]] = {
    "tensorboard": (TensorBoard, "tensorboard", "tensorboard"),
    "mlflow": (Mlflow, "mlflow", "mlflow-skinny"),
}


def check_tracker(name: str) -> None:
    """Look for a tracker's package without importing it.

    Raises:
        UsageError: it is missing.
    """
    _, module, package = TRACKERS[name]
    if find_spec(module) is None:
        raise UsageError(
            f"--track {name} needs the package {package}: pip install 'btc-edge[{name}]'"
        )


def _told(error: Exception) -> str:
    """A line on an error, without a password that the address of a server may hold."""
    return re.sub(r"//[^/\s@]*@", "//…@", one_line(error))


class Tracking:
    """A tracker for each training of a job that may fail without harm.

    Args:
        name: one of TRACKERS.
        warn: called once with a line where it fails.
    """

    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        self._name, self._warn = name, warn
        self._open: dict[Path, Tracker] = {}
        self._failed = False

    def epoch(self, run: Run, history: list[dict[str, float]]) -> None:
        """Tell of a run's epochs so far."""
        rows = [row for row in history if all(math.isfinite(row[name]) for name in CURVES)]
        self._try(run, lambda tracker: tracker.write(rows))

    def finished(self, run: Run) -> None:
        """Tell the figures of a run that is complete."""
        if run.folder in self._open:
            self._try(run, lambda tracker: tracker.finish(figures_of(run.metrics())))
            self._open.pop(run.folder, None)

    def _try(self, run: Run, tell: Callable[[Tracker], None]) -> None:
        if self._failed:
            return
        try:
            if run.folder not in self._open:
                self._open[run.folder] = TRACKERS[self._name][0](run)
            tell(self._open[run.folder])
        except Exception as error:  # a tracker raises whatever its server and its parts raise
            self._failed = True
            self._warn(f"--track {self._name} failed, the training goes on without: {_told(error)}")
