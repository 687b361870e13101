"""From class maps to logits, where a graph leaves that to the device.

A network may pool each of its class maps by the log of the mean of the exponentials of its cells
(Pinheiro and Collobert, From image-level to pixel-level labeling, 2015). In integers a graph cannot
do that well: eight bits are too coarse for an exponential, and not every interpreter has the ops.
So such a graph ends in its class maps, and `model.json` says by its `pooling` how they become
logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


def log_mean_exp(maps: npt.NDArray[np.floating[Any]]) -> Floats:
    """Finite class maps (H×W×C) to logits (C): between the mean of a map's cells and the largest.

    In doubles, so that whatever is finite stays so and the rounding to float32 hides how a
    processor computes an exponential. Some 5 µs for 6×6 cells and four classes.
    """
    cells = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    most = np.maximum.reduce(cells)
    raised = np.exp(cells - most)
    logits: npt.NDArray[np.float64] = most + np.log(np.add.reduce(raised) / len(cells))
    return logits.astype(np.float32)


class Pooling(NamedTuple):
    """A pooling that `model.json` may name: the function, and for people what it computes."""

    pool: Callable[[npt.NDArray[np.floating[Any]]], Floats]
    formula: str


POOLINGS = {"log-sum-exp": Pooling(log_mean_exp, "log(mean(exp(x))) over all cells x of its map")}
