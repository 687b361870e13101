"""Thousands of altered models and images through the installed command.

    python -m benchmarks.hostile --models 2000 --images 20000 --out benchmarks/results

Every altered model must be refused with exit code 3 and one line, before an interpreter sees it;
every altered image must be refused or answered, within the command's own limits. Whatever else
happens is counted: a crash, a hang (over 2 s of processor time for a file, 10 ms more for each of
its slices), memory of the whole process over the cap, output that is not ours, and a model that
was used although it is not the original. A case is made again by its seed
(`alter.alter`, `models.alter_model`). Writes hostile.json and hostile.md.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.hostile.alter import Case, alter
from benchmarks.hostile.files import draw
from benchmarks.hostile.models import alter_model, alter_unsigned
from benchmarks.hostile.pictures import encode
from benchmarks.hostile.run import (
    MODEL_LIMIT,
    SLICE_LIMIT,
    End,
    is_slow_alone,
    run_images,
    run_model,
)
from edge_runtime.batch import in_order
from edge_runtime.errors import BtcError, ModelError
from edge_runtime.model.file_format import parse_model
from edge_runtime.model.load import bundled_model
from edge_runtime.model.untrusted import SECONDS

CAP = 512.0  # MiB: the whole process, with the default limits
PIECE = 1000  # images on disk at once
FINE = ("refused", "answered")
BAD = ("crash", "hang", "noise", "wrong code", "wrong model", "over memory")
NEVER = "an unaltered file is refused, or answered with more than its answer"


class Table:
    """Counts by kind, and what must not have been."""

    def __init__(self, keep: Path | None) -> None:
        self.rows: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COLUMNS, 0))
        self.failures: list[dict[str, Any]] = []
        self.peak = 0.0
        self._keep = keep

    def add(self, part: str, case: Case, end: End) -> None:
        """Count one case; a bad one is printed and its file kept."""
        row = self.rows[f"{part}: {case.kind}"]
        row["altered"] += 1
        row[end.outcome] += 1
        self.peak = max(self.peak, end.mib)
        over = end.mib > CAP
        row["over memory"] += over
        if end.outcome not in BAD and not over:
            return
        self.failures.append({"part": part, "file": case.name, **end._asdict()})
        click.echo(f"{part} {case.name}: {end}", err=True)
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / case.name).write_bytes(case.data)


COLUMNS = ("altered", *FINE, *BAD)


def attack_models(cases: Iterable[Case], table: Table, part: str, original: bytes) -> None:
    """Each case in a process of its own, two at a time."""
    options = ("--allow-unsigned",) if part == "unsigned" else ()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture, good = folder / "slice.png", folder / "good.tflite"
        picture.write_bytes(encode(draw(1), ".png"))
        good.write_bytes(original)
        ends = [run_model(good, picture, SECONDS, *options) for _ in range(3)]
        if any(end.outcome != "answered" for end in ends):
            raise BtcError(f"{NEVER}: {ends[0]}")
        limit = min(end.seconds for end in ends) + MODEL_LIMIT
        if part == "unsigned":  # its trial in a child process has a time limit of its own
            limit += SECONDS

        def attack(case: Case) -> tuple[Case, End]:
            path = folder / case.name
            path.write_bytes(case.data)
            end = run_model(path, picture, limit, *options)
            if end.outcome == "hang" and part != "unsigned":  # a busy machine? once more, then
                end = run_model(path, picture, limit, *options)
            path.unlink()
            if end.outcome == "answered" and part != "unsigned" and not _same(case.data, original):
                end = end._replace(outcome="wrong model")
            return case, end

        # A few cases at a time: a child's peak memory begins with that of the process it leaves.
        for case, end in in_order(attack, cases, 2):
            table.add(part, case, end)


def _same(data: bytes, original: bytes) -> bool:
    """Whether graph and metadata are the original's."""
    try:
        one, two = parse_model(data), parse_model(original)
    except ModelError:
        return False
    return (one.graph, one.info) == (two.graph, two.info)


def attack_images(count: int, first: int, table: Table, make: Callable[[int], Case]) -> None:
    """The cases in pieces, each piece by one long process as long as that lives."""
    for begin in range(first, first + count, PIECE):
        cases = [make(seed) for seed in range(begin, min(begin + PIECE, first + count))]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files = {folder / case.name: case for case in cases}
            for path, case in files.items():
                path.write_bytes(case.data)
            ends = run_images(list(files), folder, CAP)
            for path, case in files.items():
                end = ends[path]
                if end.seconds and end.outcome in FINE and is_slow_alone(path):
                    end = end._replace(outcome="hang")
                table.add("image", case, end)


def as_markdown(result: dict[str, Any]) -> str:
    """What docs/results.md shows."""
    lines = [f"| kind | {' | '.join(COLUMNS)} |", "|---|" + "--:|" * len(COLUMNS)]
    total = dict.fromkeys(COLUMNS, 0)
    for kind, row in sorted(result["rows"].items()):
        lines.append(f"| {kind} | {' | '.join(str(row[name]) for name in COLUMNS)} |")
        total = {name: total[name] + row[name] for name in COLUMNS}
    lines += [f"| **all** | {' | '.join(f'**{total[name]}**' for name in COLUMNS)} |", ""]
    lines += [
        f"Seeds from {result['seed']} on, default limits. Hang: over {result['file_limit_s']:g} s "
        f"of processor time for a file (and {1000 * SLICE_LIMIT:g} ms for each slice of a volume), "
        "or a command that takes as much more than with a good model. Memory: peak of the process "
        f"over {result['cap_mib']:g} MiB; the largest seen was {result['peak_mib']:.0f} MiB. "
        "Unsigned models ran with --allow-unsigned, so an answer is no fault there.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.option("--models", type=click.IntRange(0), default=2000, show_default=True)
@click.option("--images", type=click.IntRange(0), default=20_000, show_default=True)
@click.option("--unsigned", type=click.IntRange(0), default=100, show_default=True)
@click.option("--onnx", type=EXISTING,
              help="An .onnx of ours; every fourth altered model is then made of it.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for files that went wrong.")
@out_option
def main(models: int, images: int, unsigned: int, onnx: Path | None, seed: int, keep: Path | None,
         out: Path) -> None:  # fmt: skip
    """Attack the installed btc-edge with altered files."""
    table, tflite = Table(keep), bundled_model().read_bytes()
    other = onnx.read_bytes() if onnx else b""
    ours = models // 4 if onnx else 0
    attack_models(
        (alter_model(seed + i, tflite, other or tflite[::-1]) for i in range(models - ours)),
        table, "model", tflite,
    )  # fmt: skip
    if ours:
        cases = (alter_model(seed + i, other, tflite) for i in range(ours))
        attack_models(cases, table, "onnx model", other)
    attack_models((alter_unsigned(seed + i, tflite) for i in range(unsigned)), table, "unsigned",
                  tflite)  # fmt: skip
    attack_images(images, seed, table, alter)
    result = {
        "seed": seed,
        "cap_mib": CAP,
        "file_limit_s": MODEL_LIMIT,
        "peak_mib": table.peak,
        "rows": dict(table.rows),
        "failures": table.failures,
    }
    publish(out, "hostile", result, as_markdown(result))
    if table.failures:
        raise SystemExit(1)
