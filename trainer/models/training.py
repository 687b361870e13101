"""The training loop: one epoch at a time, each resumable, the same for the same seed.

Everything random in an epoch follows from (seed, epoch), and the state after it (weights,
optimiser, dropout generators, early stopping) is saved before the next begins. A training that
was killed and resumed therefore gives the curve of an unbroken one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from trainer.models.checkpoint import Checkpoint, State
from trainer.models.networks import NETWORKS, as_input, build_network
from trainer.models.recipes import Recipe
from trainer.models.sampler import Example, Feed, Samples, sampling_weights

if TYPE_CHECKING:
    import keras

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
) -> State:
    """Train, or go on from `checkpoint`, until the last epoch or early stopping.

    Adam on the losses of `losses`. The best epoch by the validation side's cross-entropy is in
    the checkpoint. A KeyboardInterrupt passes through with the checkpoint of the last whole epoch
    in place.

    Raises:
        Diverged: a loss is not finite; the checkpoint is that of the epoch before.
    """
    _make_repeatable(settings.seed)
    feed = Feed(training, classes, settings.recipe, settings.seed)
    loaded = checkpoint.load()
    if loaded is None:
        model, state = _new_model(settings, training, classes), State(0, 0, math.inf, [])
    else:
        model, state = loaded
    network = _network_of(model)
    while state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience:
        epoch = state.epoch
        _seed_dropout(model, settings.seed, epoch)
        row = {"epoch": float(epoch + 1)} | _train_epoch(model, feed, settings, epoch, on_batch)
        row |= _validate(network, validation)
        for name, words in (("loss", "training"), ("val_loss", "validation")):
            if not math.isfinite(row[name]):
                raise Diverged(
                    f"training diverged in epoch {epoch + 1}: the {words} loss is {row[name]}; "
                    "start anew with a lower --learning-rate or another --seed"
                )
        state.history.append(row)
        state.epoch += 1
        if row["val_loss"] < state.best_loss:
            state.best_loss, state.best_epoch = row["val_loss"], state.epoch
        checkpoint.save(model, network, state)
        if on_epoch is not None:
            on_epoch(state)
    return state


def _new_model(settings: TrainSettings, training: Samples, classes: int) -> keras.Model:
    """The compiled model: the network, with its class maps as a second output where it has any."""
    import keras

    from trainer.models.losses import LocalisationLoss, PartialLabelCrossEntropy, accuracy

    size, pretrained = training.images.shape[1], settings.recipe.pretrained
    network = build_network(settings.network, size, classes, pretrained)
    outputs, weights, metrics = [network.output], [1.0], [[accuracy]]
    losses: list[Any] = [PartialLabelCrossEntropy(settings.recipe.label_smoothing)]
    if any(layer.name == CLASS_MAPS for layer in network.layers):
        if pretrained:
            fit_head(network, training, settings)
        outputs.append(network.get_layer(CLASS_MAPS).output)
        losses.append(LocalisationLoss())
        weights.append(settings.recipe.localisation)
        metrics.append([])
    model = keras.Model(network.inputs[0], outputs, name=network.name)
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate, weight_decay=1e-4),
        loss=losses,
        loss_weights=weights,
        metrics=metrics,
        jit_compile=False,
    )
    return model


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
    model: keras.Model, feed: Feed, settings: TrainSettings, epoch: int, on_batch: OnBatch | None
) -> dict[str, float]:
    """One epoch; the means of its losses and its accuracy."""
    order, size = feed.order(epoch), settings.batch_size
    steps = math.ceil(len(order) / size)
    grid = tuple(model.outputs[1].shape[1:3]) if len(model.outputs) > 1 else None

    def batch(step: int) -> tuple[Any, Any]:
        numbers = range(step * size, min((step + 1) * size, len(order)))
        return as_batch([feed.example(epoch, n, int(order[n])) for n in numbers], grid)

    sums: dict[str, float] = defaultdict(float)
    with ThreadPoolExecutor(1) as ahead:  # makes the next batch while the model trains on this one
        coming = ahead.submit(batch, 0)
        for step in range(steps):
            images, targets = coming.result()
            if step + 1 < steps:
                coming = ahead.submit(batch, step + 1)
            rate = learning_rate(settings, epoch * steps + step, steps)
            model.optimizer.learning_rate = rate
            model.reset_metrics()
            for name, value in model.train_on_batch(images, targets, return_dict=True).items():
                sums[name] += float(value) * len(images) / len(order)
            if on_batch is not None:
                on_batch(epoch + 1, step + 1, steps)
    accuracy = next(value for name, value in sums.items() if name.endswith("accuracy"))
    return {"learning_rate": rate, "loss": sums["loss"], "accuracy": accuracy}


def as_batch(examples: Sequence[Example], grid: tuple[int, int] | None) -> tuple[Any, Any]:
    """Examples as arrays for a model from `_new_model`; `grid`: rows and columns of its maps."""
    images = as_input(np.stack([example.image for example in examples]))
    targets = np.stack([example.target for example in examples])
    if grid is None:
        return images, targets
    masks = np.stack([box_mask(example, grid) for example in examples])
    return images, [targets, masks]


def box_mask(example: Example, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
    """rows×columns×C: 1 in the cells whose middle is at most half a cell outside the box, in the
    channel of the class; zeros where there is no box."""
    rows, columns = grid
    mask = np.zeros((rows, columns, len(example.target)), np.float32)
    if np.isnan(example.box).any():
        return mask
    left, top, right, bottom = example.box
    down, across = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    inside = (down >= top - 0.5 / rows) & (down <= bottom + 0.5 / rows)
    within = (across >= left - 0.5 / columns) & (across <= right + 0.5 / columns)
    mask += np.einsum("r,c,k->rck", inside, within, example.target)
    return mask


def _validate(network: keras.Model, validation: Samples) -> dict[str, float]:
    probabilities = network.predict(as_input(validation.images), batch_size=128, verbose=0)
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
