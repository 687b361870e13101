"""Figures against values computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.decision.prediction import probabilities
from trainer.evaluation.metrics import (
    _areas,
    compute_metrics,
    per_source,
    share_of,
    study_probabilities,
)
from trainer.evaluation.temperature import expected_calibration_error, fit_temperature
from trainer.run import dump_json

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1],
     [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]
)  # fmt: skip


def metrics(**changes: object) -> dict:
    arguments: dict = {"protocol": "grouped", "split": "test"} | changes
    return compute_metrics(PROBABILITIES, LABELS, ("a", "b", "c"), list("uuvwxy"), **arguments)


def test_by_hand() -> None:
    m = metrics()
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
    table = per_source(PROBABILITIES.argmax(axis=1), LABELS, ("a", "b", "c"), list("uvwxyz"),
                       ["s", "s", "s", "t", "t", ""])  # fmt: skip
    assert table is not None
    assert set(table) == {"s", "t", "unknown"}
    assert (table["s"]["n"], table["s"]["accuracy"]) == (3, pytest.approx(2 / 3))
    assert set(table["s"]["recall"]) == {"a"}
    assert table["s"]["recall"]["a"]["share"] == pytest.approx(2 / 3)
    assert per_source(LABELS, LABELS, ("a", "b", "c"), list("uvwxyz"), [""] * 6) is None
    assert json.loads(dump_json(metrics()))["n"] == 6


def test_absent_class_is_none_not_invented() -> None:
    m = compute_metrics(PROBABILITIES[:3], LABELS[:3], ("a", "b", "c"), list("uvw"),
                        protocol="p", split="s")  # fmt: skip
    assert m["per_class"]["c"]["recall"] is None
    assert m["per_class"]["a"]["auc"] is None


def test_interval_is_wider_over_groups_than_over_slices() -> None:
    values = np.repeat(np.array([1, 0, 1, 1, 0, 1, 1, 1]), 20)
    grouped = share_of(values, [str(i // 20) for i in range(160)])["interval95"]
    single = share_of(values, [str(i) for i in range(160)])["interval95"]
    assert grouped[1] - grouped[0] > 2 * (single[1] - single[0])


def test_an_interval_of_no_width_is_not_given() -> None:
    """One group knows nothing of another; all right is not right for ever."""
    one = compute_metrics(PROBABILITIES, LABELS, ("a", "b", "c"), ["g"] * 6,
                          protocol="p", split="s")  # fmt: skip
    assert set(one["interval95"].values()) == {None}
    assert all(set(row["interval95"].values()) == {None} for row in one["per_class"].values())
    labels = np.arange(80) % 4
    right = compute_metrics(0.9 * np.eye(4)[labels] + 0.025, labels, tuple("abcd"),
                            [str(i) for i in range(80)], protocol="p", split="s")  # fmt: skip
    for key in ("accuracy", "balanced_accuracy"):
        low, high = right["interval95"][key]
        assert 0.8 < low < 0.99
        assert high == 1
    low, high = right["per_class"]["a"]["interval95"]["recall"]
    assert (0.7 < low < 0.9, high) == (True, 1)
    assert right["interval95"]["log_loss"] is None
    json.loads(dump_json(right))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(5, 60))
@example(145, 2, 5)  # all of one class
def test_figures_are_those_of_scikit_learn(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    by_class = rng.dirichlet(np.ones(classes), n)
    labels = rng.integers(classes, size=n)
    names = tuple(f"class {c}" for c in range(classes))
    m = compute_metrics(by_class, labels, names, [str(i // 3) for i in range(n)],
                        protocol="p", split="s")  # fmt: skip
    predicted, present = by_class.argmax(axis=1), np.unique(labels)
    assert m["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    recalls = sk.recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    assert m["balanced_accuracy"] == pytest.approx(recalls.mean())
    alone = int(present[0]) if len(present) == 1 else None
    kappa = np.nan if alone is not None else sk.cohen_kappa_score(labels, predicted)
    assert m["kappa"] is None if np.isnan(kappa) else m["kappa"] == pytest.approx(kappa)
    assert m["log_loss"] == pytest.approx(sk.log_loss(labels, by_class, labels=range(classes)))
    truth = np.eye(classes)[labels]
    assert m["brier"] == pytest.approx(((by_class - truth) ** 2).sum(axis=1).mean())
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=np.nan
    )
    if alone is not None:  # perfect whatever is answered
        precision[alone], f1[alone] = np.nan, np.nan
    for c, name in enumerate(names):
        row = m["per_class"][name]
        for key, value in (("precision", precision[c]), ("recall", recall[c])):
            assert row[key] is None if np.isnan(value) else row[key] == pytest.approx(value)
        if (labels == c).any():
            wanted = None if c == alone else pytest.approx(np.nan_to_num(f1[c]))
            assert row["f1"] == wanted
        if 0 < (labels == c).sum() < n:
            assert row["auc"] == pytest.approx(sk.roc_auc_score(labels == c, by_class[:, c]))
            expected = sk.average_precision_score(labels == c, by_class[:, c])
            assert row["average_precision"] == pytest.approx(expected)
            others = sk.recall_score(labels != c, predicted != c, zero_division=np.nan)
            assert row["specificity"] == pytest.approx(others)
        for key, interval in row["interval95"].items():
            assert interval is None or 0 <= interval[0] <= interval[1] <= 1, key


def test_intervals_hold_the_figure_and_narrow_with_more_groups() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (60, 1500):
        labels = rng.integers(4, size=n)
        by_class = 0.6 * np.eye(4)[(labels + (rng.random(n) < 0.2)) % 4] + 0.1
        m = compute_metrics(by_class, labels, tuple("abcd"), [str(i // 3) for i in range(n)],
                            protocol="p", split="s")  # fmt: skip
        for key in ("accuracy", "balanced_accuracy", "kappa", "log_loss", "brier"):
            low, high = m["interval95"][key]
            assert low <= m[key] <= high, key
        widths.append(np.subtract(*m["interval95"]["accuracy"][::-1]))
    assert widths[1] < widths[0] / 3


def test_a_study_is_the_mean_log_probability_of_its_slices() -> None:
    patients = ["p", "p", "", "q", "q", "q"]
    found = study_probabilities(PROBABILITIES, LABELS, patients, list("uuvwww"))
    assert found is not None
    by_class, labels, groups = found
    # q has slices of two labels (1 and 2): two studies; the slice without a patient has none.
    assert labels.tolist() == [0, 1, 2]
    assert groups == ["u", "w", "w"]
    by_hand = np.exp(np.log(PROBABILITIES[:2]).mean(axis=0))
    np.testing.assert_allclose(by_class[0], by_hand / by_hand.sum(), rtol=1e-6)
    assert study_probabilities(PROBABILITIES, LABELS, [""] * 6, list("uuvwww")) is None


def test_expected_calibration_error() -> None:
    probabilities = np.array([[0.95, 0.05]] * 10)
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.15)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_found(true: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 4)) * 2
    drawn = (probabilities(honest).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert fit_temperature(honest * true, drawn) == pytest.approx(true, rel=0.05)


def test_no_area_is_over_one() -> None:
    """The average precision is a sum of shares: for some numbers of slices it is rounded up."""
    over = []
    for positives in range(1, 60):
        truth = np.arange(2 * positives) < positives
        score = np.linspace(1, 0, 2 * positives)
        over.append(sk.average_precision_score(truth, score) > 1)
        assert _areas(score, truth) == {"auc": 1.0, "average_precision": pytest.approx(1.0)}
        assert (_areas(score, truth)["average_precision"] or 0) <= 1
    assert any(over), "else this tests nothing"
