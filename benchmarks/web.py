"""The page of btc-export --web, in Chromium, against btc-edge classify.

    python -m benchmarks.web IMAGES --out benchmarks/results

Pictures of IMAGES (a folder or a zip), evenly spread, are answered by the page and by the command,
and the answers are compared field by field. Times are those of a slice, from its bytes to its
answer, in the page and by `Classifier.classify` in one process; both on this machine, one after the
other.
Writes web.json and web.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common.browser import answer_in_page, chromium, open_page, serving
from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import MIB, machine_in_words, what_was_measured
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.classifier import Classifier
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import DataError
from edge_runtime.model.load import read_model
from export.web.site import litert_version, write_single, write_site

BTC_EDGE = str(Path(sys.executable).parent / "btc-edge")
SUFFIXES = (".jpg", ".jpeg", ".png")
WARM_UP = 20  # slices whose times do not count
NUMBERS = ("confidence", "probabilities")


def read_pictures(images: Path, count: int) -> list[bytes]:
    """So many encoded pictures, evenly spread over the names.

    Raises:
        DataError: there are none.
    """
    if images.is_dir():
        paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
        return [paths[i].read_bytes() for i in _spread(len(paths), count, images)]
    with zipfile.ZipFile(images) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
        return [archive.read(names[i]) for i in _spread(len(names), count, images)]


def _spread(there: int, count: int, images: Path) -> list[int]:
    if not there:
        raise DataError(f"{images.name}: no JPEG or PNG")
    places: list[int] = np.linspace(0, there - 1, min(count, there)).astype(int).tolist()
    return places


def command_answers(pictures: Sequence[bytes]) -> list[dict[str, Any]]:
    """What `btc-edge classify` answers with the bundled model."""
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(pictures):
            Path(folder, f"{number:05d}").write_bytes(data)
        paths = sorted(str(path) for path in Path(folder).iterdir())
        words = [BTC_EDGE, "classify", "--format", "json", *paths]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return [{**answer, "input": Path(answer["input"]).name} for answer in answers]


def compare(given: dict[str, Any], wanted: dict[str, Any]) -> tuple[bool, float]:
    """Whether two answers are equal but for their numbers and the model's digest, and how far the
    probabilities lie apart at most."""
    left_out = (*NUMBERS, "model")
    equal = list(given) == list(wanted) and all(
        given[name] == wanted[name] for name in wanted if name not in left_out
    )
    ours, theirs = given["probabilities"] or {}, wanted["probabilities"] or {}
    if set(ours) != set(theirs):
        return False, 1.0
    return equal, max((abs(ours[label] - theirs[label]) for label in theirs), default=0.0)


def spans_in_words(spans: Sequence[float]) -> dict[str, float]:
    counted = spans[WARM_UP:] or spans
    return {f"p{p}": float(np.percentile(counted, p)) for p in (50, 90)}


def measure(images: Path, count: int) -> dict[str, Any]:
    """All of it."""
    pictures = read_pictures(images, count)
    wanted = command_answers(pictures)
    classifier = Classifier()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder, single = Path(name, "web"), Path(name, "web.html")
        write_site(folder, read_model())
        write_single(single, read_model())
        sizes = {
            "folder": sum(path.stat().st_size for path in folder.iterdir()),
            "single": single.stat().st_size,
        }
        with serving(folder) as address:
            page = browser.new_page()
            begun = time.perf_counter()
            open_page(page, address)
            opened = time.perf_counter() - begun
            given = [answer_in_page(page, f"{i:05d}", data) for i, data in enumerate(pictures)]
        version = browser.version
    here = []
    for data in pictures:
        begun = time.perf_counter()
        classifier.classify(data)
        here.append(1000 * (time.perf_counter() - begun))
    found = [compare(answer, want) for (answer, _), want in zip(given, wanted, strict=True)]
    return {
        "machine": machine_facts(),
        "model": classifier.model.tag,
        "browser": f"Chromium {version}",
        "litert_js": litert_version(),
        "slices": len(pictures),
        "differ": sum(not equal for equal, _ in found),
        "worst_difference": max(difference for _, difference in found),
        "page_ms": spans_in_words([span for _, span in given]),
        "classifier_ms": spans_in_words(here),
        "seconds_to_open": opened,
        "bytes": sizes,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    page, here, sizes = result["page_ms"], result["classifier_ms"], result["bytes"]
    rows = [
        ("answers that differ from those of `btc-edge classify`",
         f"**{result['differ']}** of {result['slices']}"),
        ("largest difference of a probability", f"{result['worst_difference']:.1g}"),
        ("time of a slice in the page, ms", f"p50 **{page['p50']:.1f}**, p90 {page['p90']:.1f}"),
        ("time of a slice by `Classifier.classify`, ms",
         f"p50 {here['p50']:.1f}, p90 {here['p90']:.1f}"),
        ("the page over the classifier, p50", f"{page['p50'] / here['p50']:.1f}"),
        ("seconds until the page can answer", f"{result['seconds_to_open']:.1f}"),
        ("size of the folder, and of the one file, MiB",
         f"**{sizes['folder'] / MIB:.1f}**, {sizes['single'] / MIB:.1f}"),
    ]  # fmt: skip
    words = (
        f"{result['slices']} slices, evenly spread; {result['browser']}, LiteRT.js "
        f"{result['litert_js']}; {result['model']}; {machine_in_words(result['machine'])}."
    )
    return "\n".join([*what_was_measured(rows), "", words, ""])


@click.command()
@click.argument("images", type=EXISTING)
@click.option("--slices", type=click.IntRange(1), default=500, show_default=True)
@out_option
def main(images: Path, slices: int, out: Path) -> None:
    """Compare the page of btc-export --web with btc-edge classify on pictures of IMAGES."""
    result = measure(images, slices)
    publish(out, "web", result, as_markdown(result))


if __name__ == "__main__":
    run_command(main, "benchmarks.web", extra="dev")
