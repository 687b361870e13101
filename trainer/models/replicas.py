"""A step of training that several devices take together; see `strategy`.

Each replica learns from its share of the batch. The losses are summed and divided by the size of
the whole batch, and Keras's optimiser sums the gradients over the replicas: so a step is that of
one device but for the order of additions. Two things see to the rest:

- Dropout. Keras makes a layer's mask from a seed and the shape of the batch; a replica makes that
  of the whole batch and takes its rows.
- Batch normalisation, whose statistics would be those of a share, is in none of the networks.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.models.feed import Batch
from trainer.models.losses import accuracy
from trainer.models.networks import as_input
from trainer.models.sampler import Gray

if TYPE_CHECKING:
    from trainer.models.strategy import Devices

VALIDATED = 128  # slices a replica looks at together


class Share(NamedTuple):
    """What a replica sees of a batch.

    Attributes:
        images: float32, N×S×S×1.
        targets: for each output of the model, N×….
        counts: float32, N: 1; 0 where an example only fills the share.
        rows: int32, N: places in the whole batch.
        examples: int32: how many the whole batch has.
        seeds: int32, a pair for each layer of dropout.
    """

    images: tf.Tensor
    targets: tuple[tf.Tensor, ...]
    counts: tf.Tensor
    rows: tf.Tensor
    examples: tf.Tensor
    seeds: tf.Tensor


class _Current(threading.local):
    """The share that a replica is at; each replica is traced in a thread of its own."""

    share: Share


class ShareDropout(keras.layers.Layer):
    """Dropout by the mask that the whole batch has in one process.

    It is never saved: the model that is has Keras's own.
    """

    def __init__(self, rate: float, index: int, current: _Current) -> None:
        super().__init__()
        self._rate, self._index, self._current = rate, index, current

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        share = self._current.share
        whole = tf.concat([share.examples[None], tf.shape(inputs)[1:]], 0)
        mask = tf.nn.experimental.stateless_dropout(
            tf.ones(whole, inputs.dtype), self._rate, seed=share.seeds[self._index]
        )
        return inputs * tf.gather(mask, share.rows)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


class Replicas:
    """Copies of a model, one on each device; a `Learner`.

    Args:
        model: of `training`, compiled. What is learned comes back into it by `store`.
        losses, weights: for each of its outputs.
        batch_size: of the whole batch, at most.
    """

    def __init__(
        self,
        devices: Devices,
        model: keras.Model,
        losses: Sequence[Any],
        weights: Sequence[float],
        batch_size: int,
    ) -> None:
        self._devices, self._model = devices, model
        self._losses, self._weights = losses, weights
        self._each = -(-batch_size // devices.replicas)
        self._current = _Current()
        dropouts = [each for each in model.layers if getattr(each, "seed_generator", None)]
        self._generators = [layer.seed_generator for layer in dropouts]

        def copied(layer: keras.Layer) -> keras.Layer:
            if layer in dropouts:
                return ShareDropout(layer.rate, dropouts.index(layer), self._current)
            return layer.__class__.from_config(layer.get_config())

        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        with devices.strategy.scope():
            self._copy = keras.models.clone_model(model, clone_function=copied)
        self._learn = tf.function(self._learn_together)
        self._look = tf.function(self._look_together)

    def begin(self, content: bytes) -> bytes:
        """Give all replicas the chief's weights and optimiser; and all workers its `content`."""
        packed = io.BytesIO()
        arrays = [np.asarray(each) for each in self._saved_variables()]
        np.savez(packed, np.frombuffer(content, np.uint8), *arrays)
        received = io.BytesIO(self._devices.from_chief(packed.getvalue()))
        with np.load(received, allow_pickle=False) as file:
            first, *values = (file[name] for name in file.files)
        with self._devices.strategy.scope():
            for variable, value in zip(self._copied_variables(), values, strict=True):
                variable.assign(value)
        told: bytes = first.tobytes()
        return told

    def store(self) -> None:
        pairs = zip(self._saved_variables(), self._copied_variables(), strict=True)
        for saved, copied in pairs:
            saved.assign(np.asarray(copied))

    def _saved_variables(self) -> list[Any]:
        return [*self._model.weights, *self._model.optimizer.variables]

    def _copied_variables(self) -> list[Any]:
        return [*self._copy.weights, *self._copy.optimizer.variables]

    def numbers(self, first: int, end: int) -> Sequence[int]:
        own = self._devices.own_replicas
        rows = np.arange(own.start * self._each, own.stop * self._each)
        numbers: list[int] = (first + np.minimum(rows, end - first - 1)).tolist()
        return numbers

    def step(self, batch: Batch, examples: int, rate: float) -> tuple[float, float]:
        images, targets = batch.for_model()
        targets = targets if isinstance(targets, list) else [targets]
        drawn = [_as_seed(generator.next()) for generator in self._generators]
        seeds = np.array(drawn, np.int32).reshape(-1, 2)
        first = self._devices.own_replicas.start

        def of_replica(context: tf.distribute.ValueContext) -> Share:
            number = context.replica_id_in_sync_group
            own = slice((number - first) * self._each, (number - first + 1) * self._each)
            rows = np.arange(number * self._each, (number + 1) * self._each, dtype=np.int32)
            return Share(
                tf.constant(images[own]),
                tuple(tf.constant(each[own]) for each in targets),
                tf.constant((rows < examples).astype(np.float32)),
                tf.constant(np.minimum(rows, examples - 1)),
                tf.constant(examples, tf.int32),
                tf.constant(seeds),
            )

        strategy = self._devices.strategy
        with strategy.scope():
            self._copy.optimizer.learning_rate = rate
        share = strategy.experimental_distribute_values_from_function(of_replica)
        loss, right = self._learn(share).numpy()
        return float(loss), float(right)

    def _learn_together(self, share: Share) -> tf.Tensor:
        figures = self._devices.strategy.run(self._learn_share, args=(share,))
        return self._devices.strategy.reduce("SUM", figures, axis=None)

    def _learn_share(self, share: Share) -> tf.Tensor:
        """In a replica: its part of the means of the loss and the accuracy over the batch."""
        self._current.share = share
        examples = tf.cast(share.examples, tf.float32)
        variables = self._copy.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self._copy(share.images, training=True)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            of_outputs = zip(self._losses, self._weights, share.targets, outputs, strict=True)
            loss = tf.add_n(
                [
                    weight * tf.reduce_sum(share.counts * each.call(target, output)) / examples
                    for each, weight, target, output in of_outputs
                ]
            )
        gradients = tape.gradient(loss, variables)
        self._copy.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        right = tf.reduce_sum(share.counts * accuracy(share.targets[0], outputs[0])) / examples
        return tf.stack([loss, right])

    def predict(self, images: Gray) -> npt.NDArray[np.float32]:
        replicas = self._devices.replicas
        each = min(VALIDATED, -(-len(images) // replicas))
        seen = []
        for first in range(0, len(images), each * replicas):
            rows = np.minimum(np.arange(first, first + each * replicas), len(images) - 1)

            def of_replica(
                context: tf.distribute.ValueContext, rows: npt.NDArray[np.int64] = rows
            ) -> tf.Tensor:
                number = context.replica_id_in_sync_group
                return tf.constant(as_input(images[rows[number * each : (number + 1) * each]]))

            strategy = self._devices.strategy
            share = strategy.experimental_distribute_values_from_function(of_replica)
            seen.append(self._look(share).numpy())
        return np.concatenate(seen)[: len(images)]

    def _look_together(self, share: tf.Tensor) -> tf.Tensor:
        strategy = self._devices.strategy
        return strategy.gather(strategy.run(self._look_at_share, args=(share,)), axis=0)

    def _look_at_share(self, images: tf.Tensor) -> tf.Tensor:
        outputs = self._copy(images, training=False)
        return outputs[0] if isinstance(outputs, list) else outputs


def _as_seed(drawn: Any) -> npt.NDArray[np.int32]:
    """A drawn seed as `keras.random.dropout` gives it to TensorFlow."""
    seed: npt.NDArray[np.int32] = np.mod(np.asarray(drawn), tf.int32.max - 1).astype(np.int32)
    return seed
