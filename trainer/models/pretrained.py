"""The weights that networks start from, which are a distribution of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError
from trainer.data.npz import opened_npz

PACKAGE = "btc_edge_pretrained"
WRONG = "the weights of btc-edge-pretrained are damaged or of another version: install it anew"


FILES = {"edge": "weights.npz", "lite0": "lite0.npz"}  # of each network


@contextmanager
def _weights_file(network: str) -> Iterator[Path]:
    """The file of a network's weights.

    Raises:
        UsageError: they are not installed.
    """
    if find_spec(PACKAGE) is None:
        raise UsageError(
            f"the network {network} starts from weights that are not installed: pip install "
            "./pretrained from a checkout of btc-edge (btc-edge-pretrained, once it is published), "
            "or train with --network classic, which needs none"
        )
    with resources.as_file(resources.files(PACKAGE) / FILES[network]) as path:
        yield path


def pretrained_sha256(network: str) -> str:
    """The digest of the file of a network's weights, hexadecimal.

    Raises:
        UsageError: the weights are not installed.
        DataError: they are damaged.
    """
    with _weights_file(network) as path:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            raise DataError(WRONG) from None


def read_pretrained(
    network: str,
    shapes: Mapping[str, tuple[tuple[int, ...], int]],
) -> dict[str, list[npt.NDArray[np.float32]]]:
    """Kernel and bias of each layer, by the layer's name.

    Args:
        network: one of FILES.
        shapes: by layer the kernel's shape and the bias's length. The file must hold exactly these.

    Raises:
        UsageError: the weights are not installed.
        DataError: they are damaged or of another version.
    """
    with _weights_file(network) as path, opened_npz(path, WRONG) as stored:
        weights = {
            name: [stored[f"{name}.{part}"].astype(np.float32) for part in ("kernel", "bias")]
            for name in shapes
        }
        others = len(stored.files) - 2 * len(shapes)
    for name, (kernel, bias) in weights.items():
        if (kernel.shape, bias.shape) != (shapes[name][0], (shapes[name][1],)):
            raise DataError(WRONG)
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise DataError(WRONG)
    if others:
        raise DataError(WRONG)
    return weights
