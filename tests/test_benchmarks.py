"""Each benchmark: its command stands, and its table is what its committed result says."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

import click
import numpy as np
import pytest
from click.testing import CliRunner

import benchmarks
from benchmarks.common.command import out_option, publish
from benchmarks.common.formatting import (
    NOTHING,
    machine_in_words,
    metric_in_words,
    rate_in_words,
    share_in_words,
)
from benchmarks.common.runners import read_slices
from benchmarks.common.turns import time_in_turns
from edge_runtime.benchmark.machine import machine_facts
from edge_runtime.errors import BtcError, DataError, UsageError
from trainer.models.recipes import RECIPES
from trainer.synthetic.phantoms import write_phantoms

FOLDER = Path(benchmarks.__file__).parent
RESULTS = FOLDER / "results"
FOLDERS = {
    "hostile": "benchmarks.hostile.attack",
    "models": "benchmarks.models.compare",
    "peers": "benchmarks.peers.compare",
}
COMMANDS = sorted({p.stem for p in FOLDER.glob("[!_]*.py")} | set(FOLDERS))
OLDER_WORDS = {"footprint", "formats", "models"}
OF_SPEED = {"device", "fastest", "join", "peers", "resize", "training"}
TABLES = sorted(p.stem for p in RESULTS.glob("*.json"))


def module(name: str) -> ModuleType:
    return import_module(FOLDERS.get(name, f"benchmarks.{name}"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_benchmark_is_a_command(name: str) -> None:
    command = module(name).main
    assert isinstance(command, click.Command)
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    assert command.help


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_the_result_says(name: str) -> None:
    """Word by word; of a result that is older than today's words, row by row."""
    result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    made, kept = module(name).as_markdown(result), (RESULTS / f"{name}.md").read_text("utf-8")
    rows = [[line for line in text.splitlines() if "|" in line] for text in (made, kept)]
    assert rows[0] == rows[1] != []
    if name not in OLDER_WORDS:
        assert made == kept


@pytest.mark.parametrize("name", [name for name in TABLES if name in OF_SPEED])
def test_a_table_of_speed_names_the_processor_of_its_result(name: str) -> None:
    result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    table = (RESULTS / f"{name}.md").read_text("utf-8")
    assert machine_in_words(result["machine"]) in table


def test_results_lie_in_two_files(tmp_path: Path) -> None:
    @click.command()
    @out_option
    def main(out: Path) -> None:
        publish(out, "question", {"n": 3}, "| n |\n|--:|\n| 3 |\n")

    done = CliRunner().invoke(main, ["--out", str(tmp_path / "new")])
    table = (tmp_path / "new" / "question.md").read_text("utf-8")
    assert json.loads((tmp_path / "new" / "question.json").read_text("utf-8")) == {"n": 3}
    assert table in done.output


def test_calls_take_turns() -> None:
    seen: list[tuple[str, int]] = []
    calls = {name: lambda i, name=name: seen.append((name, i)) for name in "xy"}
    spans = time_in_turns(calls, range(4), 1)
    assert [i for _, i in seen] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [name for name, _ in seen[::2]] in (["x", "y"] * 2, ["y", "x"] * 2)
    assert [len(spans[name]) for name in "xy"] == [3, 3], "the first input warms up"


def test_a_turn_may_be_several_inputs_long() -> None:
    asked: list[tuple[str, int]] = []
    calls = {name: (lambda one, name=name: asked.append((name, one))) for name in "ab"}
    spans = time_in_turns(calls, range(5), 2, turn=2, settling=1)
    assert {name: len(found) for name, found in spans.items()} == {"a": 3, "b": 3}
    assert "".join(name for name, _ in asked) == "bbbaaa" + "aaabbb" + "bbaa"
    assert [one for name, one in asked if name == "a"] == [0, 0, 1, 2, 2, 3, 4, 4]


def test_figures_in_words() -> None:
    rate = {"share": 0.912, "interval95": [0.89, 0.931]}
    assert rate_in_words(rate) == "91.2 (89.0–93.1)"
    assert rate_in_words(rate, " %") == "91.2 % (89.0–93.1)"
    assert rate_in_words({"share": -0.01, "interval95": [-0.02, 0.001]}, signed=True) == (
        "-1.0 (-2.0 to +0.1)"
    )
    assert share_in_words(0.5, None) == "50.0 (not estimable)"
    assert rate_in_words(None) == rate_in_words({"share": None, "interval95": None}) == NOTHING
    metrics = {"accuracy": 0.5, "recall": None, "interval95": {"accuracy": [0.4, 0.6]}}
    assert metric_in_words(metrics, "accuracy") == "50.0 (40.0–60.0)"
    assert metric_in_words(metrics, "recall") == metric_in_words(None, "recall") == NOTHING


def test_slices_are_drawn_from_folders_as_from_zips(tmp_path: Path) -> None:
    packed_slices, folder = tmp_path / "slices.zip", tmp_path / "slices"
    write_phantoms(packed_slices, per_class=2, testing=0.5, seed=3)
    with zipfile.ZipFile(packed_slices) as archive:
        archive.extractall(folder)
    drawn = [read_slices(place, 3, seed=2) for place in (packed_slices, folder)]
    assert len(drawn[0]) == 3
    for packed, plain in zip(*drawn, strict=True):
        np.testing.assert_array_equal(packed, plain)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image"):
        read_slices(tmp_path / "empty", 3)


def test_a_run_without_folds_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).with_name("former") / "classical", run)
    done = CliRunner().invoke(module("robust").main, [str(run)])
    assert isinstance(done.exception, UsageError)
    assert "is no cross-validation" in str(done.exception)


def test_what_the_words_of_a_benchmark_vary_is_of_a_recipe() -> None:
    recipes = module("recipes")
    named = re.findall(r"--vary \"?([\w=,]+)", recipes.__doc__)
    assert named
    for changes in named:
        assert recipes.vary(changes) != RECIPES["robust"], changes


def test_a_card_beside_the_data_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a benchmark that names its tables, or the demo, which has none."""
    calls: list[list[str]] = []

    def record(*words: object, **_options: object) -> None:
        calls.append(list(map(str, words)))
        if "btc-export" in calls[-1]:
            raise BtcError("enough")

    compare = module("models")
    monkeypatch.setattr(compare, "run_tool", lambda words: record(*words))
    tables = ["--groups", "g.csv"]
    commands = compare.missing(compare.NETWORK, tmp_path / "runs", tmp_path, tables, 1)
    compare.train_in_series(commands, None)
    demo = module("demo")
    monkeypatch.setattr(demo.Stage, "run", lambda _, *words, **options: record(*words, **options))
    CliRunner().invoke(demo.main, ["--out", str(tmp_path / "demo")])
    trained = [words for words in calls if "btc-train" in words]
    assert len(trained) == 3
    assert all("--no-card" in words for words in trained)


@pytest.mark.slow
def test_epochs_behind_the_first_are_measured() -> None:
    training = module("training")
    settings = training.TrainSettings(epochs=2, patience=2)
    figures = training.measure_epochs(settings, *training.drawn_samples(40, 32))
    assert figures["user"] > figures["system"] >= 0
    assert figures["cores_busy"] > 0
    assert 0 < figures["batches"] < figures["user"]
    row = {"way": "as btc-train", "onednn": "off"} | figures
    facts = {"machine": machine_facts(), "slices": 40, "size": 32, "epochs": 2, "repeats": 1}
    text = training.as_markdown(facts | {"left_out": ["jemalloc"], "rows": [row]})
    assert "jemalloc was not to be had here" in text
    assert machine_in_words(facts["machine"]) in text


def test_each_way_to_keep_memory_is_an_environment_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = module("training")
    calls: list[tuple[list[str], dict[str, str]]] = []

    def run(words: list[str], *, env: dict[str, str], **_: object) -> CompletedProcess[str]:
        calls.append((words, env))
        return CompletedProcess(words, 0, 'a library\'s words\n{"user": 1.5}\n', "")

    monkeypatch.setattr(training.subprocess, "run", run)
    monkeypatch.setattr(training, "find_library", {"jemalloc": "libjemalloc.so.2"}.get)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    for way in training.WAYS:
        assert training.run_way(way, "off", slices=40, epochs=2, size=32) == {"user": 1.5}
    assert [words[-4:] for words, _ in calls] == [
        [keep, "40", "2", "32"] for keep in ("0", "1", "0")
    ]
    assert [env.get("LD_PRELOAD") for _, env in calls] == [None, None, "libjemalloc.so.2"]
    assert all(env["TF_ENABLE_ONEDNN_OPTS"] == "0" for _, env in calls)
    assert not any("MALLOC_ARENA_MAX" in env for _, env in calls)
    monkeypatch.setattr(training, "find_library", lambda _: None)
    assert training.run_way("jemalloc", "off", 40, 2, 32) is None
    monkeypatch.setattr(
        training.subprocess, "run", lambda words, **_: CompletedProcess(words, 1, "", "it broke")
    )
    with pytest.raises(BtcError, match="as btc-train: failed: it broke"):
        training.run_way("as btc-train", "off", 40, 2, 32)


def test_a_processor_is_named_with_its_features() -> None:
    old = {"cpu": "AMD EPYC", "cores": 2}
    assert machine_in_words(old) == "AMD EPYC (features not recorded), 2 cores"
    assert machine_in_words(old | {"flags": ["avx2"]}) == "AMD EPYC (avx2), 2 cores"
