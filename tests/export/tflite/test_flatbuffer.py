"""The one reader of a .tflite, on graphs made by hand and on files of every format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ModelError
from edge_runtime.model.load import bundled_model, read_model
from export.formats import FORMATS
from export.tflite.flatbuffer import read_tflite
from export.tflite.repack import write_graph
from tests.export.tflite.test_micro import chain_graph

TFLITE = [name for name, form in FORMATS.items() if form.kind == "tflite"]


def test_a_graph_made_by_hand() -> None:
    graph = read_tflite(chain_graph([(1, 10), (1, 10), (2, 5)]))
    assert [op.name for op in graph.operators] == ["RELU", "RELU"]
    assert [(op.inputs, op.outputs) for op in graph.operators] == [((0,), (1,)), ((1,), (2,))]
    assert [(t.shape, t.dtype, t.bytes, t.data) for t in graph.tensors] == [
        ((1, 10), "INT8", 10, None), ((1, 10), "INT8", 10, None), ((2, 5), "INT8", 10, None)
    ]  # fmt: skip
    assert (graph.inputs, graph.outputs, graph.ops, graph.macs) == ((0,), (2,), {"RELU": 2}, 0)
    assert (graph.scheme, graph.integer_only) == ("int8-full", True)
    assert (graph.signature, graph.tensors[0].values()) == ({}, None)


@pytest.mark.parametrize("name", TFLITE)
def test_files_are_what_their_format_says(files: dict[str, Path], name: str) -> None:
    graph = read_tflite(read_model(files[name]).graph)
    assert graph.scheme == FORMATS[name].scheme
    assert graph.input_types == (FORMATS[name].dtype.upper(),)
    assert graph.integer_only == (name == "int8")
    assert {graph.signature[f"output_{i}"] for i in range(3)} == set(graph.outputs)
    kernel = next(op for op in graph.operators if op.name == "CONV_2D").inputs[1]
    assert graph.tensors[kernel].shape == (8, 3, 3, 1)


def test_quantised_values_are_those_of_the_float_file(files: dict[str, Path]) -> None:
    def kernels(name: str) -> list[np.ndarray]:
        graph = read_tflite(read_model(files[name]).graph)
        convolutions = [op for op in graph.operators if op.name == "CONV_2D"]
        return [graph.tensors[op.inputs[1]].values() for op in convolutions]

    for true, seen in zip(kernels("float32"), kernels("int8"), strict=True):
        steps = np.abs(true).max(axis=(1, 2, 3), keepdims=True) / 127  # one for each channel
        assert (np.abs(true - seen) <= 0.5001 * steps).all()


def moved_out(graph: bytes) -> tuple[bytes, int]:
    """The graph with its constants behind the flatbuffer, as LiteRT's quantiser writes a larger
    one, and where they begin."""
    model = read_tflite(graph).schema
    full = [buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data)]
    constants = [bytes(buffer.data) for buffer in full]
    for buffer in full:
        buffer.data, buffer.offset, buffer.size = None, 1, 1  # as long as any other number
    at = start = -(-len(write_graph(model)) // 16) * 16
    for buffer, data in zip(full, constants, strict=True):
        buffer.offset, buffer.size = at, len(data)
        at += len(data)
    return write_graph(model).ljust(start, b"\0") + b"".join(constants), start


def test_constants_behind_the_flatbuffer_are_read() -> None:
    whole = read_model().graph
    apart, start = moved_out(whole)
    assert len(apart) > start
    one, other = read_tflite(whole), read_tflite(apart)
    for tensor, moved in zip(one.tensors, other.tensors, strict=True):
        assert np.array_equal(tensor.values(), moved.values())
    assert write_graph(other.schema) == write_graph(one.schema)
    with pytest.raises(ModelError, match="constants lie outside the file"):
        read_tflite(apart[:-1])


def test_what_is_no_graph_is_one_error() -> None:
    whole = read_model().graph
    for data in (b"", whole[:100], b"\x1c\0\0\0TFL3" + bytes(range(200)), whole[:8] + b"\xff" * 64):
        with pytest.raises(ModelError, match="cannot be read"):
            read_tflite(data)
    with pytest.raises(ModelError, match="2 subgraphs is not supported"):
        read_tflite(chain_graph([(1, 4), (1, 4)], subgraphs=2))


def test_tensorflow_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None;"
        "from edge_runtime.model.load import read_model;"
        "from export.tflite.arena import estimate_arena;"
        "from export.tflite.flatbuffer import read_tflite;"
        f"graph = read_model({str(bundled_model())!r}).graph;"
        "print(read_tflite(graph).scheme, estimate_arena(graph).total > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "int8-full True\n", done.stderr
