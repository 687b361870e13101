"""Thresholds for answering, by hand and as properties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decision.prediction import Status, status_of
from edge_runtime.errors import UsageError
from trainer.commands.train import train_command
from trainer.evaluation.selective import (
    LADDER,
    LADDER_TUMOUR_FREE,
    Chosen,
    Targets,
    choose_thresholds,
    error_bound,
    parse_targets,
    risk_coverage,
    selective_metrics,
)


def rows(*confidences: float) -> np.ndarray:
    return np.array([[c, 1 - c] for c in confidences])


def is_answered(probabilities: np.ndarray, names: tuple[str, ...], thresholds: dict) -> np.ndarray:
    """By the device's own rule."""
    return np.array(
        [
            status_of(float(row.max()), thresholds[names[row.argmax()]], False) is Status.OK
            for row in probabilities
        ]
    )


def choose(probabilities: np.ndarray, labels: np.ndarray, target: float | None, **other) -> dict:
    names = tuple("abcdefgh"[: probabilities.shape[1]])
    groups = other.pop("groups", [str(i) for i in range(len(labels))])
    rates = LADDER if target is None else (target,)
    targets = dict.fromkeys(names, rates)
    return choose_thresholds(probabilities, labels, names, groups, targets, **other)


def test_the_bound_is_that_of_the_binomial() -> None:
    from scipy.stats import binom

    bound = float(error_bound(3, 200, 0.9))
    assert binom.cdf(3, 200, bound) == pytest.approx(0.1)
    assert error_bound(0, 100, 0.9) == pytest.approx(1 - 0.1 ** (1 / 100))
    assert error_bound(5, 5, 0.9) == 1


def test_threshold_by_hand() -> None:
    """Of 300 single slices those below 0.7 are wrong half the time."""
    confidence = np.linspace(0.999, 0.55, 300)
    labels = ((confidence < 0.7) & (np.arange(300) % 2 == 0)).astype(int)
    found = choose(rows(*confidence), labels, 0.03)["a"]
    # 199 slices are right. The first threshold that is tried answers 129, which would bear one
    # error; from there each answers 5 % more: 195 have no error, 205 have three, which is too many.
    assert confidence[195] < found.threshold < confidence[194]
    assert found.bound == pytest.approx(1 - 0.1 ** (1 / 195), rel=1e-3)
    assert found.effective == pytest.approx(300, rel=0.02)
    assert choose(rows(*confidence), labels, 0.5)["a"].threshold == 0.0
    never = choose(rows(*confidence), labels, 0.005)["a"]
    assert (never.threshold, never.answered) == (1.0, False)
    line = never.refusal("a")
    assert "a: not answered: 300 groups (300 slices) on the validation side" in line
    assert f"no error under {100 * never.bound:.1f} %; 0.5 % was asked for" in line


def test_one_right_answer_supports_nothing() -> None:
    found = choose(rows(0.9, 0.2), np.array([0, 1]), 0.02)
    assert {name: each.threshold for name, each in found.items()} == {"a": 1.0, "b": 1.0}
    assert "1 group (1 slice) on the validation side support no error under" in (
        found["a"].refusal("a") or ""
    )


def test_a_class_that_was_never_predicted_is_never_answered() -> None:
    found = choose(rows(*[0.9] * 400), np.zeros(400, int), 0.02)
    assert found["a"].threshold == 0.0
    assert found["b"].threshold == 1.0
    assert "no slice of the validation side is predicted so" in (found["b"].refusal("b") or "")


def test_groups_count_not_slices() -> None:
    probabilities, labels = rows(*np.linspace(0.99, 0.8, 400)), np.zeros(400, int)
    assert choose(probabilities, labels, 0.02)["a"].answered
    # Nothing is wrong, so nothing tells how slices of a group hang together: 40 units.
    groups = [str(i % 40) for i in range(400)]
    grouped = choose(probabilities, labels, 0.02, groups=groups)["a"]
    assert not grouped.answered
    assert (grouped.groups, grouped.effective) == (40, pytest.approx(40))
    assert grouped.bound == pytest.approx(1 - 0.1 ** (1 / 40))
    assert choose(probabilities, labels, 0.06, groups=groups)["a"].answered


def test_slices_that_the_check_refuses_are_not_counted() -> None:
    probabilities, labels = rows(*[0.9] * 400), (np.arange(400) % 4 == 0).astype(int)
    assert not choose(probabilities, labels, 0.05)["a"].answered
    found = choose(probabilities, labels, 0.05, ood=labels != 0)["a"]
    assert (found.slices, found.answered) == (300, True)


def test_equal_confidences_are_answered_together() -> None:
    probabilities = rows(*[0.99] * 150, *[0.8] * 100)
    labels = np.array([0] * 150 + [1] * 50 + [0] * 50)
    assert choose(probabilities, labels, 0.03)["a"].threshold == pytest.approx(0.895)


def test_the_lowest_error_that_is_supported() -> None:
    probabilities, labels = rows(*np.linspace(0.99, 0.8, 100)), np.zeros(100, int)
    found = choose(probabilities, labels, None)["a"]
    assert found.target == 0.03  # 100 slices without an error bound it by 2.3 %
    assert found.answered
    nothing = choose(rows(0.9), np.array([1]), None)["a"]
    assert not nothing.answered


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 300), st.floats(0.01, 0.5))
def test_what_is_answered_keeps_the_bound(seed: int, classes: int, n: int, target: float) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes) / 5, n).round(2)  # ties are common
    best = probabilities.argmax(axis=1)
    labels = np.where(rng.random(n) < 0.8, best, rng.integers(classes, size=n))
    found = choose(probabilities, labels, target, groups=[str(i // 3) for i in range(n)])
    thresholds = {name: each.threshold for name, each in found.items()}
    names = tuple(found)
    answered = is_answered(probabilities, names, thresholds)
    predicted = probabilities.argmax(axis=1)
    for c, name in enumerate(names):
        here = answered & (predicted == c)
        assert here.any() == (found[name].answered and (predicted == c).any())
        if here.any():
            assert (labels[here] != c).mean() <= found[name].bound <= target


def true_risk(threshold: float, most: float, level: bool) -> float:
    """Of answers with `draw_predictions`: the mean of most (1-u)^1.5 over u above that of the
    threshold."""
    u = max(0.0, 2 * threshold - 1)
    return most / 2.5 * (1 if level else (1 - u) ** 1.5)


def draw_predictions(
    rng: np.random.Generator, slices: int, size: int, alike: float, most: float, level: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities of four classes, labels and groups. Confidences, and whether a call is wrong,
    hang together within a group by Gaussian copulas; surer calls are less often wrong, or
    (`level`) all alike."""
    from scipy.special import ndtr

    member = np.repeat(np.arange(slices // size), size)
    predicted = rng.integers(4, size=slices // size)[member]

    def uniform() -> np.ndarray:
        shared = rng.normal(size=slices // size)[member]
        return ndtr(np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=len(member)))

    u = uniform()
    rate = np.full(len(member), most / 2.5) if level else most * (1 - u) ** 1.5
    labels = np.where(uniform() < rate, (predicted + 1) % 4, predicted)
    probabilities = np.repeat((0.5 - 0.5 * u)[:, None] / 3, 4, axis=1)
    probabilities[np.arange(len(member)), predicted] = 0.5 + 0.5 * u
    return probabilities, labels, member.astype(str).tolist()


@pytest.mark.parametrize("size", [1, 5, 20])
@pytest.mark.parametrize("alike", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("level", [False, True])
def test_the_target_is_kept(size: int, alike: float, level: bool) -> None:
    """800 slices of four classes. With the observed rate in the bound's place, a target of 5 % is
    exceeded in up to 50 % of such trials; the confidence allows 10 %."""
    rng, target, trials = np.random.default_rng(7), 0.05, 60
    for most in (0.15, 0.3) if not level else (0.135,):  # 0.135: a true rate of 5.4 % throughout
        beyond = 0
        for _ in range(trials):
            probabilities, labels, groups = draw_predictions(rng, 800, size, alike, most, level)
            for each in choose(probabilities, labels, target, groups=groups).values():
                beyond += each.answered and true_risk(each.threshold, most, level) > target
        assert beyond / (4 * trials) <= 0.1


def draw_unlike(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Four classes, each predicted in groups of its own: of 35 groups of six slices predicted
    `a` about one is wrong as a whole; single slices of the others are, in 15 of 100."""
    from scipy.special import ndtr

    predicted = np.repeat([0, 1, 2, 3], [35 * 6, 300, 300, 300])
    member = np.concatenate([np.repeat(np.arange(35), 6), 35 + np.repeat(np.arange(180), 5)])
    shared = 0.995 * rng.normal(size=215)[member] + 0.1 * rng.normal(size=len(member))
    alone = rng.normal(size=len(member))
    wrong = np.where(predicted == 0, ndtr(shared) < 0.03, ndtr(alone) < 0.15)
    u = rng.random(len(member))
    probabilities = np.repeat((0.5 - 0.5 * u)[:, None] / 3, 4, axis=1)
    probabilities[np.arange(len(member)), predicted] = 0.5 + 0.5 * u
    labels = np.where(wrong, (predicted + 1) % 4, predicted)
    return probabilities, labels, member.astype(str).tolist()


def test_a_tumour_free_class_is_not_judged_by_how_others_err() -> None:
    """Errors of the others that come one by one do not make its own groups worth more."""
    rng, strict, plain = np.random.default_rng(3), 0, 0
    for _ in range(60):
        probabilities, labels, groups = draw_unlike(rng)
        for known in ("a", ""):
            found = choose(probabilities, labels, None, groups=groups, strict=known)["a"]
            beyond = found.answered and found.target < 0.03
            strict, plain = strict + (beyond and known == "a"), plain + (beyond and known == "")
    assert strict / 60 <= 0.1 < plain / 60


@pytest.mark.parametrize(("size", "alike", "least"), [(1, 0.0, 0.8), (5, 0.3, 0.55), (5, 0.9, 0.2)])
def test_coverage_stays_useful(size: int, alike: float, least: float) -> None:
    """Of a model that errs on 1.2 % of its calls, target 5 %."""
    rng, answered = np.random.default_rng(8), []
    for _ in range(20):
        probabilities, labels, groups = draw_predictions(rng, 800, size, alike, 0.03, False)
        found = choose(probabilities, labels, 0.05, groups=groups)
        thresholds = {name: each.threshold for name, each in found.items()}
        answered.append(is_answered(probabilities, tuple(found), thresholds).mean())
    assert np.mean(answered) > least


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_the_lowest_error_keeps_its_confidence(size: int, alike: float) -> None:
    """Although the slices that support it choose it."""
    rng, beyond = np.random.default_rng(9), 0
    for _ in range(40):
        probabilities, labels, groups = draw_predictions(rng, 800, size, alike, 0.2, False)
        for each in choose(probabilities, labels, None, groups=groups).values():
            beyond += each.answered and true_risk(each.threshold, 0.2, False) > each.target
    assert beyond / 160 <= 0.1


def test_targets_of_classes() -> None:
    names = ("glioma", "notumor", "b")
    free = LADDER_TUMOUR_FREE
    assert Targets().resolve(names, ["b"]) == {"glioma": LADDER, "notumor": free, "b": free}
    assert free == LADDER[: len(free)], "stricter where the answer is no tumour"
    assert max(free) < max(LADDER)
    fixed = {"glioma": (0.1,), "notumor": (0.025,), "b": (0.025,)}
    assert Targets(0.1).resolve(names, ["b"]) == fixed
    asked = parse_targets(["0.05", "notumor=0.01", "glioma=lowest"], 0.8, Targets())
    assert asked.resolve(names) == {"glioma": LADDER, "notumor": (0.01,), "b": (0.05,)}
    assert parse_targets(["no_tumor=0.01"], 0.8, Targets()).classes == {"notumor": 0.01}
    assert Targets.from_settings({"targets": asked.to_json()}) == asked
    # A run of an older version: what was asked for counts, what nobody asked for does not.
    assert Targets.from_settings({"max_error": 0.04}) == Targets(0.04)
    assert Targets.from_settings({"max_error": 0.02}) == Targets.from_settings({}) == Targets()
    assert Targets.from_settings({"max_error": 0.0}) == Targets(min(LADDER)), "the strictest wish"
    # A run's targets hold where nothing else is asked.
    kept = parse_targets(["b=0.3"], 0.8, asked)
    assert kept.resolve(names) == {"glioma": LADDER, "notumor": (0.01,), "b": (0.3,)}
    with pytest.raises(UsageError, match="no class of that name"):
        asked.resolve(("a", "b"))


@pytest.mark.parametrize(
    "texts", [["0"], ["1"], ["nan"], ["=0.1"], ["a="], ["half"], ["0.1", "0.2"], ["a=1", "a=1"]]
)
def test_a_target_that_is_none_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--target-error"):
        parse_targets(texts, 0.9, Targets())


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = risk_coverage(rows(0.9, 0.6, 0.8), np.array([0, 0, 1]))
    np.testing.assert_allclose(coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3])


def test_figures_by_hand() -> None:
    answered, correct = np.array([1, 1, 0, 1], bool), np.array([1, 0, 0, 1], bool)
    found = selective_metrics(answered, correct, list("uvwx"), list("abab"))
    assert (found["coverage"]["n"], found["coverage"]["share"]) == (4, 0.75)
    assert (found["error"]["n"], found["error"]["share"]) == (3, pytest.approx(1 / 3))
    assert found["per_class"]["a"]["coverage"]["share"] == 0.5
    assert found["per_class"]["b"]["error"]["share"] == pytest.approx(1 / 2)
    nothing = selective_metrics(np.zeros(4, bool), correct, list("uvwx"), list("abab"))
    assert nothing["error"] == {"n": 0, "share": None, "interval95": None}


def test_a_command_says_what_is_not_answered(phantom_zip: Path, tmp_path: Path) -> None:
    """From the options to run.json, metrics.json, the report and the lines that are printed."""
    out = tmp_path / "run"
    words = [phantom_zip, "--out", out, "--model", "logistic", "--features", "histogram",
             "--no-cache", "--max-error", "0.3", "--target-error", "notumor=0.6",
             "--confidence", "0.6", "--name", "mine", "--model-version", "3"]  # fmt: skip
    done = CliRunner().invoke(train_command, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    settings = json.loads((out / "run.json").read_text("utf-8"))
    asked = {"glioma": 0.3, "meningioma": 0.3, "notumor": 0.6, "pituitary": 0.3}
    assert (settings["target_error"], settings["confidence"]) == (asked, 0.6)
    assert (settings["name"], settings["version"]) == ("mine", "3")
    assert settings["thresholds"]["notumor"] < 1, "the default asks too much of ten slices"
    for line in settings["not_answered"]:
        assert line in done.output
        assert "not answered" in line
    assert len(settings["not_answered"]) == sum(t == 1 for t in settings["thresholds"].values())
    assert "CLASS=lowest for the lowest" in done.output
    reported = json.loads((out / "metrics.json").read_text("utf-8"))["selective"]
    assert (reported["target_error"], reported["confidence"]) == (asked, 0.6)
    page = (out / "report.html").read_text("utf-8")
    assert "asked for, %" in page
    assert settings["not_answered"][0] in page


def test_a_class_that_is_not_there_is_said_before_the_training(
    phantom_zip: Path, tmp_path: Path
) -> None:
    words = [phantom_zip, "--out", tmp_path / "run", "--target-error", "lung=0.1"]
    done = CliRunner().invoke(train_command, [str(word) for word in words])
    assert isinstance(done.exception, UsageError)
    assert "no class of that name" in str(done.exception)
    assert not (tmp_path / "run" / "history.csv").exists()


def test_thresholds_for_other_outputs_move_only_where_they_must() -> None:
    """What held in one runtime is kept in another where it holds there too."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 2000)
    sure = 0.5 + 0.5 * rng.random(2000)
    wrong = rng.random(2000) < (1 - sure) * 0.6
    top = np.where(wrong, 1 - labels, labels)
    rows = np.where(np.eye(2, dtype=bool)[top], sure[:, None], 1 - sure[:, None])
    groups, names = [str(i) for i in range(2000)], ("a", "b")

    def choose(targets: tuple[float, ...], former: tuple[float, float] | None) -> Chosen:
        known = None if former is None else {"a": former}
        rates = dict.fromkeys(names, targets)
        return choose_thresholds(rows, labels, names, groups, rates, former=known)["a"]

    plain = choose((0.1,), None)
    assert choose((0.1,), (plain.threshold, 0.1)) == plain
    higher = choose((0.1,), (plain.threshold + 0.1, 0.1))
    assert (higher.threshold, higher.target) == (plain.threshold + 0.1, 0.1), "it is no search"
    raised = choose((0.1,), (plain.threshold - 0.2, 0.1))
    assert raised.threshold == pytest.approx(plain.threshold, abs=0.05)
    assert (raised.bound or 1) <= 0.1
    stricter = choose((0.0001, 0.1), (plain.threshold, 0.0001))
    assert (stricter.threshold, stricter.target) == (plain.threshold, 0.1), "the next that is kept"
    assert not choose((0.0001,), (plain.threshold, 0.0001)).answered
