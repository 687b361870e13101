"""Thresholds for answering, by hand and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.prediction import Status, status_of
from trainer.evaluation.selective import (
    choose_thresholds,
    risk_coverage,
    selective_figures,
)


def rows(*confidences: float) -> np.ndarray:
    return np.array([[c, 1 - c] for c in confidences])


def is_answered(shares: np.ndarray, names: tuple[str, ...], thresholds: dict) -> np.ndarray:
    """By the device's own rule."""
    return np.array(
        [
            status_of(float(row.max()), thresholds[names[row.argmax()]], False) is Status.OK
            for row in shares
        ]
    )


def test_threshold_by_hand() -> None:
    shares = rows(0.99, 0.95, 0.9, 0.8, 0.7)
    labels = np.array([0, 0, 0, 1, 0])
    # Down to 0.9 nothing is wrong; with 0.8 a quarter is; with all, a fifth.
    assert choose_thresholds(shares, labels, ("a", "b"), 0.1)["a"] == pytest.approx(0.85)
    assert choose_thresholds(shares, labels, ("a", "b"), 0.2)["a"] == 0.0
    assert choose_thresholds(shares, labels, ("a", "b"), 0.1)["b"] == 1.0, "never called: unknown"
    assert choose_thresholds(rows(0.9, 0.9), np.array([0, 1]), ("a", "b"), 0.1)["a"] == 1.0


def test_a_class_that_no_confidence_makes_safe_is_never_answered() -> None:
    assert choose_thresholds(rows(0.9, 0.8), np.array([1, 0]), ("a", "b"), 0.1)["a"] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 80), st.floats(0, 0.5))
def test_what_is_answered_keeps_the_rate(seed: int, classes: int, n: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes), n).round(2)  # ties are common
    labels = rng.integers(classes, size=n)
    names = tuple(map(str, range(classes)))
    thresholds = choose_thresholds(shares, labels, names, rate)
    answered = is_answered(shares, names, thresholds)
    called = shares.argmax(axis=1)
    for c in range(classes):
        here = answered & (called == c)
        if here.any():
            assert (labels[here] != c).mean() <= rate + 1e-12
    looser = is_answered(shares, names, choose_thresholds(shares, labels, names, rate + 0.2))
    assert looser.sum() >= answered.sum()


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = risk_coverage(rows(0.9, 0.6, 0.8), np.array([0, 0, 1]))
    np.testing.assert_allclose(coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3])


def test_figures_by_hand() -> None:
    answered, correct = np.array([1, 1, 0, 1], bool), np.array([1, 0, 0, 1], bool)
    found = selective_figures(answered, correct, list("uvwx"))
    assert (found["coverage"]["n"], found["coverage"]["share"]) == (4, 0.75)
    assert (found["error"]["n"], found["error"]["share"]) == (3, pytest.approx(1 / 3))
    nothing = selective_figures(np.zeros(4, bool), correct, list("uvwx"))
    assert nothing["error"] == {"n": 0, "share": None, "interval95": None}
