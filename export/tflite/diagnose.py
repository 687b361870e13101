"""Which layer an int8 file loses its accuracy in.

Three runs tell. The int8 file beside the float graph shows errors as they add up from layer to
layer. The float graph with one layer as the file has it (its rounded weights, its output rounded
and clipped to int8 steps) shows what that layer adds, and what that does to the logits; the layers
are ranked by it. For the worst layers the reverse as well: all as in the file but that one.

The last two are emulated in floats, since one graph cannot mix kernels of both kinds; how near the
whole emulation comes to the file stands in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.model.pooling import POOLINGS
from export.tflite.emulate import (
    Errors,
    Layer,
    pair_layers,
    run_emulated,
    run_file,
    run_graph,
)
from export.tflite.flatbuffer import read_tflite

if TYPE_CHECKING:
    import keras
    from rich.table import Table

Floats = npt.NDArray[np.float32]
ANSWER = "output_0"  # in the words of a converted graph's signature
KERAS_OPS = {
    "Conv2D": "CONV_2D", "DepthwiseConv2D": "DEPTHWISE_CONV_2D", "Dense": "FULLY_CONNECTED",
    "Add": "ADD", "MaxPooling2D": "MAX_POOL_2D", "AveragePooling2D": "AVERAGE_POOL_2D",
    "GlobalAveragePooling2D": "MEAN", "Flatten": "RESHAPE", "Rescaling": "MUL",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Mean absolute difference of the logits from the float graph's, share of images with the
    same top class, and with the right one (None without labels)."""

    logit: float
    agreement: float
    accuracy: float | None


@dataclass(frozen=True)
class LayerError:
    """How well the int8 file keeps one layer. Decibels are None where nothing is lost.

    Attributes:
        name: of the Keras layer, with the batch norm and activation that follow; `pixels` is the
            input, wrong only where the file does not take a pixel's value for itself.
        op, shape: of TFLite; the output's shape, batch first.
        step: between neighbouring int8 values of the output.
        low, high: least and greatest output in float.
        grid_low, grid_high: least and greatest that int8 can hold there.
        clipped: share of outputs outside of that.
        rmse, rmse_steps, sqnr: error of the output as the file runs, with all that came in from
            the layers before: absolute, in steps, and signal to noise in dB.
        local_rmse_steps, local_sqnr: likewise, of what this layer adds alone.
        weight_sqnr: signal to noise of the weights in dB; None without weights.
        weight_spread: largest weight of the strongest channel over that of the weakest alive.
        alone: the float graph with this layer as in the file.
        others: the file with this layer in float; None but for the worst layers.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    step: float
    low: float
    high: float
    grid_low: float
    grid_high: float
    clipped: float
    rmse: float
    rmse_steps: float
    sqnr: float | None
    local_rmse_steps: float
    local_sqnr: float | None
    weight_sqnr: float | None
    weight_spread: float | None
    alone: Change
    others: Change | None


@dataclass(frozen=True)
class Diagnosis:
    """What `images` images showed: the float graph's own answer, the file's, the file's as
    emulated, and the layers in the order of the graph."""

    images: int
    reference: Change
    file: Change
    emulated: Change
    layers: tuple[LayerError, ...]

    def ranked(self) -> list[LayerError]:
        """The layers, the costliest first."""
        return sorted(self.layers, key=lambda layer: -layer.alone.logit)


def diagnose(
    graph: keras.Model,
    floats: bytes,
    flatbuffer: bytes,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | None = None,
    *,
    pooling: str | None = None,
    worst: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Measure every layer of an int8 file against the float graph.

    Args:
        graph: from `export_graph`, whose first output is the logits, or from `maps_graph`, whose
            first output are the class maps.
        floats, flatbuffer: its conversions to float32 and to int8.
        images: N×size×size; a hundred or more for shares that mean something.
        labels: N class numbers.
        pooling: what makes logits of the class maps, see `ModelInfo.pooling`.
        worst: for how many layers `others` is measured.
        progress: called with (runs done, runs in all).

    Raises:
        ModelError: the file is not of this graph.
    """
    model, file = read_tflite(floats), read_tflite(flatbuffer)
    layers = pair_layers(model, file)
    answers = [made.signature[ANSWER] for made in (model, file)]
    whole = run_file(floats, flatbuffer, images, layers)

    def emulated_logits(chosen: list[Layer], errors: Errors | None = None) -> Floats:
        return _logits(run_emulated(model, chosen, images, answers[0], errors), pooling)

    true = emulated_logits([])
    given = [row[0] for (row,) in run_graph(flatbuffer, images[..., None], answers[1:])]
    seen = _logits(np.stack(given), pooling)
    runs = iter(range(1, 2 * len(layers) + 2))

    def change(logits: Floats) -> Change:
        predicted, same = logits.argmax(axis=1), true.argmax(axis=1)
        right = None if labels is None else float((predicted == labels).mean())
        return Change(float(np.abs(logits - true).mean()), float((predicted == same).mean()), right)

    def emulate(chosen: list[Layer], errors: Errors | None = None) -> Change:
        logits = emulated_logits(chosen, errors)
        if progress is not None:
            progress(next(runs), len(layers) + min(worst, len(layers)) + 1)
        return change(logits)

    emulated = emulate(layers)
    own = [Errors(layer) for layer in layers]
    alone = [emulate([errors.layer], errors) for errors in own]
    order = sorted(range(len(layers)), key=lambda i: -alone[i].logit)
    others = {i: emulate([*layers[:i], *layers[i + 1 :]]) for i in order[:worst]}
    rows = tuple(
        _row(name, layer, whole[i], own[i], alone[i], others.get(i))
        for i, (name, layer) in enumerate(zip(_names(graph, layers), layers, strict=True))
    )
    return Diagnosis(len(images), change(true), change(seen), emulated, rows)


def _logits(given: Floats, pooling: str | None) -> Floats:
    """N×C, of what the graph gave for N images."""
    return given if pooling is None else np.stack([POOLINGS[pooling].pool(maps) for maps in given])


def _row(
    name: str, layer: Layer, whole: Errors, own: Errors, alone: Change, others: Change | None
) -> LayerError:
    low, high = ((end - layer.zero) * layer.step for end in (-128, 127))
    return LayerError(
        name, layer.op, layer.shape, layer.step, whole.low, whole.high, low, high,
        whole.outside / whole.values, whole.rmse, whole.rmse / layer.step, whole.sqnr,
        own.rmse / layer.step, own.sqnr, layer.weight_sqnr, layer.weight_spread, alone, others,
    )  # fmt: skip


def _names(graph: keras.Model, layers: list[Layer]) -> list[str]:
    """The Keras layers' names: the n-th of a kind and shape here is the n-th there."""
    core = next((layer for layer in graph.layers if hasattr(layer, "layers")), graph)
    waiting: dict[tuple[str | None, tuple[int, ...]], list[str]] = {}
    for layer in core.layers:
        kind = KERAS_OPS.get(type(layer).__name__)
        waiting.setdefault((kind, tuple(layer.output.shape[1:])), []).append(layer.name)
    names = []
    for one in layers:
        left = waiting.get((one.op, one.shape[1:]))
        names.append(left.pop(0) if left else f"{one.op.lower()} at {one.place}")
    return [str(graph.inputs[0].name), *names[1:]]


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The content of diagnosis.json: the fields by their names, and plain numbers."""
    return asdict(diagnosis)


def as_table(diagnosis: Diagnosis) -> Table:
    """The layers, the costliest first, for a terminal of 120 columns.

    `own` is what a layer adds and `all` what its output has gathered; the logits change by `int8`
    with this layer alone in int8, and by `float` with this layer alone in float.
    """
    from rich.table import Table

    def number(value: float | None, digits: int = 1) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    heads = ("own\ndB", "own\nsteps", "all\ndB", "all\nsteps", "clip\n%", "weight\ndB", "spread",
             "Δ logit\nint8", "same %\nint8", "Δ logit\nfloat", "same %\nfloat")  # fmt: skip
    table = Table("layer", caption=summary(diagnosis), caption_justify="left")
    for head in heads:
        table.add_column(head, justify="right")
    for row in diagnosis.ranked():
        changes = [row.alone, row.others]
        table.add_row(
            row.name, number(row.local_sqnr), number(row.local_rmse_steps, 2), number(row.sqnr),
            number(row.rmse_steps, 2), number(100 * row.clipped, 2), number(row.weight_sqnr),
            number(row.weight_spread, 0),
            *(t for c in changes if c for t in (number(c.logit, 3), number(100 * c.agreement))),
        )  # fmt: skip
    return table


def summary(diagnosis: Diagnosis) -> str:
    """The whole file in a sentence or two."""
    file, float_ = diagnosis.file, diagnosis.reference
    words = (
        f"On {diagnosis.images} images the file's logits differ from the float graph's by "
        f"{file.logit:.3f} on average (emulated: {diagnosis.emulated.logit:.3f}) and its top class "
        f"is the same on {100 * file.agreement:.2f} %."
    )
    if file.accuracy is None or float_.accuracy is None:
        return words
    return f"{words} Right are {100 * file.accuracy:.2f} %, in float {100 * float_.accuracy:.2f} %."
