"""The whole training job: data -> split -> network -> a complete `Run`."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edge_runtime
from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_text
from edge_runtime.preprocess import Preprocess
from trainer.data.dataset import Dataset, Progress, read_dataset
from trainer.data.split import Split, split_dataset
from trainer.evaluation.calibration import fit_temperature
from trainer.evaluation.metrics import compute_metrics
from trainer.evaluation.predict import logits_of, softmax, write_predictions
from trainer.evaluation.report import write_report
from trainer.models.training import (
    Checkpoint,
    OnBatch,
    OnEpoch,
    Samples,
    State,
    TrainSettings,
    train,
)
from trainer.run import SCHEMA, Run, dump_json

if TYPE_CHECKING:
    import keras

CALIBRATION_IMAGES = 1024
PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "scikit-learn")


@dataclass(frozen=True)
class Job:
    """What to train on and how.

    Attributes:
        data: zip or folder.
        out: the run folder to make, or to resume.
        protocol: `official` or `grouped`; see `split_dataset`.
        groups_csv: table of groups, or None.
    """

    data: Path
    out: Path
    protocol: str = "official"
    groups_csv: Path | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    settings: TrainSettings = field(default_factory=TrainSettings)


@dataclass(frozen=True)
class Watch:
    """Who is told how far the job is; all are optional."""

    reading: Progress | None = None
    read: Callable[[Dataset, Split], None] | None = None
    batch: OnBatch | None = None
    epoch: OnEpoch | None = None


def start_run(job: Job) -> Run:
    """Make the run folder with its run.json; nothing is overwritten.

    Raises:
        UsageError: the folder holds something already.
    """
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise UsageError(f"{job.out} is not empty; name another --out, or --resume it")
    run = Run(
        job.out,
        {
            "schema": SCHEMA,
            "status": "started",
            "name": "brain-mri",
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "network": job.settings.network,
            "protocol": job.protocol,
            "preprocess": job.preprocess.to_json(),
            "training": asdict(job.settings),
            "seed": job.settings.seed,
            "labels": [],
            "data": None,
            "temperature": None,
            "versions": _versions(),
            "source_commit": _commit(),
            "intended_use": "Research only; not for diagnosis.",
        },
    )
    run.save_settings()
    return run


def resume_job(job: Job) -> tuple[Run, Job]:
    """The run in `job.out` and the job it was started with, on the data of `job`."""
    run = Run.open(job.out)
    if run.settings["status"] == "finished":
        raise UsageError(f"{job.out}: this training is finished; nothing to resume")
    started = Job(
        data=job.data,
        out=job.out,
        protocol=run.settings["protocol"],
        groups_csv=job.groups_csv,
        preprocess=run.preprocess,
        settings=TrainSettings(**run.settings["training"]),
    )
    return run, started


def run_job(job: Job, run: Run, watch: Watch | None = None) -> Run:
    """Train (or go on) and complete the run.

    When interrupted after at least one epoch, the run is completed with the best epoch so far
    and keeps its checkpoint; then the KeyboardInterrupt passes on.
    """
    watch = watch or Watch()
    data = read_dataset(job.data, job.preprocess, groups_csv=job.groups_csv, progress=watch.reading)
    split = split_dataset(data, job.protocol, job.settings.seed)
    _remember_data(run, data, split)
    if watch.read is not None:
        watch.read(data, split)
    checkpoint = Checkpoint(run.folder / "checkpoint")

    def after_epoch(state: State) -> None:
        run.save_history(state.history)
        if watch.epoch is not None:
            watch.epoch(state)

    def samples(side: np.ndarray) -> Samples:
        return Samples(data.images[side], data.labels[side])

    interrupted = False
    try:
        train(
            job.settings,
            samples(split.train),
            samples(split.validation),
            len(data.class_names),
            checkpoint,
            watch.batch,
            after_epoch,
        )
    except KeyboardInterrupt:
        interrupted = True
        if checkpoint.load() is None:
            raise
    _complete(run, checkpoint.best(), data, split)
    run.settings["status"] = "interrupted" if interrupted else "finished"
    run.save_settings()
    if interrupted:
        raise KeyboardInterrupt
    checkpoint.remove()
    return run


def _remember_data(run: Run, data: Dataset, split: Split) -> None:
    before = run.settings["data"]
    if before is not None and before["sha256"] != data.sha256:
        raise DataError("this is not the data that the run was started on (digests differ)")
    run.settings["labels"] = list(data.class_names)
    run.settings["protocol"] = split.protocol
    run.settings["data"] = {
        "sha256": data.sha256,
        "images": len(data),
        "groups": len(set(data.groups)) if data.grouped else None,
        "unreadable": len(data.problems),
        "training": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
    }
    run.save_settings()


def _complete(run: Run, model: keras.Model, data: Dataset, split: Split) -> None:
    """Everything a run holds besides the training itself. The test side is looked at here only."""
    run.save_model(model)
    held = data.take(split.validation)
    run.save_images("validation", held)
    chosen = np.random.default_rng(run.settings["seed"]).permutation(split.train)
    run.save_images("calibration", data.take(np.sort(chosen[:CALIBRATION_IMAGES])))
    held_logits = logits_of(model, held.images)
    temperature = fit_temperature(held_logits, held.labels)
    run.settings["temperature"] = temperature
    measured = {"validation": (held, held_logits)}
    if split.test.size:
        test = data.take(split.test)
        measured["test"] = (test, logits_of(model, test.images))
    figures = {}
    for name, (side, logits) in measured.items():
        probabilities = softmax(logits, temperature)
        figures[name] = compute_metrics(
            probabilities,
            side.labels,
            data.class_names,
            side.groups,
            protocol=split.protocol,
            split=name,
            sources=side.sources,
        )
    main = "test" if "test" in measured else "validation"
    metrics = figures[main]
    if main == "test":
        metrics["validation"] = figures["validation"]
        metrics["without_shared_groups"] = _unseen(data, split, measured["test"][1], temperature)
    side, logits = measured[main]
    write_predictions(run.folder / "predictions.csv", side, softmax(logits, temperature))
    write_text(run.folder / "metrics.json", dump_json(metrics))
    write_report(run, metrics)


def _unseen(
    data: Dataset, split: Split, logits: np.ndarray, temperature: float
) -> dict[str, Any] | None:
    """The test side without images whose group is also on the training or validation side."""
    seen = {data.groups[i] for i in (*split.train, *split.validation)}
    fresh = np.array([data.groups[i] not in seen for i in split.test])
    if fresh.all() or not fresh.any():
        return None
    side = data.take(split.test[fresh])
    return compute_metrics(
        softmax(logits[fresh], temperature),
        side.labels,
        data.class_names,
        side.groups,
        protocol=f"{split.protocol}, only groups not in training",
        split="test",
        sources=side.sources,
    )


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    versions["btc-edge"] = edge_runtime.__version__
    return versions


def _commit() -> str | None:
    """The source's commit where this is a checkout of the project, else None."""
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
