"""Figures against values computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainer.evaluation.calibration import expected_calibration_error, fit_temperature
from trainer.evaluation.metrics import compute_metrics, group_interval
from trainer.evaluation.predict import softmax
from trainer.run import dump_json

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1],
     [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]
)  # fmt: skip


def figures(**changes: object) -> dict:
    arguments: dict = {"protocol": "grouped", "split": "test"} | changes
    return compute_metrics(PROBABILITIES, LABELS, ("a", "b", "c"), list("uuvwxy"), **arguments)


def test_by_hand() -> None:
    m = figures()
    assert m["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert m["accuracy"] == pytest.approx(4 / 6)
    assert m["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    a = m["per_class"]["a"]
    assert (a["precision"], a["recall"]) == pytest.approx((2 / 3, 2 / 3))
    assert a["specificity"] == pytest.approx(2 / 3)
    assert a["f1"] == pytest.approx(2 / 3)
    assert a["auc"] == pytest.approx(8 / 9)  # of 9 pairs one is in the wrong order
    assert a["n"] == 3
    expected = -np.log([0.8, 0.6, 0.2, 0.8, 0.4, 0.7]).mean()
    assert m["log_loss"] == pytest.approx(expected, rel=1e-5)
    low, high = m["interval95"]["accuracy"]
    assert low <= m["accuracy"] <= high


def test_by_source_and_json() -> None:
    m = figures(sources=["s", "s", "s", "t", "t", ""])
    assert m["per_source"]["s"] == {"n": 3, "accuracy": pytest.approx(2 / 3),
                                    "recall": {"a": pytest.approx(2 / 3)}}  # fmt: skip
    assert json.loads(dump_json(m))["n"] == 6


def test_absent_class_is_none_not_invented() -> None:
    m = compute_metrics(PROBABILITIES[:3], LABELS[:3], ("a", "b", "c"), list("uvw"),
                        protocol="p", split="s")  # fmt: skip
    assert m["per_class"]["c"]["recall"] is None
    assert m["per_class"]["a"]["auc"] is None


def test_interval_is_wider_over_groups_than_over_slices() -> None:
    values = np.repeat(np.array([1, 0, 1, 1, 0, 1, 1, 1]), 20)
    grouped = group_interval(values, [str(i // 20) for i in range(160)])
    single = group_interval(values, [str(i) for i in range(160)])
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_expected_calibration_error() -> None:
    probabilities = np.array([[0.95, 0.05]] * 10)
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.15)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_found(true: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 4)) * 2
    drawn = (softmax(honest).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert fit_temperature(honest * true, drawn) == pytest.approx(true, rel=0.05)
