"""Whether a model file is whole, answers as a device asks it, and is by whom it should be.

Nothing but what a device has is needed; a signature needs the package model-signing.
`export.verify` looks into the graph as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from edge_runtime.classifier import Classifier
from edge_runtime.errors import BackendError, ModelError, UnsignedModelError, UsageError
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile, parse_model
from edge_runtime.model.load import read_bytes
from edge_runtime.model.signature import check_signature, signature_path
from edge_runtime.model.untrusted import Report, answer_trial, run_trial_slices, try_apart

Findings = list[tuple[str, str]]
_CHILD = "from edge_runtime.verify import child; child()"


class Verified(NamedTuple):
    """A model file that is in order.

    Attributes:
        sha256: digest of the bytes that were checked and tried, hexadecimal.
        signed: whether they have a valid signature; None where there is one that was not checked.
        findings: what was looked at and what was found, for a table.
    """

    sha256: str
    signed: bool | None
    findings: Findings


def verify_file(
    path: Path,
    signature: Path | None = None,
    public_key: Path | None = None,
    look_closer: Callable[[ModelFile], Findings] = lambda file: [],
) -> Verified:
    """Check a model file in every way that needs nothing but the file.

    It is read once. Nothing is run before the digests, and the signature if one is asked for, have
    been found right; then a process of its own runs it, and this one does not, since a graph may
    kill or hang its interpreter.

    Args:
        signature: of the file; by default `<file>.sig`, if there is one.
        public_key: whose signature the file must have; without it a signature is not checked.
        look_closer: more to find out before it is run; it raises `ModelError`.

    Raises:
        ModelError: damaged, altered, does not run, not what `look_closer` wants, or without the
            valid signature that was asked for.
        UsageError: `signature` without `public_key`, a key or a signature that was named and is
            not there, or a package is missing.
    """
    if signature is not None and public_key is None:
        raise UsageError("a signature is checked with the key that made it: --public-key PEM")
    data = read_bytes(path)
    try:
        file = parse_model(data)
        signed, by_whom = _signature(path, data, signature, public_key)
        closer = look_closer(file)
        findings = [*_digests(file), *closer, ("runs", _run_apart(data)), ("signature", by_whom)]
    except UnsignedModelError:
        raise ModelError(
            f"model {path.name} has no digest: truncated, altered or not from btc-export"
        ) from None
    except BackendError as error:
        raise UsageError(f"model {path.name} cannot be tried here: {error}") from None
    except ModelError as error:
        raise ModelError(f"model {path.name}: {error}") from None
    return Verified(file.sha256, signed, findings)


def child() -> None:
    """In a process of its own: do with the model on stdin all that a device does at first."""
    answer_trial(_trial)


def _trial(data: bytes) -> Report:
    file = parse_model(data)
    graph = open_graph(file)
    logits = run_trial_slices(graph, file.info.preprocess.size)
    Classifier(file)  # the rest of its metadata fits the graph
    for name in file.info.rules or {}:  # and so do the rules for runtimes that are not here
        Classifier(replace(file, info=file.info.for_runtime(name)))
    version = f" {graph.backend_version}" if graph.backend_version else ""
    return {"runs": f"in {graph.backend}{version}: {len(logits[0])} logits"}


def _run_apart(data: bytes) -> str:
    return str(try_apart(data, _CHILD).get("runs"))


def _digests(file: ModelFile) -> Findings:
    """`parse_model` has compared them all."""
    info = file.info
    covered = "the digest at the file's end" if file.format == "tflite" else "its own digest"
    where = "the same in labels.txt" if file.format == "tflite" else "in the metadata"
    return [
        ("file", f"{file.tag}, {file.bytes / 1024:.0f} KiB, sha256 {file.sha256}"),
        ("graph", f"{len(file.graph)} bytes, sha256 {info.graph_sha256}, as its metadata says"),
        ("metadata", f"schema {info.schema}, as {covered} says"),
        ("labels", f"{', '.join(info.labels)}; {where}"),
    ]


def _signature(
    path: Path, data: bytes, signature: Path | None, public_key: Path | None
) -> tuple[bool | None, str]:
    """Whether the bytes are signed, and by whom, in words."""
    chosen = signature or signature_path(path)
    there = os.path.lexists(chosen)
    if public_key is None:
        if there:
            return None, f"{chosen.name}, not checked: --public-key PEM"
        return False, "none"
    if not there:
        if signature is not None:
            raise UsageError(f"--signature {signature.name}: no such file")
        raise ModelError(f"it has no signature: there is no {chosen.name}")
    key = check_signature(data, chosen, public_key)
    return True, f"valid, by {public_key.name} (sha256 {key})"
