"""The training loop: one epoch at a time, each resumable, the same for the same seed.

Everything random in an epoch follows from (seed, epoch), and the state after it (weights,
optimiser, dropout generators, early stopping) is saved before the next begins. A training that
was killed and resumed therefore gives the curve of an unbroken one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from trainer.data.augment import augment
from trainer.models.networks import build_network

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainSettings:
    """What a training does; written to run.json."""

    network: str = "edge"
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 12
    augment: bool = True
    label_smoothing: float = 0.05
    seed: int = 1


@dataclass(frozen=True)
class Samples:
    """Images (uint8, N×size×size) and labels (int64, N) of one side."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass
class State:
    """Where a training stands between two epochs."""

    epoch: int  # epochs finished
    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]


# Called after every batch with (epoch, batches done, batches in all), and after every epoch
# with the state so far.
OnBatch = Callable[[int, int, int], None]
OnEpoch = Callable[[State], None]


class Checkpoint:
    """The folder that holds the state between epochs; replaced whole by renaming."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, model: keras.Model, state: State) -> None:
        """Save after an epoch; the best weights are kept beside the last."""
        part = self.folder.with_name(self.folder.name + ".part")
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        model.save(part / "last.keras")
        best_before = self.folder / "best.keras"
        shutil.copyfile(
            part / "last.keras" if state.best_epoch == state.epoch else best_before,
            part / "best.keras",
        )
        (part / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        part.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[keras.Model, State] | None:
        """The last saved model and state, or None where no epoch was finished.

        Raises:
            DataError: a checkpoint that cannot be read.
        """
        import keras

        for folder in (self.folder, self.folder.with_name(self.folder.name + ".old")):
            if (folder / "state.json").is_file():
                try:
                    state = State(**json.loads((folder / "state.json").read_text("utf-8")))
                    return keras.saving.load_model(folder / "last.keras"), state
                except (OSError, ValueError, TypeError) as error:
                    raise DataError(f"the checkpoint is damaged: {error}") from None
        return None

    def best(self) -> keras.Model:
        """The model of the best epoch so far."""
        import keras

        return keras.saving.load_model(self.folder / "best.keras")

    def remove(self) -> None:
        """Delete the folder: the training is finished."""
        for suffix in ("", ".part", ".old"):
            shutil.rmtree(self.folder.with_name(self.folder.name + suffix), ignore_errors=True)


def learning_rate(settings: TrainSettings, epoch: int) -> float:
    """Half a cosine from the full rate to a hundredth, after a softer first epoch."""
    share = epoch / max(settings.epochs, 1)
    rate = settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
    return rate * (0.3 if epoch == 0 else 1.0)


def train(
    settings: TrainSettings,
    training: Samples,
    validation: Samples,
    classes: int,
    checkpoint: Checkpoint,
    on_batch: OnBatch | None = None,
    on_epoch: OnEpoch | None = None,
) -> State:
    """Train, or go on from `checkpoint`, until the last epoch or early stopping.

    Adam on categorical cross-entropy. The best epoch by validation loss is in the checkpoint.
    A KeyboardInterrupt passes through with the checkpoint of the last whole epoch in place.
    """
    import keras

    _make_repeatable(settings.seed)
    loaded = checkpoint.load()
    if loaded is None:
        model = build_network(settings.network, training.images.shape[1], classes)
        model.compile(
            optimizer=keras.optimizers.Adam(settings.learning_rate, weight_decay=1e-4),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing),
            metrics=["accuracy"],
            jit_compile=False,
        )
        state = State(0, 0, math.inf, [])
    else:
        model, state = loaded
    held = (_as_input(validation.images), np.eye(classes, dtype=np.float32)[validation.labels])
    while state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience:
        epoch = state.epoch
        rate = learning_rate(settings, epoch)
        model.optimizer.learning_rate = rate
        _seed_dropout(model, settings.seed, epoch)
        fitted = model.fit(
            _epoch_batches(settings, training, classes, epoch),
            validation_data=held,
            validation_batch_size=128,
            shuffle=False,
            verbose=0,
            callbacks=[_progress(epoch, on_batch)],
        ).history
        row = {"epoch": float(epoch + 1), "learning_rate": rate}
        row |= {name: float(values[-1]) for name, values in fitted.items()}
        state.history.append(row)
        state.epoch += 1
        if row["val_loss"] < state.best_loss:
            state.best_loss, state.best_epoch = row["val_loss"], state.epoch
        checkpoint.save(model, state)
        if on_epoch is not None:
            on_epoch(state)
    return state


def _make_repeatable(seed: int) -> None:
    import keras

    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Set the generators of dropout layers for an epoch; a saved model does not hold them."""
    for index, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            drawn = np.random.default_rng([seed, epoch, 2, index]).integers(2**31, size=2)
            generator.state.assign(drawn.astype(generator.state.dtype))


def _as_input(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return images[..., None].astype(np.float32)


def _epoch_batches(
    settings: TrainSettings, samples: Samples, classes: int, epoch: int
) -> keras.utils.PyDataset:
    """The batches of one epoch, in an order and with changes that follow from the seed."""
    import keras

    order = np.random.default_rng([settings.seed, epoch]).permutation(len(samples.labels))
    size = settings.batch_size

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return math.ceil(len(order) / size)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            chosen = order[index * size : (index + 1) * size]
            images = samples.images[chosen]
            if settings.augment:
                rngs = (np.random.default_rng([settings.seed, epoch, 1, int(i)]) for i in chosen)
                images = np.stack([augment(i, r) for i, r in zip(images, rngs, strict=True)])
            return _as_input(images), np.eye(classes, dtype=np.float32)[samples.labels[chosen]]

    return Batches()


def _progress(epoch: int, on_batch: OnBatch | None) -> keras.callbacks.Callback:
    import keras

    class Progress(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if on_batch is not None:
                on_batch(epoch + 1, batch + 1, int(self.params["steps"] or 0))

    return Progress()
