"""What a model file gives for many slices: in this process, or in one of another environment, where
another runtime is installed.

The other process is this code in another Python, and answers one request. Both ways goes one NPZ
without pickles: `code` (see `code_digest`), `runtime`, the bytes of the `model` and the `slices`;
back `version` and what `outputs_of` returns, or `error`.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.child import end_with_parent
from edge_runtime.errors import BackendError, BtcError, ModelError, one_line, printable
from edge_runtime.model.backends import interpreter_version, open_graph
from edge_runtime.model.file_format import ModelFile, parse_model
from edge_runtime.version import __version__, code_digest

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

PACKAGE = "edge_runtime"
SECONDS = 120  # for another process to begin in: TensorFlow alone takes several to load
EACH = 1  # and for a slice, of which the slowest of boards answers several
NAMES = ("logits", "features", "class_maps")
# -E: what tells this Python where to look for code is not for another one. `python -c` would look
# in the current folder first.
_CHILD = """\
import sys
sys.path[:] = [place for place in sys.path if place]
from edge_runtime.model.outputs import child
child()"""


def outputs_of(
    model: ModelFile,
    slices: npt.NDArray[np.uint8],
    backend: str = "auto",
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Floats]:
    """Run a model file slice by slice, as a device does.

    Args:
        slices: uint8 N×S×S, preprocessed; one or more.
        progress: called with (done, total).

    Returns:
        `logits` (N×C) and, where the network gives them, `features` (N×F) and `class_maps`
        (N×H×W×C).

    Raises:
        BackendError, ModelError: see `open_graph`.
    """
    graph = open_graph(model, backend, threads)
    rows: dict[str, list[Any]] = {name: [] for name in NAMES}
    for done, pixels in enumerate(slices, 1):
        for name, row in zip(
            NAMES, (graph.run(pixels), graph.features(), graph.class_maps()), strict=True
        ):
            rows[name].append(row)
        if progress is not None:
            progress(done, len(slices))
    return {
        name: np.stack(values).astype(np.float32)
        for name, values in rows.items()
        if values[0] is not None
    }


def version_elsewhere(python: Path, runtime: str) -> str:
    """The version of a runtime in the environment of another Python.

    Raises:
        BackendError: no such Python, the runtime is not installed there or does not load, or
            this package is not there, or as other code.
    """
    return str(_ask(python, {"runtime": np.array(runtime)})["version"])


def outputs_elsewhere(
    python: Path, runtime: str, model: bytes, slices: npt.NDArray[np.uint8]
) -> dict[str, Floats]:
    """As `outputs_of`, in a runtime of another Python's environment.

    Args:
        model: a file's bytes.

    Raises:
        BackendError: see `version_elsewhere`. ModelError: the model fails there.
    """
    data = {"model": np.frombuffer(model, np.uint8), "slices": slices}
    found = _ask(python, {"runtime": np.array(runtime), **data})
    kept = {name: found[name] for name in NAMES if name in found}
    wanted = {"logits": 2, "features": 2, "class_maps": 4}
    if "logits" not in kept or any(
        rows.dtype != np.float32 or rows.ndim != wanted[name] or len(rows) != len(slices)
        for name, rows in kept.items()
    ):
        raise ModelError(f"{runtime} of {python} did not answer for each slice")
    return kept


def _ask(python: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a process of another Python, which ends with this one."""
    words = [str(python), "-E", "-c", _CHILD]
    seconds = SECONDS + EACH * len(request.get("slices", ()))
    try:
        done = subprocess.run(
            words,
            input=_packed({"code": np.array(code_digest(PACKAGE)), **request}),
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{python} did not answer within {seconds} s") from None
    except OSError as error:
        raise BackendError(f"{python} cannot be run: {error.strerror}") from None
    found = _unpacked(done.stdout)
    if "error" in found:
        kind = BackendError if np.any(found.get("missing", False)) else ModelError
        raise kind(f"{python}: {printable(str(found['error']))[:300]}")
    if done.returncode or not _is_text(found.get("version")):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise BackendError(
            f"{python} cannot run a model: {printable(said[-1])[:200]} (needed there: the same "
            f"btc-edge {__version__} and {request['runtime']})"
        )
    return found


def _unpacked(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a reply; none where it is something else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as reply:
            return {name: reply[name] for name in reply.files}
    except Exception:  # numpy and zipfile raise many kinds for what some program has printed
        return {}


def _is_text(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "U"


def _packed(arrays: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def child() -> None:
    """In the other process: answer the request on stdin."""
    end_with_parent()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for whatever else may write there
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as sent:
        request = {name: sent[name] for name in sent.files}
    try:
        reply = _answer(request)
    except BtcError as error:
        missing = isinstance(error, BackendError)
        reply = {"error": np.array(one_line(error)), "missing": np.array(missing)}
    replies.write(_packed(reply))
    replies.flush()


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    if str(request["code"]) != code_digest(PACKAGE):
        raise BackendError(
            "its btc-edge is other code than this one: install the same there "
            "(pip install --force-reinstall --no-deps)"
        )
    runtime = str(request["runtime"])
    found: dict[str, Any] = {"version": np.array(interpreter_version(runtime))}
    if "model" in request:
        model = parse_model(request["model"].tobytes())
        found |= outputs_of(model, request["slices"], runtime)
    return found
