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
from edge_runtime.model.pooling import log_mean_exp
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
    for name in ("features", "class_maps"):
        output = graph._outputs[name]
        raw = graph._interpreter.get_tensor(output["index"])[0]
        np.testing.assert_array_equal(graph._read(name), arithmetic(raw, *output["quantization"]))


class Interpreter:
    """One that answers with what it was told to."""

    dtype: Any = np.int8
    quantization: tuple[float, int] = (0.5, -3)
    given: Any
    declared: tuple[int, ...] | None = None  # another shape than that of what it gives

    def __init__(self, **how: Any) -> None: ...

    def allocate_tensors(self) -> None: ...

    def invoke(self) -> None: ...

    def set_tensor(self, index: int, values: np.ndarray) -> None: ...

    def get_input_details(self) -> list[dict[str, Any]]:
        entry = read_model().info.input
        return [{"index": 0, "shape": entry["shape"], "dtype": entry["dtype"]}]

    def get_output_details(self) -> list[dict[str, Any]]:
        shape = self.declared or self.get_tensor(1).shape
        return [{"index": 1, "shape": shape, "dtype": self.dtype,
                 "quantization": self.quantization}]  # fmt: skip

    def get_tensor(self, index: int) -> np.ndarray:
        return np.array([self.given], self.dtype)


def answered(
    given: Any,
    dtype: Any,
    quantization: tuple[float, int],
    pooling: str | None = None,
    declared: tuple[int, ...] | None = None,
) -> np.ndarray:
    """The answer of a graph that gives logits, or class maps to be pooled."""
    how = {"given": given, "dtype": dtype, "quantization": quantization, "declared": declared}
    fake = type("Fake", (Interpreter,), how)
    file = read_model()
    outputs = {"logits" if pooling is None else "class_maps": 0}
    info = replace(file.info, outputs=outputs, pooling=pooling, ood=None)
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
@pytest.mark.filterwarnings("error")
def test_logits_that_are_no_numbers_are_refused(logits: list, dtype: Any, scale: float) -> None:
    with pytest.raises(ModelError, match="not numbers"):
        answered(logits, dtype, (scale, 0))


MAPS = np.arange(24).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.float32])
def test_class_maps_are_pooled_to_logits(dtype: type) -> None:
    """By the definition, of what the levels stand for."""
    scale, zero = (0.0, 0) if dtype is np.float32 else (0.5, -3)
    logits = answered(MAPS.tolist(), dtype, (scale, zero), "log-sum-exp")
    real = MAPS.astype(float) if scale == 0 else (MAPS + 3) * 0.5
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, np.log(np.exp(real).mean(axis=(0, 1))), rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_class_maps_that_are_no_numbers_are_refused_before_they_are_pooled(wrong: float) -> None:
    """Minus infinity would vanish in the mean, and NaN warn on stderr."""
    maps = MAPS.astype(np.float32)
    maps[1, 2, 3] = wrong
    with pytest.raises(ModelError, match="not numbers"):
        answered(maps, np.float32, (0.0, 0), "log-sum-exp")
    with pytest.raises(ModelError, match="not numbers"):
        answered(MAPS, np.int8, (wrong, 0), "log-sum-exp")


@pytest.mark.parametrize(
    ("shape", "pooling"), [((4,), "log-sum-exp"), ((2, 2, 3), "log-sum-exp"), ((2, 2, 4), None)]
)
def test_class_maps_of_another_shape_are_refused(shape: Any, pooling: str | None) -> None:
    with pytest.raises(ModelError, match="not what its metadata says"):
        answered(np.zeros(shape), np.float32, (0.0, 0), pooling)


@pytest.mark.parametrize(
    ("given", "pooling", "declared"),
    [(np.zeros(0), None, (1, 4)), (np.zeros(3), None, (1, 4)), (np.zeros((1, 4)), None, (1, 4)),
     (np.zeros((0, 2, 4)), "log-sum-exp", (1, 2, 2, 4)),
     (np.zeros((2, 2, 3)), "log-sum-exp", (1, 2, 2, 4)),
     (np.zeros((3, 2, 4)), "log-sum-exp", (1, 2, 2, 4))],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_an_answer_of_another_shape_than_declared_is_refused(
    given: Any, pooling: str | None, declared: tuple[int, ...], dtype: Any
) -> None:
    """Interpreters let a shape depend on the input."""
    with pytest.raises(ModelError, match="not what its metadata says"):
        answered(given, dtype, (0.5, 0), pooling, declared)


@pytest.mark.parametrize("dtype", [np.bytes_, np.object_, np.bool_, np.complex64])
@pytest.mark.parametrize(("given", "pooling"), [(np.zeros(4), None), (MAPS, "log-sum-exp")])
def test_outputs_of_a_kind_that_is_no_number_are_refused(
    dtype: Any, given: Any, pooling: str | None
) -> None:
    with pytest.raises(ModelError, match="not what its metadata says"):
        answered(given, dtype, (0.0, 0), pooling)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "scale"), [(np.float64, 0.0), (np.int32, 3e38)])
@pytest.mark.parametrize("pooling", [None, "log-sum-exp"])
def test_numbers_that_are_too_large_for_an_answer_are_refused(
    dtype: Any, scale: float, pooling: str | None
) -> None:
    given = np.arange(4) * (1e300 if scale == 0 else 1e8)
    with pytest.raises(ModelError, match="not numbers"):
        answered(given if pooling is None else given.reshape(1, 1, 4), dtype, (scale, 0), pooling)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_class_maps_that_are_no_numbers_are_not_drawn(wrong: float) -> None:
    """Beside logits, which may be fine: the overlay would show nothing and not say why."""

    class Both(Interpreter):
        def get_output_details(self) -> list[dict[str, Any]]:
            return [{"index": i, "shape": self.get_tensor(i).shape, "dtype": np.float32,
                     "quantization": (0.0, 0)} for i in range(2)]  # fmt: skip

        def get_tensor(self, index: int) -> np.ndarray:
            given = np.full((1, 2, 2, 4), wrong) if index else np.zeros((1, 4))
            return given.astype(np.float32)

    file = read_model()
    info = replace(file.info, outputs={"logits": 0, "class_maps": 1}, pooling=None,
                   ood=None, view=None)  # fmt: skip
    size = info.preprocess.size
    graph = TfliteGraph(replace(file, info=info), "litert", 1, Both, "")
    assert graph.run(np.zeros((size, size), np.uint8)).tolist() == [0, 0, 0, 0]
    with pytest.raises(ModelError, match="not numbers"):
        graph.class_maps()


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.filterwarnings("error")
@given(st.lists(FINITE | st.floats(-30, 30, width=32), min_size=4, max_size=48))
def test_a_pooled_map_lies_between_its_mean_and_its_largest_cell(values: list[float]) -> None:
    cells = np.array(values[: len(values) // 4 * 4], np.float32).reshape(-1, 1, 4)
    logits = log_mean_exp(cells)
    exact = cells.astype(np.float64)
    mean, most = exact.mean(axis=(0, 1)), exact.max(axis=(0, 1))
    near = 1e-5 + 1e-6 * np.abs(exact).max()
    assert ((mean - near <= logits) & (logits <= most + near)).all()
    assert (logits >= most - np.log(len(cells)) - near).all()


@given(st.floats(-20, 20, width=32), st.integers(0, 35))
def test_a_map_of_equal_cells_is_pooled_to_them_and_one_cell_speaks(
    level: float, place: int
) -> None:
    cells = np.full((36, 4), level, np.float32)
    np.testing.assert_allclose(log_mean_exp(cells.reshape(6, 6, 4)), level, atol=1e-5)
    cells[place, 1] += 10
    logits = log_mean_exp(cells.reshape(6, 6, 4))
    assert logits.argmax() == 1
    assert logits[1] > level + 10 - np.log(36), "in their mean it would be level + 10 / 36"
