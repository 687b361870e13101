"""Whether a model file is whole, is what it says, and is by whom it should be.

TensorFlow is not needed: a device's interpreter and its schema are enough, and the package onnx
for .onnx files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import edge_runtime.verify
from edge_runtime.errors import ModelError, one_line
from edge_runtime.model.file_format import ModelFile
from edge_runtime.verify import Findings, Verified
from export.formats import FORMATS, Format
from export.onnx.network import OPSET
from export.onnx.protobuf import read_onnx
from export.onnx.saturation import differs_by_processor
from export.tflite.flatbuffer import read_tflite

MAX_ML_OPSET = 3  # ONNX's operators of classical models
MAX_IR_VERSION = 9  # of ONNX; 8 goes with OPSET, ONNX Runtime 1.17 reads up to 9


def verify_file(
    path: Path, signature: Path | None = None, public_key: Path | None = None
) -> Verified:
    """Check a model file as a device does (`edge_runtime.verify.verify_file`), and that its graph
    is what its metadata and its name say.

    Raises:
        ModelError: damaged, altered, not what its metadata or its name says, does not run,
            answers otherwise on another processor, or is without the valid signature that was
            asked for.
        UsageError: `signature` without `public_key`, or a package is missing.
    """

    def names(file: ModelFile) -> Findings:
        form = _form(file, path.name)
        return _tflite_names(file, form) if file.format == "tflite" else _onnx_names(file, form)

    return edge_runtime.verify.verify_file(path, signature, public_key, names)


def _form(file: ModelFile, name: str) -> Format:
    """The format that the metadata tell of.

    Raises:
        ModelError: there is none such, or the file's name tells of another.
    """
    scheme, dtype = file.info.quantization["scheme"], file.info.input["dtype"]
    known = [f for f in FORMATS.values() if (f.kind, f.scheme) == (file.format, scheme)]
    if not known:
        raise ModelError(f"no .{file.format} file has the scheme {scheme!r}: mislabelled")
    form = known[0]
    if dtype != form.dtype:
        raise ModelError(f"{scheme} takes {form.dtype}, its metadata say {dtype}: mislabelled")
    stem, _, suffix = name.rpartition(".")
    if suffix in ("tflite", "onnx") and suffix != file.format:
        raise ModelError(f"it is called .{suffix}, and is a .{file.format} file")
    named = [f for f in FORMATS.values() if f.kind == form.kind and stem.endswith(f"-{f.name}")]
    longest = max(named, key=lambda f: len(f.name), default=form)  # not int8 for onnx-int8
    if longest != form:
        raise ModelError(f"it is called {longest.name}, its metadata say {scheme}: mislabelled")
    return form


def _tflite_names(file: ModelFile, form: Format) -> Findings:
    graph = read_tflite(file.graph)
    if graph.scheme != form.scheme:
        raise ModelError(
            f"its metadata say {form.scheme}, its graph is {graph.scheme}: mislabelled"
        )
    if graph.input_types != (form.dtype.upper(),):
        raise ModelError(
            f"its metadata say {form.dtype} input, its graph takes {graph.input_types}"
        )
    if form.scheme == "int8-full" and set(graph.output_types) != {"INT8"}:
        raise ModelError(f"an int8 graph gives int8, this one {graph.output_types}")
    constants = ", ".join(f"{n} {kind.lower()}" for kind, n in sorted(graph.weights.items()))
    ops = ", ".join(f"{name} {n}" for name, n in sorted(graph.ops.items()))
    out = ", ".join(sorted(set(graph.output_types))).lower()
    ends = f"{graph.input_types[0].lower()} in, {out} out"
    return [
        ("scheme", f"{form.scheme}, as the graph is: {ends}; constants {constants}"),
        ("ops", ops),
    ]


def _onnx_names(file: ModelFile, form: Format) -> Findings:
    import onnx

    try:
        graph = read_onnx(file.graph)
        proto = graph.proto
        onnx.checker.check_model(proto, full_check=True)
        opsets = {(entry.domain or "ai.onnx"): entry.version for entry in proto.opset_import}
        ops = Counter(f"{node.domain}:{node.op_type}".strip(":") for node in proto.graph.node)
    except Exception as error:  # the checker raises whatever it meets
        raise ModelError(f"ONNX's own checker refuses the graph: {one_line(error)}") from None
    if (scheme := graph.scheme) != form.scheme:
        found = ", ".join(name.lower() for name in sorted(graph.weights))
        raise ModelError(f"its metadata say {form.scheme}, its weights are {found}: mislabelled")
    newest = {"ai.onnx": OPSET, "ai.onnx.ml": MAX_ML_OPSET}
    if any(version > newest.get(domain, 0) for domain, version in opsets.items()):
        raise ModelError(
            f"its operators are not those of ONNX opset {OPSET} or older (ai.onnx.ml: "
            f"{MAX_ML_OPSET})"
        )
    if proto.ir_version > MAX_IR_VERSION:
        raise ModelError(f"ONNX IR version {proto.ir_version}; readers know up to {MAX_IR_VERSION}")
    if (doubt := differs_by_processor(file.graph)) is not None:
        raise ModelError(f"{doubt}; export it again")
    versions = f"opset {opsets.get('ai.onnx', 0)}, IR version {proto.ir_version}"
    return [
        ("scheme", f"{scheme}, as the graph is; {versions}, passes onnx.checker in full"),
        ("ops", ", ".join(f"{name} {n}" for name, n in sorted(ops.items()))),
    ]
