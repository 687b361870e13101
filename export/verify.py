"""Whether a model file is whole, is what it says, and is by whom it should be.

TensorFlow is not needed: a device's interpreter and its schema are enough, and the package onnx
for .onnx files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import ModelError, UnsignedModelError, UsageError, one_line
from edge_runtime.model.backends import open_graph
from edge_runtime.model.load import ModelFile, read_model
from export.formats import FORMATS, Format
from export.onnx.network import OPSET
from export.onnx.protobuf import read_onnx
from export.onnx.saturation import differs_by_processor
from export.signing import check_signature, key_digest, signature_path
from export.tflite.flatbuffer import read_tflite

Findings = list[tuple[str, str]]

MAX_ML_OPSET = 3  # ONNX's operators of classical models
MAX_IR_VERSION = 9  # of ONNX; 8 goes with OPSET, ONNX Runtime 1.17 reads up to 9


def verify_file(
    path: Path, signature: Path | None = None, public_key: Path | None = None
) -> Findings:
    """Check a model file in every way that needs nothing but the file.

    Nothing is run before the digests, and the signature if one is asked for, have been found
    right.

    Args:
        signature: of the file; by default `<file>.sig`, if there is one.
        public_key: whose signature the file must have; without it a signature is not checked.

    Returns:
        What was looked at and what was found, for a table.

    Raises:
        ModelError: damaged, altered, not what its metadata or its name says, does not run,
            answers otherwise on another processor, or is without the valid signature that was
            asked for.
        UsageError: `signature` without `public_key`, or a package is missing.
    """
    if signature is not None and public_key is None:
        raise UsageError("a signature is checked with the key that made it: --public-key PEM")
    try:
        file = read_model(path)
    except UnsignedModelError:
        raise ModelError(
            f"model {path.name} has no digest: truncated, altered or not from btc-export"
        ) from None
    signed = _signature(path, signature, public_key)
    try:
        form = _form(file, path.name)
        named = _tflite_names(file, form) if file.format == "tflite" else _onnx_names(file, form)
        return [*_digests(file), *named, ("runs", _trial(file)), ("signature", signed)]
    except ModelError as error:
        raise ModelError(f"model {path.name}: {error}") from None


def _digests(file: ModelFile) -> Findings:
    """`read_model` has compared them all."""
    info = file.info
    covered = "the digest at the file's end" if file.format == "tflite" else "its own digest"
    where = "the same in labels.txt" if file.format == "tflite" else "in the metadata"
    return [
        ("file", f"{file.tag}, {file.bytes / 1024:.0f} KiB, sha256 {file.sha256}"),
        ("graph", f"{len(file.graph)} bytes, sha256 {info.graph_sha256}, as its metadata says"),
        ("metadata", f"schema {info.schema}, as {covered} says"),
        ("labels", f"{', '.join(info.labels)}; {where}"),
    ]


def _signature(path: Path, signature: Path | None, public_key: Path | None) -> str:
    chosen = signature or signature_path(path)
    there = chosen.exists()
    if public_key is None:
        return f"{chosen.name}, not checked: --public-key PEM" if there else "none"
    if not there and signature is None:
        raise ModelError(f"model {path.name} has no signature: there is no {chosen.name}")
    check_signature(path, chosen, public_key)
    return f"valid, by {public_key.name} (sha256 {key_digest(public_key)})"


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
    called = [f for f in FORMATS.values() if f.kind == form.kind and stem.endswith(f"-{f.name}")]
    longest = max(called, key=lambda f: len(f.name), default=form)  # not int8 for onnx-int8
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
    held = ", ".join(f"{n} {kind.lower()}" for kind, n in sorted(graph.weights.items()))
    ops = ", ".join(f"{name} {n}" for name, n in sorted(graph.ops.items()))
    out = ", ".join(sorted(set(graph.output_types))).lower()
    ends = f"{graph.input_types[0].lower()} in, {out} out"
    return [("scheme", f"{form.scheme}, as the graph is: {ends}; constants {held}"), ("ops", ops)]


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


def _trial(file: ModelFile) -> str:
    """Run one gray slice as a device would."""
    graph = open_graph(file)
    size = file.info.preprocess.size
    logits: Any = graph.run(np.full((size, size), 128, np.uint8))
    version = f" {graph.backend_version}" if graph.backend_version else ""
    return f"in {graph.backend}{version}: {len(logits)} logits"
