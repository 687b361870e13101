"""A process that trains a little on drawn slices, alone or with others, for the tests beside it.

    python -m tests.trainer.models.small_training WAY FOLDER [WORD=VALUE ...]

Trains with the strategy WAY. Leaves FOLDER/RANK.npz, the weights by the checkpoint of this process,
and FOLDER/checkpoint of the chief. `plain=1`: then trains on one device as well (plain.npz,
plain.json; start.npz: the weights before). `pause=1`: after its first epoch worker 1 goes no
further.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import drawn_samples
from edge_runtime.errors import BtcError
from trainer.models.checkpoint import Checkpoint, State
from trainer.models.networks import build_network
from trainer.models.recipes import RECIPES
from trainer.models.strategy import Devices
from trainer.models.training import TrainSettings, train

SIZE = 32
# Batches of 11 and one of 4: not every share is whole.
SETTINGS = TrainSettings(
    network="classic", epochs=2, batch_size=11, learning_rate=0.1, recipe=RECIPES["robust"]
)


def trained(
    settings: TrainSettings, folder: Path, devices: Devices | None, **more: Any
) -> tuple[State, list[np.ndarray]]:
    """The state, and the weights and the optimiser's variables as the checkpoint has them."""
    training, validation = drawn_samples(46, SIZE)
    checkpoint = Checkpoint(folder)
    state = train(settings, training, validation, 4, checkpoint, devices=devices, **more)
    loaded = checkpoint.load()
    if loaded is None:
        return state, []
    model = loaded[0]
    variables = [*model.get_weights(), *(np.asarray(each) for each in model.optimizer.variables)]
    return state, variables


def main() -> None:
    way, folder = sys.argv[1], Path(sys.argv[2])
    options = dict(word.split("=") for word in sys.argv[3:])
    from trainer.models.strategy import open_devices
    from trainer.quiet import import_tensorflow

    if way == "mirrored":
        import tensorflow as tf

        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    devices = import_tensorflow(lambda: open_devices(way, lambda line: print(line, flush=True)))
    settings = replace(
        SETTINGS,
        network=options.get("network", "classic"),
        epochs=int(options.get("epochs", SETTINGS.epochs)),
        seed=int(options.get("seed", SETTINGS.seed)),
    )
    rank = 0 if devices is None else devices.cluster.rank

    def after_epoch(state: State) -> None:
        print(f"epoch {state.epoch}", flush=True)
        if "pause" in options and rank == 1:
            sys.stdin.read()  # open as long as the test wants

    own = folder / ("checkpoint" if rank == 0 else f"nothing-{rank}")
    result: dict[str, Any] = {"replicas": devices.replicas if devices else 1}
    try:
        state, weights = trained(settings, own, devices, on_epoch=after_epoch)
        result |= {"history": state.history}
        np.savez(folder / f"{rank}.npz", *weights)
    except BtcError as error:
        result |= {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), flush=True)
    if "plain" in options and rank == 0:
        network = build_network(settings.network, SIZE, 4)  # before the training draws more
        np.savez(folder / "start.npz", *network.get_weights())
        state, weights = trained(settings, folder / "plain", None)
        np.savez(folder / "plain.npz", *weights)
        (folder / "plain.json").write_text(json.dumps(state.history))


if __name__ == "__main__":
    main()
