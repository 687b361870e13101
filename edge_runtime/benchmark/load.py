"""Load time and peak memory of one model, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from edge_runtime.child import end_with_parent, python_command
from edge_runtime.errors import ModelError, one_line

SECONDS = 120  # no model takes that long; a hanging interpreter must not hang the benchmark


class Loaded(NamedTuple):
    """Until the first answer, in milliseconds; peak resident memory in MiB, None if unknown."""

    load_ms: float
    peak_mib: float | None


def measure_load(path: Path, backend: str, threads: int, unsigned: bool = False) -> Loaded:
    """Start Python afresh, load the model there and answer once.

    Args:
        unsigned: whether a model without digest will do; its trial counts as loading.

    Raises:
        ModelError: the model cannot be used, or the process died or hung on it.
    """
    start = python_command("from edge_runtime.benchmark.load import child; child()")
    words = [*start, str(path), backend, str(threads), str(int(unsigned))]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ModelError(f"model {path.name}: not loaded within two minutes") from None
    try:
        facts = json.loads(done.stdout.splitlines()[-1])
        problem = facts.get("error")
    except (ValueError, IndexError):
        problem = f"the measuring process failed ({done.returncode})"
    if problem:
        raise ModelError(f"model {path.name}: {problem}")
    return Loaded(facts["load_ms"], facts["peak_mib"])


def child() -> None:
    """Load the model named in argv, answer once, and print the time and the peak memory."""
    end_with_parent()
    import cv2  # noqa: F401 - a device has it loaded, so it is not part of the load time
    import numpy as np

    from edge_runtime.model.backends import open_graph
    from edge_runtime.model.load import read_model

    path, backend, threads, unsigned = sys.argv[1:5]
    begun = time.perf_counter()
    try:
        file = read_model(path, allow_unsigned=unsigned == "1")
        graph = open_graph(file, backend, int(threads))
        size = file.info.preprocess.size
        graph.run(np.zeros((size, size), np.uint8))
    except ModelError as error:
        print(json.dumps({"error": one_line(error)}))
        return
    load = (time.perf_counter() - begun) * 1e3
    print(json.dumps({"load_ms": load, "peak_mib": _peak_mib()}))


def _peak_mib() -> float | None:
    """Peak resident memory of this process."""
    if sys.platform == "win32":
        return None
    try:
        # Not getrusage: on Linux, its figure begins with the memory of the process's parent.
        status = Path("/proc/self/status").read_text("utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)
