"""Whether a model file is whole, answers as a device asks it, and is by whom it should be.

Nothing but what a device has is needed; a signature needs the package model-signing.
`export.verify` looks into the graph as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.classifier import Classifier
from edge_runtime.errors import ModelError, UnsignedModelError, UsageError
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile, pack_model
from edge_runtime.model.load import read_model
from edge_runtime.model.signature import check_signature, key_digest, signature_path
from edge_runtime.model.untrusted import try_apart

Findings = list[tuple[str, str]]


def verify_file(
    path: Path,
    signature: Path | None = None,
    public_key: Path | None = None,
    look_closer: Callable[[ModelFile], Findings] = lambda file: [],
) -> Findings:
    """Check a model file in every way that needs nothing but the file.

    Nothing is run before the digests, and the signature if one is asked for, have been found
    right; then a process of its own runs it first, since a graph may kill its interpreter.

    Args:
        signature: of the file; by default `<file>.sig`, if there is one.
        public_key: whose signature the file must have; without it a signature is not checked.
        look_closer: more to find out before it is run; it raises `ModelError`.

    Returns:
        What was looked at and what was found, for a table.

    Raises:
        ModelError: damaged, altered, does not run, not what `look_closer` wants, or without the
            valid signature that was asked for.
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
        closer = look_closer(file)
        return [*_digests(file), *closer, ("runs", _trial(file)), ("signature", signed)]
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


def _trial(file: ModelFile) -> str:
    """Run one gray slice as a device would, once a process of its own has survived that."""
    try_apart(pack_model(file.graph, file.info, file.format))
    graph = open_graph(file)
    size = file.info.preprocess.size
    logits = graph.run(np.full((size, size), 128, np.uint8))
    Classifier(file)  # the rest of its metadata fits the graph
    version = f" {graph.backend_version}" if graph.backend_version else ""
    return f"in {graph.backend}{version}: {len(logits)} logits"
