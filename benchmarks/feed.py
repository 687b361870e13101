"""How many examples a second a training is fed, by who makes them.

    python -m benchmarks.feed --out benchmarks/results

The default recipe on drawn slices, batches of 32, taken as fast as they come, as an accelerator
would that learns faster than that; the ways take turns. Writes feed.json and feed.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import out_option, publish
from benchmarks.common.formatting import machine_in_words
from benchmarks.training import drawn_samples
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from trainer.models.feed import Batch, Task, make_batch, open_makers
from trainer.models.recipes import DEFAULT_RECIPE, RECIPES
from trainer.models.sampler import Feed
from trainer.synthetic.phantoms import CLASSES

BATCH = 32
GRID = (3, 3)
WARM = 8  # batches before those that are timed: processes start meanwhile
THREADS = "two threads"


def tasks(feed: Feed, batches: int) -> Iterator[Task]:
    """So many batches, over as many epochs as they take."""
    order, each = feed.order(0), len(feed) // BATCH
    for number in range(batches):
        epoch, first = divmod(number, each)
        numbers = range(first * BATCH, (first + 1) * BATCH)
        yield Task(epoch, numbers, order[list(numbers)])


def rate(batches: Iterator[Batch], timed: int) -> float:
    """Examples a second, behind the first WARM batches."""
    for _ in range(WARM):
        next(batches)
    begun = time.perf_counter()
    for _ in range(timed):
        next(batches)
    return timed * BATCH / (time.perf_counter() - begun)


def measure_workers(feed: Feed, workers: int, batches: int) -> float:
    """With so many processes, or with the thread of a plain training."""
    with (
        open_makers(feed, GRID, workers) as makers,
        closing(makers.batches(tasks(feed, WARM + batches))) as made,
    ):
        return rate(made, batches)


def measure_threads(feed: Feed, batches: int) -> float:
    """With two threads, which share the interpreter's lock."""
    with ThreadPoolExecutor(2) as pool:
        wanted = list(tasks(feed, WARM + batches))
        return rate(pool.map(lambda task: make_batch(feed, GRID, task), wanted), batches)


def measure(slices: int, size: int, batches: int, repeats: int, most: int) -> dict[str, Any]:
    """Medians of each way over `repeats` turns."""
    samples, _ = drawn_samples(slices, size)
    feed = Feed(samples, len(CLASSES), RECIPES[DEFAULT_RECIPE], 1)
    seen: dict[str, list[float]] = {}
    for _ in range(repeats):
        seen.setdefault(THREADS, []).append(measure_threads(feed, batches))
        for workers in range(most + 1):
            rates = seen.setdefault(f"--feed-workers {workers}", [])
            rates.append(measure_workers(feed, workers, batches))
    alone = float(np.median(seen["--feed-workers 0"]))
    rows = [
        {"way": way, "rate": float(np.median(rates)), "ratio": float(np.median(rates)) / alone}
        for way, rates in seen.items()
    ]
    return {
        "machine": machine_facts(),
        "slices": slices,
        "size": size,
        "batches": batches,
        "repeats": repeats,
        "rows": sorted(rows, key=lambda row: row["way"]),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = ["| examples made by | examples a second | to one thread |", "|---|--:|--:|"]
    lines += [
        f"| {'`' + row['way'] + '`' if row['way'] != THREADS else THREADS} "
        f"| {row['rate']:,.0f} | {row['ratio']:.2f} |"
        for row in result["rows"]
    ]
    lines += [
        "",
        f"The default recipe at {result['size']}×{result['size']}, {result['batches']} batches of "
        f"{BATCH}, median of {result['repeats']} turns; `--feed-workers 0` is one thread; "
        f"{machine_in_words(result['machine'])}.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--slices", type=click.IntRange(40), default=480, show_default=True)
@click.option("--size", type=click.IntRange(32), default=96, show_default=True)
@click.option("--batches", type=click.IntRange(1), default=60, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--most", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@out_option
def main(slices: int, size: int, batches: int, repeats: int, most: int, out: Path) -> None:
    """Measure the feed of a training with up to --most processes."""
    result = measure(slices, size, batches, repeats, most)
    publish(out, "feed", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.feed", extra="train")
