"""What a training's time goes into, with each way to keep freed memory.

    python -m benchmarks.training --out benchmarks/results

Each way is a process of its own that trains the default network with the default recipe on drawn
slices; the ways take turns. Told of the epochs behind the first: wall and processor time, how many
cores were busy, and page faults (memory that the system had to fill with zeros). TensorFlow keeps
freed memory by itself where its oneDNN operations are on, which is its choice by the processor;
measured is with and without them. Writes training.json and training.md.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import out_option, publish
from benchmarks.common.formatting import machine_in_words
from benchmarks.common.process import peak_mib
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.child import python_command
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.memory import keep_freed
from trainer.models.checkpoint import Checkpoint, State
from trainer.models.feed import as_batch
from trainer.models.sampler import Feed, Samples
from trainer.models.training import TrainSettings, train
from trainer.synthetic.phantoms import CLASSES, draw_phantom

# Ways to keep freed memory, by name: whether `keep_freed` is called, and a library loaded before.
WAYS = {
    "the C library's default": (False, None),
    "as btc-train": (True, None),
    "jemalloc": (False, "jemalloc"),
}
ONEDNN = {"on": "1", "off": "0"}
CHILD = "from benchmarks.training import child; child()"
VALIDATION = 5  # one slice of so many


def drawn_samples(count: int, size: int) -> tuple[Samples, Samples]:
    """Drawn slices with boxes, one group each, as a training and a validation side."""
    options = Preprocess(size=size)
    drawn = (
        draw_phantom(CLASSES[i % len(CLASSES)], np.random.default_rng([5, i])) for i in range(count)
    )
    images = np.stack([preprocess(gray, options) for gray in drawn])
    labels = np.arange(count) % len(CLASSES)
    tumour_free = np.array([name == "notumor" for name in CLASSES])
    boxes = np.full((count, 4), np.nan)
    boxes[~tumour_free[labels]] = (0.4, 0.4, 0.6, 0.6)
    side = np.arange(count) % VALIDATION == 0

    def taken(rows: npt.NDArray[np.bool_]) -> Samples:
        return Samples(
            images[rows],
            labels[rows],
            boxes[rows],
            tuple(map(str, np.flatnonzero(rows))),
            ("drawn",) * int(rows.sum()),
            tumour_free,
            np.zeros((0, size, size), np.uint8),
            np.zeros((0, len(CLASSES)), np.float32),
        )

    return taken(~side), taken(side)


def measure_epochs(
    settings: TrainSettings, training: Samples, validation: Samples
) -> dict[str, Any]:
    """Means of the epochs behind the first, and the processor time that their batches take.

    Returns:
        Seconds an epoch; `faults`: pages that the system filled; `peak_mib` of this process.
    """
    seen: list[tuple[float, resource.struct_rusage]] = []

    def after_epoch(_state: State) -> None:
        seen.append((time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)))

    with tempfile.TemporaryDirectory() as folder:
        train(settings, training, validation, len(CLASSES), Checkpoint(Path(folder) / "checkpoint"),
              on_epoch=after_epoch)  # fmt: skip
    (begun, before), (ended, after) = seen[0], seen[-1]
    epochs = len(seen) - 1
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    feed = Feed(training, len(CLASSES), settings.recipe, settings.seed)
    order, started = feed.order(0), time.thread_time()
    as_batch([feed.example(0, n, int(start)) for n, start in enumerate(order)], None)
    return {
        "seconds": (ended - begun) / epochs,
        "user": user / epochs,
        "system": system / epochs,
        "cores_busy": (user + system) / (ended - begun),
        "faults": (after.ru_minflt - before.ru_minflt) / epochs,
        "batches": time.thread_time() - started,
        "peak_mib": peak_mib(after.ru_maxrss),
    }


def child() -> None:
    """One measurement, as the words in argv say; printed as JSON."""
    keep, slices, epochs, size = map(int, sys.argv[1:5])
    if keep and not keep_freed():
        raise BtcError("this C library takes no settings")
    settings = TrainSettings(epochs=epochs, patience=epochs)
    print(json.dumps(measure_epochs(settings, *drawn_samples(slices, size))))


def run_way(way: str, onednn: str, slices: int, epochs: int, size: int) -> dict[str, Any] | None:
    """One process; None where its library is not to be had.

    Raises:
        BtcError: it failed.
    """
    keep, library = WAYS[way]
    own = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environment = own | {"TF_ENABLE_ONEDNN_OPTS": ONEDNN[onednn]}
    if library is not None:
        found = find_library(library)
        if found is None:
            return None
        environment["LD_PRELOAD"] = found
    words = [*python_command(CHILD), *map(str, (int(keep), slices, epochs, size))]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        raise BtcError(f"{way}: failed: {done.stderr.strip()[-300:]}") from None


def measure(slices: int, epochs: int, size: int, repeats: int) -> dict[str, Any]:
    """Medians of each way over `repeats` processes, all in turns."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    left_out = []
    for _ in range(repeats):
        for onednn in ONEDNN:
            for way in WAYS:
                figures = run_way(way, onednn, slices, epochs, size)
                if figures is not None:
                    seen.setdefault((way, onednn), []).append(figures)
                elif way not in left_out:
                    left_out.append(way)
    rows = [
        {"way": way, "onednn": onednn}
        | {key: float(np.median([one[key] for one in figures])) for key in figures[0]}
        for (way, onednn), figures in seen.items()
    ]
    return {
        "machine": machine_facts(),
        "slices": slices,
        "size": size,
        "epochs": epochs,
        "repeats": repeats,
        "left_out": left_out,
        "rows": rows,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [
        "| oneDNN | freed memory | epoch s | processor s | of it system s | cores busy "
        "| page faults | batches, processor s | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['onednn']} | {row['way']} | {row['seconds']:.1f} "
        f"| {row['user'] + row['system']:.1f} | {row['system']:.2f} | {row['cores_busy']:.2f} "
        f"| {row['faults']:,.0f} | {row['batches']:.1f} | {row['peak_mib']:.0f} |"
        for row in result["rows"]
    ]
    left = "".join(f" {name} was not to be had here." for name in result["left_out"])
    lines += [
        "",
        f"The default network and recipe at {result['size']}×{result['size']} on "
        f"{result['slices']} drawn slices; an epoch behind the first, its validation included, "
        f"median of {result['repeats']} processes of {result['epochs']} epochs, the ways in turn; "
        f"{machine_in_words(result['machine'])}.{left}",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--slices", type=click.IntRange(40), default=960, show_default=True)
@click.option("--epochs", type=click.IntRange(2), default=4, show_default=True)
@click.option("--size", type=click.IntRange(32), default=96, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@out_option
def main(slices: int, epochs: int, size: int, repeats: int, out: Path) -> None:
    """Measure an epoch of training with each way to keep freed memory."""
    result = measure(slices, epochs, size, repeats)
    publish(out, "training", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.training", extra="train")
