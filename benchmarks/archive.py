"""An archive over Ray while its workers are killed, beside the plain command on the same files.

    python -m benchmarks.archive --out benchmarks/results

Files are drawn; each has bytes of its own. `btc-edge classify -r` answers them first. Then
`btc-edge archive` does, and every so often one of its workers gets SIGKILL while it makes a shard.
Each answer is compared with the command's: none may be lost, doubled or another. A second run must
do nothing. Times, memory and bytes are those of these runs. Writes archive.json and archive.md.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.common.command import out_option, publish
from benchmarks.common.formatting import machine_in_words, what_was_measured
from benchmarks.common.memory import PeakMemory
from benchmarks.common.pictures import as_jpeg, draw_pictures
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from edge_runtime.model.load import read_model

BTC_EDGE = str(Path(sys.executable).parent / "btc-edge")
KINDS = 200  # different pictures
SIDE = 224
IN_FOLDER = 1000  # files
WORKING = "ray::_make"  # what Ray calls a process that makes a shard
# Fields that a row has under the same name as an answer has.
FIELDS = ("slice", "status", "label", "raw_label", "confidence", "reason", "sha256", "model",
          "error", "plane", "sequence")  # fmt: skip


def draw_archive(folder: Path, count: int) -> None:
    """JPEG files, IN_FOLDER to a folder: few pictures, each file with a comment of its own (marker
    COM of ITU-T T.81), so that no two have the same digest."""
    pictures = [as_jpeg(picture, SIDE) for picture in draw_pictures(min(KINDS, count), None)]
    for number in range(count):
        inside = folder / f"{number // IN_FOLDER:04d}"
        inside.mkdir(exist_ok=True)
        data, comment = pictures[number % len(pictures)], f"{number:012d}".encode()
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (inside / f"{number:08d}.jpg").write_bytes(data[:2] + marker + data[2:])


def classify(folder: Path, answers: Path, workers: int) -> dict[str, float]:
    """`btc-edge classify -r`: seconds and peak MiB."""
    words = [BTC_EDGE, "classify", "-r", str(folder), "--workers", str(workers)]
    begun = time.perf_counter()
    with open(answers, "wb") as stream:
        process = subprocess.Popen([*words, "--format", "jsonl"], stdout=stream)
        with PeakMemory(process.pid) as memory:
            process.wait()
    if process.returncode:
        raise DataError(f"btc-edge classify ended with code {process.returncode}")
    return {"seconds": time.perf_counter() - begun, "memory_mib": memory.peak}


def archive(
    folder: Path, out: Path, workers: int, shard_size: int, kill_every: float, seed: int
) -> dict[str, Any]:
    """`btc-edge archive`, one of whose workers is killed every so often.

    Returns:
        seconds in all; `start_seconds` of them until Ray was there; peak MiB; how many workers
        were killed; what the command says of itself.
    """
    words = [BTC_EDGE, "archive", str(folder), "--out", str(out), "--workers", str(workers)]
    words += ["--shard-size", str(shard_size), "--format", "json"]
    begun = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    start = 0.0
    with PeakMemory(process.pid) as memory, killing(process.pid, kill_every, seed) as killed:
        for line in process.stderr:
            lines.append(line.rstrip())
            if not start and " shards, 0 slices" in line:  # the first line on progress
                start = time.perf_counter() - begun
        said = process.stdout.read()
        process.wait()
    if process.returncode:
        raise DataError(f"btc-edge archive ended with code {process.returncode}: {lines[-1:]}")
    return {
        "seconds": time.perf_counter() - begun,
        "start_seconds": start,
        "memory_mib": memory.peak,
        "killed": len(killed),
        "summary": json.loads(said),
    }


@contextmanager
def killing(pid: int, every: float, seed: int) -> Iterator[list[int]]:
    """Kill one of the workers of a run that make a shard, every so many seconds; yield those."""
    killed: list[int] = []
    ended = threading.Event()
    chosen = random.Random(seed)

    def kill() -> None:
        while not ended.wait(every):
            while not ended.is_set():
                if working := list(_working(pid)):
                    one = chosen.choice(working)
                    one.kill()
                    killed.append(one.pid)
                    break
                ended.wait(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def _working(pid: int) -> Iterator[psutil.Process]:
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return
    for process in family:
        try:
            if process.cmdline()[:1] == [WORKING]:
                yield process
        except psutil.Error:
            continue


def compare(folder: Path, answers: Path, out: Path) -> dict[str, int]:
    """Of the files that were drawn: how many have no row, more than one, or another answer than
    the command's."""
    import pyarrow.parquet as pq

    wanted: dict[str, Mapping[str, Any]] = {}
    with open(answers, encoding="utf-8") as stream:
        for line in stream:
            answer = json.loads(line)
            wanted[Path(answer["input"]).relative_to(folder).as_posix()] = answer
    seen: Counter[str] = Counter()
    wrong = 0
    for shard in sorted((out / "shards").glob("*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            seen[row["path"]] += 1
            wrong += not _is_same(row, wanted.get(row["path"]))
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    return {
        "files": len(files),
        "lost": sum(not seen[name] for name in files),
        "doubled": sum(seen.values()) - len(seen),
        "wrong": wrong,
    }


def _is_same(row: Mapping[str, Any], answer: Mapping[str, Any] | None) -> bool:
    if answer is None:
        return False
    shares = {name[2:]: value for name, value in row.items() if name.startswith("p_")}
    return (answer.get("probabilities") or dict.fromkeys(shares)) == shares and all(
        row[name] == answer.get(name) for name in FIELDS
    )


def _state(out: Path) -> list[tuple[str, int]]:
    """What a run that does nothing leaves as it is."""
    return sorted((str(path), path.stat().st_mtime_ns) for path in out.rglob("*.*"))


def bytes_of(paths: Sequence[Path]) -> int:
    """Bytes of files together."""
    return sum(path.stat().st_size for path in paths)


def measure(
    slices: int, workers: int, shard_size: int, kill_every: float, seed: int, where: Path
) -> dict[str, Any]:
    """All of it, in an empty folder."""
    folder, out, answers = where / "in", where / "out", where / "answers.jsonl"
    folder.mkdir()
    draw_archive(folder, slices)
    plain = classify(folder, answers, workers)
    spread = archive(folder, out, workers, shard_size, kill_every, seed)
    before = _state(out)
    second = archive(folder, out, workers, shard_size, 1e9, seed)
    return {
        "machine": machine_facts(),
        "model": read_model(None).tag,
        "workers": workers,
        "shard_size": shard_size,
        "kill_every": kill_every,
        "checked": compare(folder, answers, out),
        "classify": {**plain, "rate": slices / plain["seconds"]},
        "archive": {**spread, "rate": slices / spread["seconds"],
                    "rate_after_start": slices / (spread["seconds"] - spread["start_seconds"])},
        "second": {"seconds": second["seconds"], "made": second["summary"]["made"],
                   "changed": len(set(before) ^ set(_state(out)))},
        "bytes": {"shards": bytes_of([*(out / "shards").iterdir()]),
                  "manifest": bytes_of([out / "manifest.json", *(out / "manifest").iterdir()])},
    }  # fmt: skip


def as_markdown(result: Mapping[str, Any]) -> str:
    """The table of a result."""
    checked, plain, spread = result["checked"], result["classify"], result["archive"]
    second, size, files = result["second"], result["bytes"], result["checked"]["files"]
    rows = [
        (f"{files:,} slices, {spread['killed']} workers killed: lost, doubled, other than "
         "`btc-edge classify`", f"**{checked['lost']}, {checked['doubled']}, {checked['wrong']}**"),
        ("a second run: shards made, files changed, seconds",
         f"**{second['made']}, {second['changed']}**, {second['seconds']:.1f}"),
        ("slices a second, over those of `btc-edge classify -r`",
         f"**{spread['rate'] / plain['rate']:.2f}** ({spread['rate']:.0f} against "
         f"{plain['rate']:.0f})"),
        ("the same once Ray is there",
         f"{spread['rate_after_start'] / plain['rate']:.2f} ({spread['rate_after_start']:.0f})"),
        ("seconds until Ray is there", f"{spread['start_seconds']:.1f}"),
        ("peak memory, MiB", f"{spread['memory_mib']:.0f} against {plain['memory_mib']:.0f}"),
        ("bytes a slice: Parquet, manifest",
         f"{size['shards'] / files:.0f}, {size['manifest'] / files:.0f}"),
    ]  # fmt: skip
    words = (
        f"{result['workers']} workers, of which one is killed every {result['kill_every']:g} s; "
        f"shards of {result['shard_size']}; drawn JPEGs of {SIDE}×{SIDE}. {result['model']}; "
        f"{machine_in_words(result['machine'])}."
    )
    return "\n".join([*what_was_measured(rows), "", words, ""])


@click.command()
@click.option("--slices", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--shard-size", type=click.IntRange(1), default=500, show_default=True)
@click.option("--kill-every", type=click.FloatRange(0, min_open=True), default=60.0,
              show_default=True, help="Seconds between kills.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of whom is killed.")
@out_option
def main(
    slices: int, workers: int, shard_size: int, kill_every: float, seed: int, out: Path
) -> None:
    """Measure btc-edge archive while its workers are killed."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(slices, workers, shard_size, kill_every, seed, Path(folder))
    publish(out, "archive", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.archive", extra="dev")
