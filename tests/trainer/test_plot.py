"""btc-plot: bars as long as the times, and nothing in a file from elsewhere stops it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex

from edge_runtime.benchmark.measure import measure
from edge_runtime.errors import DataError
from edge_runtime.model.load import bundled_model
from edge_runtime.processor import features_in_words
from trainer.report.device_times import (
    COLOURS,
    MAX_BYTES,
    MAX_MODELS,
    device_times_chart,
    read_device_times,
)

HOSTILE = 'a|b <i>&"]]>*_[x](y)` $x_1^{2$'
PLOT = "from trainer.commands.plot import main; main()"


def row(name: str, p50: float, **other: Any) -> dict[str, Any]:
    steps = {"decode": 0.2, "preprocess": 0.3, "invoke": 0.5, "total": 1.0}
    times = {
        f"{step}_ms": {"p50": part * p50, "p90": part * p50 * 1.1, "p95": part * p50 * 1.2,
                       "p99": part * p50 * 1.3}
        for step, part in steps.items()
    }  # fmt: skip
    base = {"name": name, "bytes": 4096, "peak_mib": 61.0, "accuracy": 0.9}
    return base | times | other


def result_of(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"machine": {"cpu": "A CPU"}, "rules": {"queries": 12, "images": 12}, "pairs": [],
            "models": list(rows), "warnings": []}  # fmt: skip


def write(path: Path, result: Any) -> Path:
    path.write_text(json.dumps(result))
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    hostile_row = row(f"{HOSTILE}\x1b[2J\n\udcff 日本", 2.0, accuracy=None, peak_mib=None)
    return write(tmp_path / "hostile.json", result_of(row("x" * 5000, 1.0), hostile_row))


def plot(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", PLOT, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def bars(axes: Any) -> list[list[tuple[float, str]]]:
    """Of each model the widths and colours of its parts."""
    found: dict[float, list[tuple[float, str]]] = {}
    for patch in axes.patches:
        part = (patch.get_width(), to_hex(patch.get_facecolor()))
        found.setdefault(patch.get_y(), []).append(part)
    return [found[y] for y in sorted(found)]


def texts(axes: Any) -> list[str]:
    return [axes.get_title(loc="left"), axes.get_xlabel(), *(t.get_text() for t in axes.texts)]


def test_what_the_benchmark_writes_is_read(tmp_path: Path) -> None:
    result = measure([bundled_model()], None, queries=10, seconds=0)
    times = read_device_times(write(tmp_path / "result.json", result))
    (model,), (message,) = times.models, result["models"]
    assert (times.cpu, times.queries, times.images) == (result["machine"]["cpu"], 10, "drawn noise")
    assert (model.name, model.bytes, model.accuracy) == (message["name"], message["bytes"], None)
    assert model.steps == tuple(message[f"{step}_ms"]["p50"] for step in COLOURS)
    assert [model.p50, model.p90, model.p99] == [
        message["total_ms"][key] for key in ("p50", "p90", "p99")
    ]
    assert times.warnings == len(result["warnings"])
    assert times.features == features_in_words(result["machine"])


def test_bars_are_as_long_as_the_times(tmp_path: Path) -> None:
    stray = row("stray", 1.0)
    stray["total_ms"]["p99"] = 500.0
    two_ms = row("two", 2.0)
    two_ms["invoke_ms"]["p50"] = 1.5  # medians of steps need not add up to that of the whole
    path = write(tmp_path / "result.json", result_of(two_ms, stray))
    (axes,) = device_times_chart([read_device_times(path)]).axes
    two, one = bars(axes)
    assert sum(width for width, _ in two) == pytest.approx(2)
    assert sum(width for width, _ in one) == pytest.approx(1)
    assert [width for width, _ in two] == pytest.approx([0.32, 0.48, 1.2])
    assert [colour for _, colour in two] == list(COLOURS.values())
    assert axes.get_xlim()[1] < 10, "one stray sample does not press the bars together"
    ends = [max(line.get_xdata()) for line in axes.lines]
    assert max(ends) <= axes.get_xlim()[1]
    assert ">" in [line.get_marker() for line in axes.lines], "it runs out of the axis"
    assert "2.00 ms (p90 2.20, p99 2.60)" in texts(axes)
    assert "accuracy 90.0 %, 4 KiB, 61 MiB" in texts(axes)


def test_every_device_has_a_part_with_one_scale(tmp_path: Path) -> None:
    slow = result_of(row("a", 40.0)) | {"machine": {"cpu": "A Pi"}, "warnings": ["noisy"]}
    paths = [
        write(tmp_path / "fast.json", result_of(row("a", 1.0), row("b", 2.0))),
        write(tmp_path / "slow.json", slow),
    ]
    fast, other = device_times_chart([read_device_times(path) for path in paths]).axes
    assert fast.get_xlim() == other.get_xlim()
    assert [len(bars(axes)) for axes in (fast, other)] == [2, 1]
    assert texts(other)[:2] == [
        "Time for one image on A Pi\nfeatures not recorded\nat least 12 queries each, images: 12",
        "ms per image; warnings: 1",
    ]
    assert texts(fast)[1] == "ms per image; warnings: none"
    many = read_device_times(write(paths[0], result_of(*[row("a", 1.0)] * MAX_MODELS)))
    with pytest.raises(DataError, match=r"101 models are too many .* at most 100"):
        device_times_chart([many, read_device_times(paths[1])])


@pytest.mark.parametrize("suffix", [".svg", ".PNG"])
def test_the_command_draws(hostile: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"times{suffix}"
    done = plot(hostile, "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"btc-plot: {out}\n")
    if suffix == ".svg":
        first = out.read_bytes()
        root = ElementTree.fromstring(first)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert all(colour in first.decode() for colour in COLOURS.values())
        assert plot(hostile, "--out", out).returncode == 0
        assert out.read_bytes() == first, "the same result gives the same picture"
    else:
        picture = cv2.imdecode(np.frombuffer(out.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        colours = {"#{2:02x}{1:02x}{0:02x}".format(*c) for c in np.unique(
            picture.reshape(-1, 3), axis=0).tolist()}  # fmt: skip
        assert set(COLOURS.values()) <= colours


def test_hostile_names_are_cut_and_printable(hostile: Path) -> None:
    (axes,) = device_times_chart([read_device_times(hostile)]).axes
    assert all(text.replace("\n", "").isprintable() for text in texts(axes))
    assert max(map(len, texts(axes)[2:])) < 80
    assert any(text.startswith(HOSTILE.replace("$", r"\$")[:20]) for text in texts(axes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b"", "damaged, no JSON"),
        (b"\xff\xfe{", "damaged, no JSON"),
        (b"[" * 100_000, "damaged, no JSON"),
        (b"[]", "the file has no 'models'"),
        (b'{"models": []}', "it measured no model"),
        (b'{"models": {}}', "models is no list"),
        ({"machine": 1}, "machine has no 'cpu'"),
        ({"machine": {"cpu": None}}, "machine.cpu is no text"),
        ({"machine": {"cpu": "A CPU", "flags": "avx2"}}, "machine.flags is no list"),
        ({"machine": {"cpu": "A CPU", "flags": [None]}}, "machine.flags[0] is no text"),
        ({"rules": {"queries": True, "images": 1}}, "rules.queries is no number"),
        ({"warnings": 3}, "warnings is no list"),
        ({"models": [3]}, "models[0] has no 'total_ms'"),
        ({"models": [row("a", 1.0), row("b", np.nan)]}, "models[1].total_ms.p50 is no number"),
        ({"models": [row("a", 1e300)]}, "models[0].total_ms.p50 is no number"),
        ({"models": [row("a", 1.0, peak_mib="much")]}, "models[0].peak_mib is no number"),
        ({"models": [row("a", 1.0, bytes=10**400)]}, "models[0].bytes is no number"),
        ({"models": [row("a", 1.0) | {"name": ["a"]}]}, "models[0].name is no text"),
        ({"models": [row("a", 0.0)]}, "models[0].total_ms are no percentiles"),
        ({"models": [row("a", 1.0, total_ms={"p50": 3, "p90": 2, "p99": 4})]}, "no percentiles"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_one_error(
    tmp_path: Path, change: bytes | dict[str, Any], message: str
) -> None:
    path = tmp_path / "result.json"
    good = json.dumps(result_of(row("a", 1.0)) | change) if isinstance(change, dict) else ""
    path.write_bytes(change if isinstance(change, bytes) else good.encode())
    with pytest.raises(DataError) as caught:
        read_device_times(path)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_exit_codes(hostile: Path, tmp_path: Path) -> None:
    damaged, large = tmp_path / "damaged.json", tmp_path / "large.json"
    damaged.write_text("{")
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for words, code, message in (
        ((damaged, "--out", tmp_path / "a.png"), 1, "damaged.json: damaged, no JSON"),
        ((hostile, large, "--out", tmp_path / "a.png"), 1, "over 16 MiB is no result"),
        ((hostile, "--out", tmp_path / "a.pdf"), 2, "--out writes .svg or .png, not '.pdf'"),
        ((hostile, "--out", tmp_path / "png"), 2, "not 'png'"),
        ((hostile,), 2, "--out"),
        (("--out", tmp_path / "a.png"), 2, "FILE"),
        ((tmp_path / "none.json", "--out", tmp_path / "a.png"), 2, "none.json"),
    ):
        done = plot(*words)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "a.png").exists()
    if Path("/proc/self").exists():
        done = plot(hostile, "--out", "/proc/o.svg")
        assert (done.returncode, done.stderr) == (
            1,
            "btc-plot: /proc/o.svg: No such file or directory\n",
        )
    kept = hostile.rename(tmp_path / "result.svg")
    before = kept.read_bytes()
    assert plot(kept, "--out", kept).returncode == 2
    assert kept.read_bytes() == before


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys, trainer.commands.plot;"
        "print([m for m in ('numpy', 'cv2', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert plot("--version").stdout.startswith("btc-plot, version ")
    assert "Exit codes: 0 drawn" in plot("--help").stdout
