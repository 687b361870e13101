"""What a graph's outputs stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice
from edge_runtime import ModelError
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.load import read_model
from edge_runtime.model.sessions import TfliteGraph, _levels


def arithmetic(raw: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """The definition of an affine quantisation, in float32."""
    values: np.ndarray = (raw.astype(np.float32) - zero) * np.float32(scale)
    return values


@given(
    st.sampled_from([np.int8, np.uint8]),
    st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, 1 / 256, 0.1, np.nan, np.inf]),
    st.integers(-128, 255),
)
def test_every_level_stands_for_what_the_arithmetic_gives(
    dtype: type, scale: float, zero: int
) -> None:
    with np.errstate(all="ignore"):
        levels = _levels({"dtype": dtype, "quantization": (scale, zero)})
        raw = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
        wanted = arithmetic(raw, scale, zero)
    assert levels is not None
    assert levels.take(raw, mode="wrap").tobytes() == wanted.tobytes()
    square = raw.reshape(16, 16)[::-1, ::2]
    assert levels.take(square, mode="wrap").tobytes() == wanted.reshape(16, 16)[::-1, ::2].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16, np.int32])
def test_other_outputs_have_no_levels(dtype: type) -> None:
    assert _levels({"dtype": dtype, "quantization": (0.1, 0)}) is None


def test_outputs_of_the_bundled_model() -> None:
    model = read_model()
    graph: Any = open_graph(model)
    graph.run(preprocess(draw_slice(1), model.info.preprocess))
    for name in ("logits", "features", "class_maps"):
        output = graph._outputs[name]
        raw = graph._interpreter.get_tensor(output["index"])[0]
        np.testing.assert_array_equal(graph._read(name), arithmetic(raw, *output["quantization"]))


class Interpreter:
    """One that answers with what it was told to."""

    dtype: Any = np.int8
    quantization: tuple[float, int] = (0.5, -3)
    logits: list[float]

    def __init__(self, **how: Any) -> None: ...

    def allocate_tensors(self) -> None: ...

    def invoke(self) -> None: ...

    def set_tensor(self, index: int, values: np.ndarray) -> None: ...

    def get_input_details(self) -> list[dict[str, Any]]:
        entry = read_model().info.input
        return [{"index": 0, "shape": entry["shape"], "dtype": entry["dtype"]}]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [{"index": 1, "shape": [1, 4], "dtype": self.dtype,
                 "quantization": self.quantization}]  # fmt: skip

    def get_tensor(self, index: int) -> np.ndarray:
        return np.array([self.logits], self.dtype)


def answered(logits: list[float], dtype: Any, quantization: tuple[float, int]) -> np.ndarray:
    how = {"logits": logits, "dtype": dtype, "quantization": quantization}
    fake = type("Fake", (Interpreter,), how)
    file = read_model()
    info = replace(file.info, outputs={"logits": 0}, ood=None)
    size = info.preprocess.size
    graph = TfliteGraph(replace(file, info=info), "litert", 1, fake, "")
    return graph.run(np.zeros((size, size), np.uint8))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_quantised_logits_are_float32(dtype: type) -> None:
    logits = answered([1, 2, 3, 100], dtype, (0.5, -3))
    assert logits.dtype == np.float32
    assert logits.tolist() == [2, 2.5, 3, 51.5]


@pytest.mark.parametrize(
    ("logits", "dtype", "scale"),
    [([0, np.nan, 0, 1], np.float32, 0.0), ([0, np.inf, 0, 1], np.float32, 0.0),
     ([1, 2, 3, 4], np.int8, np.nan), ([1, 2, 3, 4], np.uint8, np.inf),
     ([1, 2, 3, 4], np.int16, np.nan)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_logits_that_are_no_numbers_are_refused(logits: list, dtype: Any, scale: float) -> None:
    with pytest.raises(ModelError, match="not numbers"):
        answered(logits, dtype, (scale, 0))
