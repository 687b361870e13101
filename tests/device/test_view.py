"""What tells plane and sequence: its arithmetic, its storage, and what is not answered for it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError, ModelError
from edge_runtime.decision.prediction import Prediction, Status, status_of
from edge_runtime.decision.study import pooled_answer
from edge_runtime.decision.view import LONGEST, MOST_VALUES, SURE, Head, View
from edge_runtime.model.load import read_model
from tests.device.conftest import pack

TOOL = str(Path(sys.executable).parent / "btc-edge")
LABELS = read_model().info.labels
FEATURES = len(Classifier()._ood_detector.mean)


def head(labels: tuple[str, ...] = ("T1", "T2", "FLAIR"), features: int = 5, seed: int = 0,
         validated: tuple[str, ...] = ("T1",)) -> Head:  # fmt: skip
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(features, len(labels))), rng.normal(size=len(labels))
    return Head(labels, weights, bias, validated)


def always(plane: str | None, sequence: str | None, validated: tuple[str, ...] = ()) -> View:
    """A view that sees every slice of the bundled model's features so."""

    def one(value: str | None) -> Head | None:
        if value is None:
            return None
        bias = np.array([50.0, 0.0])
        own = tuple(each for each in validated if each == value)
        return Head((value, "another"), np.zeros((FEATURES, 2)), bias, own)

    return View(one(plane), one(sequence))


def seeing(view: View) -> Classifier:
    """The bundled model with a view; nothing else speaks against an answer."""
    file = read_model()
    info = replace(file.info, ood=None, thresholds=None, view=view.to_json())
    return Classifier(replace(file, info=info))


def test_what_a_slice_looks_like_by_hand() -> None:
    view, x = View(head(("axial", "coronal")), head(seed=1)), np.arange(5) / 3
    for name, one in (("plane", view.plane), ("sequence", view.sequence)):
        assert one is not None
        raised = np.exp(x @ one.weights + one.bias)
        shares = raised / raised.sum()
        np.testing.assert_allclose(one.probabilities(x), shares)
        told = one.labels[shares.argmax()] if shares.max() >= SURE else None
        assert getattr(view.look(x), name) == told


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 10**6), st.floats(0, 30))
def test_a_value_is_told_where_it_is_more_likely_than_all_others(
    features: int, values: int, seed: int, size: float
) -> None:
    one = head(tuple("abcdef"[:values]), features, seed)
    x = np.random.default_rng(seed).normal(size=(9, features)) * size
    for row, shares in zip(x, one.probabilities(x), strict=True):
        for view, place in ((View(one, None), 0), (View(None, one), 1), (View(one, one), 0)):
            seen = view.look(row)[place]
            if abs(shares.max() - SURE) > 1e-9:
                assert seen == (one.labels[shares.argmax()] if shares.max() > SURE else None)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 1000))
def test_the_order_of_values_says_nothing(order: list[int], seed: int) -> None:
    one = head(("a", "b", "c", "d"), seed=seed, validated=("a", "c"))
    names = tuple(one.labels[i] for i in order)
    other = Head(names, one.weights[:, order], one.bias[order], one.validated)
    for x in np.random.default_rng(seed).normal(size=(8, 5)):
        seen = View(one, None).look(x)
        assert View(other, None).look(x) == seen
        assert View(other, None).objection(seen) == View(one, None).objection(seen)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 1000), st.booleans())
def test_it_goes_round(features: int, values: int, seed: int, both: bool) -> None:
    one = head(tuple("abcdef"[:values]), features, seed, ("b",))
    view = View(one, head(features=features) if both else None)
    text = json.dumps(view.to_json(), allow_nan=False)
    back = View.from_json(json.loads(text))
    assert back.to_json() == json.loads(text), "storing twice changes nothing"
    assert back.features == features
    x = np.random.default_rng(seed).normal(size=(7, features))
    assert back.plane is not None
    np.testing.assert_allclose(back.plane.probabilities(x), one.probabilities(x), atol=1e-5)


def damaged() -> list[Any]:
    good = View(head(), head(("axial", "coronal"))).to_json()

    def of(**changes: Any) -> dict[str, Any]:
        return {**good, "plane": {**good["plane"], **changes}}

    many = tuple(f"v{i}" for i in range(MOST_VALUES + 1))
    return [
        {},
        {**good, "method": "tea leaves"},
        {**good, "method": ["linear-softmax"] * 10**5},
        *({**good, "features": n} for n in (4, 0, -5, 5.0, "5", True, None, 10**9, 10**400)),
        {**good, "plane": None, "sequence": None},
        *({**good, "plane": wrong} for wrong in ([], "", 3, True, {}, "x" * 10**5)),
        {k: v for k, v in good.items() if k != "sequence"},
        of(labels=["T1"]), of(labels=["T1", "T1", "T2"]), of(labels="T1T"), of(labels=None),
        of(labels=[1, 2, 3]), of(labels=["T1", "T2", ["T1"]]), of(labels=["T1", "T2", ""]),
        of(labels=["T1", "T2", "\x1b[31m"]), of(labels=["T1", "T2", "a\nb"]),
        of(labels=["T1", "T2", "x" * (LONGEST + 1)]), of(labels=["T1", "T2", "   "]),
        of(validated=["PD"]), of(validated=["T1", "T1"]), of(validated="T1"),
        of(validated=None), of(validated=[["T1"]]), of(validated={"T1": 1}),
        of(weights="not base64!"), of(weights=""), of(weights=None), of(weights=[1.0] * 15),
        of(weights="é"), of(weights=good["plane"]["bias"]),
        of(weights=good["plane"]["weights"][:-4]),
        of(bias=good["plane"]["weights"]), of(bias=""), of(bias=0),
        View(replace(head(), bias=np.array([0, np.nan, 0])), None).to_json(),
        View(replace(head(), weights=np.full((5, 3), np.inf)), None).to_json(),
        View(head(many), None).to_json(),
    ]  # fmt: skip


@pytest.mark.parametrize("shape", damaged(), ids=range(len(damaged())))
def test_damaged_parameters_are_refused(shape: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        View.from_json(shape)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    shape = View(head(), head(("axial", "coronal"))).to_json()
    place = data.draw(st.sampled_from([shape, shape["plane"], shape["sequence"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    told: list[str] = []
    try:
        view = View.from_json(shape)
        assert view.to_json() == shape
        view.look(np.ones(view.features))
    except ModelError as error:
        told = str(error).splitlines()
    assert len(told) < 2
    assert all(line.isprintable() and len(line) < 200 for line in told)


@pytest.mark.filterwarnings("error")  # which a user would see
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_look_like_nothing(value: float) -> None:
    x = np.ones(5)
    x[1:3] = value, -value
    with pytest.raises(InputError, match="finite"):
        View(head(), None).look(x)


def test_parameters_of_another_network_are_refused() -> None:
    file = read_model()
    for ood in (file.info.ood, None):
        info = replace(file.info, ood=ood, view=View(head(), None).to_json())
        with pytest.raises(ModelError, match="features"):
            Classifier(replace(file, info=info))


@pytest.mark.parametrize("threshold", [None, 0.5, 1.0])
def test_what_was_not_validated_is_uncertain_whatever_the_confidence(
    threshold: float | None,
) -> None:
    assert status_of(1.0, threshold, False, False) is Status.UNCERTAIN
    assert status_of(1.0, threshold, True, False) is Status.UNFAMILIAR
    assert status_of(0.9, 0.5, False, True) is Status.OK


def test_answers_say_what_was_seen_and_withhold_what_was_not_validated() -> None:
    plain = seeing(View(None, head(features=FEATURES, validated=("T1", "T2", "FLAIR"))))
    picture = draw_slice(3)
    bare = Classifier(replace(plain.model, info=replace(plain.info, view=None)))
    known = bare.classify(picture)
    assert (known.status, known.plane, known.sequence) == (Status.OK, None, None)

    validated = seeing(always("axial", "T1", ("axial", "T1"))).classify(picture)
    assert (validated.plane, validated.sequence) == ("axial", "T1")
    assert replace(validated, plane=None, sequence=None) == known

    withheld = seeing(always("axial", "FLAIR", ("axial",))).classify(picture)
    assert (withheld.status, withheld.label) == (Status.UNCERTAIN, None)
    assert (withheld.raw_label, withheld.confidence) == (known.raw_label, known.confidence)
    assert withheld.sequence == "FLAIR"
    assert withheld.reason == "looks like FLAIR, which the model was not validated for"
    both = seeing(always("coronal", "FLAIR")).classify(picture)
    assert "looks like coronal and FLAIR, which" in (both.reason or "")


def test_a_head_that_is_not_sure_changes_nothing() -> None:
    unsure = Head(("a", "b", "c"), np.zeros((FEATURES, 3)), np.zeros(3), ())
    answer = seeing(View(None, unsure)).classify(draw_slice(3))
    assert (answer.status, answer.sequence) == (Status.OK, None)


def test_an_out_of_distribution_slice_looks_like_nothing() -> None:
    file = read_model()
    ood = dict(file.info.ood or {}) | {"threshold": -1e9}
    info = replace(file.info, ood=ood, view=always("axial", "T1").to_json())
    answer = Classifier(replace(file, info=info)).classify(draw_slice(3))
    assert (answer.status, answer.plane, answer.sequence) == (Status.UNFAMILIAR, None, None)


def answer(label: str, sequence: str | None, status: Status = Status.OK) -> Prediction:
    shares = {name: 0.91 if name == label else 0.03 for name in LABELS}
    given = label if status is Status.OK else None
    return Prediction(
        "x", status, given, label, 0.91, shares, None, "0", "m", plane="axial", sequence=sequence
    )


def study(view: View | None, *answers: Prediction) -> Prediction:
    return pooled_answer("patient", answers, dict.fromkeys(LABELS, 0.5), "m", view)


def test_a_study_leaves_out_what_was_not_validated() -> None:
    view = View(None, head(validated=("T1",)))
    flair = answer("glioma", "FLAIR", Status.UNCERTAIN)
    healthy = answer("notumor", "T1")
    mixed = study(view, healthy, healthy, flair)
    assert (mixed.status, mixed.label) == (Status.OK, "notumor")
    assert mixed.confidence == study(view, healthy, healthy).confidence
    assert (mixed.plane, mixed.sequence) == ("axial", "T1")
    most = study(view, healthy, flair, flair)
    assert (most.status, most.label, most.sequence) == (Status.UNCERTAIN, None, "FLAIR")
    assert most.reason == (
        "2 of 3 slices look like what the model was not validated for, such as FLAIR"
    )
    alone = study(view, flair)
    assert (alone.status, alone.raw_label) == (Status.UNCERTAIN, "glioma")
    half = study(view, healthy, flair)
    assert (half.status, half.sequence) == (Status.OK, None)
    unseen = study(None, healthy, healthy, flair)
    assert unseen.confidence == study(view, healthy, healthy, answer("glioma", None)).confidence


@pytest.fixture(scope="module")
def withholding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that was never validated for what it sees in any slice."""
    view = always("axial", "FLAIR", ("axial",)).to_json()
    path = tmp_path_factory.mktemp("view") / "model.tflite"
    return pack(path, ood=None, thresholds=None, view=view)


def edge(*words: object) -> str:
    done = subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_device_withholds_and_says_why(withholding: Path, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encode(draw_slice(i), ".png"))
    words = ("classify", "--model", withholding, "--format")
    (line, _) = edge(*words, "jsonl", "-r", tmp_path).splitlines()
    shape = json.loads(line)
    assert (shape["status"], shape["label"]) == ("uncertain", None)
    assert (shape["plane"], shape["sequence"]) == ("axial", "FLAIR")
    assert "not validated" in shape["reason"]
    (row, _) = csv.DictReader(io.StringIO(edge(*words, "csv", "-r", tmp_path)))
    assert list(row)[-2:] == ["plane", "sequence"]
    assert (row["plane"], row["sequence"], row["label"]) == ("axial", "FLAIR", "")
    (of_study,) = csv.DictReader(io.StringIO(edge(*words, "csv", "--study", tmp_path)))
    assert list(of_study)[-3:] == ["slices", "plane", "sequence"]
    assert (of_study["status"], of_study["sequence"]) == ("uncertain", "FLAIR")


def test_info_says_what_it_was_validated_for(withholding: Path) -> None:
    lines = edge("info", "--model", withholding).splitlines()
    said = {line[:14].strip(): line[15:] for line in lines}
    assert said["planes"] == "axial; never answered: another"
    assert said["sequences"] == "none; never answered: FLAIR, another"
    assert json.loads(edge("info", "--model", withholding, "--format", "json"))["schema"] == 3
    assert "schema 3" in edge("verify", withholding)


def test_a_damaged_view_is_one_line(tmp_path: Path) -> None:
    view = always("axial", "T1").to_json() | {"features": 3}
    path = pack(tmp_path / "model.tflite", view=view)
    for command in (("info",), ("classify", "x.png")):
        done = subprocess.run(
            [TOOL, *command, "--model", str(path)], capture_output=True, text=True
        )
        assert done.returncode == 3
        (line,) = [line for line in done.stderr.splitlines() if "Research" not in line]
        assert "plane and sequence is damaged" in line
