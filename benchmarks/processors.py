"""Does every exported file say the same on every processor?

    python -m benchmarks.processors RUN/export DATA --out benchmarks/results

Runtimes choose their kernels by what the processor can. The same slices go through each file in
each runtime, here and in processes that QEMU's user emulation (Debian: qemu-user) runs as if on
older processors; it knows SSE and AVX2, not AVX-512 and VNNI. Writes processors.json and
processors.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, FOLDER, out_option, publish
from benchmarks.common.process import clean_environment
from benchmarks.common.runners import (
    FLOAT_STEP,
    PLAIN,
    Runner,
    model_files,
    opencv_runner,
    plain_runner,
    read_slices,
    step_of,
)
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError, UsageError
from edge_runtime.imaging.preprocess import preprocess
from edge_runtime.model.backends import open_graph
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from edge_runtime.processor import features_in_words

Floats = npt.NDArray[np.float32]
EMULATOR = "qemu-x86_64"
PROCESSORS = {"Haswell": "AVX2", "Nehalem": "SSE4.2"}
OPENCV = "OpenCV DNN"
RUNTIMES = {"tflite": ("litert", "tensorflow"), "onnx": ("onnxruntime", PLAIN, OPENCV)}
NEEDS_AVX = ("tensorflow",)  # its packages do not start without
ROOT = Path(__file__).resolve().parents[1]
CHILD = "from benchmarks.processors import child; child()"


def emulator() -> str | None:
    """The emulator's path, or None where it is not installed."""
    return shutil.which(EMULATOR)


class Job(NamedTuple):
    """A file in a runtime, on slices (N×size×size, uint8) that are preprocessed for it."""

    path: Path
    runtime: str
    slices: npt.NDArray[np.uint8]


def runner(file: ModelFile, name: str) -> Runner:
    """The logits of one preprocessed slice in the runtime `name`, one of RUNTIMES."""
    if name == PLAIN:
        return plain_runner(file)
    return opencv_runner(file) if name == OPENCV else open_graph(file, name).run


def child() -> None:
    """In a process that may be an emulated one: run the jobs of `sys.argv[3:]` (file and runtime in
    turn) on the slices of one NPZ file and leave their logits in another."""
    given, left, *words = sys.argv[1:]
    with np.load(given) as slices:
        logits = {}
        for i, (path, name) in enumerate(zip(words[::2], words[1::2], strict=True)):
            run = runner(read_model(path), name)
            logits[str(i)] = np.stack([run(pixels) for pixels in slices[str(i)]])
    np.savez(left, **logits)  # type: ignore[arg-type]


def answers(jobs: Sequence[Job], processor: str | None) -> list[Floats]:
    """Logits of each job, N×C, from a process of its own.

    Args:
        processor: one of PROCESSORS, emulated; None for the one that is here.

    Raises:
        BtcError: the process failed.
        UsageError: no emulator.
    """
    words: list[str] = []
    if processor is not None:
        found = emulator()
        if found is None:
            raise UsageError(f"{EMULATOR} is missing: apt-get install qemu-user")
        words = [found, "-cpu", processor]
    with tempfile.TemporaryDirectory() as folder:
        given, left = Path(folder, "given.npz"), Path(folder, "left.npz")
        np.savez(given, **{str(i): job.slices for i, job in enumerate(jobs)})  # type: ignore[arg-type]
        words += [sys.executable, "-c", CHILD, str(given), str(left)]
        words += [word for job in jobs for word in (str(job.path), job.runtime)]
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT,
            env=clean_environment() | one_thread | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if done.returncode != 0:
            raise BtcError(
                f"a process on {processor or 'this processor'} ended with code "
                f"{done.returncode}: {done.stderr.strip()[-300:]}"
            )
        with np.load(left) as logits:
            return [logits[str(i)] for i in range(len(jobs))]


def compare(here: Floats, there: Floats, step: float) -> dict[str, Any]:
    """How far the answers of two processors lie apart, N×C each.

    Returns:
        Images with the same label, with another one, and the largest difference in steps.
    """
    same = here.argmax(axis=1) == there.argmax(axis=1)
    return {
        "same": int(same.sum()),
        "differ": int((~same).sum()),
        "max_steps": float(np.abs(here - there).max() / step),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The table of the results."""
    lines = [
        "| file | runtime | as on | same label | another label | largest difference |",
        "|---|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| {row['file']} | {row['runtime']} | {row['processor']} ({PROCESSORS[row['processor']]})"
        f" | {row['same']} | {row['differ']} | {row['max_steps']:.2f} steps |"
        for row in result["rows"]
    ]
    lines += [
        "",
        f"{result['n']} slices; each emulated processor against the one here "
        f"({result['features']}). A step is the quantisation step of the logits ({FLOAT_STEP:g} "
        "where they are floats).",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("models", type=FOLDER)
@click.argument("data", type=EXISTING)
@click.option("--images", type=click.IntRange(1), default=50, show_default=True)
@click.option(
    "--runtime",
    "chosen",
    type=click.Choice(sorted({name for names in RUNTIMES.values() for name in names})),
    multiple=True,
    help="Only these, repeatable; TensorFlow alone takes minutes to start, emulated.",
)
@out_option
def main(models: Path, data: Path, images: int, chosen: tuple[str, ...], out: Path) -> None:
    """Run every model file of a folder on slices of DATA as on other processors."""
    grays = read_slices(data, images)
    paths = model_files(models)
    jobs, steps = [], {}
    for path in paths:
        file = read_model(path)
        steps[path] = step_of(file)
        slices = np.stack([preprocess(gray, file.info.preprocess) for gray in grays])
        names = [name for name in RUNTIMES[file.format] if not chosen or name in chosen]
        jobs += [Job(path, name, slices) for name in names]
    here = answers(jobs, None)
    rows = []
    for processor in PROCESSORS:
        click.echo(f"as on {processor} …", err=True)
        able = [i for i, job in enumerate(jobs)
                if processor != "Nehalem" or job.runtime not in NEEDS_AVX]  # fmt: skip
        there = answers([jobs[i] for i in able], processor)
        rows += [
            {"file": jobs[i].path.name, "runtime": jobs[i].runtime, "processor": processor}
            | compare(here[i], logits, steps[jobs[i].path])
            for i, logits in zip(able, there, strict=True)
        ]
    rows.sort(key=lambda row: (row["file"], row["runtime"]))
    features = features_in_words(machine_facts())
    result = {"n": len(grays), "features": features, "rows": rows}
    publish(out, "processors", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.processors", extra="export")
