"""Heads that are made, and the rule for studies that is fitted on them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.decision.prediction import Prediction, SliceFacts, Status
from edge_runtime.decision.study import SeriesAnswers, StudyRule, study_answer
from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.load import read_model
from trainer.augmentation.brain import brain_of
from trainer.augmentation.copy_paste import move
from trainer.augmentation.made_heads import INSIDE, Tumour, host_of, make_head, make_volumes
from trainer.commands.train_options import _heads
from trainer.data.archive import open_archive
from trainer.data.heads import Head, cuts_of, read_heads, series_of, volume_of
from trainer.evaluation.study import (
    HeadSlices,
    KnownSeries,
    TooFewHeads,
    collect_heads,
    fit_study_rule,
)
from trainer.run import Run
from trainer.synthetic.phantoms import draw_phantom, write_phantoms

LABELS = ("glioma", "meningioma", "notumor")
BIN = Path(sys.executable).parent
Gray = npt.NDArray[np.uint8]


def btc(*words: object) -> None:
    command = [BIN / f"btc-{words[0]}", *words[1:]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def ball(size: int = 48) -> npt.NDArray[np.float32]:
    """A head of three dimensions: a bright ball in the air."""
    z, y, x = np.mgrid[:size, :size, :size] - size / 2 + 0.5
    return (150.0 * (np.sqrt(x * x + y * y + z * z) < 0.42 * size)).astype(np.float32)


def skull(size: int = 56) -> tuple[Gray, npt.NDArray[np.bool_]]:
    """A head with bone: a brain with dark ventricles, scalp about it, a face in front and a neck
    that hangs on the brain by a cord; and where the brain is."""
    z, y, x = np.mgrid[:size, :size, :size] - size / 2 + 0.5
    radius = np.sqrt(x * x + y * y + (z - 4) ** 2)
    brain = radius < 0.32 * size
    head = np.where(radius < 0.44 * size, 10, 0)
    head[(radius > 0.38 * size) & (radius < 0.44 * size)] = 200
    outside = radius > 0.38 * size
    head[outside & (y < -0.25 * size) & (abs(x) < 12) & (z < 0)] = 140
    head[outside & (z < -0.3 * size) & (np.hypot(x, y) < 14)] = 140
    head[brain] = 130
    head[(radius > 0.2 * size) & (np.hypot(x, y) < 2.5) & (z < 0)] = 130
    head[(abs(x) < 3) & (abs(y) < 6) & (abs(z - 4) < 4)] = 20
    return head.astype(np.uint8), brain


def test_the_brain_is_found_without_scalp_face_and_neck() -> None:
    head, brain = skull()
    found = brain_of(list(head), 4.0, 4.0)
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.9
    assert found[28 + 4, 28, 28], "the ventricles are brain"
    for turned in (head[::-1], head[:, ::-1]):
        assert brain_of(list(turned), 4.0, 4.0).sum() == found.sum()
    flat = np.zeros((4, 8, 8), np.uint8)
    assert not brain_of(list(flat), 1.0, 1.0).any()
    flat[:, 3:5, 3:5] = 99
    assert brain_of(list(flat), 1.0, 1.0).sum() == 16, "too thin for a core: all tissue"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_made_tumour_lies_in_the_brain_wherever_it_lay(seed: int, x: float, y: float) -> None:
    head, brain = skull()
    middle, half = np.array([x, y]), 0.08
    own = donor(sizes=(0.2,))
    moved = replace(own, boxes=(np.concatenate([middle - half, middle + half]),))
    made = make_head(host_of(list(head), 4.0, 4.0), moved, np.random.default_rng(seed))
    assert made.inside >= INSIDE
    shown = [
        brain[number, int((top + bottom) / 2 * 56), int((left + right) / 2 * 56)]
        for number, (left, top, right, bottom) in made.boxes.items()
    ]
    assert np.mean(shown) > 0.7, "the ends may reach out"


def test_a_tumour_larger_than_the_brain_is_set_where_most_of_it_fits() -> None:
    head, _ = skull()
    made = make_head(host_of(list(head), 4.0, 4.0), donor(sizes=(0.9,)), np.random.default_rng(1))
    assert 0.2 < made.inside < INSIDE
    assert made.slices


def donor(patient: str = "p", label: str = "glioma", sizes: tuple[float, ...] = (0.3,)) -> Tumour:
    slices, boxes = [], []
    for size in sizes:
        gray = np.full((32, 32), 120, np.uint8)
        half = max(int(16 * size), 1)
        gray[16 - half : 16 + half, 16 - half : 16 + half] = 250
        slices.append(gray)
        boxes.append(np.array([0.5 - size / 2, 0.5 - size / 2, 0.5 + size / 2, 0.5 + size / 2]))
    return Tumour(patient, label, tuple(slices), tuple(boxes))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.15, 0.5), st.floats(0.5, 3))
def test_a_made_tumour_is_cut_as_an_ellipsoid(seed: int, size: float, depth: float) -> None:
    head = list(ball().astype(np.uint8))
    host = host_of(head, 2 * depth, 2.0)
    made = make_head(host, donor(sizes=(size,)), np.random.default_rng(seed))
    numbers = sorted(made.slices)
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "one slice behind the other"
    widths = [float(made.boxes[n][2] - made.boxes[n][0]) for n in numbers]
    top = widths.index(max(widths))
    assert widths[: top + 1] == sorted(widths[: top + 1])
    assert widths[top:] == sorted(widths[top:], reverse=True)
    again = make_head(host, donor(sizes=(size,)), np.random.default_rng(seed))
    for number in numbers:
        np.testing.assert_array_equal(made.slices[number], again.slices[number])
        assert made.slices[number].shape == head[number].shape
        assert (made.slices[number] != head[number]).any()


def test_the_largest_slice_of_a_tumour_lies_in_its_middle() -> None:
    tumour = donor(sizes=(0.5, 0.1, 0.2, 0.4, 0.3))
    widths = [float(tumour.boxes[i][2] - tumour.boxes[i][0]) for i in tumour.ordered()]
    assert widths == pytest.approx([0.1, 0.3, 0.5, 0.4, 0.2])


def test_a_patch_keeps_to_its_place_and_scale() -> None:
    host = np.full((40, 60), 100, np.uint8)
    (tumour, box) = donor().slices[0], donor().boxes[0]
    changed, found = move(tumour, box, host, np.array([40.0, 15.0]), 0.5, True, 0.3)
    half = 0.15 * 32 * 0.5
    np.testing.assert_allclose(
        found, [(40 - half) / 60, (15 - half) / 40, (40 + half) / 60, (15 + half) / 40]
    )
    rows, columns = np.nonzero(changed != host)
    assert abs(columns.mean() - 39.5) < 1
    assert abs(rows.mean() - 14.5) < 1
    assert np.ptp(columns) < 6 * half


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), turned=st.booleans(), slope=st.sampled_from([-2.0, 0.5]))
def test_a_made_volume_shows_its_tumour_at_one_place_in_every_plane(
    heads: Path, seed: int, turned: bool, slope: float
) -> None:
    archive, (even, _) = open_archive(heads / "heads.zip"), read_heads(heads / "heads.csv")
    volume = volume_of(archive, even)
    assert volume is not None
    view = volume.view._replace(slope=slope, turned=[turned] * 3)
    voxels = volume.voxels if slope > 0 else volume.voxels.max() - volume.voxels
    own = volume._replace(view=view, voxels=voxels)
    bright = donor(sizes=(0.4, 0.2))  # the ball is as bright as can be, so a dark one is set in
    dark = replace(bright, slices=tuple(255 - gray for gray in bright.slices))
    made, other = make_volumes(own, [dark, dark], np.random.default_rng(seed))
    assert (made.voxels != other.voxels).any(), "each in a place of its own"
    places = np.argwhere(made.voxels != own.voxels)
    assert len(places) > 50
    assert np.ptp(places, axis=0).max() < 40, "one place in space"
    change = (made.voxels - own.voxels)[tuple(places.T)].astype(np.float64) * slope
    assert change.mean() < -5, "what is darker in the tumour's slice is darker in the volume"
    for before, after in zip(cuts_of(own), cuts_of(made), strict=True):
        assert before.plane == after.plane
        pairs = zip(before.grays, after.grays, strict=True)
        assert 3 <= sum((b.astype(int) - a).max() > 40 for b, a in pairs) < len(before.grays)
    (again,) = make_volumes(own, [dark], np.random.default_rng(seed))
    np.testing.assert_array_equal(again.voxels, made.voxels)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of two healthy volumes with a table, one of thick slices."""
    folder = tmp_path_factory.mktemp("heads")
    with zipfile.ZipFile(folder / "heads.zip", "w") as archive:
        for name, zooms in (("even", (2.0, 2.0, 2.0)), ("thick", (2.0, 2.0, 5.0))):
            volume = nibabel.Nifti1Image(ball(), np.diag([*zooms, 1.0]))
            archive.writestr(f"notumor/{name}.nii.gz", volume.to_bytes())
    rows = [f"notumor/{name}.nii.gz,notumor,{name},T1," for name in ("even", "thick")]
    table = "\n".join(["path,label,subject,sequence,tumour_slices", *rows, ""])
    (folder / "heads.csv").write_text(table)
    return folder


def test_heads_are_cut_where_they_are_even(heads: Path) -> None:
    archive = open_archive(heads / "heads.zip")
    even, thick = read_heads(heads / "heads.csv")
    series = list(series_of(archive, even))
    assert [s.plane for s in series] == ["axial", "coronal", "sagittal"]
    assert {(s.distance, s.pixel) for s in series} == {(2.0, 2.0)}
    assert {len(s.grays) for s in series} < set(range(36, 44)), "without the air"
    assert [(s.plane, s.distance, s.pixel) for s in series_of(archive, thick)] == [
        ("axial", 5.0, 2.0)
    ]
    with pytest.raises(DataError, match="no such head"):
        list(series_of(archive, replace(even, path="notumor/none.nii.gz")))
    assert Head("a", "tumor", "a", "", "11-17 of 25 along z").inside == (11, 17)


def test_made_heads_share_the_slices_that_are_as_they_were(heads: Path, tmp_path: Path) -> None:
    archive, table = open_archive(heads / "heads.zip"), read_heads(heads / "heads.csv")
    tumours = {"axial": [donor()]}
    slices = collect_heads(archive, table, tumours, ["notumor"], Preprocess(size=32), 1)
    made = [f["made"] for f in slices.facts]
    in_planes = [True] * 6  # the two volumes that are made of the even one, in three planes each
    assert made == [False, True, True, False, False, *in_planes, False, True, True]
    even = "notumor/even.nii.gz"
    volumes = [even, "", "", even, even, *[f"{even} with tumour 1"] * 3]
    assert [f["volume"] for f in slices.facts][:8] == volumes
    assert {f["volume"] for f in slices.facts[11:]} == {""}, "thick slices make no volume"
    own, other = slices.rows[0], slices.rows[1]
    assert 0 < (own != other).sum() < len(own)
    assert len(slices.pixels) < sum(map(len, slices.rows))
    slices.save(tmp_path / "heads.npz")
    again = HeadSlices.read(tmp_path / "heads.npz")
    assert again.facts == slices.facts
    np.testing.assert_array_equal(again.pixels, slices.pixels)
    for row, same in zip(slices.rows, again.rows, strict=True):
        np.testing.assert_array_equal(row, same)
    both = slices.joined(again)
    np.testing.assert_array_equal(both.pixels[both.rows[-1]], slices.pixels[slices.rows[-1]])
    (tmp_path / "heads.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="no readable slices of heads"):
        HeadSlices.read(tmp_path / "heads.npz")
    with pytest.raises(TooFewHeads):
        collect_heads(archive, [], tumours, ["notumor"], Preprocess(size=32), 1)


def known(person: int, peak: float, label: str = "notumor", noise: float = 0.0) -> KnownSeries:
    """A series of 40 slices of which eight reach the peak."""
    values = np.full(40, -4.0) + noise
    values[16:24] = peak
    answers = []
    for value in values:
        some = 1 / (1 + np.exp(-value))
        kind = "meningioma" if label == "meningioma" else "glioma"
        shares = dict.fromkeys(LABELS, 0.05 * some) | {kind: 0.95 * some, "notumor": 1 - some}
        facts = SliceFacts(0.5, (0.0, 0.0, 1.0, 1.0), None)
        answers.append(
            Prediction("", Status.UNCERTAIN, None, "", 0.5, shares, None, None, "", facts=facts)
        )
    facts_of: dict[str, Any] = {
        "label": label, "person": f"h{person}",
        "tumour": "" if label == "notumor" else f"t{person}", "plane": "axial",
        "sequence": "T1", "distance": 2.0, "made": label != "notumor", "volume": "",
    }  # fmt: skip
    return KnownSeries(SeriesAnswers("", None, "axial", None, 2.0, tuple(answers)), facts_of)


def many(healthy: float, tumour: float) -> list[KnownSeries]:
    rng = np.random.default_rng(2)
    each = []
    for person in range(40):
        each.append(known(person, healthy + rng.normal(0, 0.7)))
        label = ("glioma", "meningioma")[person % 2]
        each.append(known(person, tumour + rng.normal(0, 0.7), label))
    return each


def test_a_rule_tells_what_it_was_fitted_on() -> None:
    pool = many(-2.0, 3.0)
    rule = fit_study_rule(pool, LABELS, ["notumor"], None)
    assert StudyRule.from_json(json.loads(json.dumps(rule.to_json())), LABELS) == rule
    assert rule.no_tumor <= rule.tumor
    assert set(rule.intercepts) == {"axial"}
    answers = [study_answer("", None, [each.answers], rule, "").label for each in pool]
    right = [answer == each.facts["label"] for answer, each in zip(answers, pool, strict=True)]
    assert np.mean(right) > 0.9
    for of, wrong in (("false_alarms", 0.02), ("missed", 0.1)):
        facts = rule.fitted[of]
        assert facts["share"] <= wrong == facts["target"]
        assert facts["share"] < facts["bound"] < 0.2
        assert facts["persons"] == 40


def test_the_stated_shares_hold_where_heads_overlap() -> None:
    pool = many(0.0, 1.0)
    strict = fit_study_rule(pool, LABELS, ["notumor"], None, missed=0.03)
    loose = fit_study_rule(pool, LABELS, ["notumor"], None, missed=0.3)
    for rule, missed in ((strict, 0.03), (loose, 0.3)):
        assert rule.fitted["missed"]["share"] <= missed
        assert rule.fitted["false_alarms"]["share"] <= 0.02
    assert strict.no_tumor < loose.no_tumor


def test_volumes_have_thresholds_of_their_own() -> None:
    """Planes that err in turn tell less by themselves than together."""
    pool = many(0.0, 1.0)
    rng = np.random.default_rng(3)
    for person in range(40):
        for label, peak in (("notumor", 0.0), ("glioma", 2.5)):
            for plane in ("axial", "coronal", "sagittal"):
                each = known(person, peak + rng.normal(0, 0.7), label)
                pool.append(
                    KnownSeries(
                        replace(each.answers, plane=plane, volume=label),
                        {**each.facts, "plane": plane, "volume": label},
                    )
                )
    rule = fit_study_rule(pool, LABELS, ["notumor"], None)
    assert rule.whole is not None
    assert rule.whole["no_tumor"] <= rule.whole["tumor"]
    facts = rule.fitted["whole"]
    assert (facts["missed"]["series"], facts["missed"]["persons"]) == (40, 40)
    assert facts["missed"]["share"] <= 0.1
    assert facts["false_alarms"]["share"] <= 0.02
    alone = [each for each in pool if not each.facts["volume"] or each.facts["label"] == "notumor"]
    without = fit_study_rule(alone, LABELS, ["notumor"], None)
    assert without.whole is None
    assert replace(rule, whole=None, fitted={}) == replace(without, fitted={}), (
        "made volumes change nothing for a plane alone"
    )


def test_too_few_heads_or_none_that_differ_give_no_rule() -> None:
    pool = many(-2.0, 3.0)
    with pytest.raises(TooFewHeads, match="2 healthy heads and 2 tumours"):
        fit_study_rule(pool[:4], LABELS, ["notumor"], None)
    with pytest.raises(TooFewHeads, match="does not tell"):
        fit_study_rule(many(3.0, -2.0), LABELS, ["notumor"], None)


def test_heads_have_a_table(heads: Path, tmp_path: Path) -> None:
    of = {"heads": heads / "heads.zip", "heads_table": None}
    assert _heads(of) == (heads / "heads.zip", heads / "heads.csv")
    assert _heads({"heads": None, "heads_table": None}) is None
    with pytest.raises(UsageError, match="--heads-table"):
        _heads({"heads": tmp_path, "heads_table": None})
    with pytest.raises(UsageError, match="which is not given"):
        _heads({"heads": None, "heads_table": heads / "heads.csv"})


def test_a_training_with_heads_leaves_a_rule_and_its_export_one_of_its_own(tmp_path: Path) -> None:
    """From the command to the device, on phantoms: each head is a stack of tumour-free ones."""
    write_phantoms(tmp_path / "data.zip", per_class=32, testing=0.25, seed=4)
    with zipfile.ZipFile(tmp_path / "data.zip") as archive:
        names = archive.namelist()
    groups, boxes = ["path,group,patient,plane"], ["path,x_center,y_center,width,height"]
    for i, name in enumerate(names):
        groups.append(f"{name},g{i},g{i},axial")
        if "notumor" not in name:
            boxes.append(f"{name},0.5,0.5,0.4,0.4")
    (tmp_path / "groups.csv").write_text("\n".join([*groups, ""]))
    (tmp_path / "boxes.csv").write_text("\n".join([*boxes, ""]))
    rows = ["path,label,subject,sequence,tumour_slices"]
    with zipfile.ZipFile(tmp_path / "heads.zip", "w") as archive:
        for person in range(4):
            rng = np.random.default_rng(person)
            stack = np.stack([draw_phantom("notumor", rng) for _ in range(24)], axis=2)
            turned = np.ascontiguousarray(stack.transpose(1, 0, 2)[:, ::-1])
            volume = nibabel.Nifti1Image(turned, np.diag([-1.0, 1.0, 5.0, 1.0]))
            archive.writestr(f"{person}.nii", volume.to_bytes())
            rows.append(f"{person}.nii,notumor,head{person},,")
        archive.writestr("tested.nii", volume.to_bytes())  # its person is on the test side
        rows.append("tested.nii,notumor,g0,,")
    assert names[0].startswith("Testing/")
    (tmp_path / "heads.csv").write_text("\n".join([*rows, ""]))
    run = tmp_path / "run"
    words = [tmp_path / "data.zip", "--groups", tmp_path / "groups.csv", "--boxes",
             tmp_path / "boxes.csv", "--model", "logistic", "--features", "histogram,hog",
             "--no-cache", "--size", 32, "--heads", tmp_path / "heads.zip",
             "--out", run]  # fmt: skip
    btc("train", *words)
    settings_of = Run.open(run).settings
    heads = HeadSlices.read(run / "heads.npz")
    people = {f["person"] for f in heads.facts if f["sequence"] == "" and not f["tumour"]}
    assert people == {f"head{i}" for i in range(4)}, "nobody whom the model learned from"
    assert any(f["made"] for f in heads.facts)
    rule = StudyRule.from_json(settings_of["study"], settings_of["labels"])
    assert rule.fitted["missed"]["persons"] == 4
    btc("export", run, "--onnx")
    (file,) = (run / "export").glob("*.onnx")
    own = read_model(file).info.study
    assert own is not None
    assert own["tumour_free"] == ["notumor"]
