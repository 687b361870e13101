"""Latency, memory and accuracy of models on this device.

In the manner of MLPerf's single stream: one image after the other, every sample counted. The
models take turns on each image, so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edge_runtime
from edge_runtime.errors import DataError, InputError, ModelError
from edge_runtime.images import SUFFIXES, decode, read_file
from edge_runtime.interpreters import Graph, open_graph
from edge_runtime.labels import fold_label
from edge_runtime.model_file import ModelFile, read_model
from edge_runtime.preprocess import preprocess

if TYPE_CHECKING:
    import numpy.typing as npt

WARM_UP = 10
MAX_IMAGES = 2000  # encoded images kept in memory
PERCENTILES = (50, 90, 95, 99)
CPU_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "avxvnni", "neon", "asimd", "asimddp", "i8mm")
STEPS = ("decode", "preprocess", "invoke", "total")


@dataclass
class _Subject:
    """A model under measurement."""

    path: Path
    file: ModelFile
    graph: Graph
    load_ms: float
    peak_mib: float | None
    times: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    called: list[int] = field(default_factory=list)


def measure(
    models: Sequence[Path],
    images: Path | None,
    *,
    queries: int = 256,
    threads: int = 1,
    backend: str = "auto",
) -> dict[str, Any]:
    """Measure models on this device.

    Args:
        models: model files; agreement and pairs are against the first.
        images: folder of images (sub-folders named after labels give accuracy), or None for
            drawn noise, which serves timing only.
        queries: timed images per model.

    Returns:
        The shape of the device benchmark; times in milliseconds, memory in MiB.

    Raises:
        DataError: no readable image. ModelError: a model that cannot be used.
    """
    subjects = [_open(path, backend, threads) for path in models]
    labels = subjects[0].file.info.labels
    samples, truths, unreadable = _samples(images, labels)
    accuracy_wanted = any(truth is not None for truth in truths)
    rounds = max(queries, len(samples)) if accuracy_wanted else queries
    for i in range(WARM_UP):
        for subject in subjects:
            _query(subject, samples[i % len(samples)])
    for subject in subjects:
        subject.called.clear()
        for times in subject.times.values():
            times.clear()
    for i in range(rounds):
        for subject in subjects:
            _query(subject, samples[i % len(samples)])
    rows = [_row(subject, subjects[0], truths, threads) for subject in subjects]
    warnings = [f"{unreadable} unreadable images were left out"] if unreadable else []
    spread = rows[0]["total_ms"]["p90"] / rows[0]["total_ms"]["p50"]
    if spread > 1.5:
        warnings.append(f"noisy machine: p90 is {spread:.1f} times p50")
    return {
        "machine": machine_facts(),
        "rules": {
            "stream": "single",
            "queries": rounds,
            "warm_up": WARM_UP,
            "images": len(samples) if images else "drawn noise",
            "interleaved": True,
        },
        "models": rows,
        "pairs": [_pair(subjects[0], other) for other in subjects[1:]],
        "warnings": warnings,
    }


def machine_facts() -> dict[str, Any]:
    """The processor, its instructions for small integers, and the versions that matter."""
    import cv2

    name, flags = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = value
    except OSError:
        pass
    return {
        "cpu": name,
        "flags": [flag for flag in CPU_FLAGS if flag in flags.split()],
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "btc-edge": edge_runtime.__version__,
    }


def as_table(result: dict[str, Any]) -> str:
    """The result for people."""
    machine, rules = result["machine"], result["rules"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}); "
        f"{rules['queries']} queries per model, images: {rules['images']}",
        f"{'model':<38} {'KiB':>6} {'load':>7} {'MiB':>6} {'decode':>7} {'prep':>6} "
        f"{'invoke':>7} {'total':>7} {'p90':>7} {'p99':>7} {'acc %':>6} {'same %':>6}",
    ]
    for row in result["models"]:
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        share = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
        lines.append(
            f"{row['model']:<38} {row['bytes'] / 1024:>6.0f} {row['load_ms']:>7.1f} {peak:>6} "
            f"{row['decode_ms']['p50']:>7.2f} {row['preprocess_ms']['p50']:>6.2f} "
            f"{row['invoke_ms']['p50']:>7.2f} {row['total_ms']['p50']:>7.2f} "
            f"{row['total_ms']['p90']:>7.2f} {row['total_ms']['p99']:>7.2f} "
            f"{share:>6} {100 * row['agreement']:>6.1f}"
        )
    lines.append("times in ms (p50 where not said); load and peak memory in a process of its own")
    for pair in result["pairs"]:
        low, high = pair["interval95"]
        lines.append(f"{pair['b']} takes {pair['ratio']:.2f} ({low:.2f}-{high:.2f}) of {pair['a']}")
    return "\n".join([*lines, *(f"warning: {w}" for w in result["warnings"])])


def _open(path: Path, backend: str, threads: int) -> _Subject:
    """Open a model; load time and peak memory come from a fresh process."""
    file = read_model(path)
    graph = open_graph(file, backend, threads)
    code = "from edge_runtime.benchmark import child; child()"
    words = [sys.executable, "-c", code, str(path), backend, str(threads)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path.name}: not loaded within two minutes") from None
    if done.returncode != 0:
        raise ModelError(f"{path.name}: the measuring process failed ({done.returncode})")
    facts = json.loads(done.stdout)
    return _Subject(path, file, graph, facts["load_ms"], facts["peak_mib"])


def child() -> None:
    """Load the model named in argv, answer once, and print the time and the peak memory."""
    import cv2  # noqa: F401 - a device has it loaded, so it is not part of the load time

    path, backend, threads = sys.argv[1:4]
    begun = time.perf_counter()
    file = read_model(path)
    graph = open_graph(file, backend, int(threads))
    size = file.info.preprocess.size
    graph.run(np.zeros((size, size), np.uint8))
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


def _samples(
    images: Path | None, labels: Sequence[str]
) -> tuple[list[bytes], list[int | None], int]:
    if images is None:
        return _noise(), [None] * 16, 0
    names = sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(names) > MAX_IMAGES:  # an even sample over all folders
        chosen = np.linspace(0, len(names) - 1, MAX_IMAGES).astype(int)
        names = [names[i] for i in chosen]
    samples: list[bytes] = []
    truths: list[int | None] = []
    for name in names:
        try:
            data = read_file(name)
            decode(data)
        except InputError:
            continue
        label = fold_label(name.parent.name)
        samples.append(data)
        truths.append(labels.index(label) if label in labels else None)
    if not samples:
        raise DataError(f"{images}: no readable image")
    return samples, truths, len(names) - len(samples)


def _noise() -> list[bytes]:
    import cv2

    rng = np.random.default_rng(0)
    pictures = (cv2.GaussianBlur(rng.random((256, 256)) * 255, (0, 0), 3) for _ in range(16))
    return [cv2.imencode(".jpg", np.clip(p * 2 - 128, 0, 255))[1].tobytes() for p in pictures]


def _query(subject: _Subject, data: bytes) -> None:
    clock: Callable[[], float] = time.perf_counter
    t0 = clock()
    gray = decode(data)
    t1 = clock()
    pixels = preprocess(gray, subject.file.info.preprocess)
    t2 = clock()
    logits = subject.graph.run(pixels)
    t3 = clock()
    for step, span in zip(STEPS, (t1 - t0, t2 - t1, t3 - t2, t3 - t0), strict=True):
        subject.times[step].append(span * 1e3)
    subject.called.append(int(logits.argmax()))


def _row(
    subject: _Subject, first: _Subject, truths: list[int | None], threads: int
) -> dict[str, Any]:
    known = [(c, t) for c, t in zip(subject.called, truths, strict=False) if t is not None]
    same = [a == b for a, b in zip(subject.called, first.called, strict=True)]
    row: dict[str, Any] = {
        "model": subject.file.tag,
        "bytes": subject.file.bytes,
        "backend": subject.graph.backend,
        "backend_version": subject.graph.backend_version,
        "threads": threads,
        "load_ms": subject.load_ms,
        "peak_mib": subject.peak_mib,
    }
    for step in STEPS:
        row[f"{step}_ms"] = {
            f"p{p}": float(np.percentile(subject.times[step], p)) for p in PERCENTILES
        }
    return row | {
        "n": len(subject.called),
        "accuracy": float(np.mean([c == t for c, t in known])) if known else None,
        "agreement": float(np.mean(same)),
    }


def _pair(a: _Subject, b: _Subject) -> dict[str, Any]:
    """Median of the paired ratio of total times, with a bootstrap interval."""
    ratios: npt.NDArray[Any] = np.asarray(b.times["total"]) / np.asarray(a.times["total"])
    drawn = np.random.default_rng(0).integers(len(ratios), size=(1000, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return {
        "a": a.file.tag,
        "b": b.file.tag,
        "ratio": float(np.median(ratios)),
        "interval95": [float(low), float(high)],
    }
