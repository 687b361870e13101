"""How a model learns from one split: a network over epochs, a classical model in one fit.

Both leave the model in the run's folder and come back as a `TrainedModel`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import DataError, UsageError
from edge_runtime.files import write_bytes
from trainer.data.dataset import Dataset
from trainer.data.partial_labels import PartialLabels
from trainer.data.reading import Progress
from trainer.data.split import Split
from trainer.features.extractor import DEEP
from trainer.models.checkpoint import Checkpoint, State
from trainer.models.classical import ClassicalSettings, fit_classical
from trainer.models.outputs import (
    Classical,
    TrainedModel,
    from_classical,
    from_network,
    make_extractor,
)
from trainer.models.sampler import make_samples
from trainer.models.training import Diverged, OnBatch, OnEpoch, TrainSettings, train
from trainer.run import Run
from trainer.tracking import Tracking

if TYPE_CHECKING:
    from trainer.features.cache import FeatureCache


@dataclass(frozen=True)
class Callbacks:
    """Who is told how far a job is; all are optional.

    Attributes:
        reading: called with (done, total) while slices are read.
        each: called with every data set that was read, for its problems.
        warn: called with a line.
        read: called with the data and their split before a training.
        batch, epoch: see `trainer.models.training.train`.
        extracting: called with (done, total) while features are computed.
        tracking: told of each run's epochs and figures, see `trainer.tracking`.
    """

    reading: Progress | None = None
    each: Callable[[Dataset], None] | None = None
    warn: Callable[[str], None] | None = None
    read: Callable[[Dataset, Split], None] | None = None
    batch: OnBatch | None = None
    epoch: OnEpoch | None = None
    extracting: Progress | None = None
    tracking: Tracking | None = None

    def tell_problems(self, data: Dataset) -> None:
        """Tell of the files that could not be read, and of what is odd about the data."""
        if self.each is not None:
            self.each(data)
        self.tell(*data.warnings)

    def tell(self, *lines: str) -> None:
        """Give lines to `warn`."""
        if self.warn is not None:
            for line in lines:
                self.warn(line)


def fit_network_model(
    settings: TrainSettings,
    run: Run,
    data: Dataset,
    split: Split,
    partial: PartialLabels | None,
    callbacks: Callbacks,
) -> tuple[TrainedModel, KeyboardInterrupt | Diverged | None]:
    """Train a network, or go on from the run's checkpoint.

    Args:
        partial: partially labelled slices to learn from as well, or None.

    Returns:
        The network of the best epoch, and what ended the training before its end: a
        KeyboardInterrupt, a Diverged, or None.

    Raises:
        KeyboardInterrupt, Diverged: before the first epoch was finished.
    """
    checkpoint = Checkpoint(run.folder / "checkpoint")

    def after_epoch(state: State) -> None:
        run.save_history(state.history)
        if callbacks.tracking is not None:
            callbacks.tracking.epoch(run, state.history)
        if callbacks.epoch is not None:
            callbacks.epoch(state)

    stopped: KeyboardInterrupt | Diverged | None = None
    begun = time.monotonic()
    try:
        train(
            settings,
            make_samples(data.take(split.train), partial),
            make_samples(data.take(split.validation)),
            len(data.class_names),
            checkpoint,
            callbacks.batch,
            after_epoch,
        )
    except (KeyboardInterrupt, Diverged) as reason:
        stopped = reason
        if not checkpoint.begun:
            raise
    run.add_seconds(time.monotonic() - begun)
    best = checkpoint.best()
    run.save_model(best)
    return from_network(best), stopped


def fit_classical_model(
    settings: ClassicalSettings,
    run: Run,
    data: Dataset,
    split: Split,
    deep: Path | None,
    cache: FeatureCache | None,
    callbacks: Callbacks,
) -> TrainedModel:
    """Fit a classical model on features of the training side.

    Args:
        deep: the run whose network gives the feature set `deep`.
        cache: where features are kept and looked for, or None.

    Raises:
        DataError, UsageError: see `network_for`.
    """
    network = digest = None
    if DEEP in settings.features:
        if deep is None:
            raise UsageError("deep features come from a trained network: name its run, deep:RUN")
        source = network_for(deep, data, split, run.settings["seed"])
        content = (source.folder / "model.keras").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        write_bytes(run.folder / "deep.keras", content)
        network = run.load_model("deep.keras", digest)
    extractor = make_extractor(
        settings.features, run.preprocess.size, network, digest, cache, callbacks.extracting
    )
    side = data.take(split.train)
    features = extractor(side.images)
    begun = time.monotonic()
    model, chosen = fit_classical(settings, features, side.labels, side.groups)
    run.add_seconds(time.monotonic() - begun)
    run.settings |= {
        "features": {
            "sets": list(settings.features),
            "length": len(extractor.names),
            "deep_sha256": digest,
        },
        "search": chosen,
        "model_sha256": model.save(run.folder / "model.skops"),
    }
    return from_classical(Classical(model, extractor, network))


def network_for(folder: Path, data: Dataset, split: Split, seed: int) -> Run:
    """The trained network in `folder` (a run, or a cross-validation of several) whose features
    may be used on a split: one that learned from the split's training side and nothing else.

    Features that were learned from a slice know its label, so any other network would make the
    figures worthless.

    Raises:
        DataError: there is none.
    """
    candidates = [Run.open(each) for each in Run.open(folder).model_folders]
    measured = split.test if split.test.size else split.validation
    wanted = {
        "sha256": data.sha256,
        "groups": len(set(data.groups)),
        "training": len(split.train),
        "validation": len(split.validation),
    }
    paths = {data.paths[i] for i in measured}
    for candidate in candidates:
        known = candidate.settings.get("data") or {}
        inputs = candidate.settings.get("inputs") or {}  # a former version kept none
        if (
            candidate.settings["status"] == "finished"
            and candidate.settings["seed"] == seed
            and candidate.settings["protocol"] == split.protocol
            and candidate.labels == data.class_names
            and all(known.get(key) == value for key, value in wanted.items())
            and inputs.get("groups", data.tables.get("groups")) == data.tables.get("groups")
            and candidate.measured_paths() == paths
        ):
            return candidate
    raise DataError(
        f"{folder} holds no network for these slices: it must have been trained on the same data "
        "with the same --groups, --protocol, --folds and --seed, or it would know what is tested"
    )
