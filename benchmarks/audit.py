"""What `btc-audit` finds, how long it takes and how much memory it needs.

    python -m benchmarks.audit brain-tumor-mri.zip --groups groups.csv

On the real data: the fast search against the correlation of all Testing and Training thumbnails,
written down plainly (every pair, as it is and mirrored, 1,024 numbers each). Then how time and
memory grow, up to a data set too large to ship, each size in a process of its own: on drawn
thumbnails, and whether their turned copies are found; on thumbnails like the data's own, which are
more alike than drawn ones; and the whole command on files made of the data's slices. Writes
audit.json and audit.md, and ends with exit code 1 where a limit, meant for 100,000 pictures, is
not kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
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
from edge_runtime.imaging.decode import decode
from trainer.audit.examine import examine
from trainer.audit.files import ODDITIES, Files, read_files
from trainer.audit.near_duplicates import find_near_duplicates
from trainer.data.archive import open_archive
from trainer.data.file_statistics import FILE_STATISTICS
from trainer.data.layout import arrange
from trainer.data.near_duplicates import THRESHOLD, THUMBNAIL_SIZE, TURN_NAMES, TURNS

COPIES = 0.2  # of the drawn pictures
CLASSES = ("a", "b", "c", "d")
SHARES = (0.1, 0.2, 0.4, 1.0)  # of the pictures: the sizes at which growth is measured
LIMITS = {
    "true_near_duplicates_found": (">=", 0.999),
    "others_flagged": ("<=", 0.02),
    "seconds": ("<=", 60.0),
    "files_seconds": ("<=", 120.0),
    "files_exponent": ("<=", 1.2),
    "files_peak_mib": ("<=", 4096.0),
    "drawn_seconds": ("<=", 120.0),
    "drawn_search_cpu_seconds": ("<=", 40.0),  # the quadratic part, which decoding hides above
    "drawn_peak_mib": ("<=", 4096.0),
    "drawn_copies_found": (">=", 0.999),
    "drawn_others_flagged": ("<=", 0.02),
    "alike_seconds": ("<=", 120.0),
    "alike_copies_found": (">=", 0.999),
}
ALONE = "import json, sys; from benchmarks.audit import measure_thumbnails as m; print(json.dumps(m(*sys.argv[1:])))"  # noqa: E501

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
    return thumbnails, _add_copies(thumbnails, originals, rng)


def draw_alike(real: Thumbnails, n: int, seed: int) -> tuple[Thumbnails, Indices]:
    """As `draw`, of pictures like real ones: each a real thumbnail, moved by `_moved`."""
    rng = np.random.default_rng(seed)
    originals = n - int(n * COPIES)
    thumbnails = np.empty((n, THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
    order = rng.permutation(len(real))
    for at in range(originals):
        thumbnails[at] = _moved(real[order[at % len(real)]], rng)
    return thumbnails, _add_copies(thumbnails, originals, rng)


def _moved(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A picture as another scanner's operator might have taken it: turned by up to 20 degrees,
    15 % larger or smaller, off the centre, and of another contrast."""
    import cv2

    height, width = picture.shape
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), rng.uniform(-20, 20), rng.uniform(0.85, 1.15)
    )
    matrix[:, 2] += rng.uniform(-0.06, 0.06, 2) * width
    levels = 255 * (np.arange(256) / 255) ** rng.uniform(0.7, 1.4)
    moved: npt.NDArray[np.uint8] = cv2.LUT(
        cv2.warpAffine(picture, matrix, (width, height)), levels.astype(np.uint8)
    )
    return moved


def _add_copies(thumbnails: Thumbnails, originals: int, rng: np.random.Generator) -> Indices:
    """Fill what lies behind the originals with turned copies; the origin of each picture."""
    origin = np.full(len(thumbnails), -1, np.int64)
    for at in range(originals, len(thumbnails)):
        origin[at] = rng.integers(originals)
        turned = TURNS[TURN_NAMES[rng.integers(len(TURN_NAMES))]](thumbnails[origin[at]])
        noisy = (
            rng.uniform(0.7, 1.1) * turned
            + rng.uniform(-10, 10)
            + rng.normal(0, 2, (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        )
        thumbnails[at] = np.clip(noisy, 0, 255)
    return origin


def write_alike(data: Path, begin: int, end: int, folder: Path) -> None:
    """Files `begin` to `end` of a data set under `folder`, in the layout of DATA: its slices, each
    `_moved` anew, as JPEG."""
    import cv2

    archive, rng = open_archive(data), np.random.default_rng(begin)
    names, _ = arrange(archive)
    names = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    for at in range(begin, end):
        name = Path(names[at % len(names)])
        place = folder / name.parent
        place.mkdir(parents=True, exist_ok=True)
        moved = _moved(decode(archive.read(name.as_posix())), rng)
        encoded = cv2.imencode(".jpg", moved, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (place / f"{at:06d}.jpg").write_bytes(encoded.tobytes())


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


def measure_thumbnails(kind: str, images: str, real: str, seed: int = 0) -> dict[str, Any]:
    """The audit of N pictures, without reading files; meant for a process of its own, whose peak
    memory it tells.

    Args:
        kind: `drawn` or `alike`.
        real: path of an array of real thumbnails, for `alike`.
    """
    n = int(images)
    thumbnails, origin = draw(n, seed) if kind == "drawn" else draw_alike(np.load(real), n, seed)
    files = as_files(thumbnails, seed)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    duplicates = find_near_duplicates(files)
    search, search_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    begun, begun_cpu = time.perf_counter(), time.process_time()
    found = examine(kind, files, {})
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = peak_mib()
    groups = np.unique([row[-1] for row in found.groups], return_inverse=True)[1]
    copies = np.flatnonzero(origin >= 0)
    related = np.union1d(copies, origin[copies])
    others = np.setdiff1d(np.arange(n), related)
    alone = np.bincount(groups)[groups[others]] == 1
    # Clipped at black or white, some copies correlate below the threshold with their origin.
    true = copies[_correlate(thumbnails, copies, origin[copies]) >= THRESHOLD]
    return {
        "images": n,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "search_seconds": search,
        "search_cpu_seconds": search_cpu,
        "peak_mib": peak,
        "pairs": int(duplicates.counts.sum()),
        "copies": len(true),
        "copies_found": float((groups[true] == groups[origin[true]]).mean()),
        "others_flagged": float(1 - alone.mean()),
    }


def measure_alone(kind: str, images: int, real: Path) -> dict[str, Any]:
    """As `measure_thumbnails`, in a process of its own."""
    words = [sys.executable, "-c", ALONE, kind, str(images), str(real)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise DataError(f"the audit of {kind} pictures failed: {done.stderr[-300:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _correlate(thumbnails: Thumbnails, first: Indices, second: Indices) -> npt.NDArray[np.float64]:
    """The correlation of pairs in their best turn, by definition."""
    best = np.full(len(first), -1.0)
    two = _standard(thumbnails[second].reshape(len(second), -1).astype(np.float64))
    for turn in TURNS.values():
        one = turn(thumbnails[first]).reshape(len(first), -1).astype(np.float64)
        np.maximum(best, np.einsum("ni,ni->n", _standard(one), two), out=best)
    return best


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


def measure_real(files: Files) -> dict[str, Any]:
    """The search beside the plain definition, on the Testing side of the data."""
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
    """Wall and CPU seconds of the whole command, its page included, and its peak memory."""
    tool = Path(sys.executable).parent / "btc-audit"
    with tempfile.TemporaryDirectory() as out:
        words = [str(tool), str(data), "--out", out]
        words += ["--groups", str(groups)] if groups else []
        begun = time.perf_counter()
        with (Path(out) / "stderr").open("w+") as said:
            child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - begun
            said.seek(0)
            last = said.read()[-200:]
        if child.returncode not in (0, 1) or not (Path(out) / "audit.json").is_file():
            raise BtcError(f"btc-audit ended with exit code {child.returncode}: {last}")
    scale = 1024 if sys.platform == "darwin" else 1
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024 / scale,
    }


def measure_growth(data: Path, real: Thumbnails, images: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of growing size of each kind: `files`, `drawn` and `alike`."""
    rows: dict[str, list[dict[str, Any]]] = {"files": [], "drawn": [], "alike": []}
    with tempfile.TemporaryDirectory() as place:
        saved, folder = Path(place) / "thumbnails.npy", Path(place) / "files"
        np.save(saved, real)
        written = 0
        for n in (round(images * share) for share in SHARES):
            for kind in ("drawn", "alike"):
                rows[kind].append(measure_alone(kind, n, saved))
            write_alike(data, written, n, folder)
            rows["files"].append({"images": n, **time_command(folder, None)})
            written = n
    return rows


def exponent(rows: list[dict[str, Any]], what: str) -> float:
    """The power of the number of pictures with which a figure grew from the first row to the
    last: 1 is in proportion."""
    first, last = rows[0], rows[-1]
    return math.log(last[what] / first[what]) / math.log(last["images"] / first["images"])


def measure(data: Path, groups: Path | None, images: int) -> dict[str, Any]:
    """All figures as one dict; see the module's text."""
    files = read_files(data)
    real = measure_real(files) | time_command(data, groups)
    growth = measure_growth(data, files.thumbnails, images)
    written, drawn, alike = (growth[kind][-1] for kind in ("files", "drawn", "alike"))
    exponents = {
        "files": exponent(growth["files"], "cpu_seconds"),
        "drawn": exponent(growth["drawn"], "cpu_seconds"),
        "drawn_search": exponent(growth["drawn"], "search_cpu_seconds"),
        "alike": exponent(growth["alike"], "cpu_seconds"),
        "alike_search": exponent(growth["alike"], "search_cpu_seconds"),
    }
    values = {
        "true_near_duplicates_found": real["true_near_duplicates_found"],
        "others_flagged": real["others_flagged"],
        "seconds": real["seconds"],
        "files_seconds": written["seconds"],
        "files_exponent": exponents["files"],
        "files_peak_mib": written["peak_mib"],
        "drawn_seconds": drawn["seconds"],
        "drawn_search_cpu_seconds": drawn["search_cpu_seconds"],
        "drawn_peak_mib": drawn["peak_mib"],
        "drawn_copies_found": drawn["copies_found"],
        "drawn_others_flagged": drawn["others_flagged"],
        "alike_seconds": alike["seconds"],
        "alike_copies_found": alike["copies_found"],
    }
    checks = {
        name: {
            "value": values[name], "limit": f"{sign} {limit:g}",
            "kept": values[name] >= limit if sign == ">=" else values[name] <= limit,
        }
        for name, (sign, limit) in LIMITS.items()
    }  # fmt: skip
    return {
        "machine": machine_facts(),
        "real": real,
        "growth": growth,
        "exponents": exponents,
        "checks": checks,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    real, exponents = result["real"], result["exponents"]
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
        "Growth. Files: the whole command on JPEG files. Drawn and alike: the audit of thumbnails, "
        "drawn or like the data's own, a fifth of them turned copies; search: of that the search "
        f"for near-duplicates. {machine_in_words(result['machine'])}.",
        "",
        "| pictures | pairs | s | CPU s | search, CPU s | peak MiB |",
        "|---|--:|--:|--:|--:|--:|",
        *(_growth_row(kind, row) for kind, rows in result["growth"].items() for row in rows),
        "",
        "CPU seconds grow with this power of the pictures, from the first size to the last: "
        + ", ".join(
            f"{name.replace('_search', ' (search alone)')} {value:.2f}"
            for name, value in exponents.items()
        )
        + ".",
        "",
    ]
    return "\n".join(lines)


def _growth_row(kind: str, row: dict[str, Any]) -> str:
    pairs = f"{row['pairs']:,}" if "pairs" in row else "–"
    search = f"{row['search_cpu_seconds']:.1f}" if "search_cpu_seconds" in row else "–"
    return (
        f"| {row['images']:,} {kind} | {pairs} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} "
        f"| {search} | {row['peak_mib']:,.0f} |"
    )


@click.command()
@click.argument("data", type=EXISTING)
@click.option("--groups", type=EXISTING)
@click.option("--images", type=click.IntRange(100), default=100_000, show_default=True,
              help="Pictures of the largest size.")  # fmt: skip
@out_option
def main(data: Path, groups: Path | None, images: int, out: Path) -> None:
    """Measure btc-audit on DATA and on drawn pictures."""
    result = measure(data, groups, images)
    publish(out, "audit", result, as_markdown(result))
    if broken := [name for name, row in result["checks"].items() if not row["kept"]]:
        raise BtcError(f"limits not kept: {', '.join(broken)}")


if __name__ == "__main__":
    run_command(main, "benchmarks.audit", extra="train")
