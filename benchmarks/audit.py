"""What `btc-audit` finds, how long it takes and how much memory it needs.

    python -m benchmarks.audit brain-tumor-mri.zip --groups groups.csv --images 100000

On the real data: the fast search against the correlation of all Testing and Training thumbnails,
written down plainly (every pair, as it is and mirrored, 1,024 numbers each). On drawn thumbnails:
the memory of a data set too large to ship, and whether its turned copies are found. Writes
audit.json and audit.md, and ends with exit code 1 where a limit is not kept.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.common.command import EXISTING, out_option, publish
from benchmarks.common.formatting import machine_in_words
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.commands.entry import run_command
from edge_runtime.errors import BtcError, DataError
from trainer.audit.examine import examine
from trainer.audit.files import ODDITIES, Files, read_files
from trainer.audit.near_duplicates import find_near_duplicates
from trainer.data.archive import open_archive
from trainer.data.file_statistics import FILE_STATISTICS
from trainer.data.near_duplicates import THRESHOLD, THUMBNAIL_SIZE, TURN_NAMES, TURNS

COPIES = 0.2  # of the drawn pictures
CLASSES = ("a", "b", "c", "d")
LIMITS = {
    "true_near_duplicates_found": (">=", 0.95),
    "others_flagged": ("<=", 0.02),
    "seconds": ("<=", 60.0),
    "drawn_peak_mib": ("<=", 4096.0),
    "drawn_copies_found": (">=", 0.95),
    "drawn_others_flagged": ("<=", 0.02),
}
DRAWN = "import json, sys; from benchmarks.audit import measure_drawn as m; print(json.dumps(m(*map(int, sys.argv[1:]))))"  # noqa: E501

Thumbnails = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def draw(n: int, seed: int) -> tuple[Thumbnails, Indices]:
    """N random smooth pictures (N×32×32) of which the last COPIES are turned, brightened and
    noisy copies of earlier ones, and for each the picture that it was copied from (-1: none)."""
    rng = np.random.default_rng(seed)
    originals = n - int(n * COPIES)
    k, i = np.arange(1, 7)[:, None], np.arange(THUMBNAIL_SIZE)[None]
    waves = np.cos(np.pi * k * (2 * i + 1) / (2 * THUMBNAIL_SIZE)).astype(np.float32)
    thumbnails = np.empty((n, THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
    for start in range(0, originals, 10_000):
        stop = min(start + 10_000, originals)
        weights = rng.standard_normal((stop - start, len(k), len(k)), dtype=np.float32)
        smooth = np.einsum("nkl,ki,lj->nij", weights, waves, waves, optimize=True)
        thumbnails[start:stop] = np.clip(128 + 12 * smooth, 0, 255)
    origin = np.full(n, -1, np.int64)
    for at in range(originals, n):
        origin[at] = rng.integers(originals)
        turned = TURNS[TURN_NAMES[rng.integers(len(TURN_NAMES))]](thumbnails[origin[at]])
        noisy = (
            rng.uniform(0.7, 1.1) * turned
            + rng.uniform(-10, 10)
            + rng.normal(0, 2, (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        )
        thumbnails[at] = np.clip(noisy, 0, 255)
    return thumbnails, origin


def as_files(thumbnails: Thumbnails, seed: int) -> Files:
    """Drawn thumbnails as a data set of which a fifth is Testing, with facts made up."""
    n, rng = len(thumbnails), np.random.default_rng(seed)
    labels = tuple(CLASSES[c] for c in rng.integers(len(CLASSES), size=n))
    splits = tuple("testing" if t else "training" for t in rng.random(n) < 0.2)
    pixels = tuple(hashlib.sha256(picture.data).hexdigest()[:16] for picture in thumbnails)
    paths = tuple(
        f"{split.capitalize()}/{label}/a-longer-name-such-as-scanners-give-{i:06d}.png"
        for i, (split, label) in enumerate(zip(splits, labels, strict=True))
    )
    return Files(
        paths=paths,
        labels=labels,
        splits=splits,
        formats=("png",) * n,
        modes=("gray",) * n,
        sizes=np.full((n, 2), 224, np.int32),
        digests=tuple(bytes.fromhex(p) for p in pixels),
        pixels=pixels,
        thumbnails=thumbnails,
        file_statistics=rng.standard_normal((n, len(FILE_STATISTICS)), dtype=np.float32),
        odd=np.zeros((n, len(ODDITIES)), bool),
    )


def measure_drawn(n: int, seed: int = 0) -> dict[str, Any]:
    """The audit of N drawn pictures; meant for a process of its own, whose peak memory it tells."""
    thumbnails, origin = draw(n, seed)
    files = as_files(thumbnails, seed)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    found = examine("drawn", files, {})
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = peak_mib()
    groups = np.unique([row[-1] for row in found.groups], return_inverse=True)[1]
    copies = np.flatnonzero(origin >= 0)
    related = np.union1d(copies, origin[copies])
    others = np.setdiff1d(np.arange(n), related)
    alone = np.bincount(groups)[groups[others]] == 1
    return {
        "images": n,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak,
        "copies": len(copies),
        "copies_found": float((groups[copies] == groups[origin[copies]]).mean()),
        "others_flagged": float(1 - alone.mean()),
    }


def peak_mib() -> float:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    scale = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / scale


def plain_near_duplicates(files: Files) -> npt.NDArray[np.bool_]:
    """Which Testing pictures correlate with a Training one, as it is or mirrored, at THRESHOLD.

    The definition written down in float64, without any of the search's shortcuts.
    """
    flat = files.thumbnails.astype(np.float64).reshape(len(files), -1)
    tested = files.tested
    mirrored = files.thumbnails[tested][:, :, ::-1].astype(np.float64).reshape(tested.sum(), -1)
    training = _standard(flat[~tested])
    best = np.zeros(len(mirrored))
    for side in (_standard(flat[tested]), _standard(mirrored)):
        np.maximum(best, (side @ training.T).max(axis=1), out=best)
    return best >= THRESHOLD


def _standard(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rows = rows - rows.mean(axis=1, keepdims=True)
    units: npt.NDArray[np.float64] = rows / np.maximum(
        np.linalg.norm(rows, axis=1, keepdims=True), 1e-9
    )
    return units


def measure_real(data: Path) -> dict[str, Any]:
    """The search beside the plain definition, on the Testing side of DATA."""
    files = read_files(open_archive(data))
    true = plain_near_duplicates(files)
    found = find_near_duplicates(files)
    flagged = found.across.partner[files.tested] >= 0
    others = flagged & ~true
    turn = found.across.turn[files.tested]
    return {
        "images": len(files),
        "test_images": len(true),
        "true_near_duplicates": int(true.sum()),
        "true_near_duplicates_found": float(flagged[true].mean()) if true.any() else 1.0,
        "others": int((~true).sum()),
        "others_flagged": float(others.sum() / max((~true).sum(), 1)),
        "others_flagged_by_turn": {
            name: int((others & (turn == t)).sum())
            for t, name in enumerate(TURN_NAMES)
            if (others & (turn == t)).any()
        },
    }


def time_command(data: Path, groups: Path | None) -> dict[str, float]:
    """Wall and CPU seconds of the whole command, its page included."""
    tool = Path(sys.executable).parent / "btc-audit"
    with tempfile.TemporaryDirectory() as out:
        words = [str(tool), str(data), "--out", out]
        words += ["--groups", str(groups)] if groups else []
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 1) or not (Path(out) / "audit.json").is_file():
            raise BtcError(
                f"btc-audit ended with exit code {done.returncode}: {done.stderr[-200:]}"
            )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu}


def measure(data: Path, groups: Path | None, images: int) -> dict[str, Any]:
    """All figures as one dict; see the module's text."""
    real = measure_real(data) | time_command(data, groups)
    done = subprocess.run(
        [sys.executable, "-c", DRAWN, str(images)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise DataError(f"the audit of drawn pictures failed: {done.stderr[-300:]}")
    drawn = json.loads(done.stdout)
    values = {
        "true_near_duplicates_found": real["true_near_duplicates_found"],
        "others_flagged": real["others_flagged"],
        "seconds": real["seconds"],
        "drawn_peak_mib": drawn["peak_mib"],
        "drawn_copies_found": drawn["copies_found"],
        "drawn_others_flagged": drawn["others_flagged"],
    }
    checks = {
        name: {
            "value": values[name], "limit": f"{sign} {limit:g}",
            "kept": values[name] >= limit if sign == ">=" else values[name] <= limit,
        }
        for name, (sign, limit) in LIMITS.items()
    }  # fmt: skip
    return {"machine": machine_facts(), "real": real, "drawn": drawn, "checks": checks}


def as_markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    real, drawn = result["real"], result["drawn"]
    turns = ", ".join(f"{n} {turn}" for turn, n in real["others_flagged_by_turn"].items())
    lines = [
        "| check | value | limit | kept |",
        "|---|--:|--:|---|",
        *(
            f"| {name.replace('_', ' ')} | {row['value']:.4g} | {row['limit']} "
            f"| {'yes' if row['kept'] else '**no**'} |"
            for name, row in result["checks"].items()
        ),
        "",
        f"Real data: {real['images']:,} images. {real['true_near_duplicates']:,} of "
        f"{real['test_images']:,} test images have a near-duplicate in training, as it is or "
        f"mirrored, by plain correlation; the audit also flags "
        f"{real['others_flagged']:.2%} of the {real['others']:,} others"
        f"{f' ({turns})' if turns else ''}. Whole command: {real['seconds']:.1f} s "
        f"({real['cpu_seconds']:.1f} s of CPU).",
        "",
        f"Drawn: {drawn['images']:,} pictures, {drawn['copies']:,} of them turned copies; all "
        f"compared with all in {drawn['seconds']:.0f} s ({drawn['cpu_seconds']:.0f} s of CPU) and "
        f"{drawn['peak_mib']:,.0f} MiB at the peak. {machine_in_words(result['machine'])}.",
        "",
    ]
    return "\n".join(lines)


@click.command()
@click.argument("data", type=EXISTING)
@click.option("--groups", type=EXISTING)
@click.option("--images", type=click.IntRange(100), default=100_000, show_default=True,
              help="Drawn pictures for the memory.")  # fmt: skip
@out_option
def main(data: Path, groups: Path | None, images: int, out: Path) -> None:
    """Measure btc-audit on DATA and on drawn pictures."""
    result = measure(data, groups, images)
    publish(out, "audit", result, as_markdown(result))
    if broken := [name for name, row in result["checks"].items() if not row["kept"]]:
        raise BtcError(f"limits not kept: {', '.join(broken)}")


if __name__ == "__main__":
    run_command(main, "benchmarks.audit", extra="train")
