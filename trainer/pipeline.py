"""The whole training job: data -> split -> model -> a complete `Run`."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import edge_runtime
from edge_runtime.errors import DataError, UsageError
from edge_runtime.model_info import INTENDED_USE
from edge_runtime.preprocess import Preprocess
from trainer.complete import complete_folds, complete_run
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.partial import Partial, divide, read_partial
from trainer.data.split import Split, fold_splits, split_dataset
from trainer.evaluation.selective import Targets
from trainer.learning import Watch, learn_classical, learn_network
from trainer.models.checkpoint import Checkpoint
from trainer.models.classical import ClassicalSettings
from trainer.models.training import TrainSettings
from trainer.run import SCHEMA, Run
from trainer.trained import CNN, kind_of

if TYPE_CHECKING:
    from trainer.models.feature_cache import FeatureCache

PACKAGES = (
    "tensorflow", "keras", "numpy", "opencv-python-headless", "scikit-learn", "scikit-image",
    "scipy", "skops",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What to train on and how.

    Attributes:
        data: zip or folder.
        out: the run folder to make, or to resume.
        protocol: see `split_dataset`.
        groups_csv: table of groups, or None.
        boxes_csv: table of the tumours' boxes for the report, or None.
        targets: error rates that the thresholds are chosen for.
        name: the model's.
        version: the model's; None derives one, see `Run.version`.
        folds: trainings of a group cross-validation, each in a folder of its own; None for one
            training.
        preprocess: what is done to every slice.
        settings: of a network or of a classical model.
        deep: the run whose network gives the feature set `deep`.
        cache: where features are kept, or None.
    """

    data: Path
    out: Path
    protocol: str = "official"
    groups_csv: Path | None = None
    boxes_csv: Path | None = None
    partial: Path | None = None
    partial_groups_csv: Path | None = None
    targets: Targets = field(default_factory=Targets)
    name: str = "brain-mri"
    version: str | None = None
    folds: int | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    settings: TrainSettings | ClassicalSettings = field(default_factory=TrainSettings)
    deep: Path | None = None
    cache: FeatureCache | None = None


class Material(NamedTuple):
    """The slices of a job: those of known class, and those partly known."""

    data: Dataset
    partial: Partial | None


def start_run(job: Job) -> Run:
    """Make the run folder with its run.json; nothing is overwritten.

    Raises:
        UsageError: the folder holds something already, or options that do not go together.
    """
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise UsageError(f"{job.out} is not empty; name another --out, or --resume it")
    if job.folds and job.protocol != "grouped":
        raise UsageError("--folds is a cross-validation over groups: add --protocol grouped")
    run = _new_run(job, job.out)
    run.settings["folds"] = job.folds
    run.save_settings()
    return run


def _new_run(job: Job, folder: Path) -> Run:
    settings = job.settings
    network = settings.network if isinstance(settings, TrainSettings) else None
    return Run(
        folder,
        {
            "schema": SCHEMA,
            "status": "started",
            "name": job.name,
            "model_version": job.version,
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "model": CNN if isinstance(settings, TrainSettings) else settings.model,
            "network": network,
            "protocol": job.protocol,
            "preprocess": job.preprocess.to_json(),
            "training": asdict(settings),
            "seed": settings.seed,
            "targets": job.targets.to_json(),
            "labels": [],
            "data": None,
            "partial": None,
            "temperature": None,
            "seconds": 0.0,
            "versions": _versions(),
            "source_commit": _commit(),
            "intended_use": INTENDED_USE,
        },
    )


def resume_job(job: Job) -> tuple[Run, Job]:
    """The run in `job.out` and the job it was started with, on the data of `job`."""
    run = Run.open(job.out)
    if run.settings["status"] == "finished":
        raise UsageError(f"{job.out}: this training is finished; nothing to resume")
    kind = TrainSettings if kind_of(run.settings) == CNN else ClassicalSettings
    started = replace(
        job,
        protocol=run.settings["protocol"],
        targets=Targets.from_settings(run.settings),
        name=run.settings["name"],
        version=run.settings.get("model_version"),
        folds=run.settings.get("folds"),
        preprocess=run.preprocess,
        settings=kind.from_json(run.settings["training"]),
    )
    return run, started


def run_job(job: Job, run: Run, watch: Watch | None = None) -> Run:
    """Train (or go on) and complete the run.

    When interrupted after at least one epoch, the run is completed with the best epoch so far
    and keeps its checkpoint; then the KeyboardInterrupt passes on.
    """
    watch = watch or Watch()
    data = read_dataset(
        job.data,
        job.preprocess,
        groups_csv=job.groups_csv,
        boxes_csv=job.boxes_csv,
        progress=watch.reading,
    )
    job.targets.resolve(data.class_names)  # a class that is not there is said before the training
    partial = None
    if job.partial is not None:
        partial = read_partial(
            job.partial,
            job.preprocess,
            data,
            groups_csv=job.partial_groups_csv,
            progress=watch.reading,
        )
    material = Material(data, partial)
    if not job.folds:
        split = split_dataset(data, job.protocol, job.settings.seed)
        _train_split(job, run, material, split, watch)
        return run
    splits = fold_splits(data, job.folds, job.settings.seed)
    parts = []
    for number, split in enumerate(splits, 1):
        folder = job.out / f"fold-{number}"
        part = Run.open(folder) if (folder / "run.json").is_file() else _new_run(job, folder)
        if part.settings["status"] != "finished":
            _train_split(job, part, material, split, watch)
        parts.append(part)
    _remember_data(run, material, splits[0], sides=False)
    complete_folds(run, parts)
    run.settings["status"] = "finished"
    run.save_settings()
    return run


def _train_split(job: Job, run: Run, material: Material, split: Split, watch: Watch) -> None:
    data, partial = material.data, material.partial
    _remember_data(run, material, split)
    if watch.read is not None:
        watch.read(data, split)
    learned = measured = None
    if partial is not None:
        chosen, tested = divide(partial, data, split, job.settings.seed)
        learned, measured = partial.take(chosen), partial.take(tested)
    interrupted = False
    if isinstance(job.settings, ClassicalSettings):
        trained = learn_classical(job.settings, run, data, split, job.deep, job.cache, watch)
    else:
        trained, interrupted = learn_network(job.settings, run, data, split, learned, watch)
    complete_run(run, trained, data, split, measured)
    run.settings["status"] = "interrupted" if interrupted else "finished"
    run.save_settings()
    if interrupted:
        raise KeyboardInterrupt
    Checkpoint(run.folder / "checkpoint").remove()


def _remember_data(run: Run, material: Material, split: Split, sides: bool = True) -> None:
    data, partial = material.data, material.partial
    kept = {"data": data.sha256, "partial": None if partial is None else partial.slices.sha256}
    for key, digest in kept.items():
        before = run.settings[key]
        if run.settings["data"] is not None and (before and before["sha256"]) != digest:
            raise DataError(f"this is not the {key} that the run was started on (digests differ)")
    run.settings["labels"] = list(data.class_names)
    run.settings["protocol"] = split.protocol
    run.settings["partial"] = None if partial is None else partial.to_json()
    run.settings["data"] = {
        "sha256": data.sha256,
        "images": len(data),
        "groups": len(set(data.groups)),
        "groups_given": data.grouped,
        "boxes": int((~np.isnan(data.boxes).any(axis=1)).sum()),
        "unreadable": len(data.problems),
        "training": len(split.train) if sides else None,
        "validation": len(split.validation) if sides else None,
        "test": len(split.test) if sides else len(data),
        "left_out": split.left_out,
    }
    run.save_settings()


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
