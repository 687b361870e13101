"""Which model file is fastest, on a processor with instructions for small integers and without?

    python -m benchmarks.fastest RUN/export IMAGES --out benchmarks/results

Every file of a folder is measured as `btc-edge benchmark` does, in processes that take turns: as
the processor is, and with a library preloaded (`without_vnni.c`) under which it tells of AVX2 and
of nothing newer, so that interpreters choose the kernels of an older one. Both are one machine:
what differs is the choice of kernels, not the clock, the caches or the memory. Linux on x86-64 with
a C compiler. Writes fastest.json and fastest.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.command import FOLDER, out_option, publish
from benchmarks.common.formatting import machine_in_words
from benchmarks.common.process import clean_environment
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.benchmark.measure import measure
from edge_runtime.benchmark.samples import read_samples
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError, UsageError
from edge_runtime.model.picked import model_files

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(__file__).with_name("without_vnni.c")
CHILD = "from benchmarks.fastest import child; child()"
CANNOT = 97  # the library's exit code where CPUID cannot be trapped
ABOUT = ("backend", "backend_version", "bytes", "sha256")  # of a file, in the result
AS_IT_IS, AVX2 = "as it is", "AVX2 only"


def build(folder: Path) -> Path:
    """Compile the library that hides what is newer than AVX2.

    Raises:
        UsageError: no compiler, or another system. BtcError: it does not compile.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UsageError("only for Linux on x86-64")
    compiler = shutil.which("cc")
    if compiler is None:
        raise UsageError("a C compiler is missing: apt-get install gcc")
    library = folder / "without_vnni.so"
    words = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(LIBRARY)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise BtcError(f"{LIBRARY.name} does not compile: {done.stderr.strip()[-200:]}")
    return library


def run_apart(code: str, words: list[str], library: Path | None) -> str:
    """What a Python process prints that runs `code`.

    Args:
        library: from `build`, preloaded; None for the processor as it is.

    Raises:
        UsageError: the processor does not let CPUID be trapped. BtcError: the process failed.
    """
    hiding = {} if library is None else {"LD_PRELOAD": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT,
        env=clean_environment() | hiding | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode == CANNOT:
        raise UsageError("this processor does not let CPUID be trapped (no cpuid_fault)")
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise BtcError(f"a process ended with code {done.returncode}: {' '.join(last)}")
    return done.stdout


def child() -> None:
    """In a process of its own: measure the files of `sys.argv[1]` on the images of `sys.argv[2]`
    with `sys.argv[3]` queries each, and print the result."""
    folder, images, queries = sys.argv[1:]
    files = model_files(Path(folder))
    print(json.dumps(measure(files, Path(images), queries=int(queries), seconds=0, leave_out=True)))


def in_all(ways: dict[str, list[dict[str, Any]]]) -> tuple[list[str], list[str]]:
    """The files that every process measured, and a line for each that one left out.

    Raises:
        BtcError: there is none.
    """
    measured = [
        [row["file"] for row in found["models"]] for each in ways.values() for found in each
    ]
    files = list(dict.fromkeys(file for each in measured for file in each))
    common = [file for file in files if all(file in each for each in measured)]
    if not common:
        raise BtcError("no file was measured in every round both ways")
    rest = [file for file in files if file not in common]
    return common, [f"{file} was left out: not measured in every round both ways" for file in rest]


def medians(results: list[dict[str, Any]], files: list[str]) -> dict[str, dict[str, float]]:
    """Of each of the files the median over the rounds of its p50 in milliseconds, by step."""
    rows = [{row["file"]: row for row in result["models"]} for result in results]
    return {
        file: {
            step: float(np.median([found[file][f"{step}_ms"]["p50"] for found in rows]))
            for step in ("invoke", "total")
        }
        for file in files
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The table of the results."""
    ways = result["ways"]
    best = {way: min(rows, key=lambda file: rows[file]["total"]) for way, rows in ways.items()}
    lines = [
        "| file | interpreter | KiB "
        + "".join(f"| {way}: invoke ms | from bytes ms " for way in ways)
        + "|",
        "|---|---|--:" + "|--:" * 2 * len(ways) + "|",
    ]
    for file, about in result["files"].items():
        cells = [file, about["backend"], f"{about['bytes'] / 1024:.0f}"]
        for way, rows in ways.items():
            total = f"{rows[file]['total']:.2f}"
            cells += [
                f"{rows[file]['invoke']:.2f}",
                f"**{total}**" if file == best[way] else total,
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{machine_in_words(result['machine'])}; one thread; medians of {result['queries']} "
            f"queries over {result['images']} images in {result['rounds']} rounds, p50 each, the "
            "two ways in turn. From bytes: decoding, preprocessing and the call. "
            "Bold: the fastest.",
            *(f"\n{line}." for line in result.get("left_out", ())),
            "",
        ]
    )


@click.command()
@click.argument("models", type=FOLDER)
@click.argument("images", type=FOLDER)
@click.option("--queries", type=click.IntRange(10), default=304, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@out_option
def main(models: Path, images: Path, queries: int, rounds: int, out: Path) -> None:
    """Measure every model file of a folder on IMAGES with and without what is newer than AVX2."""
    model_files(models)  # what cannot be measured is refused here, with its line
    read_samples(images, ())
    words = [os.path.abspath(models), os.path.abspath(images), str(queries)]  # noqa: PTH100
    results: dict[str, list[dict[str, Any]]] = {AS_IT_IS: [], AVX2: []}
    with tempfile.TemporaryDirectory() as folder:
        libraries = {AS_IT_IS: None, AVX2: build(Path(folder))}
        for number in range(rounds):
            click.echo(f"round {number + 1} of {rounds} …", err=True)
            for way, library in libraries.items():
                results[way].append(json.loads(run_apart(CHILD, words, library)))
    first = results[AS_IT_IS][0]
    files, left_out = in_all(results)
    about = {row["file"]: row for row in first["models"]}
    result = {
        "machine": machine_facts(),
        "queries": first["rules"]["queries"],
        "images": first["rules"]["images"],
        "rounds": rounds,
        "files": {file: {key: about[file][key] for key in ABOUT} for file in files},
        "left_out": left_out,
        "ways": {way: medians(found, files) for way, found in results.items()},
        "warnings": {way: [found["warnings"] for found in all_] for way, all_ in results.items()},
    }
    publish(out, "fastest", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.fastest")
