"""The comparison of ways to scale: pairs that are pairs, and another process on the same slices."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.common.inputs import digests, digests_elsewhere
from benchmarks.hostile.pictures import draw_slice
from benchmarks.resize import (
    TRIED,
    by_seed,
    changed_answers,
    linear_then_area,
    main,
    validation,
    ways,
)
from edge_runtime.decision.prediction import Prediction, Status
from edge_runtime.errors import BtcError, DataError, UsageError
from edge_runtime.imaging.preprocess import RESIZE, Preprocess, preprocess
from edge_runtime.model.file_format import ModelFile
from edge_runtime.model.load import read_model
from trainer.run import Run

FORMER = Path(__file__).with_name("former") / "network"
Settings = dict[str, Any]


@pytest.fixture
def pair(tmp_path: Path) -> Callable[[Callable[[Settings], object]], list[Run]]:
    """A run of before `resize` was named, and a copy with something changed."""

    def made(change: Callable[[Settings], object]) -> list[Run]:
        copy = Path(shutil.copytree(FORMER, tmp_path / "copy"))
        settings = json.loads((copy / "run.json").read_text("utf-8"))
        change(settings)
        (copy / "run.json").write_text(json.dumps(settings))
        return [Run.open(FORMER), Run.open(copy)]

    return made


def test_runs_of_a_seed_are_compared_on_validation_slices(
    pair: Callable[[Callable[[Settings], object]], list[Run]],
) -> None:
    runs = pair(lambda settings: settings["preprocess"].update(resize="pyramid"))
    area, pyramid = validation(by_seed(runs))
    assert (area["way"], area["gain"], area["loss_change"]) == ("area", None, None)
    assert (pyramid["way"], pyramid["accuracy"]) == ("pyramid", area["accuracy"])
    assert pyramid["gain"]["share"] == pyramid["loss_change"]["mean"] == 0, "one model, twice"
    low, high = pyramid["gain"]["interval95"]
    assert low < 0 < high
    assert pyramid["late_gain"] == 0
    with pytest.raises(UsageError, match="no run of seed 1 with resize area"):
        by_seed(runs[1:])
    with pytest.raises(UsageError, match="two runs of seed 1 with resize area"):
        by_seed(runs[:1] * 2)


def test_seeds_are_pooled(pair: Callable[[Callable[[Settings], object]], list[Run]]) -> None:
    runs = pair(lambda settings: settings["preprocess"].update(resize="pyramid"))
    for run in list(runs):
        other = Run.open(run.folder)
        other.settings["seed"] = 2
        runs.append(other)
    rows = validation(by_seed(runs))
    assert [(row["seed"], row["way"]) for row in rows] == [
        (1, "area"), (1, "pyramid"), (2, "area"), (2, "pyramid"), (None, "pyramid"),
    ]  # fmt: skip
    assert rows[-1]["accuracy"]["n"] == 2 * rows[0]["accuracy"]["n"]
    assert rows[-1]["accuracy"]["share"] == rows[0]["accuracy"]["share"]
    assert rows[-1]["gain"]["share"] == 0


def test_runs_that_differ_in_more_are_no_pair(
    pair: Callable[[Callable[[Settings], object]], list[Run]],
) -> None:
    def change(settings: Settings) -> None:
        settings["preprocess"] |= {"resize": "pyramid", "window": None}

    with pytest.raises(DataError, match="differ in more than --resize"):
        by_seed(pair(change))


def test_the_way_that_was_tried_is_near_averaged_areas() -> None:
    gray = cv2.resize(draw_slice(3, 512), (430, 500), interpolation=cv2.INTER_AREA)
    options = Preprocess(96)
    known = ways(options)
    assert set(known) == {*RESIZE, TRIED}
    plain = preprocess(gray, Preprocess(96, window=None))
    np.testing.assert_array_equal(known["area"](gray), plain)
    assert np.abs(linear_then_area(gray, options).astype(int) - plain).mean() < 1


def test_another_python_tells_what_it_makes_of_slices() -> None:
    slices = [draw_slice(seed, 120 + 40 * seed) for seed in range(4)]
    options = [Preprocess(96, resize=name) for name in RESIZE]
    told = digests_elsewhere([sys.executable, "-I"], slices, options)
    assert told["digests"] == [digests(slices, one) for one in options]
    assert told["opencv"] == cv2.__version__
    with pytest.raises(BtcError, match="cannot be started"):
        digests_elsewhere(["no-such-python"], slices, options)


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["--elsewhere", "x='"], '--elsewhere "x=\'": No closing quotation'),
        (["--elsewhere", "x="], "--elsewhere 'x=': NAME=COMMAND"),
        (["--run", str(tmp_path / "empty")], "not a run folder"),
        (["--run", str(FORMER), "--run", str(FORMER)], "two runs of seed 1 with resize area"),
    ):
        # The folder holds no image: it would be refused if it were looked at.
        done = CliRunner().invoke(main, [str(tmp_path / "empty"), *words])
        assert isinstance(done.exception, BtcError), message
        assert re.search(message, str(done.exception))


def test_answers_are_counted_that_another_way_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "area": ((0.9, Status.OK), (0.6, Status.OK), (0.2, Status.OK)),
        "pyramid": ((0.9, Status.OK), (0.3, Status.UNCERTAIN), (0.1, Status.UNFAMILIAR)),
    }

    class Told:
        def __init__(self, model: ModelFile) -> None:
            self._answers = iter(told[model.info.preprocess.resize])

        def classify(self, _gray: object) -> Prediction:
            share, status = next(self._answers)
            shares = {"glioma": share, "notumor": 1 - share}
            best = max(shares, key=shares.__getitem__)
            return Prediction("array", status, None, best, None, shares, None, None, "m")

    monkeypatch.setattr("benchmarks.resize.Classifier", Told)
    learned = read_model()
    area = replace(learned.info, preprocess=replace(learned.info.preprocess, resize="area"))
    (row,) = changed_answers(replace(learned, info=area), [draw_slice(0)] * 3)
    assert row == {
        "way": "pyramid", "n": 3, "labels": 1, "statuses": 2, "probability": pytest.approx(0.4 / 3),
    }  # fmt: skip
