"""How near the device side comes to its floor, as ratios within one run.

    python -m benchmarks.device --out benchmarks/results

The floor of one slice is a bare decode and a bare call of the interpreter, that of a folder the
same on as many threads, that of the command the import of its libraries. Both sides of a ratio take
turns. Also measured: rate and memory of the command as the number of files grows, and what decoding
a JPEG at a reduced size would change. Slices are drawn, or come from --images. Writes device.json
and device.md. It takes about a quarter of an hour.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import MIB, NOTHING, machine_in_words
from benchmarks.common.memory import launch_tree
from benchmarks.common.pictures import as_jpeg, draw_pictures, write_jpegs
from benchmarks.common.process import launch
from benchmarks.common.turns import time_in_turns
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.statistics import paired_ratio
from edge_runtime.classifier import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.model.backends import Graph, open_graph
from edge_runtime.processes import AFTER
from trainer.evaluation.intervals import in_words

Gray = npt.NDArray[np.uint8]
Row = dict[str, Any]
TOOL = [str(Path(sys.executable).parent / "btc-edge"), "classify"]
FOLDER_SIDE = 224  # of the files in folders
# What may be reached: of the floor of one slice by the side of its JPEG, and of the rate of the
# bare calls by the number of workers, which are as many threads there.
SLICE_BARS = {224: 1.20, 512: 1.25}
FOLDER_BARS = {1: 0.80, 2: 0.75}
COMMAND_BAR = 1.25
MEMORY_BAR, RATE_BAR = 1.2, 0.9  # of many files over few
ROUNDS = 5  # of whole folders
DECODE_SIDES = (224, 448, 512, 1024)
REDUCED = {1: cv2.IMREAD_GRAYSCALE}
REDUCED |= {by: getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{by}") for by in (2, 4, 8)}
WARM_UP = 20
MODULES = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}


def row_of(what: str, value: float, unit: str, bar: float, note: str, at: str = "most") -> Row:
    """One figure (a ratio where it has no unit) and the bar, the most or the least allowed."""
    holds = value <= bar if at == "most" else value >= bar
    return {"what": what, "value": float(value), "unit": unit, "at": at, "bar": bar,
            "holds": bool(holds), "note": note}  # fmt: skip


def bare(graph: Graph, *samples: bytes) -> None:
    """The least that an answer needs: the decoder, and the interpreter on an input already set."""
    for data in samples:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        graph.invoke()


def bare_read(path: Path) -> bytes:
    """A file's bytes."""
    with open(path, "rb") as stream:
        return stream.read()


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


def latency(
    classifier: Classifier, pictures: list[Gray], rounds: int, folder: Path
) -> Iterator[Row]:
    """One JPEG from end to end, against the floor: in memory, and by its path."""
    for side, bar in SLICE_BARS.items():
        samples = [as_jpeg(picture, side) for picture in pictures]
        graph = open_bare(classifier, samples[0])
        calls: dict[str, Callable[[bytes], object]] = {
            "whole": classifier.classify,
            "bare": partial(bare, graph),
        }
        inputs = islice(cycle(samples), rounds + WARM_UP)
        spans = time_in_turns(calls, inputs, WARM_UP)
        what = f"one JPEG of {side}×{side} in memory, over bare decode and invoke"
        yield ratio_bar(what, spans["whole"], spans["bare"], bar)
    paths = write_jpegs(folder / "singles", pictures, FOLDER_SIDE, len(pictures))
    graph = open_bare(classifier, paths[0].read_bytes())
    by_path: dict[str, Callable[[Path], object]] = {
        "whole": classifier.classify,
        "bare": lambda path: bare(graph, bare_read(path)),
    }
    spans = time_in_turns(by_path, islice(cycle(paths), rounds + WARM_UP), WARM_UP)
    what = f"one JPEG of {FOLDER_SIDE}×{FOLDER_SIDE} by path, over bare read, decode and invoke"
    yield ratio_bar(what, spans["whole"], spans["bare"], SLICE_BARS[FOLDER_SIDE])


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
    yield ratio_bar(what, walls["classify"], walls["two"], COMMAND_BAR)
    more = float(np.median(peaks["classify"]) - np.median(peaks["all"]))
    parts = f"{np.median(peaks['classify']):.1f} against {np.median(peaks['all']):.1f} MiB"
    yield row_of("its peak memory, above that of its imports", more, "MiB", 30e6 / MIB, parts)
    low, high = np.percentile(walls["help"], [5, 95])
    spread = f"5th to 95th percentile {low:.0f}–{high:.0f} ms"
    yield row_of("`btc-edge --help`", float(np.median(walls["help"])), "ms", 150.0, spread)


def seconds(job: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def bare_folder(graphs: list[Graph], samples: list[bytes]) -> None:
    """The floor of many slices in memory: each graph in a thread of its own, on its share."""
    with ThreadPoolExecutor(len(graphs)) as pool:
        shares = [samples[i :: len(graphs)] for i in range(len(graphs))]
        list(pool.map(lambda graph, share: bare(graph, *share), graphs, shares))


def throughput(
    classifier: Classifier, tool: list[str], folder: Path, files: list[Path], workers: int
) -> Iterator[Row]:
    """All files of a folder, against the bare calls on as many threads as it may have workers: in
    this process, and by the whole command with its start."""
    content = {path.stat().st_ino: path for path in files}  # the others are links to these
    content_of = {inode: path.read_bytes() for inode, path in content.items()}
    samples = [content_of[path.stat().st_ino] for path in files]
    graphs = [open_bare(classifier, samples[0]) for _ in range(workers)]
    command = [*tool, "--format", "jsonl", "--workers", str(workers), "-r", str(folder)]
    jobs: dict[str, Callable[[], object]] = {
        "bare": partial(bare_folder, graphs, samples),
        "python": lambda: list(classifier.classify_many(files, workers=workers)),
        "command": lambda: launch(command, folder),
    }
    list(classifier.classify_many(files[:WARM_UP], workers=workers))  # interpreters are opened
    spans: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(ROUNDS):
        for name in list(jobs)[:: 1 - 2 * (number % 2)]:
            spans[name].append(seconds(jobs[name]))
    many = f"{len(files)} files, {workers} worker{'s'[: workers - 1]}"
    on = "bare calls on as many threads"
    for name, what in (("python", f"{many}, over {on}"),
                       ("command", f"{many}, the whole command, over {on}")):  # fmt: skip
        shares = np.array(spans["bare"]) / np.array(spans[name])
        rates = [len(files) / np.median(spans[side]) for side in (name, "bare")]
        note = f"{min(shares):.2f}–{max(shares):.2f}; "
        note += f"{rates[0]:.0f} against {rates[1]:.0f} slices a second"
        yield row_of(what, float(np.median(shares)), "", FOLDER_BARS[workers], note, at="least")


def growth(
    tool: list[str], files: list[Path], counts: Sequence[int], workers: Sequence[int], repeats: int
) -> list[Row]:
    """Rate and memory of the whole command on ever longer lists, which name the same files again.

    The rate does not count the start: the time for one file is taken off. Memory is that of the
    command and of the processes that it starts, together.
    """
    rows = []
    for number in workers:
        command = [*tool, "--format", "csv", "--workers", str(number), "-"]
        runs: dict[int, list[tuple[float, float]]] = {}
        for count in (1, *counts):
            names = "".join(f"{path}\n" for path in islice(cycle(files), count))
            times = max(1, min(repeats, 3000 // count))  # long runs tell enough at once
            runs[count] = [launch_tree(command, files[0].parent, names) for _ in range(times)]
        start = float(np.median([wall for wall, _ in runs.pop(1)]))
        for count, seen in runs.items():
            took = float(np.median([wall for wall, _ in seen])) - start
            rows.append({
                "workers": number, "files": count,
                "rate": (count - 1) / took * 1e3 if took > 0 else None,  # ms; lost in the noise
                "peak_mib": max(peak for _, peak in seen),
            })  # fmt: skip
    return rows


def growth_bars(rows: list[Row]) -> Iterator[Row]:
    """What has grown from few files to the most, where lists of both lengths are there.

    Memory since 100 files, the rate since 1,000, before which the start of workers counts. Several
    workers start processes in a long list: they are compared from where these have done half.
    """
    for number in sorted({row["workers"] for row in rows}):
        mine = [row for row in rows if row["workers"] == number]
        for field, begin, bar, at, unit in (
            ("peak_mib", 100, MEMORY_BAR, "most", "MiB"),
            ("rate", 1000, RATE_BAR, "least", "slices a second"),
        ):
            since = begin if number == 1 else max(begin, 2 * AFTER + 1)
            known = [row for row in mine if row["files"] >= since and row[field] is not None]
            if len(known) < 2:
                continue
            few, many = known[0], known[-1]
            name = "peak memory" if field == "peak_mib" else "rate"
            what = f"{name} with {many['files']} files, over that with {few['files']}"
            what += f", {number} worker{'s'[: number - 1]}"
            note = f"{many[field]:.0f} against {few[field]:.0f} {unit}"
            yield row_of(what, many[field] / few[field], "", bar, note, at=at)


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


def measure(model: Path | None, images: Path | None, rounds: int, repeats: int,
            files: Sequence[int], counts: Sequence[int]) -> dict[str, Any]:  # fmt: skip
    """All figures; see the module's text."""
    tool = TOOL + (["--model", str(model.resolve())] if model else [])
    classifier = Classifier(model)
    pictures = draw_pictures(16, images)
    backend = open_graph(classifier.model).backend
    workers = [count for count in FOLDER_BARS if count <= (os.cpu_count() or 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*latency(classifier, pictures, rounds, folder)]
        (folder / "one.jpg").write_bytes(as_jpeg(pictures[0], FOLDER_SIDE))
        rows += whole_command(tool, folder, MODULES.get(backend, backend), repeats)
        for count in sorted(files):
            place = folder / str(count)
            paths = write_jpegs(place, pictures, FOLDER_SIDE, count)
            for number in workers:
                rows += throughput(classifier, tool, place, paths, number)
        grown = growth(tool, paths, sorted(counts), workers, repeats)
    return {
        "machine": machine_facts(),
        "model": classifier.model.tag,
        "backend": backend,
        "pictures": images.name if images else "drawn",
        "rows": [*rows, *growth_bars(grown)],
        "growth": grown,
        "reduced_decoding": reduced_decoding(pictures, classifier.info.preprocess),
    }


def growth_table(rows: list[Row]) -> list[str]:
    """A row for each number of files, columns for each number of workers."""
    workers = sorted({row["workers"] for row in rows})
    known = {(row["workers"], row["files"]): row for row in rows}
    titles = [f"{count} worker{'s'[: count - 1]}, slices a second | MiB" for count in workers]
    lines = [f"| files | {' | '.join(titles)} |", "|--:" * (1 + 2 * len(workers)) + "|"]
    for files in sorted({row["files"] for row in rows}):
        cells = [str(files)]
        for count in workers:
            row = known[count, files]
            cells += [NOTHING if row["rate"] is None else f"{row['rate']:.0f}"]
            cells += [f"{row['peak_mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


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
        *growth_table(result["growth"]),
        "",
        "The command with a list on stdin; its start does not count in the rate, and all its "
        "processes count in the memory, what they share once. "
        f"With several workers each starts a process after {AFTER} files, a step that the table "
        f"shows, so their growth is judged from the first list of more than {2 * AFTER} files on.",
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
@click.option(
    "--files",
    type=click.IntRange(1),
    multiple=True,
    default=(600, 10_000),
    show_default=True,
    help="Sizes of the folders.",
)
@click.option(
    "--growth",
    "counts",
    type=click.IntRange(2),
    multiple=True,
    default=(10, 100, 1000, 10_000, 100_000),
    show_default=True,
    help="Lengths of the lists.",
)
@out_option
def main(model: Path | None, images: Path | None, rounds: int, repeats: int,
         files: tuple[int, ...], counts: tuple[int, ...], out: Path) -> None:  # fmt: skip
    """Measure the device side of this environment against its floor."""
    result = measure(model, images, rounds, repeats, files, counts)
    publish(out, "device", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.device", extra="dev")
