"""`btc-edge benchmark`: its rules, its figures and what it says of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edge_runtime
from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import processor
from edge_runtime.benchmark import load as benchmark_load
from edge_runtime.benchmark import machine
from edge_runtime.benchmark import measure as benchmark
from edge_runtime.benchmark import samples as benchmark_images
from edge_runtime.benchmark.load import Loaded
from edge_runtime.benchmark.machine import machine_facts, noise_warnings
from edge_runtime.benchmark.measure import measure, run_rounds, turns
from edge_runtime.benchmark.rules import parse_rule, pick, violations
from edge_runtime.benchmark.samples import Samples, read_samples
from edge_runtime.benchmark.statistics import paired_ratio, percentiles, wilson
from edge_runtime.benchmark.tables import as_markdown, as_table, short
from edge_runtime.commands.benchmark import _name_next as name_next
from edge_runtime.commands.benchmark import benchmark as command
from edge_runtime.errors import DataError, ModelError, UsageError
from edge_runtime.model.load import bundled_model, read_model
from tests.device.conftest import pack
from tests.device.test_cli import edge

QUICK = ("--seconds", 0, "--queries", 12)
HOSTILE = 'a|b <i>&"]]>*_[x](y)`'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files with one graph: int8, float32, and one whose labels are turned by one."""
    folder = tmp_path_factory.mktemp("models")
    labels = read_model().info.labels
    return [
        pack(folder / "small.tflite", name="small"),
        pack(folder / "float.tflite", name="float", quantization={"scheme": "float32"}),
        pack(folder / "wrong.tflite", name="wrong", labels=labels[1:] + labels[:1]),
    ]


# The command


def test_contract(models: list[Path], labelled: Path) -> None:
    done = edge("benchmark", "--images", labelled, *QUICK, "--format", "json", "--threads", "1,2",
                "--model", models[0], "--model", models[1])  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"machine", "rules", "models", "pairs", "warnings"}
    assert {"cpu", "governor", "temperature_c", "kernel", "opencv"} <= set(result["machine"])
    assert {"queries": 16, "min_queries": 12, "min_seconds": 0, "labelled": 16}.items() <= result[
        "rules"
    ].items()
    rows = result["models"]
    assert [(r["file"], r["threads"]) for r in rows] == [
        *(("small.tflite", 1), ("small.tflite", 2)),
        *(("float.tflite", 1), ("float.tflite", 2)),
    ]
    for row in rows:
        assert row["n"] == 16, "every labelled image is asked"
        assert 0 < row["invoke_ms"]["p50"] <= row["invoke_ms"]["p95"] <= row["total_ms"]["p99"]
        assert set(row["decode_ms"]) == set(row["preprocess_ms"]) == {"p50", "p90", "p95", "p99"}
        assert row["accuracy"] == 0.75
        assert row["interval95"][0] < 0.75 < row["interval95"][1]
        assert row["agreement"] == 1
        assert row["load_ms"] > 0
        assert row["peak_mib"] > 10
        assert row["bytes"] > 1000
        assert row["backend"]
        assert row["seconds"] > 0
    file = read_model(models[1])
    assert rows[2]["sha256"] == file.sha256
    assert rows[2]["model"] == file.tag
    assert rows[2]["scheme"] == "float32"
    assert result["rules"]["reference"] == rows[2]["name"] == f"{file.tag}, 1 thread"
    assert [(p["a"], p["b"]) for p in result["pairs"]] == [
        (rows[2]["name"], rows[i]["name"]) for i in (0, 1, 3)
    ]


def test_drawn_noise_and_the_table() -> None:
    done = edge("benchmark", "--seconds", 0, "--queries", 10)
    assert (done.returncode, done.stderr) == (0, "")
    assert "drawn noise" in done.stdout
    assert read_model().tag in done.stdout
    assert "thread" not in done.stdout.splitlines()[3], "no sweep, no word about threads"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "1,x"], "1,2,4"),
        (["--threads", "0"], "1,2,4"),
        (["--threads", ""], "1,2,4"),
        (["--threads", "99999"], "1,2,4"),
        (["--seconds", "nan"], "seconds"),
        (["--seconds", "-1"], "seconds"),
        (["--min-relative-accuracy", "1.5"], "min-relative-accuracy"),
        (["--keep", "nan"], "keep"),
        (["--plot", "times.svg"], "run btc-plot FILE --out times.svg there"),
        (["--fail-if", "p90_ms"], "METRIC OP NUMBER"),
        (["--fail-if", "p90_ms>5", "--fail-if", "speed>5"], "invoke_p50_ms"),
        (["--pick"], "--images"),
    ],
)
def test_usage_errors_come_before_any_model(words: list[str], message: str) -> None:
    done = edge("benchmark", "--model", "no-such-model.tflite", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_fail_if(models: list[Path]) -> None:
    words = ("benchmark", *QUICK, "--model", models[0], "--format", "json")
    assert edge(*words, "--fail-if", "p90_ms > 1e6", "--fail-if", "agreement<1").returncode == 0
    done = edge(*words, "--fail-if", "invoke_p50_ms>=0", "--fail-if", "accuracy<0.1",
                "--fail-if", "bytes<5")  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["models"], "the result is told first"
    slow, unknown = done.stderr.splitlines()
    tag = read_model(models[0]).tag
    assert slow.startswith(f"btc-edge: model {tag}: invoke_p50_ms is ")
    assert slow.endswith(", and >= 0 was to fail")
    assert unknown.endswith(": accuracy is not known, and < 0.1 was to fail")


@pytest.mark.parametrize("option", ["--min-relative-accuracy", "--keep"])
def test_pick(option: str, models: list[Path], labelled: Path) -> None:
    named = [word for model in models for word in ("--model", model)]
    done = edge("benchmark", *QUICK, *named, "--images", labelled, "--pick", "--format", "json",
                option, 0.98)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["pick"]["file"] in ("small.tflite", "float.tflite")
    assert result["pick"]["accuracy"] == 0.75
    assert result["pick"]["floor"] == pytest.approx(0.98 * 0.75)
    assert result["pick"]["min_relative_accuracy"] == 0.98
    assert any("16 labelled images" in w for w in result["warnings"])


def test_pick_needs_labels(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(draw_slice(1)))
    done = edge("benchmark", *QUICK, "--images", tmp_path, "--pick", "--model", models[0])
    assert done.returncode == 2
    assert "folder named after a label (glioma" in done.stderr


# The rules of the run


def subject(name: str) -> benchmark.Subject:
    return benchmark.Subject(name, Path(name), None, 1, None, Loaded(1.0, None))  # type: ignore[arg-type]


def scripted(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str], float]
) -> list[tuple[str, bytes]]:
    """Answer queries without a model; returns the list of them that will fill."""
    asked: list[tuple[str, bytes]] = []

    def ask(one: benchmark.Subject, data: bytes) -> tuple[tuple[float, ...], str]:
        asked.append((one.name, data))
        span = seconds(one.name)
        return (0.0, 0.0, span, span), data.decode()

    monkeypatch.setattr(benchmark, "ask", ask)
    return asked


@pytest.mark.parametrize(
    ("least", "seconds", "slow", "fast"),
    [(5, 0, 5, 5), (5, 2.5, 5, 5), (5, 2.6, 5, 13), (5, 10.1, 13, 21), (50, 3, 50, 50)],
)
def test_both_minimums_hold_for_every_subject(
    least: int, seconds: float, slow: int, fast: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {"fast": 0.5, "slow": 2.0}.__getitem__)
    subjects = [subject("slow"), subject("fast")]
    assert run_rounds(subjects, Samples([b"a"], [None]), least, seconds) == slow
    assert [s.queries for s in subjects] == [slow, fast], "who had them takes no more turns"
    assert [s.seconds for s in subjects] == [2 * slow, fast / 2]


def test_pairs_are_of_the_queries_that_both_had(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"fast": 0.5, "slow": 2.0}.__getitem__)
    slow, fast = subjects = [subject("slow"), subject("fast")]
    run_rounds(subjects, Samples([b"a"], [None]), 8, 100)
    assert slow.queries < fast.queries
    assert benchmark._pair(slow, fast)["ratio"] == 0.25


def test_subjects_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(monkeypatch, lambda _: 1.0)
    monkeypatch.setattr(benchmark, "TURN", 3)
    subjects = [subject(name) for name in "xyz"]
    images = [b"a", b"b", b"c", b"d"]
    run_rounds(subjects, Samples(images, [None] * 4), 17, 0)
    timed = asked[3 * benchmark.WARM_UP :]
    turns_of = [timed[i : i + 5] for i in range(0, 5 * 15, 5)]  # two do not count, three do
    assert all(len({name for name, _ in one}) == 1 for one in turns_of)
    names = ["".join(one[0][0] for one in turns_of[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(order) == ["x", "y", "z"] for order in names)
    assert len(set(names)) == 5, "the order changes"
    for i in range(0, 15, 3):
        pictures = {tuple(data for _, data in one) for one in turns_of[i : i + 3]}
        wanted = tuple(images[number % 4] for number in range(i - 2, i + 3))
        assert pictures == {wanted}, "all are asked about the same, and first about those before"
    assert len(timed) == 5 * 15 + 3 * (2 + 2), "the last turn is as long as is wanted"
    assert subjects[0].predicted == ["a", "b", "c", "d"], "each image counts once for the answers"
    assert [len(s.times["total"]) for s in subjects] == [17] * 3, "what settles does not count"
    assert [s.seconds for s in subjects] == [17.0] * 3


@pytest.mark.parametrize("n", range(1, 8))
def test_turns_are_balanced(n: int) -> None:
    orders = [turns(n, number) for number in range(2 * n)]
    assert turns(n, 2 * n) == orders[0]
    assert all(sorted(order) == list(range(n)) for order in orders)
    for place in range(n):
        assert sorted(order[place] for order in orders) == sorted([*range(n), *range(n)])
    followed = [pair for order in orders for pair in pairwise(order)]
    assert {followed.count(pair) for pair in followed} <= {2}
    assert len(set(followed)) == n * (n - 1)


def test_every_sample_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock under which one query in the middle takes a second more than the others."""
    monkeypatch.setattr(benchmark, "measure_load", lambda *_: Loaded(1.0, None))
    spans = [0.001, 0.002, 0.004, 0.0] * (benchmark.WARM_UP + 20)  # the last: until the next query
    spans[4 * (benchmark.WARM_UP + 7) + 2] += 1.0
    instants = iter([0.0, *np.cumsum(spans)])

    def clock() -> float:
        return float(next(instants))

    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=clock))
    result = measure([bundled_model()], None, queries=20, seconds=0)
    (row,) = result["models"]
    assert row["n"] == 20
    assert row["decode_ms"]["p50"] == pytest.approx(1)
    assert row["preprocess_ms"]["p99"] == pytest.approx(2)
    assert row["total_ms"]["p50"] == pytest.approx(7)
    assert row["total_ms"]["p99"] == pytest.approx(7 + 1000 * (0.99 * 19 - 18))
    assert row["seconds"] == pytest.approx(20 * 0.007 + 1)
    assert (row["accuracy"], row["interval95"], row["peak_mib"]) == (None, None, None)


def test_reference_accuracy_and_agreement(models: list[Path], labelled: Path) -> None:
    result = measure(models, labelled, queries=10, seconds=0)
    small, exact, wrong = result["models"]
    assert result["rules"]["reference"] == exact["name"], "float32, though it comes second"
    assert [p["b"] for p in result["pairs"]] == [small["name"], wrong["name"]]
    assert [r["accuracy"] for r in result["models"]] == [0.75, 0.75, 0.0]
    assert [r["agreement"] for r in result["models"]] == [1, 1, 0], "labels count, not places"
    assert all("thread" not in row["name"] for row in result["models"])
    without = measure([models[2], models[0]], labelled, queries=10, seconds=0)
    assert without["rules"]["reference"] == without["models"][0]["name"]
    assert [r["agreement"] for r in without["models"]] == [1, 0]


def test_images_are_mixed_sampled_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("glioma", "No Tumor", "other"):
        (tmp_path / label).mkdir()
        for i in range(10):
            data = encode(draw_slice(i, 64), ".png") if i else b"no image"
            (tmp_path / label / f"{i}.png").write_bytes(data)
    (tmp_path / "notes.txt").write_text("not an image")
    samples = read_samples(tmp_path, ("glioma", "notumor"))
    assert len(samples.data) == len(samples.truths) == 27
    assert samples.labelled == 18
    assert {t: samples.truths.count(t) for t in samples.truths} == {
        "glioma": 9, "notumor": 9, None: 9
    }  # fmt: skip
    assert len(set(samples.truths[:9])) == 3, "not one folder after the other"
    assert samples.warnings == ("3 unreadable images were left out",)
    assert read_samples(tmp_path, ("glioma",)).data == samples.data, "always alike"
    monkeypatch.setattr(benchmark_images, "MAX_IMAGES", 6)
    few = read_samples(tmp_path, ("glioma", "notumor"))
    assert len(few.data) <= 6
    assert "an even sample of 6 of the 30 images was used" in few.warnings
    assert len(set(few.truths)) == 3
    with pytest.raises(DataError, match="no readable image"):
        read_samples(tmp_path / "none", ())


def test_peak_memory_is_the_models_own() -> None:
    ballast = np.ones(50_000_000)  # 400 MB here must not show in the child's figure
    (row,) = measure([bundled_model()], None, queries=10, seconds=0)["models"]
    assert ballast.sum() > 0
    assert 10 < row["peak_mib"] < 300


def test_models_without_digest(tmp_path: Path) -> None:
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(read_model().graph)
    with pytest.raises(ModelError, match=r"bare\.tflite: no digest"):
        measure([bare], None, queries=10, seconds=0)
    (row,) = measure([bare], None, queries=10, seconds=0, allow_unsigned=True)["models"]
    assert row["n"] == 10


def test_a_model_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = pack(tmp_path / "odd.tflite", outputs={"class_maps": 7, "features": 1})
    with pytest.raises(ModelError, match=r"model odd\.tflite: the graph's outputs are not"):
        measure([bundled_model(), odd], None, queries=10, seconds=0)
    monkeypatch.setattr(benchmark_load.sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match=r"odd\.tflite: the measuring process failed \(1\)"):
        benchmark_load.measure_load(odd, "auto", 1)


# Figures


def test_percentiles_and_intervals() -> None:
    assert percentiles(
        [
            *range(101),
        ]
    ) == {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
    low, high = wilson(0.9, 100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-3), pytest.approx(0.9448, abs=1e-3))
    assert wilson(1.0, 5)[1] == 1
    assert paired_ratio([1.0] * 5, [2.0] * 5) == (2.0, None), "so few tell of no other query"


def test_a_drift_of_the_machine_leaves_the_ratio_alone() -> None:
    rng = np.random.default_rng(1)
    drift = np.linspace(1, 5, 400)
    a, b = (drift * rng.normal(mean, 0.02, 400) for mean in (1.0, 1.25))
    ratio, (low, high) = paired_ratio(a, b)
    assert low < ratio < high
    assert ratio == pytest.approx(1.25, abs=0.01)
    assert high - low < 0.02


def test_noise() -> None:
    quiet = list(np.random.default_rng(0).normal(10, 0.1, 200))
    assert noise_warnings(quiet, 1.9, 4, 40.0, 50.0) == []
    assert noise_warnings(quiet, None, None, None, None) == []
    (spread,) = noise_warnings([1.0, 1.0, 1.0, 2.0] * 6, 0, 4, None, None)
    assert spread == "noisy machine: p90 of the graph alone is 2.0 times its p50"
    slower = quiet[:150] + [t * 1.15 for t in quiet[150:]]
    (drift,) = noise_warnings(slower, 0, 4, None, None)
    assert drift == "noisy machine: the graph's median drifted by 15 % during the run"
    assert noise_warnings(slower[::10], 0, 4, None, None) == [], "too few to tell"
    (busy,) = noise_warnings(quiet, 2.5, 4, 40.0, 40.0)
    assert "load average was 2.5 on 4 cores" in busy
    (warm,) = noise_warnings(quiet, 0, 4, 40.0, 56.0)
    assert "from 40 to 56 °C" in warm


def test_machine_facts_are_read_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SYS", tmp_path)
    monkeypatch.setattr(processor, "PROC", tmp_path)
    monkeypatch.delattr(os, "getloadavg")
    assert machine.machine_facts()["governor"] is None
    assert machine.machine_facts()["flags"] is None, "not recorded is not the same as none"
    assert machine.temperature() is None
    assert machine.load_average() is None
    for i, text in enumerate(("41000\n", "-274000\n", "56500\n", "", "0\n", "255000\n")):
        zone = tmp_path / "class" / "thermal" / f"thermal_zone{i}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    governor = tmp_path / "devices" / "system" / "cpu" / "cpu0" / "cpufreq" / "scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    (tmp_path / "cpuinfo").write_text("Features\t: fp asimd asimddp\nModel\t: Raspberry Pi 5\n")
    facts = machine.machine_facts()
    assert machine.temperature() == 56.5
    assert facts["governor"] == "powersave"
    assert facts["cpu"] == "Raspberry Pi 5"
    assert facts["flags"] == ["asimd", "asimddp"]


# Decisions


def row(name: str, p50: float, accuracy: float | None, **other: Any) -> dict[str, Any]:
    """A row of a result."""
    steps = {"decode": 0.2, "preprocess": 0.3, "invoke": 0.5, "total": 1.0}
    times = {
        f"{step}_ms": {"p50": part * p50, "p90": part * p50 * 1.1, "p95": part * p50 * 1.2,
                       "p99": part * p50 * 1.3}
        for step, part in steps.items()
    }  # fmt: skip
    interval = None if accuracy is None else [accuracy - 0.01, min(1, accuracy + 0.01)]
    base = {"name": name, "model": name, "file": f"{name}.tflite", "scheme": "int8", "threads": 1,
            "bytes": 4096, "load_ms": 12.5, "peak_mib": 61.0, "accuracy": accuracy,
            "interval95": interval, "agreement": 0.99}  # fmt: skip
    return base | times | other


def result_of(*rows: dict[str, Any], labelled: int = 1000) -> dict[str, Any]:
    facts = {"cpu": "A CPU", "cores": 4, "flags": ["neon"], "memory_mib": None, "system": "Linux",
             "governor": None, "temperature_c": {"before": None, "after": None}}  # fmt: skip
    pairs = [{"a": rows[0]["name"], "b": other["name"], "ratio": 0.5, "interval95": [0.4, 0.6]}
             for other in rows[1:]]  # fmt: skip
    return {
        "machine": facts,
        "rules": {"queries": 12, "images": 12, "labelled": labelled, "reference": rows[0]["name"]},
        "models": list(rows),
        "pairs": pairs,
        "warnings": [],
    }


def test_pick_is_the_fastest_that_keeps_enough() -> None:
    result = result_of(
        row("float", 3.0, 0.90, scheme="float32"),
        row("fast", 1.0, 0.88),
        row("good", 2.0, 0.892),
        row("better", 2.5, 0.95),
    )
    best, warnings = pick(result, 0.99)
    assert (best["file"], best["model"], best["threads"]) == ("good.tflite", "good", 1)
    assert (best["p50_ms"], best["accuracy"]) == (2.0, 0.892)
    assert best["floor"] == pytest.approx(0.891)
    assert warnings == []
    assert pick(result, 0.95)[0]["model"] == "fast"
    assert pick(result, 1.0)[0]["model"] == "better"
    alone = result_of(row("only", 1.0, 0.5), labelled=50)
    best, warnings = pick(alone, 0.99)
    assert best["model"] == "only"
    assert "no float32 model" in warnings[0]
    assert "50 labelled images" in warnings[1]


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("p90_ms>5", True),
        ("p90_ms>5.5", False),
        (" p90_ms >= 5.5 ", True),
        ("p50_ms<5", False),
        ("p50_ms<=5", True),
        ("invoke_p99_ms>3", True),
        ("invoke_p99_ms>3.3", False),
        ("decode_p95_ms>1.1", True),
        ("preprocess_p50_ms>1e1", False),
        ("load_ms>12", True),
        ("peak_mib>61", False),
        ("bytes>4095", True),
        ("accuracy<0.9", True),
        ("agreement<0.99", False),
    ],
)
def test_conditions(text: str, broken: bool) -> None:
    lines = violations([parse_rule(text)], result_of(row("m", 5.0, 0.89)))
    assert len(lines) == broken
    assert all(line.startswith("model m: ") for line in lines)


@pytest.mark.parametrize(
    "text",
    ["", "p90_ms", "p90_ms=5", "p90_ms==5", "p90_ms>", ">5", "p90_ms>five", "p90_ms>nan",
     "p90_ms>inf", "p90_ms>5>6", "p42_ms>5", "total>5", "accuracy<90", "p90_ms>5\n\x1b[2J"],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse_rule(text)


# Table and Markdown


@pytest.fixture
def hostile() -> dict[str, Any]:
    result = result_of(
        row("float", 3.0, 0.9, scheme="float32"),
        row(f"{HOSTILE}\x1b[2J\n\udcff", 2.0, None, peak_mib=None),
        row("x" * 5000, 1.0, 0.95),
    )
    result["warnings"] = ["something\nodd"]
    result["pick"], _ = pick(result_of(*(r for r in result["models"] if r["accuracy"])), 0.99)
    return result


def test_table(hostile: dict[str, Any]) -> None:
    lines = as_table(hostile).splitlines()
    assert len(lines) == 3 + 3 + 1 + 2 + 1 + 1
    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines[2:6]}) == 1, "columns stand below each other"
    assert max(map(len, lines)) < 200
    assert lines[3].split()[0] == "float"
    assert lines[3].split()[-2:] == ["90.0", "99.0"]
    assert " - " in lines[4]
    assert "takes 0.50 (0.40-0.60) of the time of float" in lines[7]
    assert lines[-2] == "warning: something?odd"
    assert lines[-1].startswith("pick: ")
    assert lines[-1].endswith("p50 1.00 ms, accuracy 95.0 %, and 89.1 % was asked")


def test_markdown(hostile: dict[str, Any]) -> None:
    lines = as_markdown(hostile).splitlines()
    plain = [line.replace("\\|", "") for line in lines[:5]]
    assert {line.count("|") for line in plain} == {14}
    assert "90.0 (89.0–91.0)" in lines[2]
    assert r"a\|b \<i\>\&" in lines[3]
    assert "\x1b" not in "".join(lines)
    assert lines[5] == ""
    assert all(line.startswith("- ") for line in lines[6:])
    assert lines[-1].startswith("- pick: ")


def test_short_names() -> None:
    assert short("brain-mri") == "brain-mri"
    cut = short("a" * 100 + "z")
    assert len(cut) == 64
    assert cut.endswith("z")
    assert "..." in cut


def test_the_next_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    a, b = Path("a"), Path("b")
    measured = result_of(row("a", 3.0, 0.9, scheme="float32"), row("b", 1.0, 0.9))
    picked = measured | {"pick": {"file": "b", "threads": 1}}
    quicker = measured | {"pick": {"file": "b", "threads": 4}}
    one, several, folder = ((1,), "auto"), ((1, 4), "litert"), Path("/")
    both = "--model a --model b --backend litert --threads 1,4"
    for result, models, images, how, words in (
        (measured, (a, b), None, one, "benchmark --model a --model b --images FOLDER"),
        (measured, (a, b), Path("of"), one, "benchmark --model a --model b --images of --pick"),
        (measured, (a, b), None, several, f"benchmark {both} --images FOLDER"),
        (measured, (a, b), Path("of"), several, f"benchmark {both} --images of --pick"),
        (result_of(row("a", 3.0, 0.9)), (a,), Path("of"), one, None),
        (picked, (a, b), Path("of"), one, "classify --model b PATH..."),
        (picked, (a, b), Path("of"), several, "classify --model b --backend litert PATH..."),
        (quicker, (a, b), Path("of"), several,
         "classify --model b --backend litert --threads 4 PATH..."),
        (picked, (b, Path("other/b")), Path("of"), one, None),
        (measured, (folder,), None, one, f"benchmark --model {folder} --images FOLDER"),
        (measured, (folder,), Path("of"), one, f"benchmark --model {folder} --images of --pick"),
        (quicker, (folder,), Path("of"), several, f"classify --model {folder} PATH..."),
    ):  # fmt: skip
        name_next(result, models, images, *how)
        said = "" if words is None else f"next: btc-edge {words}\n"
        assert capsys.readouterr().err == said


def test_the_former_name_of_an_option_beside_the_new_one_is_refused(tmp_path: Path) -> None:
    words = ["--pick", "--images", str(tmp_path), "--keep", "0.9", "--min-relative-accuracy", "0.9"]
    done = CliRunner().invoke(command, words)
    assert isinstance(done.exception, UsageError)
    assert "give one of them" in str(done.exception)


def test_the_version_is_that_of_the_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another installation, which the environment may know of."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    assert machine_facts()["btc-edge"] == edge_runtime.__version__
