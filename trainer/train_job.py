"""The whole training job: data -> split -> model -> a complete `Run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np

from edge_runtime.errors import BtcError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.metadata import INTENDED_USE
from trainer.data.card import ABOUT
from trainer.data.collection import Data, are_several, collections_of
from trainer.data.dataset import (
    Dataset,
    check_boxes,
    given_away_by_source,
    read_dataset,
    says_groups,
)
from trainer.data.heads import Heads, read_heads
from trainer.data.partial_labels import (
    PartialLabels,
    divide,
    partial_classes,
    read_partial_labels,
)
from trainer.data.split import Split, fold_splits, split_dataset, split_facts
from trainer.evaluation.selective import Targets
from trainer.finalize import finalize_folds, finalize_run
from trainer.fitting import Callbacks, fit_classical_model, fit_network_model
from trainer.models.checkpoint import Checkpoint
from trainer.models.classical import ClassicalSettings
from trainer.models.networks import pretrained_shapes
from trainer.models.pretrained import pretrained_sha256, read_pretrained
from trainer.models.training import Diverged, TrainSettings
from trainer.provenance import (
    INPUTS,
    admit_inputs,
    input_digests,
    installed_versions,
    known_inputs,
    source_commit,
)
from trainer.run import CNN, SCHEMA, Run

if TYPE_CHECKING:
    from trainer.features.cache import FeatureCache


@dataclass(frozen=True)
class Job:
    """What to train on and how.

    Attributes:
        data: zip or folder, or several collections.
        out: the run folder to make, or to resume.
        protocol: see `split_dataset`.
        groups_csv: table of groups, in place of the collections' own, or None.
        boxes_csv: table of the tumours' boxes, to learn from and for the report, likewise.
        partial: zip or folder of partially labelled slices, or collections of them, or None.
        partial_groups_csv: table of their groups, or None.
        tumour_free: the classes without a tumour; None for the class `notumor`.
        targets: error rates that the thresholds are chosen for.
        name: the model's.
        version: the model's; None derives one, see `Run.version`.
        folds: trainings of a group cross-validation, each in a folder of its own; None for one
            training.
        preprocess: what is done to every slice.
        settings: of a network or of a classical model.
        deep: the run whose network gives the feature set `deep`.
        cache: where features are kept, or None.
        heads: whole heads to fit the rule for studies on, or None.
        about: what a data card says of the data, see `DataCard.about`; a run that goes on keeps
            what it was started with.
    """

    data: Data
    out: Path
    protocol: str = "official"
    groups_csv: Path | None = None
    boxes_csv: Path | None = None
    partial: Data | None = None
    partial_groups_csv: Path | None = None
    tumour_free: tuple[str, ...] | None = None
    targets: Targets = field(default_factory=Targets)
    name: str = "brain-mri"
    version: str | None = None
    folds: int | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    settings: TrainSettings | ClassicalSettings = field(default_factory=TrainSettings)
    deep: Path | None = None
    cache: FeatureCache | None = None
    heads: Heads | None = None
    about: Mapping[str, str] = field(default_factory=dict)


# Files of a run that has trained nothing; deep.keras is a copy.
UNTRAINED = ("run.json", "deep.keras")


class TrainingData(NamedTuple):
    """The slices of a job: those of known class, and those partly known."""

    data: Dataset
    partial: PartialLabels | None


class _Fresh(Run):
    """A run that was started just now, which can be taken back until something was trained."""

    made_folder = False

    def take_back(self) -> None:
        """Delete what starting has left, unless something was trained or is not of the run."""
        files = [path for path in self.folder.rglob("*") if not path.is_dir()]
        if any(path.name not in UNTRAINED for path in files):
            return
        for path in sorted(files, key=lambda path: len(path.parts), reverse=True):
            path.unlink(missing_ok=True)
            if path.parent != self.folder or self.made_folder:
                with suppress(OSError):  # it holds a folder that is not of the run
                    path.parent.rmdir()


def check_start(job: Job) -> None:
    """Refuse a run that cannot be started; `start_run` does so too.

    Raises:
        UsageError: the folder holds something already, options do not go together, or the weights
            that the network starts from are not installed.
        DataError: those weights are damaged, or of another version.
    """
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise UsageError(f"{job.out} is not empty; name another --out, or --resume it")
    if job.folds and job.protocol != "grouped":
        raise UsageError("--folds is a cross-validation over groups: add --protocol grouped")
    _check_pretrained(job.settings)


def _starts_pretrained(settings: TrainSettings | ClassicalSettings) -> TypeGuard[TrainSettings]:
    return isinstance(settings, TrainSettings) and settings.pretrained


def _check_pretrained(settings: TrainSettings | ClassicalSettings) -> None:
    """Refuse a start whose weights are not there.

    Raises:
        UsageError, DataError: see `read_pretrained`.
    """
    if _starts_pretrained(settings):
        read_pretrained(settings.network, pretrained_shapes(settings.network))


def _pretrained_sha256(settings: TrainSettings | ClassicalSettings) -> str | None:
    return pretrained_sha256(settings.network) if _starts_pretrained(settings) else None


def start_run(job: Job) -> Run:
    """Make the run folder with its run.json; nothing is overwritten.

    Raises:
        UsageError, DataError: see `check_start`.
    """
    check_start(job)
    run = _Fresh(job.out, _new_run(job, job.out).settings)
    run.made_folder = not job.out.exists()
    run.settings["folds"] = job.folds
    run.settings["inputs"] = {name: "" if given else None for name, given in _given(job).items()}
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
            "pretrained_sha256": _pretrained_sha256(settings),
            "seed": settings.seed,
            "targets": job.targets.to_json(),
            "tumour_free": None if job.tumour_free is None else list(job.tumour_free),
            "inputs": None,
            "labels": [],
            "data": None,
            "partial": None,
            "temperature": None,
            "seconds": 0.0,
            "versions": installed_versions(),
            "source_commit": source_commit(),
            "intended_use": INTENDED_USE,
        },
    )


def _given(job: Job) -> dict[str, bool]:
    """Which of INPUTS a job has."""
    data = collections_of(job.data)
    partial = () if job.partial is None else collections_of(job.partial)
    has = (
        True,
        says_groups(data, job.groups_csv),
        job.boxes_csv is not None or any(each.boxes_csv for each in data),
        bool(partial),
        says_groups(partial, job.partial_groups_csv),
        job.deep is not None,
    )
    return dict(zip(INPUTS, has, strict=True))


def resume_job(job: Job) -> tuple[Run, Job]:
    """The run in `job.out` and the job it was started with, on the inputs of `job`.

    Raises:
        UsageError: a finished training, an input more or fewer than it was started with, or the
            weights that the network starts from are needed and not installed.
        DataError: no run there, or those weights are damaged or of another version.
    """
    run = Run.open(job.out)
    if run.settings["status"] == "finished":
        raise UsageError(f"{job.out}: this training is finished; nothing to resume")
    known = known_inputs(run.settings)
    for name, given in _given(job).items():
        if name in known and given and known[name] is None:
            raise UsageError(f"the run was started without {INPUTS[name].option}; leave it out")
        if name in known and not given and known[name] is not None:
            raise UsageError(f"the run was started with {INPUTS[name].option}; give the same again")
    kind = TrainSettings if run.kind == CNN else ClassicalSettings
    named, about = run.settings.get("tumour_free"), _known_about(run)
    started = replace(
        job,
        protocol=run.settings["protocol"],
        targets=Targets.from_settings(run.settings),
        name=run.settings["name"],
        version=run.settings.get("model_version"),
        tumour_free=None if named is None else tuple(named),
        folds=run.settings.get("folds"),
        preprocess=run.preprocess,
        settings=kind.from_json(run.settings["training"]),
        about=job.about if about is None else about,
    )
    to_begin = not all(_begun(folder) for folder in run.model_folders)
    if to_begin:
        _check_pretrained(started.settings)
    return run, started


def _known_about(run: Run) -> dict[str, str] | None:
    """What a run says of its data, see `DataCard.about`; None where it has not read them yet. A
    cross-validation that was stopped has said it in its folds only."""
    for folder in (run.folder, *run.model_folders):
        if (folder / "run.json").is_file() and (data := Run.open(folder).settings["data"]):
            return {key: data[key] for key in ABOUT if data.get(key) is not None}
    return None


def _begun(folder: Path) -> bool:
    """Whether the training in a run's folder is past its start."""
    if not (folder / "run.json").is_file():
        return False
    finished = Run.open(folder).settings["status"] == "finished"
    return finished or Checkpoint(folder / "checkpoint").begun


def run_job(job: Job, run: Run, callbacks: Callbacks | None = None) -> Run:
    """Train (or go on) and complete the run.

    When interrupted, or diverged, after at least one epoch, the run is completed with the best
    epoch so far and keeps its checkpoint; then the KeyboardInterrupt or Diverged passes on.

    A run of `start_run` that is refused before anything was trained, or interrupted while the data
    are read, leaves no run folder: the corrected command may name it again, and `--resume`, which
    wants the same options, could never mend it.

    Raises:
        DataError: unusable data, or another input than the run was started with.
        UsageError: options that do not fit the data.
    """
    try:
        return _run(job, run, callbacks or Callbacks())
    except (BtcError, KeyboardInterrupt) as error:
        read = run.settings["data"] is not None
        if isinstance(run, _Fresh) and not (read and isinstance(error, KeyboardInterrupt)):
            run.take_back()
        raise


def _run(job: Job, run: Run, callbacks: Callbacks) -> Run:
    """The job's steps: read, check against what the run was started with, split, train."""
    training_data = _read(job, callbacks)
    digests = input_digests(training_data.data, training_data.partial, job.deep)
    unknown = admit_inputs(run, digests)
    seed = job.settings.seed
    if not job.folds:
        _tell_unknown(callbacks, unknown)
        _train_split(
            job,
            run,
            training_data,
            split_dataset(training_data.data, job.protocol, seed),
            callbacks,
        )
        return run
    splits = fold_splits(training_data.data, job.folds, seed)
    parts = []
    for folder in run.model_folders:
        part, not_compared = _fold(job, folder, digests)
        unknown += [option for option in not_compared if option not in unknown]
        parts.append(part)
    _tell_unknown(callbacks, unknown)
    run.save_settings()
    for part, split in zip(parts, splits, strict=True):
        if part.settings["status"] != "finished":
            _train_split(job, part, training_data, split, callbacks)
    _keep_facts(job, run, training_data, splits[0], sides=False)
    finalize_folds(run, parts)
    run.settings["status"] = "finished"
    run.save_settings()
    return run


def _read(job: Job, callbacks: Callbacks) -> TrainingData:
    """The slices of a job, with a line for everything odd about them."""
    data = read_dataset(
        job.data,
        job.preprocess,
        groups_csv=job.groups_csv,
        boxes_csv=job.boxes_csv,
        tumour_free=job.tumour_free,
        progress=callbacks.reading,
    )
    if job.heads is not None:
        read_heads(job.heads.table)  # a wrong table is said before the training
    job.targets.resolve(data.class_names)  # a class that is not there is said before the training
    callbacks.tell_problems(data)
    check_boxes(data)
    if are_several(collections_of(job.data)):
        for words in given_away_by_source(data):
            callbacks.tell(words)
    for words in partial_classes(data):
        callbacks.tell(words)
    if data.doubts:
        callbacks.tell(
            f"{int(data.doubtful.sum()):,} slices whose label a table doubts: none is learned "
            "from; those of the test side are tested, and the figures without them stand beside"
        )
    if not data.tumour_free and _pastes(job):
        callbacks.tell(
            "no class is known to be without tumours, so none is pasted or covered; say which is "
            "with --tumour-free"
        )
    if job.partial is None:
        return TrainingData(data, None)
    partial = read_partial_labels(
        job.partial,
        job.preprocess,
        data,
        groups_csv=job.partial_groups_csv,
        progress=callbacks.reading,
    )
    callbacks.tell_problems(partial.slices)
    return TrainingData(data, partial)


def _pastes(job: Job) -> bool:
    """Whether the job would move tumours, if it could."""
    recipe = job.settings.recipe if isinstance(job.settings, TrainSettings) else None
    return recipe is not None and _given(job)["boxes"] and recipe.paste + recipe.erase > 0


def _fold(job: Job, folder: Path, digests: dict[str, str | None]) -> tuple[Run, list[str]]:
    """The run of a fold, begun before or new, and the options that could not be compared."""
    begun = (folder / "run.json").is_file()
    part = Run.open(folder) if begun else _new_run(job, folder)
    unknown = admit_inputs(part, digests)
    if begun:
        part.save_settings()
    return part, unknown


def _tell_unknown(callbacks: Callbacks, options: Sequence[str]) -> None:
    if options:
        callbacks.tell(
            "this run was started by a former version, which did not keep what it read: whether "
            f"{', '.join(options)} are as they were then could not be checked"
        )


def _train_split(
    job: Job, run: Run, training_data: TrainingData, split: Split, callbacks: Callbacks
) -> None:
    """One training: fit the model, then complete its run with what the test side says of it."""
    data = training_data.data
    _keep_facts(job, run, training_data, split)
    if callbacks.read is not None:
        callbacks.read(data, split)
    trained_on = tested = None
    if training_data.partial is not None:
        sides = divide(training_data.partial, data, split, job.settings.seed)
        trained_on, tested = (training_data.partial.take(side) for side in sides)
    stopped: BaseException | None = None
    if isinstance(job.settings, ClassicalSettings):
        trained = fit_classical_model(
            job.settings, run, data, split, job.deep, job.cache, callbacks
        )
    else:
        trained, stopped = fit_network_model(job.settings, run, data, split, trained_on, callbacks)
    finalize_run(run, trained, data, split, tested, job.heads)
    run.settings["status"] = "finished"
    if stopped is not None:
        run.settings["status"] = "diverged" if isinstance(stopped, Diverged) else "interrupted"
    run.save_settings()
    if stopped is not None:
        raise stopped
    if callbacks.tracking is not None:
        callbacks.tracking.finished(run)
    Checkpoint(run.folder / "checkpoint").remove()


def _keep_facts(
    job: Job, run: Run, training_data: TrainingData, split: Split, sides: bool = True
) -> None:
    data, partial = training_data.data, training_data.partial
    run.settings["labels"] = list(data.class_names)
    run.settings["protocol"] = split.protocol
    run.settings["partial"] = None if partial is None else partial.to_json()
    facts = split_facts(data, split)
    if not sides:  # a cross-validation tests all
        facts |= {"training": None, "validation": None, "test": len(data)}
    run.settings["data"] = facts | {
        "groups_given": data.grouped,
        "boxes": int((~np.isnan(data.boxes).any(axis=1)).sum()),
        "unreadable": len(data.problems),
        "passed_over": sum(len(each.paths) for each in data.passed_over),
        "tumour_free": list(data.tumour_free),
        "left_out": split.left_out,
        "doubtful": int(data.doubtful.sum()),
        **{key: job.about.get(key) for key in ABOUT},
    }
    run.save_settings()
