"""The rule that answers for a study: what it may never do, whatever a model says."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError
from edge_runtime.decision.prediction import Prediction, SliceFacts, Status, failure
from edge_runtime.decision.study import (
    FEWEST,
    SeriesAnswers,
    StudyRule,
    series_evidence,
    study_answer,
    tumour_box,
)
from edge_runtime.decision.view import Head, View
from edge_runtime.errors import ModelError, UsageError
from edge_runtime.model.file_format import ModelFile, pack_model, parse_model
from edge_runtime.model.load import read_model
from edge_runtime.studies.decide import classify_study
from edge_runtime.studies.study import PassedOver, Study, StudySeries, StudySlice
from tests.device.test_cli import TOOL

LABELS = ("glioma", "meningioma", "notumor", "pituitary")
PLANES = {"axial": -1.5, "coronal": 0.5, "sagittal": 0.5}
RULE = StudyRule(
    ("notumor",), 10.0, 6.0, 0.5, 140.0, 1.0, PLANES, 0.8, 0.2,
    {"tumor": 0.6, "no_tumor": 0.4}, 1.0,
    {"glioma": 0.6, "meningioma": 0.6, "pituitary": 0.6}, {"confidence": 0.9},
)  # fmt: skip

odds = st.floats(-9, 9)
unhurried = settings(deadline=None, max_examples=50)
series_of_odds = st.lists(odds, min_size=FEWEST, max_size=30)
planes = st.sampled_from([None, *PLANES])


def answer(
    value: float, status: Status = Status.UNCERTAIN, head: float = 0.5, kind: str = "glioma"
) -> Prediction:
    """A slice with these log-odds of a tumour, nearly all of one type."""
    some = 1 / (1 + math.exp(-value))
    shares = dict.fromkeys(LABELS, 0.05 * some) | {kind: 0.9 * some, "notumor": 1 - some}
    best = max(shares, key=shares.__getitem__)
    facts = SliceFacts(head, (0.0, 0.0, 1.0, 1.0), None)
    return Prediction(
        "x", status, None, best, shares[best], shares, None, None, "m",
        plane="axial", sequence="T1", facts=facts,
    )  # fmt: skip


def series(
    values: Sequence[float], plane: str | None = "axial", distance: float | None = 2.0, **facts: Any
) -> SeriesAnswers:
    answers = tuple(answer(value, **facts) for value in values)
    return SeriesAnswers("s", None, plane, None, distance, answers)


def decided(*of: SeriesAnswers, view: View | None = None) -> Prediction:
    return study_answer("study", "1.2", of, RULE, "m", view)


def evidence(*of: SeriesAnswers) -> float:
    tumor = (decided(*of).study or {})["tumor"]
    assert tumor is not None
    return float(tumor)


@unhurried
@given(series_of_odds, st.data(), planes)
def test_an_odd_slice_alone_never_makes_a_tumour(
    values: list[float], data: st.DataObject, plane: str | None
) -> None:
    """Whatever one slice says, the evidence is none that the others do not bear."""
    place = data.draw(st.integers(0, len(values) - 1))
    others = values[:place] + values[place + 1 :]
    odd = [*values[:place], 9.0, *values[place + 1 :]]
    highest = series([max(others)] * len(values), plane)
    assert evidence(series(odd, plane)) <= evidence(highest) + 1e-12
    healthy = decided(series([-4.0] * place + [9.0] + [-4.0] * (len(others) - place)))
    assert (healthy.status, healthy.label) == (Status.OK, "notumor")


@unhurried
@given(series_of_odds, st.data(), planes)
def test_more_evidence_never_lowers_the_tumour_score(
    values: list[float], data: st.DataObject, plane: str | None
) -> None:
    more = [value + data.draw(st.floats(0, 5)) for value in values]
    assert evidence(series(more, plane)) >= evidence(series(values, plane)) - 1e-12


@unhurried
@given(st.lists(series_of_odds, min_size=1, max_size=4), st.randoms())
def test_the_order_of_series_does_not_matter(values: list[list[float]], random: Any) -> None:
    of = [series(each, plane) for each, plane in zip(values, [*PLANES, None], strict=False)]
    shuffled = list(of)
    random.shuffle(shuffled)
    first, other = decided(*of), decided(*shuffled)
    assert (first.status, first.label) == (other.status, other.label)
    assert evidence(*of) == evidence(*shuffled) == max(evidence(each) for each in of)


@unhurried
@given(series_of_odds, st.data())
def test_out_of_distribution_slices_count_for_nothing(
    values: list[float], data: st.DataObject
) -> None:
    """Fewer than the others, and wherever they stand."""
    answers = [answer(value) for value in values]
    for _ in range(data.draw(st.integers(0, len(values)))):
        place = data.draw(st.integers(0, len(answers)))
        answers.insert(place, answer(data.draw(odds), Status.UNFAMILIAR))
    mixed = replace(series(values), answers=tuple(answers))
    assert evidence(mixed) == evidence(series(values))


@unhurried
@given(series_of_odds)
def test_the_ends_of_a_head_count_for_nothing(values: list[float]) -> None:
    ends = tuple(answer(9.0, head=0.2) for _ in range(5))
    air = tuple(answer(9.0, head=0.0) for _ in range(5))
    whole = replace(series(values), answers=air + ends + series(values).answers + ends + air)
    assert evidence(whole) == evidence(series(values))


def test_the_neck_counts_for_nothing() -> None:
    brain = [-4.0] * 70  # of 2 mm, the last of which is the topmost
    neck = series([5.0] * 30 + brain)
    assert decided(neck).label == "notumor"
    assert decided(series([5.0] * 30 + brain, "coronal")).label == "glioma"
    assert decided(replace(neck, distance=None)).label == "glioma", "nobody knows how far down"
    assert decided(series([-4.0] * 40 + [5.0] * 30 + [-4.0] * 30)).label == "glioma"


@unhurried
@given(st.lists(series_of_odds, min_size=1, max_size=3))
def test_a_tumour_that_persists_is_never_called_tumour_free(values: list[list[float]]) -> None:
    """Not even where other series see none."""
    seen = series([-4.0] * 10 + [5.0] * 6 + [-4.0] * 10)
    whole = decided(*map(series, values), seen)
    assert (whole.status, whole.label) == (Status.OK, "glioma")


volumes = st.lists(st.floats(-6, 6), min_size=3, max_size=3)


def volume(peaks: Sequence[float], name: str = "v") -> list[SeriesAnswers]:
    """A volume in three planes, of which each has six slices of these log-odds."""
    return [
        replace(series([-6.0] * 10 + [peak] * 6 + [-6.0] * 10, plane), volume=name)
        for peak, plane in zip(peaks, PLANES, strict=True)
    ]


@unhurried
@given(volumes, st.randoms())
def test_the_planes_of_a_volume_are_judged_at_once(peaks: list[float], random: Any) -> None:
    of = volume(peaks)
    odds_of = [math.exp(p + c) for p, c in zip(peaks, PLANES.values(), strict=True)]
    mean = sum(odds_of) / 3
    whole = decided(*of)
    study = whole.study or {}
    assert study["tumor"] == pytest.approx(mean / (1 + mean), abs=1e-6)
    assert (whole.label == "notumor") == (study["tumor"] < 0.4)
    assert (whole.label == "glioma") == (study["tumor"] >= 0.6)
    assert bool(study["findings"]) == (study["tumor"] >= 0.4)
    random.shuffle(of)
    assert decided(*of).label == whole.label
    assert evidence(*of) == pytest.approx(study["tumor"], abs=1e-12)


def test_one_sure_plane_is_not_outvoted_by_two() -> None:
    assert decided(*volume([6.0, -6.0, -6.0])).label == "glioma"
    # A doubt of one plane that the others do not share is none: by itself it is uncertain.
    doubt = volume([1.0, -5.0, -5.0])
    assert decided(*doubt).label == "notumor"
    assert decided(replace(doubt[0], volume=None), *doubt[1:]).label is None


def test_a_volume_without_all_its_planes_is_judged_plane_by_plane() -> None:
    doubt = volume([1.0, -5.0, -5.0])
    assert decided(*doubt[:2]).label is None
    few = replace(doubt[2], answers=doubt[2].answers[:2])
    assert decided(*doubt[:2], few).label is None
    rule = replace(RULE, whole=None)
    assert study_answer("study", None, doubt, rule, "m").label is None
    other = replace(doubt[2], volume="another")
    assert decided(*doubt[:2], other).label is None, "planes of two volumes are not one head"
    assert decided(*doubt, *volume([6.0, 6.0, 6.0], "w")).label == "glioma"


def test_a_tumour_may_not_hide_in_all_planes_of_a_volume() -> None:
    hidden = (*[answer(-6.0)] * 20, *[answer(0.0, Status.UNFAMILIAR)] * 15, *[answer(-6.0)] * 20)
    of = volume([-5.0, -5.0, -5.0])
    blind = [replace(each, answers=hidden) for each in of]
    assert decided(*of[:1], *blind[1:]).label == "notumor", "the axial plane shows it all"
    assert decided(*blind).label is None


def test_golden_values() -> None:
    values = [-3.0] * 20 + [1.0, 2.0, 4.0, -1.0, 5.0, 4.0, 3.0, 1.0] + [-3.0] * 20
    whole = decided(series([-4.0] * 10), series(values, "coronal"))
    study = whole.study or {}
    # The median takes -1 for 4, and 4 beside it for 2; five slices of 2 mm are 10 mm.
    assert study["tumor"] == pytest.approx(1 / (1 + math.exp(-(17 / 5 + 0.5))), abs=1e-9)
    assert (whole.status, whole.label, whole.raw_label) == (Status.OK, "glioma", "glioma")
    assert study["type"]["label"] == "glioma"
    assert study["type"]["confidence"] == pytest.approx(0.9, abs=1e-9)
    assert whole.confidence == pytest.approx(0.9 * study["tumor"], abs=1e-9)
    assert sum((whole.probabilities or {}).values()) == pytest.approx(1)
    (finding,) = study["findings"]
    assert finding == {"series": 1, "first": 30, "last": 37, "slice": 34, "box": None}
    assert [(s["first"], s["slices"], s["used"]) for s in study["series"]] == [
        (0, 10, True), (10, 48, True),
    ]  # fmt: skip
    assert study["uid"] == "1.2"


def test_between_the_thresholds_nothing_is_answered() -> None:
    whole = decided(series([-3.0] * 20 + [1.5] * 5 + [-3.0] * 20))
    assert (whole.status, whole.label) == (Status.UNCERTAIN, None)
    assert "neither below 0.200 nor from 0.800 on" in (whole.reason or "")
    assert len((whole.study or {})["findings"]) == 1


def test_a_tumour_of_no_sure_type_is_uncertain() -> None:
    mixed = tuple(answer(5.0, kind=("glioma", "meningioma", "pituitary")[i % 3]) for i in range(9))
    whole = decided(replace(series([0.0] * 3), answers=mixed))
    assert (whole.status, whole.label) == (Status.UNCERTAIN, None)
    assert whole.reason == "a tumour is seen, but not surely of which type"
    assert (whole.study or {})["tumor"] > RULE.tumor


def test_where_a_tumour_may_hide_no_study_is_tumour_free() -> None:
    hidden = [answer(-4.0)] * 20 + [answer(0.0, Status.UNFAMILIAR)] * 10 + [answer(-4.0)] * 20
    whole = decided(replace(series([0.0] * 3), answers=tuple(hidden)))
    assert (whole.status, whole.label) == (Status.UNCERTAIN, None)
    assert "cannot be judged" in (whole.reason or "")
    few = hidden[:24] + hidden[30:]
    assert decided(replace(series([0.0] * 3), answers=tuple(few))).label == "notumor"
    lost = [*[answer(-4.0)] * 20, *[failure("x", "m", "truncated")] * 10, *[answer(-4.0)] * 20]
    assert decided(replace(series([0.0] * 3), answers=tuple(lost))).label is None


def test_a_study_of_which_nothing_counts_is_not_answered() -> None:
    one = decided(series([5.0]), series([5.0], "coronal"))
    assert (one.status, (one.study or {})["tumor"]) == (Status.UNCERTAIN, None)
    assert "fewer than 2 slices" in (one.reason or "")
    outside = decided(series([5.0] * 9, status=Status.UNFAMILIAR))
    assert (outside.status, outside.label) == (Status.UNFAMILIAR, None)
    broken = failure("x", "m", "truncated")
    lost = decided(replace(series([0.0] * 3), answers=(broken, broken)))
    assert (lost.status, len(lost.slices or ())) == (Status.ERROR, 2)
    assert decided().status is Status.ERROR


@unhurried
@given(odds, odds, planes)
def test_two_slices_show_a_tumour_only_if_both_do_and_never_its_absence(
    first: float, second: float, plane: str | None
) -> None:
    pair = decided(series([first, second], plane))
    lower = series([min(first, second)] * FEWEST, plane)
    assert (pair.study or {})["tumor"] == pytest.approx(evidence(lower), abs=1e-12)
    label = decided(lower).label
    assert pair.label == (None if label == "notumor" else label)
    if label == "notumor":
        assert pair.reason == "no tumour is seen, but 2 slices cannot rule one out"
    (entry,) = (pair.study or {})["series"]
    assert entry["used"]


@pytest.mark.parametrize(
    ("files", "label"), [("aaaa", None), ("aabb", "glioma"), ("abcd", "glioma")]
)
def test_copies_of_one_picture_show_a_tumour_once(files: str, label: str | None) -> None:
    """Slices of one file are no copies of each other, nor are those of no file."""
    of = series([5.0] * 4)
    copies = tuple(replace(a, sha256=name) for a, name in zip(of.answers, files, strict=True))
    assert decided(replace(of, answers=copies)).label == label
    cuts = tuple(replace(a, sha256="a", slice=i) for i, a in enumerate(of.answers))
    assert decided(replace(of, answers=cuts)).label == decided(of).label == "glioma"


@unhurried
@given(series_of_odds, st.lists(odds, min_size=1, max_size=2))
def test_beside_a_series_of_three_slices_one_of_two_counts_for_nothing(
    values: list[float], few: list[float]
) -> None:
    whole = decided(series(values), series(few, "coronal"))
    alone = decided(series(values))
    assert (whole.label, whole.status, whole.reason) == (alone.label, alone.status, alone.reason)
    assert (whole.study or {})["tumor"] == (alone.study or {})["tumor"]
    assert (whole.study or {})["series"][1]["reason"] == "fewer than 3 slices that count"


def test_what_the_tags_say_wins() -> None:
    """A series counts if its sequence was validated: that of its tags, or as it looks."""
    head = Head(("FLAIR", "T1"), np.zeros((1, 2)), np.zeros(2), ("T1",))
    view = View(None, head)
    tumour = series([5.0] * 9)
    assert decided(tumour, view=view).label == "glioma"
    tagged = decided(replace(tumour, sequence="FLAIR"), view=view)
    assert (tagged.status, tagged.label) == (Status.UNCERTAIN, None)
    assert "is FLAIR, which the model was not validated for" in (tagged.reason or "")
    flair = tuple(replace(a, sequence="FLAIR") for a in tumour.answers)
    assert decided(replace(tumour, answers=flair), view=view).label is None
    assert decided(replace(tumour, answers=flair, sequence="T1"), view=view).label == "glioma"
    (entry,) = (tagged.study or {})["series"]
    assert (entry["used"], entry["sequence"]) == (False, "FLAIR")


def test_a_box_lies_where_the_maps_speak_for_a_tumour() -> None:
    maps = np.zeros((6, 6, 4), np.float32)
    maps[1, 3, 0] = maps[1, 4, 0] = 6
    maps[5, 0, 1] = 5  # does not hang together with the highest
    maps[3, 3, 2] = 9  # speaks for none
    facts = SliceFacts(0.5, (0.2, -0.1, 0.8, 1.1), maps)
    box = tumour_box(facts, LABELS, ["notumor"])
    np.testing.assert_allclose(box or [], [0.5, 0.1, 0.2, 0.2], atol=1e-9)
    assert tumour_box(facts._replace(class_maps=None), LABELS, ["notumor"]) is None


@unhurried
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16),
    st.tuples(*[st.floats(-2, 0.4)] * 2),
    st.tuples(*[st.floats(0.6, 2)] * 2),
)
def test_every_box_lies_in_the_slice(
    values: list[float], low: tuple[float, float], high: tuple[float, float]
) -> None:
    maps = np.array(values, np.float32).reshape(2, 2, 4)
    left, top, width, height = (
        tumour_box(SliceFacts(0.5, (*low, *high), maps), LABELS, ["notumor"]) or []
    )
    assert 0 <= left <= left + width <= 1 + 1e-12
    assert 0 <= top <= top + height <= 1 + 1e-12


@unhurried
@given(st.floats(0.01, 500) | st.none())
def test_the_window_is_some_millimetres_and_never_one_slice(distance: float | None) -> None:
    width = RULE.width(distance)
    assert width >= FEWEST
    if distance is not None and width > FEWEST:
        assert abs(width * distance - RULE.window) <= distance


def test_the_rule_is_read_as_it_was_written() -> None:
    text = json.dumps(RULE.to_json())
    assert StudyRule.from_json(json.loads(text), LABELS) == RULE


DAMAGE: dict[str, Any] = {
    "method": "another", "tumour_free": ["none"], "window": 0, "clip": float("nan"), "head": "0.5",
    "brain": 0,    "slope": -1.0, "intercepts": {"oblique": 0.0}, "tumor": 1.5, "no_tumor": 0.9,
    "whole": {"tumor": 0.1, "no_tumor": 0.2},
    "temperature": 0.0, "types": {"glioma": 0.5}, "fitted": None,
}  # fmt: skip


@pytest.mark.parametrize("field", DAMAGE)
@pytest.mark.parametrize("how", ["wrong", "missing", "list", "bool"])
def test_damage_is_refused(field: str, how: str) -> None:
    shape = RULE.to_json()
    if how == "missing":
        del shape[field]
    else:
        shape[field] = {"wrong": DAMAGE[field], "list": [1, [2]], "bool": True}[how]
    with pytest.raises(ModelError, match="rule for studies") as problem:
        StudyRule.from_json(shape, LABELS)
    assert "\n" not in str(problem.value)
    if field != "method":
        with pytest.raises(ModelError, match="rule for studies"):
            Classifier(with_rule(shape))


def with_rule(shape: Any, **changes: Any) -> ModelFile:
    """The bundled model with another rule, which takes every slice for one that it knows."""
    file = read_model()
    return replace(file, info=replace(file.info, study=shape, ood=None, view=None, **changes))


def test_a_file_keeps_its_rule() -> None:
    file = with_rule(RULE.to_json())
    again = parse_model(pack_model(file.graph, file.info, file.format))
    assert StudyRule.from_json(again.info.study or {}, LABELS) == RULE
    assert again.info.schema == file.info.schema, "an older device may pass over it"
    assert "study" not in json.loads(with_rule(None).info.to_json())
    with pytest.raises(ModelError, match="study"):
        type(file.info).from_json(json.dumps(json.loads(file.info.to_json()) | {"study": []}))


def test_info_tells_of_the_rule(tmp_path: Path) -> None:
    said = {}
    for name, shape in (("fine", RULE.to_json()), ("damaged", RULE.to_json() | {"slope": 0})):
        file = with_rule(shape)
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(pack_model(file.graph, file.info, file.format))
        words = [TOOL, "info", "--model", str(path)]
        said[name] = subprocess.run(words, capture_output=True, text=True)
    assert "studies        a tumour from evidence 0.800 on, none below 0.200" in said["fine"].stdout
    assert said["damaged"].returncode == 3
    (line,) = [x for x in said["damaged"].stderr.splitlines() if "Research" not in x]
    assert "the rule for studies is damaged: slope" in line


def slices(count: int, first: int = 0) -> list[StudySlice]:
    return [
        StudySlice(f"{i}.dcm", None, f"{first + i}", draw_slice(first + i)) for i in range(count)
    ]


def as_series(name: str, parts: Sequence[StudySlice], **facts: Any) -> StudySeries:
    known = {"uid": name, "plane": "axial", "sequence": "T1", "distance": 5.0} | facts
    return StudySeries(name, count=len(parts), slices=lambda: iter(parts), **known)


def test_a_study_is_classified_series_by_series() -> None:
    classifier = Classifier(with_rule(RULE.to_json()))
    parts = slices(6)
    damaged = StudySlice("damaged.dcm", None, None, InputError("truncated"))
    study = Study(
        "1.2.3", "1.2.3",
        (
            as_series("a", [*parts[:3], damaged, *parts[3:]]),
            as_series("b", slices(2), reason="a localiser"),
            as_series("c", slices(4, 6), plane="coronal"),
        ),
        (PassedOver("report.pdf", "not supported"),),
    )  # fmt: skip
    whole = classify_study(classifier, study)
    assert [a.input for a in whole.slices or ()][:4] == ["0.dcm", "1.dcm", "2.dcm", "damaged.dcm"]
    shape = whole.to_json()
    json.dumps(shape, allow_nan=False)
    assert [(s["first"], s["slices"], s["reason"]) for s in shape["study"]["series"]] == [
        (0, 7, None), (7, 0, "a localiser"), (7, 4, None),
    ]  # fmt: skip
    assert shape["study"]["passed_over"] == [{"input": "report.pdf", "reason": "not supported"}]
    alone = classifier.classify(draw_slice(0)).to_json()
    for key in ("probabilities", "label", "status"):
        assert shape["slices"][0][key] == alone[key]
    for finding in shape["study"]["findings"]:
        assert all(0 <= side <= 1 for side in finding["box"])
    assert classify_study(classifier, study, workers=3) == whole
    assert all(a.facts is None for a in whole.slices or ())
    with pytest.raises(UsageError):
        classify_study(classifier, study, workers=0)


def test_a_list_of_sources_is_one_series() -> None:
    classifier = Classifier(with_rule(RULE.to_json()))
    sources = [encode(draw_slice(i), ".png") for i in range(6)]
    whole = classifier.classify_study("patient", [*sources, b"no picture"])
    known = [StudySlice("bytes", None, f"{i}", draw_slice(i)) for i in range(6)]
    other = classify_study(
        classifier,
        Study("patient", None, (as_series("s", known, plane=None, sequence=None, distance=None),)),
    )
    assert (whole.study or {})["tumor"] == (other.study or {})["tumor"]
    assert whole.label == other.label
    assert [a.status for a in whole.slices or ()][-1] is Status.ERROR


def test_a_file_without_a_rule_pools_as_before() -> None:
    classifier = Classifier(with_rule(None))
    sources = [encode(draw_slice(i), ".png") for i in range(4)]
    whole = classifier.classify_study("patient", sources)
    rows = np.array([list((a.probabilities or {}).values()) for a in whole.slices or ()])
    mean = np.exp(np.log(np.maximum(rows, 1e-7)).mean(axis=0))
    np.testing.assert_allclose(list((whole.probabilities or {}).values()), mean / mean.sum())
    assert whole.study is None
    known = [StudySlice(f"{i}", None, f"{i}", draw_slice(i)) for i in range(4)]
    told = classify_study(classifier, Study("p", "1.2", (as_series("s", known),)))
    assert told.probabilities == whole.probabilities
    assert (told.study or {})["tumor"] is None
    assert (told.study or {})["uid"] == "1.2"


def test_confidence_of_ones_own_holds_for_studies() -> None:
    loose = study_answer("s", None, [series([5.0] * 9)], RULE, "m")
    assert loose.status is Status.OK
    strict = study_answer("s", None, [series([5.0] * 9)], RULE, "m", min_confidence=0.99)
    assert (strict.status, strict.raw_label) == (Status.UNCERTAIN, "glioma")


def test_a_series_says_why_it_does_not_count() -> None:
    of = series_evidence(series([1.0, 2.0]), RULE, None)
    assert (of.score, of.reason) == (None, "fewer than 3 slices that count")
    known = replace(series([1.0] * 9), reason="a localiser")
    assert series_evidence(known, RULE, None).reason == "a localiser"


def test_a_series_that_breaks_off_is_an_error_in_its_place() -> None:
    def slices_then_none() -> Any:
        yield from slices(2)
        raise InputError("the disk is gone")

    broken = StudySeries("a", "a", "axial", "T1", 5.0, 5, slices_then_none)
    whole = as_series("b", slices(2))
    answer = classify_study(Classifier(), Study("s", None, (broken, whole)))
    status = [part.status is Status.ERROR for part in answer.slices or ()]
    assert status == [False, False, True, False, False]
    assert (answer.slices or ())[2].error == "the disk is gone"
