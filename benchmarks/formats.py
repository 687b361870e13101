"""Every format of one run beside Keras, on the same images in one process.

    python -m benchmarks.formats RUN DATA --groups CSV --out benchmarks/results

Accuracy on the run's own test side, latency image by image with the formats taking turns (so
that a drift of the machine hits all alike; of several images, as in `edge_runtime.benchmark`),
cold start and peak memory of a whole process that classifies one image, and file size. Formats
that the folder lacks are left out. Writes formats.json and formats.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import machine_in_words
from benchmarks.common.process import launch
from benchmarks.common.turns import time_in_turns
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.measure import SETTLING, TURN
from edge_runtime.benchmark.statistics import paired_ratio
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from edge_runtime.model.backends import open_graph
from edge_runtime.model.load import read_model
from export.formats import FORMATS
from trainer.data.dataset import Dataset, read_dataset
from trainer.evaluation.intervals import in_words, share_interval
from trainer.models.outputs import predictor
from trainer.run import Run

KERAS_COLD = """
import os, sys; os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import cv2, keras, numpy as np
from trainer.run import Run
from edge_runtime.imaging.decode import load_gray
from edge_runtime.imaging.preprocess import preprocess
run = Run.open(sys.argv[1])
x = preprocess(load_gray(sys.argv[2]), run.preprocess)[None, ..., None].astype("float32")
print(run.load_model().predict(x, verbose=0).argmax())
"""

WARM_UP = 10  # images

Invoke = Callable[[np.ndarray], np.ndarray]


def test_side(run: Run, data: Dataset) -> Dataset:
    """The slices that the run was tested on, by its predictions.csv."""
    wanted = run.measured_paths()
    side = data.take([i for i, path in enumerate(data.paths) if path in wanted])
    if len(side) != len(wanted):
        raise DataError("the data lacks slices that the run was tested on")
    return side


def cold_start(command: list[str], folder: Path, repeats: int) -> tuple[float, float]:
    """Median wall time in ms and largest peak memory in MiB of whole processes."""
    runs = [launch(command, folder) for _ in range(repeats + 1)]
    walls, peaks = zip(*runs, strict=True)
    return float(np.median(walls[1:])), max(peaks)  # the first run warms the disk cache


def measure(run: Run, models: Path, data: Dataset, latency_images: int, repeats: int) -> Any:
    """All figures as one dict; see the module's text."""
    import cv2

    side = test_side(run, data)
    network = run.load_model()
    files = {
        name: next(iter(sorted(models.glob(form.file_name("*")))), None)
        for name, form in FORMATS.items()
    }
    graphs = {n: open_graph(read_model(f), threads=1) for n, f in files.items() if f}
    reference = predictor(network)(side.images).logits.argmax(axis=1)
    predicted = {"keras": reference}
    for name, graph in graphs.items():
        predicted[name] = np.array([graph.run(image).argmax() for image in side.images])
    invokes: dict[str, Invoke] = {
        "keras": lambda x: network.predict(x[None, ..., None].astype(np.float32), verbose=0)
    }
    invokes |= {name: graph.run for name, graph in graphs.items()}
    chosen = np.random.default_rng(0).permutation(len(side))[:latency_images]
    timed = side.images[chosen]
    times = time_in_turns(
        invokes, [*timed[:WARM_UP], *timed], WARM_UP, turn=TURN, settling=SETTLING
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "slice.png"
        cv2.imwrite(str(picture), side.images[0])
        for name in invokes:
            file = files.get(name) or run.folder / "model.keras"
            if name == "keras":
                trained = str(run.folder.resolve())
                command = [sys.executable, "-c", KERAS_COLD, trained, str(picture)]
            else:
                tool = Path(sys.executable).parent / "btc-edge"
                command = [str(tool), "classify", "--model", str(file.resolve()), str(picture)]
            wall, peak = cold_start(command, Path(folder), repeats)
            right = predicted[name] == side.labels
            rows.append(
                {
                    "format": name,
                    "runtime": graphs[name].backend if name in graphs else "keras predict",
                    "bytes": file.stat().st_size,
                    "accuracy": float(right.mean()),
                    "interval95": share_interval(right, side.groups),
                    "agreement": float((predicted[name] == reference).mean()),
                    "latency_ms": {
                        f"p{p}": float(np.percentile(times[name], p)) for p in (50, 90, 99)
                    },
                    "cold_start_ms": wall,
                    "peak_mib": peak,
                }
            )
    ratio, interval = paired_ratio(times["int8"], times["float32"])
    return {
        "machine": machine_facts(),
        "protocol": run.settings["protocol"],
        "n": len(side),
        "groups": len(set(side.groups)),
        "latency_images": len(chosen),
        "formats": rows,
        "float32_over_int8": {"ratio": ratio, "interval95": interval},
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [
        "| format | runtime | size KiB | accuracy % (95 % interval) | agrees with Keras % "
        "| p50 ms | p99 ms | cold start ms | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["formats"]:
        spread = in_words(row["interval95"], lambda end: f"{100 * end:.1f}")
        lines.append(
            f"| {row['format']} | {row['runtime']} | {row['bytes'] / 1024:.0f} "
            f"| {100 * row['accuracy']:.1f} ({spread}) "
            f"| {100 * row['agreement']:.1f} | {row['latency_ms']['p50']:.2f} "
            f"| {row['latency_ms']['p99']:.2f} | {row['cold_start_ms']:.0f} "
            f"| {row['peak_mib']:.0f} |"
        )
    ratio = result["float32_over_int8"]
    spread = in_words(ratio["interval95"], lambda end: f"{end:.2f}")
    lines += [
        "",
        f"Protocol '{result['protocol']}', {result['n']} slices of {result['groups']} groups that "
        f"training never saw; latency over {result['latency_images']} slices, one thread, formats "
        f"in turn; {machine_in_words(result['machine'])}. float32 ÷ int8 latency: "
        f"{ratio['ratio']:.2f} ({spread}).",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("run", type=EXISTING)
@click.argument("data", type=EXISTING)
@click.option("--models", type=EXISTING, help="Default: RUN/export.")
@click.option("--groups", type=EXISTING)
@click.option("--latency-images", type=click.IntRange(20), default=300, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@out_option
def main(run: Path, data: Path, models: Path | None, groups: Path | None, latency_images: int,
         repeats: int, out: Path) -> None:  # fmt: skip
    """Measure every format of RUN beside Keras on the slices of DATA that RUN was tested on."""
    opened = Run.open(run)
    slices = read_dataset(data, opened.preprocess, class_names=opened.labels, groups_csv=groups)
    result = measure(opened, models or run / "export", slices, latency_images, repeats)
    publish(out, "formats", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.formats", extra="export")
