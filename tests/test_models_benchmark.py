"""The comparison of models: paired differences, and rows that can be told apart."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.honest import command_of
from benchmarks.models import compare
from benchmarks.models.compare import (
    CONTENDERS,
    NETWORK,
    Contender,
    as_markdown,
    check_alike,
    gap,
    missing,
    train_in_series,
    train_over_ray,
)
from benchmarks.models.page import chart, label_of
from edge_runtime.cluster import Done, Task
from edge_runtime.errors import DataError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.commands.train import train_command
from trainer.evaluation.predictions import Predictions
from trainer.synthetic.phantoms import write_phantoms
from trainer.train_job import Job, start_run


def predict(predicted: str, order: list[int]) -> Predictions:
    """Six slices in three groups, all of class a, in some order."""
    names = [f"{i}.jpg" for i in order]
    table = pd.DataFrame(
        {
            "path": names,
            "group": [f"g{i // 2}" for i in order],
            "label": ["a"] * 6,
            "predicted": [predicted[i] for i in order],
        }
    )
    return Predictions(table, ("a", "b"), "grouped", "test")


def test_gap_pairs_slices_by_their_path() -> None:
    mine = predict("aaaabb", [5, 4, 3, 2, 1, 0])
    other = predict("abaabb", [0, 1, 2, 3, 4, 5])
    found = gap(mine, other)
    assert found["n"] == 6
    assert found["share"] == pytest.approx(1 / 6)
    low, high = found["interval95"]
    assert low <= 1 / 6 <= high
    assert gap(other, mine)["share"] == pytest.approx(-1 / 6)
    same = gap(mine, mine)
    assert same["share"] == 0.0
    low, high = same["interval95"]
    assert low < 0 < high, "six slices without a difference do not show that there is none"


def test_contenders_have_names_of_their_own() -> None:
    assert CONTENDERS[0] == NETWORK
    assert len({c.name for c in CONTENDERS}) == len(CONTENDERS)
    assert not any("," in c.name for c in CONTENDERS)
    models = {c.model for c in CONTENDERS if c.features == "deep"}
    assert models == {"svm", "random-forest", "logistic", "knn"}


def test_table_and_chart_have_a_line_a_contender() -> None:
    rate = {"n": 9, "share": 0.5, "interval95": [0.4, 0.6], "balanced": 0.5}
    row = dict.fromkeys(("grouped", "grouped_gap", "shift", "shift_gap", "missed"), rate)
    row |= {"studies": None, "partial": None, "values": 80, "seconds": 1.0, "kib": None,
            "on_device": False, "p50_ms": 2.0}  # fmt: skip
    rows = [{**c._asdict(), **row} for c in CONTENDERS]
    result = {"rows": rows, "timed": 10, "processor": "P"}
    text = as_markdown(result)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(CONTENDERS) + 2
    assert len({line.count("|") for line in lines}) == 1
    assert "+50.0 (+40.0 to +60.0)" in lines[-1]
    assert "(2.0)" in lines[-1]
    labels = [label_of(each) for each in rows]
    assert len(set(labels)) == len(labels)
    axes = chart(result).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == labels
    assert np.allclose(axes.get_xlim(), (0, 100))
    unknown = rate | {"interval95": None}
    rows[1] |= dict.fromkeys(("grouped", "grouped_gap", "shift", "shift_gap"), unknown)
    assert "50.0 (not estimable)" in as_markdown(result)
    assert len(chart(result).axes[0].get_yticklabels()) == len(rows)


def test_runs_that_scale_slices_in_another_way_are_told_and_not_compared(tmp_path: Path) -> None:
    data = tmp_path / "data"
    old, new, small = (
        start_run(Job(data, tmp_path / name, preprocess=Preprocess(size, resize=resize)))
        for name, size, resize in (("old", 96, "area"), ("new", 96, "pyramid"),
                                   ("small", 64, "pyramid"))
    )  # fmt: skip
    del old.settings["preprocess"]["resize"]  # as version 0.1.0 wrote it
    check_alike([new, small])
    with pytest.raises(DataError, match=r"old, .*new: not the same preprocessing"):
        check_alike([old, new])
    for run in (old, new):
        run.settings |= {"data": {"boxes": 0}, "partial": None}
    assert command_of(old) == command_of(new).replace(" --seed", " --resize area --seed")


class Here:
    """A cluster that is this process."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    @contextmanager
    def open(self, address: str | None, workers: int | None, **options: Any) -> Iterator[Here]:
        yield self

    def run(self, function: Any, tasks: list[Task], **_: Any) -> Iterator[Done]:
        for task in tasks:
            self.keys.append(task.key)
            arguments = pickle.loads(pickle.dumps(task.arguments))
            yield Done(task.key, function(*arguments), None)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, list[str | Path]]:
    """Drawn slices of two sources, and the option of their table."""
    write_phantoms(tmp_path / "slices.zip", per_class=24, testing=0, seed=3)
    with zipfile.ZipFile(tmp_path / "slices.zip") as archive:
        names = sorted(archive.namelist())
    rows = [f"{name},g{i},{('home', 'other')[i % 4 == 0]}" for i, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(["path,group,source", *rows]) + "\n")
    return tmp_path / "slices.zip", ["--groups", tmp_path / "groups.csv"]


def test_runs_by_ray_are_those_of_the_commands(
    tables: tuple[Path, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here()
    monkeypatch.setattr(compare, "open_cluster", here.open)
    monkeypatch.setattr("trainer.spread.prepare_process", lambda job: job)
    data, options = tables
    contender = Contender("knn", "histogram")

    def in_this_process(words: list[str | Path]) -> None:
        done = CliRunner().invoke(train_command, [str(word) for word in words[1:]])
        assert done.exit_code == 0, done.output

    monkeypatch.setattr(compare, "run_tool", in_this_process)
    one, two = tmp_path / "series", tmp_path / "ray"
    train_in_series(missing(contender, one, data, options, 1), None)
    train_over_ray(missing(contender, two, data, options, 1), "local", 2)
    assert here.keys == ["knn-histogram, folds", "knn-histogram, source"]
    for part in ("folds", "source", "folds/fold-5"):
        for file in ("metrics.json", "predictions.csv"):
            first, second = (each / "knn-histogram" / part / file for each in (one, two))
            assert first.read_bytes() == second.read_bytes()
    assert not missing(contender, two, data, options, 1)
    started = json.loads((two / "knn-histogram" / "source" / "run.json").read_text())
    assert started["threads"] == 2


def test_a_network_is_spread_by_its_folds(
    tables: tuple[Path, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    class Kept(Here):
        def run(self, function: Any, tasks: list[Task], **_: Any) -> Iterator[Done]:
            sent.extend(pickle.loads(pickle.dumps(tasks)))
            return iter(Done(each.key, None, DataError("enough")) for each in tasks)

    monkeypatch.setattr(compare, "open_cluster", Kept().open)
    data, options = tables
    with pytest.raises(DataError, match=r"^cnn, folds, fold 1: enough; .*cnn, source failed too$"):
        train_over_ray(missing(NETWORK, tmp_path, data, options, 1), "auto", 2)
    assert [task.key for task in sent] == [
        *(f"cnn, folds, fold {n}" for n in range(1, 6)), "cnn, source"
    ]  # fmt: skip
    assert [task.arguments[2] for task in sent] == [1, 2, 3, 4, 5, None]
    assert all("--resume" in words for words in
               missing(NETWORK, tmp_path, data, options, 1).values())  # fmt: skip
