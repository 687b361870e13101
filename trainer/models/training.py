"""The training loop: one epoch at a time, each resumable, the same for the same seed.

Everything random in an epoch follows from (seed, epoch), and the state after it (weights,
optimiser, dropout generators, early stopping) is saved before the next begins. A training that
was killed and resumed therefore gives the curve of an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from edge_runtime.version import __version__
from trainer.models.checkpoint import Checkpoint, State
from trainer.models.feed import Batch, Grid, Makers, Task, Tell, open_makers
from trainer.models.networks import NETWORKS, as_input, build_network
from trainer.models.recipes import Recipe
from trainer.models.sampler import Feed, Gray, Samples, sampling_weights

if TYPE_CHECKING:
    import keras

    from trainer.models.strategy import Devices

CLASS_MAPS = "class_maps"
WARM_UP = 100  # steps
HEAD_SLICES = 4096  # at most, that the head is fitted to


@dataclass(frozen=True)
class TrainSettings:
    """What a training does; written to run.json."""

    network: str = "edge"
    epochs: int = 16
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 12
    seed: int = 1
    recipe: Recipe = field(default_factory=Recipe)

    @classmethod
    def from_json(cls, shape: Mapping[str, Any]) -> TrainSettings:
        """Read what `dataclasses.asdict` made of settings."""
        return cls(**{**shape, "recipe": Recipe(**shape["recipe"])})

    @property
    def pretrained(self) -> bool:
        """Whether the training starts from the pretrained weights."""
        return bool(NETWORKS[self.network].blocks) and self.recipe.pretrained


class Diverged(DataError):
    """A training whose loss is no finite number any more."""


# Called after every batch with (epoch, batches done, batches in all), and after every epoch
# with the state so far.
OnBatch = Callable[[int, int, int], None]
OnEpoch = Callable[[State], None]


class Learner(Protocol):
    """How a model takes a step: on one device (`Plain`), or on several (`replicas.Replicas`)."""

    def numbers(self, first: int, end: int) -> Sequence[int]:
        """Which examples of the batch from `first` up to `end` this process makes."""

    def step(self, batch: Batch, examples: int, rate: float) -> tuple[float, float]:
        """Learn from a batch of `examples`, at a learning rate.

        Args:
            batch: those of them that `numbers` names.

        Returns:
            The means over the whole batch of the loss and of the accuracy, before the step.
        """

    def predict(self, images: Gray) -> npt.NDArray[np.float32]:
        """Probabilities (N×C) of slices (uint8, N×S×S)."""

    def store(self) -> None:
        """Bring what was learned into the model that is saved."""


class Plain:
    """One device, and Keras's own step."""

    def __init__(self, model: keras.Model, network: keras.Model) -> None:
        self._model, self._network = model, network

    def numbers(self, first: int, end: int) -> Sequence[int]:
        return range(first, end)

    def step(self, batch: Batch, examples: int, rate: float) -> tuple[float, float]:
        self._model.optimizer.learning_rate = rate
        self._model.reset_metrics()
        figures = self._model.train_on_batch(*batch.for_model(), return_dict=True)
        accuracy = next(value for name, value in figures.items() if name.endswith("accuracy"))
        return float(figures["loss"]), float(accuracy)

    def predict(self, images: Gray) -> npt.NDArray[np.float32]:
        predicted: npt.NDArray[np.float32] = self._network.predict(
            as_input(images), batch_size=128, verbose=0
        )
        return predicted

    def store(self) -> None:
        """It is there."""


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """A rise over the first WARM_UP steps, then half a cosine down to a hundredth."""
    done = step / max(settings.epochs * steps, 1)
    rate = settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
    return rate * min(1.0, (step + 1) / WARM_UP)


def train(
    settings: TrainSettings,
    training: Samples,
    validation: Samples,
    classes: int,
    checkpoint: Checkpoint,
    on_batch: OnBatch | None = None,
    on_epoch: OnEpoch | None = None,
    *,
    devices: Devices | None = None,
    feed_workers: int = 0,
    tell: Tell | None = None,
) -> State:
    """Train, or go on from `checkpoint`, until the last epoch or early stopping.

    Adam on the losses of `losses`. The best epoch by the validation side's cross-entropy is in
    the checkpoint. A KeyboardInterrupt passes through with the checkpoint of the last whole epoch
    in place.

    Args:
        devices: several devices, or None for one. The weights are then those of one but for
            rounding, and the checkpoint is the same: read and written by the chief alone.
        feed_workers, tell: see `open_makers`.

    Raises:
        Diverged: a loss is not finite; the checkpoint is that of the epoch before.
        UsageError: another worker of `devices` was started with something else.
        WorkerLost: another worker of `devices` has ended; the checkpoint is that of the epoch
            before.
    """
    _make_repeatable(settings.seed)
    with nullcontext() if devices is None else devices.watched():
        feed = Feed(training, classes, settings.recipe, settings.seed)
        if devices is None:
            loaded = checkpoint.load()
        else:
            devices.check_same(_what_shapes(settings, training, validation))
            loaded = checkpoint.load() if devices.is_chief else None
        if loaded is not None:
            model, state = loaded
        else:
            model, state = _new_model(settings, training, classes), State(0, 0, math.inf, [])
        network = _network_of(model)
        learner: Learner = Plain(model, network)
        if devices is not None:
            learner, state = _spread(devices, settings, model, state)
        with open_makers(feed, _grid(model), feed_workers, tell) as makers:
            while not _ended(settings, state):
                _seed_dropout(model, settings.seed, state.epoch)
                row = {"epoch": float(state.epoch + 1)}
                row |= _train_epoch(learner, makers, feed, settings, state.epoch, on_batch)
                row |= _validate(learner, validation)
                _note(state, row)
                if devices is None or devices.is_chief:
                    learner.store()
                    checkpoint.save(model, network, state)
                if on_epoch is not None:
                    on_epoch(state)
    return state


def _ended(settings: TrainSettings, state: State) -> bool:
    return state.epoch >= settings.epochs or state.epoch - state.best_epoch >= settings.patience


def _note(state: State, row: dict[str, float]) -> None:
    """Bring a finished epoch into the state.

    Raises:
        Diverged: a loss is not finite.
    """
    for name, words in (("loss", "training"), ("val_loss", "validation")):
        if not math.isfinite(row[name]):
            raise Diverged(
                f"training diverged in epoch {state.epoch + 1}: the {words} loss is {row[name]}; "
                "start anew with a lower --learning-rate or another --seed"
            )
    state.history.append(row)
    state.epoch += 1
    if row["val_loss"] < state.best_loss:
        state.best_loss, state.best_epoch = row["val_loss"], state.epoch


def _spread(
    devices: Devices, settings: TrainSettings, model: keras.Model, state: State
) -> tuple[Learner, State]:
    """The chief's model on all devices, and the chief's state."""
    from trainer.models.replicas import Replicas

    replicas = Replicas(devices, model, *_objectives(settings, model), settings.batch_size)
    content = json.dumps(asdict(state)).encode()
    return replicas, State(**json.loads(replicas.begin(content)))


def _what_shapes(
    settings: TrainSettings, training: Samples, validation: Samples
) -> dict[str, bytes]:
    """What all workers must have alike, by the words of a message: a digest each."""
    from importlib.metadata import version

    versions = [__version__, *(version(name) for name in ("tensorflow", "keras", "numpy"))]
    return {
        "options": hashlib.sha256(json.dumps(asdict(settings)).encode()).digest(),
        "training slices": training.digest(),
        "validation slices": validation.digest(),
        "versions of the packages": hashlib.sha256(" ".join(versions).encode()).digest(),
    }


def _new_model(settings: TrainSettings, training: Samples, classes: int) -> keras.Model:
    """The compiled model: the network, with its class maps as a second output where it has any."""
    import keras

    from trainer.models.losses import accuracy

    size, pretrained = training.images.shape[1], settings.recipe.pretrained
    network = build_network(settings.network, size, classes, pretrained)
    outputs, metrics = [network.output], [[accuracy]]
    if any(layer.name == CLASS_MAPS for layer in network.layers):
        if pretrained:
            fit_head(network, training, settings)
        outputs.append(network.get_layer(CLASS_MAPS).output)
        metrics.append([])
    model = keras.Model(network.inputs[0], outputs, name=network.name)
    losses, weights = _objectives(settings, model)
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate, weight_decay=1e-4),
        loss=losses,
        loss_weights=weights,
        metrics=metrics,
        jit_compile=False,
    )
    return model


def _objectives(settings: TrainSettings, model: keras.Model) -> tuple[list[Any], list[float]]:
    """The losses of a model's outputs, and their weights."""
    from trainer.models.losses import LocalisationLoss, PartialLabelCrossEntropy

    losses: list[Any] = [PartialLabelCrossEntropy(settings.recipe.label_smoothing)]
    weights = [1.0]
    if len(model.outputs) > 1:
        losses.append(LocalisationLoss())
        weights.append(settings.recipe.localisation)
    return losses, weights


def _grid(model: keras.Model) -> Grid | None:
    """Rows and columns of the class maps of a model made by `_new_model`."""
    return tuple(model.outputs[1].shape[1:3]) if len(model.outputs) > 1 else None


def _network_of(model: keras.Model) -> keras.Model:
    """The network within a model made by `_new_model`; they share their weights."""
    import keras

    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def fit_head(network: keras.Model, training: Samples, settings: TrainSettings) -> None:
    """Give the last convolution the weights of a logistic regression on the features before it.

    A random head would first bend the features to itself; fine-tuning from a fitted one keeps
    more of what they know of other pictures (Kumar et al., Fine-Tuning can Distort Pretrained
    Features and Underperform Out-of-Distribution, 2022).
    """
    import keras
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    head = network.get_layer(CLASS_MAPS)
    pooled = keras.layers.GlobalAveragePooling2D()(head.input)
    rng = np.random.default_rng([settings.seed, 3])
    chosen = np.sort(rng.permutation(len(training.labels))[:HEAD_SLICES])
    body = keras.Model(network.inputs, pooled)
    features = body.predict(as_input(training.images[chosen]), batch_size=64, verbose=0)
    weights = sampling_weights(training, settings.recipe.balance)[chosen]
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.01, max_iter=1000).fit(
        scaler.transform(features), training.labels[chosen], weights / weights.mean()
    )
    kernel, bias = np.zeros(head.kernel.shape[2:], np.float32), np.full(head.filters, -5.0)
    slopes = fitted.coef_ / scaler.scale_
    offsets = fitted.intercept_ - slopes @ scaler.mean_
    if len(slopes) == 1:  # of two classes, scikit-learn gives the second's weights only
        slopes, offsets = np.stack([-slopes[0], slopes[0]]) / 2, np.array([-1, 1]) * offsets / 2
    kernel[:, fitted.classes_], bias[fitted.classes_] = slopes.T, offsets
    head.set_weights([kernel[None, None], bias.astype(np.float32)])


def _train_epoch(
    learner: Learner,
    makers: Makers,
    feed: Feed,
    settings: TrainSettings,
    epoch: int,
    on_batch: OnBatch | None,
) -> dict[str, float]:
    """One epoch; the means of its loss and its accuracy."""
    order, size = feed.order(epoch), settings.batch_size
    steps = math.ceil(len(order) / size)
    ends = [(step * size, min((step + 1) * size, len(order))) for step in range(steps)]
    parts = (learner.numbers(first, end) for first, end in ends)
    tasks = (Task(epoch, numbers, order[list(numbers)]) for numbers in parts)
    sums = np.zeros(2)
    with closing(makers.batches(tasks)) as batches:
        for step, batch in enumerate(batches):
            examples = ends[step][1] - ends[step][0]
            rate = learning_rate(settings, epoch * steps + step, steps)
            for index, mean in enumerate(learner.step(batch, examples, rate)):
                sums[index] += mean * examples / len(order)
            if on_batch is not None:
                on_batch(epoch + 1, step + 1, steps)
    return {"learning_rate": rate, "loss": float(sums[0]), "accuracy": float(sums[1])}


def _validate(learner: Learner, validation: Samples) -> dict[str, float]:
    probabilities = learner.predict(validation.images)
    right = probabilities[np.arange(len(probabilities)), validation.labels]
    return {
        "val_loss": float(-np.log(np.maximum(right, 1e-7)).mean()),
        "val_accuracy": float((probabilities.argmax(axis=1) == validation.labels).mean()),
    }


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
