"""How near the device side comes to its floor, as ratios within one run.

    python -m benchmarks.device --out benchmarks/results

The floor of one slice is a bare decode and a bare call of the interpreter; that of the command is
the import of its libraries. Both sides of a ratio take turns. Also measured: several workers
against one, memory with the number of files, and what decoding a JPEG at a reduced size would
change. Slices are drawn, or come from --images. Writes device.json and device.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import machine_in_words
from benchmarks.common.process import launch
from benchmarks.common.turns import time_in_turns
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.statistics import paired_ratio
from edge_runtime.classifier import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError, InputError
from edge_runtime.files import write_bytes
from edge_runtime.imaging.decode import decode, load_gray
from edge_runtime.imaging.kinds import PICTURE_SUFFIXES
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.model.backends import Graph, open_graph
from trainer.evaluation.intervals import in_words
from trainer.synthetic.phantoms import CLASSES, draw_phantom

Gray = npt.NDArray[np.uint8]
Row = dict[str, Any]
TOOL = [str(Path(sys.executable).parent / "btc-edge"), "classify"]
LATENCY_SIDES = (224, 512)
DECODE_SIDES = (224, 448, 512, 1024)
REDUCED = {1: cv2.IMREAD_GRAYSCALE}
REDUCED |= {by: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{by}") for by in (2, 4, 8)}
WARM_UP = 20
MIB = 1 << 20
MODULES = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}


def row_of(what: str, value: float, unit: str, bar: float, note: str, at: str = "most") -> Row:
    """One figure (a ratio where it has no unit) and the bar, the most or the least allowed."""
    holds = value <= bar if at == "most" else value >= bar
    return {"what": what, "value": float(value), "unit": unit, "at": at, "bar": bar,
            "holds": bool(holds), "note": note}  # fmt: skip


def draw_pictures(count: int, images: Path | None) -> list[Gray]:
    """Gray slices: from a folder, or drawn.

    Raises:
        DataError: no readable image in the folder.
    """
    if images is None:
        rngs = (np.random.default_rng([3, i]) for i in range(count))
        return [draw_phantom(CLASSES[i % len(CLASSES)], rng) for i, rng in enumerate(rngs)]
    names = sorted(p for p in images.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    chosen = np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)
    pictures = []
    for i in chosen:
        with suppress(InputError):
            pictures.append(load_gray(names[i]))
    if not pictures:
        raise DataError(f"{images}: no readable image")
    return pictures


def as_jpeg(picture: Gray, side: int) -> bytes:
    """A picture at another size, as a gray JPEG."""
    how = cv2.INTER_AREA if side < min(picture.shape) else cv2.INTER_CUBIC
    sized = cv2.resize(picture, (side, side), interpolation=how)
    return bytes(cv2.imencode(".jpg", sized, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def bare(graph: Graph, *samples: bytes) -> None:
    """The least that an answer needs: the decoder, and the interpreter on an input already set."""
    for data in samples:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        graph.invoke()


def open_bare(classifier: Classifier, data: bytes) -> Graph:
    """An interpreter of its own with its input set."""
    graph = open_graph(classifier.model)
    graph.run(preprocess(decode(data), classifier.info.preprocess))
    return graph


def ratio_bar(what: str, over: Sequence[float], under: Sequence[float], bar: float) -> Row:
    """The median of paired ratios against the most that is allowed."""
    ratio, interval = paired_ratio(under, over)
    spread = in_words(interval, lambda end: f"{end:.3f}")
    parts = f"{np.median(over):.2f} ms against {np.median(under):.2f} ms"
    return row_of(what, ratio, "", bar, f"{spread}; {parts}")


def latency(classifier: Classifier, pictures: list[Gray], rounds: int) -> Iterator[Row]:
    """One JPEG in memory from end to end, against the floor."""
    for side in LATENCY_SIDES:
        samples = [as_jpeg(picture, side) for picture in pictures]
        graph = open_bare(classifier, samples[0])
        calls: dict[str, Callable[[bytes], object]] = {
            "whole": classifier.classify,
            "bare": partial(bare, graph),
        }
        inputs = islice(cycle(samples), rounds + WARM_UP)
        spans = time_in_turns(calls, inputs, WARM_UP)
        what = f"one JPEG of {side}×{side} in memory, over bare decode and invoke"
        yield ratio_bar(what, spans["whole"], spans["bare"], 1.15)


def whole_command(tool: list[str], folder: Path, module: str, repeats: int) -> Iterator[Row]:
    """`btc-edge` as a process, against the import of its libraries."""
    commands = {
        "classify": [*tool, "one.jpg"],
        "two": [sys.executable, "-c", "import numpy, cv2"],
        "all": [sys.executable, "-c", f"import numpy, cv2, click, {module}"],
        "help": [tool[0], "--help"],
    }
    walls: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            wall, peak = launch(command, folder)
            walls[name].append(wall)
            peaks[name].append(peak)
    for values in walls.values():
        del values[0]  # it warmed the disk cache
    what = "`btc-edge classify one.jpg`, over `import numpy, cv2`"
    yield ratio_bar(what, walls["classify"], walls["two"], 2.0)
    more = float(np.median(peaks["classify"]) - np.median(peaks["all"]))
    parts = f"{np.median(peaks['classify']):.1f} against {np.median(peaks['all']):.1f} MiB"
    yield row_of("its peak memory, above that of its imports", more, "MiB", 30e6 / MIB, parts)
    low, high = np.percentile(walls["help"], [5, 95])
    spread = f"5th to 95th percentile {low:.0f}–{high:.0f} ms"
    yield row_of("`btc-edge --help`", float(np.median(walls["help"])), "ms", 150.0, spread)


def bare_rate(graphs: list[Graph], samples: list[bytes]) -> float:
    """Slices a second at the floor, each graph in a thread of its own on all samples."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(graphs)) as pool:
        for working in [pool.submit(bare, graph, *samples) for graph in graphs]:
            working.result()
    return len(graphs) * len(samples) / (time.perf_counter() - begun)


def throughput(classifier: Classifier, files: list[Path], workers: Sequence[int]) -> Iterator[Row]:
    """Many files with several workers, against as many times the floor of one.

    The note tells what the bare calls themselves reach on so many threads: where that is less
    than the count, the cores were not free.
    """
    samples = [file.read_bytes() for file in files]
    graphs = [open_bare(classifier, samples[0]) for _ in range(max(workers))]
    seen: dict[int, list[tuple[float, float, float]]] = {count: [] for count in workers}
    for count in workers:  # each thread opens its interpreter
        list(classifier.classify_many(files[:WARM_UP], workers=count))
    for _ in range(3):
        for count in workers:
            one, all_ = bare_rate(graphs[:1], samples), bare_rate(graphs[:count], samples)
            begun = time.perf_counter()
            done = len(list(classifier.classify_many(files, workers=count)))
            rate = done / (time.perf_counter() - begun)
            seen[count].append((rate / (count * one), rate, all_ / one))
    for count in workers:
        what = f"{len(files)} files, {count} worker{'s'[: count - 1]}, over {count} × bare rate"
        share, rate, scale = np.median(seen[count], axis=0)
        note = f"{min(seen[count])[0]:.2f}–{max(seen[count])[0]:.2f}; {rate:.0f} slices a second; "
        note += f"bare calls reach {scale:.2f} ×"
        yield row_of(what, share, "", 0.9, note, at="least")


def memory(tool: list[str], folder: Path, counts: tuple[int, int]) -> Row:
    """Peak memory of the command on a long list of files, against a short one."""
    command = [*tool, "--format", "csv", "--workers", "2", "-"]
    few, many = (launch(command, folder, stdin="one.jpg\n" * count)[1] for count in counts)
    what = f"peak memory with {counts[1]} files, over that with {counts[0]}"
    return row_of(what, many / few, "", 1.2, f"{many:.1f} MiB against {few:.1f}")


def reduced_decoding(
    pictures: list[Gray], options: Preprocess, sides: Sequence[int] = DECODE_SIDES, rounds: int = 20
) -> list[Row]:
    """What the model's input loses, and what time is saved, when a JPEG is decoded smaller."""
    rows = []
    for side in sides:
        samples = [np.frombuffer(as_jpeg(picture, side), np.uint8) for picture in pictures]
        flags = {by: flag for by, flag in REDUCED.items() if side // by >= options.size}
        times: dict[int, list[float]] = {by: [] for by in flags}
        inputs: dict[int, list[Gray]] = {by: [] for by in flags}
        for _ in range(rounds):
            for data in samples:
                for by, flag in flags.items():
                    begun = time.perf_counter()
                    pixels = preprocess(np.asarray(cv2.imdecode(data, flag)), options)
                    times[by].append((time.perf_counter() - begun) * 1e3)
                    inputs[by].append(pixels)
        full = np.array(inputs[1], np.float32)
        for by in list(flags)[1:]:
            gaps = np.abs(np.array(inputs[by], np.float32) - full).mean(axis=(1, 2))
            rows.append({"side": side, "reduced": by, "levels": float(gaps.mean()),
                         "worst": float(gaps.max()), "full_ms": float(np.median(times[1])),
                         "reduced_ms": float(np.median(times[by]))})  # fmt: skip
    return rows


def measure(model: Path | None, images: Path | None, rounds: int, repeats: int, files: int,
            listed: tuple[int, int]) -> dict[str, Any]:  # fmt: skip
    """All figures; see the module's text."""
    tool = TOOL + (["--model", str(model.resolve())] if model else [])
    classifier = Classifier(model)
    pictures = draw_pictures(16, images)
    backend = open_graph(classifier.model).backend
    rows = [*latency(classifier, pictures, rounds)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bytes(folder / "one.jpg", as_jpeg(pictures[0], LATENCY_SIDES[0]))
        paths = [folder / f"{i:05d}.jpg" for i in range(files)]
        for i, path in enumerate(paths):
            path.write_bytes(as_jpeg(pictures[i % len(pictures)], LATENCY_SIDES[0]))
        rows += whole_command(tool, folder, MODULES.get(backend, backend), repeats)
        rows += throughput(classifier, paths, range(1, (os.cpu_count() or 1) + 1))
        rows.append(memory(tool, folder, listed))
    return {
        "machine": machine_facts(),
        "model": classifier.model.tag,
        "backend": backend,
        "pictures": images.name if images else "drawn",
        "rows": rows,
        "reduced_decoding": reduced_decoding(pictures, classifier.info.preprocess),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = ["| what | measured | bar | holds |", "|---|---|---|---|"]
    for row in result["rows"]:
        unit = row["unit"] and f" {row['unit']}"
        digits = 1 if unit else 2
        lines.append(
            f"| {row['what']} | **{row['value']:.{digits}f}{unit}** ({row['note']}) "
            f"| at {row['at']} {row['bar']:.{digits}f}{unit} | {'yes' if row['holds'] else 'no'} |"
        )
    machine = result["machine"]
    lines += [
        "",
        f"{result['model']}, {result['backend']}, one thread; "
        f"{machine_in_words(machine)}; pictures: {result['pictures']}. Ratios are medians of "
        "pairs, both sides in turn; 95 % intervals tell the spread within this run, not between "
        "runs.",
        "",
        "| JPEG side | decoded at | input differs by (mean gray levels) | worst slice | full ms "
        "| reduced ms | within one level |",
        "|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {row['side']} | 1/{row['reduced']} | {row['levels']:.2f} | {row['worst']:.2f} "
        f"| {row['full_ms']:.2f} | {row['reduced_ms']:.2f} "
        f"| {'yes' if row['levels'] <= 1 else 'no'} |"
        for row in result["reduced_decoding"]
    ]
    return "\n".join([*lines, "", "Times are of decoding and preprocessing together.", ""])


@click.command()
@click.option("--model", type=EXISTING, help="Default: bundled.")
@click.option("--images", type=EXISTING, help="Default: drawn.")
@click.option("--rounds", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=20, show_default=True)
@click.option("--files", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--listed", type=click.IntRange(1), nargs=2, default=(100, 10_000), show_default=True)
@out_option
def main(model: Path | None, images: Path | None, rounds: int, repeats: int, files: int,
         listed: tuple[int, int], out: Path) -> None:  # fmt: skip
    """Measure the device side of this environment against its floor."""
    result = measure(model, images, rounds, repeats, files, listed)
    publish(out, "device", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.device", extra="train")
