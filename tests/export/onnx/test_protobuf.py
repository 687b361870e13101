"""The one reader of an .onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_runtime.errors import ModelError
from edge_runtime.model.load import read_model
from export.formats import FORMATS
from export.onnx.protobuf import read_onnx


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.kind == "onnx"])
def test_files_are_what_their_format_says(files: dict[str, Path], name: str) -> None:
    graph = read_onnx(read_model(files[name]).graph)
    assert graph.scheme == FORMATS[name].scheme
    assert graph.ops["Conv"] == 3
    assert graph.macs == 16 * 16 * 9 * 8 + 8 * 8 * 9 * 8 * 16 + 8 * 8 * 16 * 4


@pytest.mark.parametrize(
    ("dtype", "scheme"),
    [("float32", "float32"), ("float16", "float16"), ("float64", "other types"),
     ("int8", "other types")],
)  # fmt: skip
def test_weights_of_another_type(files: dict[str, Path], dtype: str, scheme: str) -> None:
    """Alone they say nothing of how the graph computes: int8 without its steps is no scheme."""
    proto = onnx.load_from_string(read_model(files["onnx"]).graph)
    (first, *_) = [tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4]
    first.CopyFrom(numpy_helper.from_array(np.ones((8, 1, 3, 3), dtype), first.name))
    assert read_onnx(proto.SerializeToString()).scheme == scheme


def test_what_is_no_protobuf_is_one_error() -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx(b"\xff" * 64)
