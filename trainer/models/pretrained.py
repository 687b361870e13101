"""The weights that the network `edge` starts from, which are a distribution of their own."""

from __future__ import annotations

from importlib import resources
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import UsageError
from trainer.data.npz import opened_npz

PACKAGE = "btc_edge_pretrained"


def check_pretrained() -> None:
    """Refuse to go on where the weights are not installed.

    Raises:
        UsageError: they are not.
    """
    if find_spec(PACKAGE) is None:
        raise UsageError(
            "the network edge starts from weights that are not installed: pip install ./pretrained "
            "from a checkout of btc-edge (btc-edge-pretrained, once it is published), or train "
            "with --network classic, which needs none"
        )


def load_pretrained() -> dict[str, list[npt.NDArray[np.float32]]]:
    """Kernel and bias of each layer of `edge` but the last, by the layer's name.

    Raises:
        UsageError: the weights are not installed.
        DataError: they are damaged.
    """
    check_pretrained()
    with (
        resources.as_file(resources.files(PACKAGE) / "weights.npz") as path,
        opened_npz(path, f"the weights of {PACKAGE} are damaged: install it anew") as stored,
    ):
        names = sorted({key.rpartition(".")[0] for key in stored.files})
        return {
            name: [stored[f"{name}.{part}"].astype(np.float32) for part in ("kernel", "bias")]
            for name in names
        }
