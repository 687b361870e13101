"""Microcontrollers: the C array compiles and is the graph; the arena estimate holds."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ModelError, UsageError
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import bundled_model, read_model
from edge_runtime.model.pooling import log_mean_exp
from export.tflite.arena import Buffer, estimate_arena, plan_bytes, plan_offsets
from export.tflite.c_array import c_files

COMPILER = shutil.which("g++") or shutil.which("c++")
FLAGS = ("-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


def spans(size: int = 5000) -> st.SearchStrategy[Buffer]:
    return st.builds(
        lambda blocks, first, length: Buffer(16 * blocks, first, first + length),
        st.integers(1, size // 16), st.integers(0, 12), st.integers(0, 6),
    )  # fmt: skip


def busiest(buffers: list[Buffer]) -> int:
    """The largest sum of what is in use at one step."""
    return max(
        (sum(b.size for b in buffers if b.first <= step <= b.last) for step in range(20)), default=0
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(spans(), max_size=25))
def test_a_plan_never_gives_the_same_bytes_twice(buffers: list[Buffer]) -> None:
    offsets = plan_offsets(buffers)
    for i, (one, at) in enumerate(zip(buffers, offsets, strict=True)):
        assert at >= 0
        assert at % 16 == 0
        for other, where in zip(buffers[:i], offsets[:i], strict=True):
            apart = at + one.size <= where or where + other.size <= at
            assert apart or not one.meets(other)
    assert busiest(buffers) <= plan_bytes(buffers) <= sum(b.size for b in buffers)


def test_a_plan_by_hand() -> None:
    """Three tensors in a chain: the third takes the place of the first."""
    chain = [Buffer(64, 0, 1), Buffer(128, 1, 2), Buffer(32, 2, 3)]
    assert plan_offsets(chain) == [128, 0, 128]
    assert plan_bytes(chain) == 192
    assert plan_offsets([Buffer(16, 0, 1), Buffer(16, 1, 2)]) == [16, 0], (
        "of equals, the last first"
    )
    gap = [Buffer(64, 0, 0), Buffer(48, 0, 2), Buffer(32, 0, 2), Buffer(64, 2, 2)]
    assert plan_offsets(gap)[0] != plan_offsets(gap)[1]
    assert plan_bytes([]) == 0


def chain_graph(shapes: list[tuple[int, ...]], *, subgraphs: int = 1) -> bytes:
    """A graph of RELU after RELU on int8 tensors, made by hand."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(shape: tuple[int, ...]) -> schema.TensorT:
        made = schema.TensorT()
        made.shape, made.type, made.buffer = list(shape), schema.TensorType.INT8, 0
        return made

    def operator(i: int) -> schema.OperatorT:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = 0, [i], [i + 1]
        return made

    part = schema.SubGraphT()
    part.tensors = [tensor(shape) for shape in shapes]
    part.operators = [operator(i) for i in range(len(shapes) - 1)]
    part.inputs, part.outputs = [0], [len(shapes) - 1]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [part] * subgraphs, [code]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_arena_of_a_graph_by_hand() -> None:
    """1000 bytes, then 500, then 2000: the first and the last never meet."""
    estimate = estimate_arena(chain_graph([(1, 1000), (1, 500), (1, 2000)]))
    assert (estimate.tensors, estimate.scratch, estimate.planning) == (2000 + 512, 0, 0)
    # 3 eval tensors of 12, 2 nodes of 32, 2 tensors of 40 with 20 of quantisation; op data and
    # parameters of 2 operators; the allocators.
    assert estimate.overhead == 3 * 12 + 2 * 32 + 2 * (40 + 20) + 2 * (80 + 32) + 640
    assert estimate.total == -(-(2512 + estimate.overhead) // 16) * 16
    wide = estimate_arena(chain_graph([(1, 1000), (1, 500), (1, 2000)]), pointer_bytes=8)
    assert wide.tensors == estimate.tensors
    assert wide.overhead > estimate.overhead


def test_the_smallest_graphs_need_room_for_the_planner() -> None:
    estimate = estimate_arena(chain_graph([(1, 4)] * 9))
    assert estimate.tensors == 32
    assert estimate.planning > 0
    assert estimate.total >= estimate.tensors + estimate.planning + estimate.overhead


def test_arena_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ModelError, match="2 subgraphs"):
        estimate_arena(chain_graph([(1, 4), (1, 4)], subgraphs=2))
    with pytest.raises(ModelError, match="cannot be read"):
        estimate_arena(b"\x1c\0\0\0TFL3" + bytes(range(200)))


def test_arena_of_the_bundled_model() -> None:
    """The peak is one place of the network: 96 channels at half the size, then at a quarter."""
    file = read_model()
    graph, half = file.graph, file.info.preprocess.size // 2
    reference = estimate_arena(graph, optimised=False)
    assert (reference.tensors, reference.scratch) == (96 * (half**2 + (half // 2) ** 2), 0)
    optimised = estimate_arena(graph)
    assert optimised.tensors == reference.tensors
    assert optimised.scratch == 4 * 124 * 3 * 3, "of the depthwise convolution at the peak"
    assert optimised.total % 16 == 0


@pytest.fixture(scope="module")
def files(files: dict[str, Path]) -> dict[str, Path]:
    return {name: files[name] for name in ("int8", "onnx")} | {"bundled": bundled_model()}


INTERPRET = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime

path, arena, pixels, answers = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
micro = runtime.Interpreter.from_file(path, arena_size=arena)
told = []
for one in np.load(pixels):
    micro.set_input(one, 0)
    micro.invoke()
    told.append(micro.get_output(int(sys.argv[5])))
np.save(answers, np.concatenate(told))
micro.print_allocations()
"""

needs_micro = pytest.mark.skipif(
    find_spec("tflite_micro") is None, reason="no package tflite-micro for this machine"
)
Interpret = Callable[[str, int], subprocess.CompletedProcess[str]]


def answer_of(file: ModelFile) -> int:
    """The output that answers: the logits, or the class maps of a graph without."""
    outputs = file.info.outputs
    return outputs["logits"] if "logits" in outputs else outputs["class_maps"]


def pooled_steps(maps: np.ndarray, scale: float) -> np.ndarray:
    """Class maps in steps to logits in steps."""
    return log_mean_exp(maps * scale) / scale


@pytest.fixture
def interpret(files: dict[str, Path], tmp_path: Path) -> Interpret:
    """Run a file's graph in TFLite Micro, in a process of its own, on five random slices."""

    def run(name: str, arena: int) -> subprocess.CompletedProcess[str]:
        file = read_model(files[name])
        graph, size = tmp_path / "graph.tflite", file.info.preprocess.size
        graph.write_bytes(file.graph)
        pixels = np.random.default_rng(2).integers(0, 256, (5, 1, size, size, 1), np.uint8)
        np.save(tmp_path / "pixels.npy", pixels)
        line = [sys.executable, "-c", INTERPRET, graph, arena, tmp_path / "pixels.npy",
                tmp_path / "answers.npy", answer_of(file)]  # fmt: skip
        return subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=120)

    return run


@needs_micro
@pytest.mark.parametrize("name", ["int8", "bundled"])
def test_tflite_micro_runs_the_graph_in_the_estimated_arena(
    files: dict[str, Path], interpret: Interpret, tmp_path: Path, name: str
) -> None:
    """Its Python interpreter has pointers of 8 bytes and the reference kernels."""
    from ai_edge_litert.interpreter import Interpreter

    file = read_model(files[name])
    estimate = estimate_arena(file.graph, pointer_bytes=8, optimised=False)
    done = interpret(name, estimate.total)
    assert done.returncode == 0, done.stderr
    used = {
        part: int(re.search(rf"Arena allocation {part} (\d+) bytes", done.stderr + done.stdout)[1])
        for part in ("total", "head", "tail")
    }
    assert estimate.tensors + estimate.scratch == used["head"], "the plan is theirs, to the byte"
    assert used["total"] <= estimate.total <= 1.1 * used["total"]
    assert interpret(name, int(0.8 * estimate.total)).returncode != 0

    lite = Interpreter(model_content=file.graph)
    lite.allocate_tensors()
    place = lite.get_output_details()[answer_of(file)]
    for pixels, micro in zip(
        np.load(tmp_path / "pixels.npy"), np.load(tmp_path / "answers.npy"), strict=True
    ):
        lite.set_tensor(lite.get_input_details()[0]["index"], pixels)
        lite.invoke()
        both = [lite.get_tensor(place["index"])[0].astype(float), micro.astype(float)]
        if file.info.pooling is not None:
            both = [pooled_steps(maps, place["quantization"][0]) for maps in both]
        assert np.abs(both[0] - both[1]).max() <= 3, "steps of the quantised answer"


@pytest.fixture(scope="module")
def source(files: dict[str, Path]) -> dict[str, str]:
    return c_files(files["int8"].read_bytes(), "tiny-int8", 23_456)


def test_c_files_say_what_they_are(files: dict[str, Path], source: dict[str, str]) -> None:
    assert source.keys() == {"tiny_int8_model.h", "tiny_int8_model.cc"}
    file = read_model(files["int8"])
    for text in source.values():
        assert text.startswith(f"// {file.tag}\n// Research use only; not for diagnosis.\n")
        assert file.sha256 in text
        assert file.info.graph_sha256 in text
        assert "about 23456 bytes" in text
        assert "estimate, not a measurement" in text
        assert max(map(len, text.splitlines())) <= 110
    assert "alignas(16) const unsigned char g_tiny_int8_model[] = {" in source["tiny_int8_model.cc"]
    assert c_files(files["int8"].read_bytes(), "tiny-int8", 23_456) == source, "the same bytes"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", ["int8", "bundled"])
def test_the_array_compiles_and_is_the_graph(
    files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Both files, in a program with a second unit that includes the header too."""
    assert COMPILER is not None
    arena = estimate_arena(read_model(files[name]).graph).total
    for file, text in c_files(files[name].read_bytes(), "net", arena).items():
        (tmp_path / file).write_text(text)
    (tmp_path / "main.cc").write_text(
        """
        #include <cstdint>
        #include <cstdio>
        #include "net_model.h"
        #include "net_model.h"
        alignas(16) static unsigned char tensor_arena[g_net_model_arena];
        int main() {
          if (reinterpret_cast<std::uintptr_t>(g_net_model) % 16 != 0) return 1;
          if (sizeof(tensor_arena) != g_net_model_arena) return 2;
          return std::fwrite(g_net_model, 1, g_net_model_len, stdout) == g_net_model_len ? 0 : 3;
        }
        """
    )
    built = subprocess.run(
        [COMPILER, *FLAGS, "main.cc", "net_model.cc", "-o", "dump"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    dumped = subprocess.run([tmp_path / "dump"], capture_output=True, timeout=300)
    assert dumped.returncode == 0
    assert dumped.stdout == read_model(files[name]).graph
    assert hashlib.sha256(dumped.stdout).hexdigest() == read_model(files[name]).info.graph_sha256


def test_c_files_refuse(files: dict[str, Path]) -> None:
    whole = files["int8"].read_bytes()
    with pytest.raises(UsageError, match="onnx"):
        c_files(files["onnx"].read_bytes(), "net", 1000)
    with pytest.raises(UsageError, match="letters or digits"):
        c_files(whole, "--", 1000)
    with pytest.raises(ModelError):
        c_files(whole[:-1], "net", 1000)
    with pytest.raises(ModelError):
        c_files(read_model(files["int8"]).graph, "net", 1000)
    assert "g_3_d_net_model[]" in c_files(whole, "3-D/Net", 1000)["3_d_net_model.h"]
