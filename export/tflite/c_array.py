"""A graph as C++ source, for microcontrollers that have no files.

The form is TFLite Micro's own: a header that declares the array and its length, and a source file
with the bytes, aligned to 16 since the interpreter reads the flatbuffer where it lies.
"""

from __future__ import annotations

import re

from edge_runtime.errors import UsageError, printable
from edge_runtime.model.file_format import ModelFile, parse_model
from edge_runtime.model.metadata import INTENDED_USE, ModelInfo
from edge_runtime.model.pooling import POOLINGS

_BYTES_PER_LINE = 16


def c_files(data: bytes, name: str, arena: int) -> dict[str, str]:
    """The header and the source of a model file.

    The array holds the graph only. The zip behind it (labels, metadata, the file's digest) is for
    readers of files: TFLite Micro never looks there, and flash is scarce. What a reader of the
    code must know stands in the comments.

    Args:
        data: the whole .tflite file, as `btc-export` writes it.
        name: the model's name; what is no letter or digit becomes `_`.
        arena: bytes that the tensor arena is estimated to need, see `export.tflite.arena`.

    Returns:
        File name -> text, as `brain_mri_model.h` and `brain_mri_model.cc`.

    Raises:
        ModelError: not a whole model file. UsageError: an .onnx, or a name without any letter.
    """
    file = parse_model(data)
    if file.format != "tflite":
        raise UsageError("a C array is made of a .tflite file; TFLite Micro reads no .onnx")
    word = re.sub(r"[^a-z0-9]+", "_", name.lower(), flags=re.ASCII).strip("_")
    if not word:
        raise UsageError(f"--name {name!r}: a C array needs letters or digits in it")
    about = _comment(file, arena)
    symbol = f"g_{word}_model"
    return {
        f"{word}_model.h": _header(symbol, about, arena),
        f"{word}_model.cc": _source(symbol, about, f"{word}_model.h", file.graph),
    }


def _comment(file: ModelFile, arena: int) -> str:
    info = file.info
    shape = "x".join(map(str, info.input["shape"]))
    outputs = ", ".join(f"{i} {name}" for name, i in sorted(info.outputs.items(), key=_second))
    lines = (
        file.tag,
        INTENDED_USE,
        "",
        f"SHA-256 of the model file:  {file.sha256}",
        f"SHA-256 of the array below: {info.graph_sha256}",
        f"Labels, in the order of the logits: {', '.join(info.labels)}",
        f"Input: {info.input['dtype']}, {shape}, gray levels 0-255",
        f"Outputs: {outputs}",
        *_pooling(info),
        "",
        f"Tensor arena: about {arena} bytes with 4-byte pointers and the kernels of CMSIS-NN. This",
        "is an estimate, not a measurement: begin with a margin, and read arena_used_bytes() of",
        "tflite::MicroInterpreter on the board.",
    )
    # A backslash at a line's end would take the next line into the comment.
    return "\n".join(f"// {printable(line)}".rstrip("\\ ") for line in lines)


def _pooling(info: ModelInfo) -> list[str]:
    """How logits are made of the outputs, where the graph leaves that to the device."""
    if info.pooling is None:
        return []
    return [
        f"A class's logit is {POOLINGS[info.pooling].formula},",
        "x = scale * (value - zero point), both in the output tensor's params.",
    ]


def _second(item: tuple[str, int]) -> int:
    return item[1]


def _header(symbol: str, about: str, arena: int) -> str:
    guard = f"{symbol[2:].upper()}_H_"
    return f"""{about}

#ifndef {guard}
#define {guard}

extern const unsigned char {symbol}[];
extern const unsigned int {symbol}_len;

// Bytes; an estimate, see above.
constexpr unsigned int {symbol}_arena = {arena};

#endif  // {guard}
"""


def _source(symbol: str, about: str, header: str, graph: bytes) -> str:
    rows = (graph[i : i + _BYTES_PER_LINE] for i in range(0, len(graph), _BYTES_PER_LINE))
    body = "\n".join("    " + ", ".join(f"0x{byte:02x}" for byte in row) + "," for row in rows)
    return f"""{about}

#include "{header}"

alignas(16) const unsigned char {symbol}[] = {{
{body}
}};
const unsigned int {symbol}_len = {len(graph)};
"""
