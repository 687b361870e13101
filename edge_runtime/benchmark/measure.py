"""Latency, memory and accuracy of models on this device.

By the rules of MLPerf's single stream in small: one image after the other, and for each subject at
least so many queries and so many seconds. The subjects take turns, so that a drift of the machine
hits all alike. A turn is several images long, and begins with a few that do not count: right after
another model its own weights are in no cache, which costs a large file more than a small one and
never happens to a device that runs one. (Measured with turns of one image, a float32 file took 1.21
to 1.27 times as long as its int8 file; alone, as with these turns, 1.04 to 1.07 times.) All other
samples count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.benchmark.load import Loaded, measure_load
from edge_runtime.benchmark.machine import (
    load_average,
    machine_facts,
    noise_warnings,
    temperature,
)
from edge_runtime.benchmark.samples import Samples, drawn_noise, read_samples
from edge_runtime.benchmark.statistics import (
    STEPS,
    paired_ratio,
    percentiles,
    share,
    wilson,
)
from edge_runtime.errors import ModelError, UsageError
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.backends import Graph, open_graph
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model

WARM_UP = 10  # queries of each subject before the first turn
TURN = 8  # queries in a row that count
SETTLING = 2  # before them, that do not


@dataclass
class Subject:
    """A model with a number of interpreter threads, and what was measured of it.

    Attributes:
        name: what the results call it.
        times: milliseconds of each query, by step.
        predicted: its label of each image, the first time that it was asked.
        seconds: all its queries together.
    """

    name: str
    path: Path
    file: ModelFile
    threads: int
    graph: Graph
    loaded: Loaded
    times: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    predicted: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def queries(self) -> int:
        """How many of its queries counted."""
        return len(self.times["total"])


def measure(
    models: Sequence[Path],
    images: Path | None,
    *,
    queries: int = 128,
    seconds: float = 10.0,
    threads: Sequence[int] = (1,),
    backend: str = "auto",
    need_labels: bool = False,
    allow_unsigned: bool = False,
    leave_out: bool = False,
) -> dict[str, Any]:
    """Measure models on this device.

    Args:
        models: model files. Agreement and pairs are against the first float32 model, or the
            first of all if none is, with the first number of threads.
        images: folder of images (sub-folders named after labels give accuracy), or None for
            drawn noise, which serves timing only.
        queries, seconds: the run goes on until each subject had at least so many queries, which
            took at least so long; who had them takes no more turns. Labelled images are all asked
            at least once.
        threads: numbers of interpreter threads; each model is measured with each.
        need_labels: refuse images without labels.
        allow_unsigned: take models without digest too, see `read_model`.
        leave_out: a file that no interpreter here runs becomes a warning, unless all do. One that
            is damaged never does.

    Returns:
        The shape of the device benchmark; times in milliseconds, memory in MiB.

    Raises:
        DataError: no readable image. UsageError: no labelled one where they are needed.
        ModelError: a model that cannot be used.
    """
    machine = machine_facts() | {"load_average": load_average()}
    files = [read_model(path, allow_unsigned=allow_unsigned) for path in models]
    subjects, left_out = _open_all(models, files, threads, backend, allow_unsigned, leave_out)
    floats = (subject for subject in subjects if subject.file.info.scheme == "float32")
    reference = next(floats, subjects[0])
    labels = reference.file.info.labels
    samples = drawn_noise() if images is None else read_samples(images, labels)
    if need_labels and not samples.labelled:
        raise UsageError(f"no image lies in a folder named after a label ({', '.join(labels)})")
    least = max(queries, len(samples.data)) if samples.labelled else queries
    before = temperature()
    done = run_rounds(subjects, samples, least, seconds)
    machine["temperature_c"] = {"before": before, "after": temperature()}
    rules = {
        "stream": "single",
        "queries": done,
        "min_queries": queries,
        "min_seconds": seconds,
        "warm_up": WARM_UP,
        "turn": TURN,
        "settling": SETTLING,
        "images": len(samples.data) if images else "drawn noise",
        "labelled": samples.labelled,
        "interleaved": True,
        "reference": reference.name,
    }
    return _result(machine, rules, subjects, reference, samples, left_out)


def _result(
    machine: dict[str, Any],
    rules: dict[str, Any],
    subjects: Sequence[Subject],
    reference: Subject,
    samples: Samples,
    left_out: Sequence[str],
) -> dict[str, Any]:
    """The shape of the device benchmark, once all have been asked."""
    celsius = machine["temperature_c"]
    noise = noise_warnings(
        reference.times["invoke"],
        machine["load_average"],
        machine["cores"],
        celsius["before"],
        celsius["after"],
    )
    return {
        "machine": machine,
        "rules": rules,
        "models": [_row(subject, reference, samples.truths) for subject in subjects],
        "pairs": [_pair(reference, other) for other in subjects if other is not reference],
        "warnings": [*left_out, *samples.warnings, *noise],
    }


def run_rounds(subjects: Sequence[Subject], samples: Samples, least: int, seconds: float) -> int:
    """Ask every subject about one image after the other, until it had its queries and its time; the
    number of queries that each had at least is returned.

    Args:
        least: queries of each, after the warm-up.
        seconds: time that its queries must have taken; a slow one has had its own before others.
    """

    def image(number: int) -> bytes:
        return samples.data[number % len(samples.data)]

    for number in range(WARM_UP):
        for subject in subjects:
            ask(subject, image(number))
    done = round_number = 0
    while waiting := [s for s in subjects if s.queries < least or s.seconds < seconds]:
        settling = SETTLING if len(waiting) > 1 else 0
        end = done + TURN if done >= least else min(done + TURN, least)
        for i in turns(len(waiting), round_number):
            subject = waiting[i]
            for number in range(done - settling, done):
                ask(subject, image(number))
            for number in range(done, end):
                spans, label = ask(subject, image(number))
                for step, span in zip(STEPS, spans, strict=True):
                    subject.times[step].append(span * 1e3)
                subject.seconds += spans[-1]
                if number < len(samples.data):  # asked again, it would answer the same
                    subject.predicted.append(label)
        done, round_number = end, round_number + 1
    return min(subject.queries for subject in subjects)


def turns(n: int, number: int) -> list[int]:
    """The order of n subjects in a round: Williams' square, forwards and then backwards.

    What one subject leaves behind (warm caches, busy threads) meets the next. Over 2n rounds each
    stands at each place, and follows each other one, equally often.
    """
    zigzag = [(i + 1) // 2 if i % 2 else n - i // 2 for i in range(n)]
    order = [(place + number) % n for place in zigzag]
    return order if number // n % 2 == 0 else order[::-1]


def ask(subject: Subject, data: bytes) -> tuple[tuple[float, ...], str]:
    """Time one query: the seconds of each of STEPS, and the label that was predicted.

    The features of a model that takes those are part of `preprocess`, as the rest of what is done
    to a slice before the interpreter is called.
    """
    clock = time.perf_counter
    try:
        t0 = clock()
        gray = decode(data)
        t1 = clock()
        subject.graph.enter(preprocess(gray, subject.file.info.preprocess))
        t2 = clock()
        logits = subject.graph.answer()
        t3 = clock()
    except ModelError as error:
        raise ModelError(f"model {subject.path.name}: {error}") from None
    if not np.isfinite(logits).all():
        raise ModelError(f"model {subject.path.name}: gives no finite numbers for an image")
    return (t1 - t0, t2 - t1, t3 - t2, t3 - t0), subject.file.info.labels[int(logits.argmax())]


def _open_all(
    models: Sequence[Path],
    files: Sequence[ModelFile],
    threads: Sequence[int],
    backend: str,
    allow_unsigned: bool,
    leave_out: bool,
) -> tuple[list[Subject], list[str]]:
    """Every model with every number of threads, and a line on each that was left out."""
    subjects: list[Subject] = []
    left_out = []
    for path, file in zip(models, files, strict=True):
        try:
            subjects += [_opened(path, file, n, threads, backend, allow_unsigned) for n in threads]
        except ModelError as error:
            if not leave_out:
                raise
            left_out.append(f"left out: {error}")
    if not subjects:
        raise ModelError(f"no model file runs here: {left_out[0]}")
    return subjects, left_out


def _opened(
    path: Path,
    file: ModelFile,
    n: int,
    threads: Sequence[int],
    backend: str,
    allow_unsigned: bool,
) -> Subject:
    """A model with `n` of the numbers of threads."""
    # First in another process: a graph that kills its interpreter must not kill this one.
    loaded = measure_load(path, backend, n, allow_unsigned)
    try:
        graph = open_graph(file, backend, n)
    except ModelError as error:
        raise ModelError(f"model {path.name}: {error}") from None
    sweep = f", {n} thread{'s' if n > 1 else ''}" if len(threads) > 1 else ""
    return Subject(file.tag + sweep, path, file, n, graph, loaded)


def _row(subject: Subject, reference: Subject, truths: Sequence[str | None]) -> dict[str, Any]:
    # A run over images without labels may end before the last of them.
    right = [p == t for p, t in zip(subject.predicted, truths, strict=False) if t is not None]
    same = [a == b for a, b in zip(subject.predicted, reference.predicted, strict=False)]
    known = share(right)
    return {
        "name": subject.name,
        "model": subject.file.tag,
        "file": subject.path.name,
        "sha256": subject.file.sha256,
        "scheme": subject.file.info.scheme,
        "bytes": subject.file.bytes,
        "backend": subject.graph.backend,
        "backend_version": subject.graph.backend_version,
        "threads": subject.threads,
        "load_ms": subject.loaded.load_ms,
        "peak_mib": subject.loaded.peak_mib,
        **{f"{step}_ms": percentiles(subject.times[step]) for step in STEPS},
        "n": subject.queries,
        "seconds": subject.seconds,
        "accuracy": known,
        "interval95": None if known is None else wilson(known, len(right)),
        "agreement": share(same),
    }


def _pair(a: Subject, b: Subject) -> dict[str, Any]:
    both = min(a.queries, b.queries)  # the first ones of each are about the same images
    ratio, interval = paired_ratio(a.times["total"][:both], b.times["total"][:both])
    return {"a": a.name, "b": b.name, "ratio": ratio, "interval95": interval}
