"""The benchmark of the rule for studies, on answers that are made up."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.studies import (
    SAID,
    Fold,
    as_markdown,
    fold_of,
    judge,
    judge_all,
    level_of,
    moved,
    rule_of,
    summary,
)
from edge_runtime.decision.prediction import Status
from edge_runtime.errors import DataError, UsageError
from edge_runtime.model.load import read_model
from tests.trainer.test_study_rule_fit import LABELS, known, many
from trainer.evaluation.study import KnownSeries
from trainer.run import Run


def fold(people: range) -> Fold:
    """A fold that is tested on some people, and validated on the others."""
    each = many(-2.0, 3.0)
    names = {f"{letter}{person}" for person in people for letter in "ht"}
    tested = [k for k in each if k.facts["person"] in names]
    others = [k for k in each if k.facts["person"] not in names]
    return Fold(LABELS, ("notumor",), None, others, tested, names, -4.0)


def split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of pairs, and the others."""
    return [r for r in rows if r["kind"] == "pair"], [r for r in rows if r["kind"] != "pair"]


@pytest.fixture(scope="module")
def folds() -> list[Fold]:
    return [fold(range(20)), fold(range(20, 40))]


def test_nobody_is_judged_by_a_rule_that_knew_them(folds: list[Fold]) -> None:
    """Heads of the test side may say anything: the rule of their fold stays as it is."""
    changed = [
        KnownSeries(known(40, 5.0).answers, {**k.facts, "label": "notumor", "made": False})
        for k in folds[0].tested
    ]
    other = replace(folds[1], others=[*folds[1].others, *changed])
    assert rule_of([folds[0], other], 0) == rule_of(folds, 0)
    assert rule_of([folds[0], other], 1) != rule_of(folds, 1)
    everybody = replace(folds[0], people={f"{x}{i}" for i in range(40) for x in "ht"})
    with pytest.raises(DataError, match="too few"):
        rule_of([everybody, folds[1]], 0)


def test_what_another_fold_says_is_moved_to_the_level_of_this_one(folds: list[Fold]) -> None:
    """A fold that is surer of everything by so much leaves the rule of the other as it is."""
    surer = replace(
        folds[1],
        level=folds[1].level + 0.75,
        others=[moved(each, 0.75, ("notumor",)) for each in folds[1].others],
        tested=[moved(each, 0.75, ("notumor",)) for each in folds[1].tested],
    )
    plain, other = rule_of(folds, 0), rule_of([folds[0], surer], 0)
    assert other.slope == pytest.approx(plain.slope)
    assert other.no_tumor == pytest.approx(plain.no_tumor)
    unmoved = rule_of([folds[0], replace(surer, level=folds[1].level)], 0)
    assert unmoved.slope != pytest.approx(plain.slope, rel=1e-3)


def test_a_level_is_that_of_tumour_free_slices() -> None:
    shares = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6], [0.05, 0.05, 0.9]])
    side = SimpleNamespace(
        labels=np.array([0, 2, 2, 2]), class_names=LABELS, tumour_free=("notumor",),
        images=np.arange(4),
    )  # fmt: skip
    rule = SimpleNamespace(probabilities=lambda rows: shares[rows])
    found = level_of(lambda images: images, rule, side)
    assert found == pytest.approx(math.log(0.2 / 0.8))
    assert (
        level_of(
            lambda images: images,
            rule,
            SimpleNamespace(**vars(side) | {"labels": np.zeros(4, int)}),
        )
        == 0
    )


@settings(deadline=None, max_examples=30)
@given(by=st.floats(-5, 5), peak=st.floats(-3, 5))
def test_moving_changes_the_odds_of_a_tumour_and_nothing_else(by: float, peak: float) -> None:
    before = known(1, peak, "glioma")
    after = moved(before, by, ("notumor",))
    for old, new in zip(before.answers.answers, after.answers.answers, strict=True):
        p, q = old.probabilities, new.probabilities
        assert sum(q.values()) == pytest.approx(1)
        gained = math.log((1 - q["notumor"]) / q["notumor"] * p["notumor"] / (1 - p["notumor"]))
        assert gained == pytest.approx(by, abs=1e-6)
        assert q["glioma"] * p["meningioma"] == pytest.approx(p["glioma"] * q["meningioma"])
    assert after.facts == before.facts


def test_each_study_is_counted_once(folds: list[Fold]) -> None:
    rules, rows = judge_all(folds, 0.1)
    assert len(rules) == 2
    assert len(rows) == 80 + 3 * 40, "and three pairs of each healthy series"
    result = summary(rows)
    for kind in ("healthy", "made"):
        assert result[kind]["studies"] == result[kind]["persons"] == 40
        assert sum(result[kind][word]["share"] for word in SAID) == pytest.approx(1)
    assert result["healthy"]["tumour-free"]["share"] > 0.9
    assert result["pairs"]["studies"] == 120
    assert result["pairs"]["tumour-free"]["share"] == 0, "two slices rule out nothing"
    assert result["made"]["tumour"]["share"] > 0.8
    text = as_markdown(result | {"tried": {"0.1": result}})
    assert "| healthy heads, axial | 40 | 40 |" in text


def test_a_whole_head_is_judged_at_once_and_a_healthy_one_in_each_plane_too(
    folds: list[Fold],
) -> None:
    tested = [
        KnownSeries(
            replace(each.answers, plane=plane, volume=each.facts["label"]),
            {**each.facts, "plane": plane, "volume": each.facts["label"]},
        )
        for each in (known(1, -3.0), known(1, 5.0, "glioma"))
        for plane in ("axial", "coronal", "sagittal")
    ]
    rule = replace(rule_of(folds, 0), whole={"tumor": 0.9, "no_tumor": 0.5})
    rows = judge(replace(folds[0], tested=tested), rule)
    pairs, rows = split(rows)
    assert [(r["plane"], r["slices"], r["said"]) for r in pairs] == [("", 2, "uncertain")] * 9
    assert sorted((r["kind"], r["plane"], r["slices"]) for r in rows) == [
        ("healthy", "all", 120), ("healthy", "axial", 40), ("healthy", "coronal", 40),
        ("healthy", "sagittal", 40), ("made", "all", 120),
    ]  # fmt: skip
    result = summary([*pairs, *rows])
    assert (result["healthy"]["studies"], result["made"]["studies"]) == (3, 0)
    assert result["pairs"]["studies"] == 9
    assert [result["whole"][kind]["studies"] for kind in ("healthy", "made")] == [1, 1]
    text = as_markdown(result | {"tried": {"0.1": result}})
    assert "| healthy heads, whole | 1 | 1 | 100.0" in text


def test_series_of_a_patient_are_one_study_and_an_unknown_type_a_real_head(
    folds: list[Fold],
) -> None:
    facts = {**known(1, 5.0, "glioma").facts, "made": False, "person": "t1"}
    patient = [KnownSeries(known(1, peak, "glioma").answers, facts) for peak in (5.0, -4.0)]
    real = KnownSeries(known(2, 5.0).answers, {**known(2, 5.0).facts, "label": "tumor"})
    outside = known(3, 5.0).answers
    lost = replace(
        outside, answers=tuple(replace(a, status=Status.UNFAMILIAR) for a in outside.answers)
    )
    healthy = KnownSeries(lost, known(3, 5.0).facts)
    _, rows = split(judge(replace(folds[0], tested=[*patient, real, healthy]), rule_of(folds, 0)))
    assert [(r["kind"], r["said"]) for r in rows] == [
        ("patient", "tumour"), ("real", "tumour"), ("healthy", "uncertain"),
    ]  # fmt: skip
    assert (rows[0]["guess"], rows[0]["slices"]) == ("glioma", 80)
    result = summary(rows)
    assert [r["person"] for r in result["real"]] == ["h2"]
    assert result["patients"]["type_right"]["share"] == 1


def test_a_model_file_gets_the_rule_of_its_own_fold(tmp_path: Path) -> None:
    file = read_model()
    versions = ["2026.01.31+11111111", file.info.version]
    runs = [Run(tmp_path / str(i), {"model_version": v}) for i, v in enumerate(versions)]
    assert fold_of(file, runs) == 1
    with pytest.raises(UsageError, match="no fold's training has this version"):
        fold_of(file, runs[:1])
