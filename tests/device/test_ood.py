"""The check for out-of-distribution inputs: its arithmetic, its storage, its answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice
from edge_runtime import Classifier, InputError, ModelError
from edge_runtime.decision.ood import OodDetector
from edge_runtime.decision.prediction import (
    Status,
    below_threshold,
    probabilities,
    softmax,
    status_of,
)
from edge_runtime.errors import UsageError
from edge_runtime.model.load import read_model
from edge_runtime.model.metadata import ModelInfo


def detector(features: int = 5, classes: int = 3, seed: int = 0, **changes) -> OodDetector:
    rng = np.random.default_rng(seed)
    return replace(
        OodDetector(
            mean=rng.normal(size=features),
            scale=rng.uniform(0.5, 2, features),
            whiten=rng.normal(size=(features, features)),
            centers=rng.normal(size=(classes, features)),
            turn=rng.normal(size=features + 1),
            levels=np.array([0.5, 1.5, -0.2, 0.8]),
            threshold=1.0,
        ),
        **changes,
    )


def test_score_by_hand() -> None:
    f = detector()
    x = np.random.default_rng(1).normal(size=5)
    z = (x - f.mean) / f.scale
    distance = np.log(min(((z @ f.whiten - c) ** 2).sum() for c in f.centers))
    turned = (z * f.turn[:5]).sum() + f.turn[5]
    by_hand = max((distance - 0.5) / 1.5, (turned + 0.2) / 0.8)
    assert f.score(x) == pytest.approx(by_hand)
    np.testing.assert_allclose(f.score(np.stack([x, x])), [by_hand] * 2)
    assert bool(f.is_ood(x)) == (by_hand > 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_stored_parameters_score_alike(features: int, classes: int, seed: int) -> None:
    f = detector(features, classes, seed)
    text = json.dumps(f.to_json(), allow_nan=False)
    back = OodDetector.from_json(json.loads(text))
    assert back.to_json() == json.loads(text), "storing twice changes nothing"
    x = np.random.default_rng(seed).normal(size=(7, features))
    np.testing.assert_allclose(back.score(x), f.score(x), rtol=0.05, atol=0.05)


def damaged() -> list[dict]:
    good = detector().to_json()
    nan = detector(mean=np.array([np.nan] * 5)).to_json()
    return [
        {**good, "method": "tea leaves"},
        {**good, "method": ["maximum"] * 10**5},
        {**good, "features": 4},
        {**good, "features": 10**9},
        {**good, "features": "5"},
        {**good, "whiten": "not base64!"},
        {**good, "whiten": good["mean"]},
        {**good, "centers": ""},
        {**good, "threshold": None},
        {**good, "threshold": float("nan")},
        {**good, "scale": good["mean"][:4]},
        {**good, "levels": None},
        {k: v for k, v in good.items() if k != "turn"},
        detector(scale=np.zeros(5)).to_json(),
        detector(levels=np.array([0.0, 0.0, 0.0, 1.0])).to_json(),
        nan,
    ]


@pytest.mark.parametrize("shape", damaged(), ids=range(len(damaged())))
def test_damaged_parameters_are_refused(shape: dict) -> None:
    with pytest.raises(ModelError) as caught:
        OodDetector.from_json(shape)
    assert len(str(caught.value)) < 200


def test_metadata_without_the_output_is_refused() -> None:
    info = read_model().info
    shape = json.loads(info.to_json()) | {"outputs": {"logits": 0},
                                          "ood": detector().to_json()}  # fmt: skip
    with pytest.raises(ModelError, match="impossible"):
        ModelInfo.from_json(json.dumps(shape))


def test_parameters_of_another_network_are_refused() -> None:
    file = read_model()
    other = replace(file, info=replace(file.info, ood=detector().to_json()))
    with pytest.raises(ModelError, match="features"):
        Classifier(other)


@pytest.mark.parametrize(
    ("confidence", "threshold", "is_ood", "status"),
    [(0.9, None, False, "ok"), (0.9, 0.9, False, "ok"), (0.89, 0.9, False, "uncertain"),
     (1.0, 1.0, False, "uncertain"),
     (0.99, 0.5, True, "unfamiliar"), (0.1, 0.5, True, "unfamiliar")],
)  # fmt: skip
def test_rule(confidence: float, threshold: float | None, is_ood: bool, status: str) -> None:
    assert status_of(confidence, threshold, is_ood).value == status


def test_a_refused_slice_keeps_its_best_guess() -> None:
    file = read_model()
    parameters = dict(file.info.ood or {}) | {"threshold": -1e9}
    strict = replace(file, info=replace(file.info, ood=parameters))
    answer = Classifier(strict).classify(draw_slice(3))
    assert answer.status is Status.UNFAMILIAR
    assert answer.label is None
    assert answer.raw_label in file.info.labels
    assert "unlike" in (answer.reason or "")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_out_of_distribution(value: float) -> None:
    f = detector(threshold=1e9)
    x = np.random.default_rng(1).normal(size=(3, 5))
    x[1, 2] = value
    with np.errstate(invalid="ignore"):
        assert f.is_ood(x).tolist() == [False, True, False]


@pytest.mark.filterwarnings("error")  # which a user would see
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_outside_without_a_warning(value: float) -> None:
    f, x = detector(threshold=1e9), np.ones(5)
    x[1:3] = value, -value
    assert f.is_outside(x)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_short_way_decides_as_the_score_does(data: st.DataObject) -> None:
    """At the threshold too, a rounding away from it, and for what is no number."""
    features, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    levels = st.floats(1e-3, 1e3) | st.floats(1e-300, 1e300)
    f = detector(features, classes, seed, levels=np.array([
        data.draw(st.floats(-1e3, 1e3)), data.draw(levels),
        data.draw(st.floats(-1e3, 1e3)), data.draw(levels),
    ]))  # fmt: skip
    if data.draw(st.booleans()):  # parameters that say nothing, as a hostile file may have them
        f = replace(f, whiten=f.whiten * 0, turn=f.turn * 0)
    size = data.draw(st.sampled_from([0, 1e-3, 1.0, 30.0, 1e30]))
    x = (rng.normal(size=features) * size).astype(np.float32)
    if data.draw(st.booleans()):
        odd = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
        x[data.draw(st.integers(0, features - 1))] = odd
    with np.errstate(all="ignore"):
        score = float(f.score(x))
        near = score if np.isfinite(score) else 0.0
        thresholds = [near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf), 0.0, 1e9,
                      -1e9, data.draw(st.floats(allow_nan=False))]  # fmt: skip
        thresholds += [near + near * step for step in (1e-15, -1e-15, 1e-12, -1e-12, 1e-8, -1e-8)]
        for threshold in thresholds:
            other = replace(f, threshold=float(threshold))
            assert other.is_outside(x) == (not score <= threshold), threshold


def test_the_score_is_asked_at_the_threshold_only(monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = detector(), np.random.default_rng(1).normal(size=5)
    score = float(f.score(x))
    asked = []
    monkeypatch.setattr(OodDetector, "is_ood", lambda self, x: asked.append(self.threshold))
    for threshold in (score - 1e-3, score + 1e-3, score):
        replace(f, threshold=threshold).is_outside(x)
    assert asked == [score]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32) | st.floats(allow_nan=False, allow_infinity=False,
             width=32), min_size=1, max_size=40),
    st.floats(1e-6, 1e6) | st.integers(1, 9),
)  # fmt: skip
def test_softmax_is_probabilities_bit_for_bit(logits: list[float], temperature: float) -> None:
    with np.errstate(over="ignore"):
        wanted = probabilities(np.array(logits, np.float32), temperature).tolist()
        assert softmax(logits, temperature) == wanted


@pytest.mark.parametrize("confidence", [np.nan, np.inf])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.5])
def test_a_confidence_that_is_no_number_is_never_enough(
    confidence: float, threshold: float | None
) -> None:
    assert status_of(confidence, threshold, False) is Status.UNCERTAIN
    assert status_of(0.9, np.nan, False) is Status.UNCERTAIN


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error_of_the_slice(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier()
    monkeypatch.setattr(
        "edge_runtime.model.sessions._Graph.run",
        lambda self, pixels: np.array([0, value, 0, 1], np.float32),
    )
    with pytest.raises(InputError, match="finite"):
        classifier.classify(draw_slice(3))
    answers = list(classifier.classify_many([draw_slice(3)]))
    assert [a.status for a in answers] == [Status.ERROR]


@pytest.mark.parametrize("least", [np.nan, -0.1, 1.5])
def test_a_least_confidence_that_is_no_probability_is_refused(least: float) -> None:
    with pytest.raises(UsageError, match="min_confidence"):
        Classifier(min_confidence=least)


def test_an_option_that_is_no_number_is_refused() -> None:
    from click.testing import CliRunner

    from edge_runtime.commands.main import command

    done = CliRunner().invoke(command, ["classify", "--min-confidence", "nan", "x.png"])
    assert done.exit_code == 2
    assert "nan" in done.output


def test_a_class_that_is_never_answered_says_so() -> None:
    file = read_model()
    never = dict.fromkeys(file.info.labels, 1.0)
    answer = Classifier(replace(file, info=replace(file.info, thresholds=never))).classify(
        draw_slice(3)
    )
    assert answer.status in (Status.UNCERTAIN, Status.UNFAMILIAR)
    assert below_threshold(1.0, "glioma") == "glioma is never answered: its threshold is 1"
