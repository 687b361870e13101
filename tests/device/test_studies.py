"""What arrives is sorted by what it says of itself, and nothing is lost without a word."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
import weakref
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime import Classifier, InputError
from edge_runtime.batch import Unusable
from edge_runtime.decision.prediction import Status
from edge_runtime.imaging.geometry import FEW, THICK
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits
from edge_runtime.studies import arrange as arrange_module
from edge_runtime.studies import zips
from edge_runtime.studies.arrange import COPY, REPEATED, How, arrange
from edge_runtime.studies.decide import classify_study
from edge_runtime.studies.drop import DropFile, classify_drop, study_uid
from edge_runtime.studies.files import BEGIN, CAPS, OPEN, Begun, kind_in
from edge_runtime.studies.series import Place
from edge_runtime.studies.study import Study
from tests.device.test_cli import edge

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

from benchmarks.hostile.files import dicom_bytes, nifti_bytes  # noqa: E402 - they need both
from edge_runtime.studies import frames as frames_module  # noqa: E402
from edge_runtime.studies import series as words  # noqa: E402
from edge_runtime.studies.volumes import LARGE, UNEVEN  # noqa: E402
from tests.device.volume_files import (  # noqa: E402
    SIZE,
    draw_head,
    enhanced,
    nifti,
    series,
    slices,
)

HEAD = draw_head()
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def files_of(drop: Mapping[str, bytes]) -> list[DropFile]:
    return [DropFile(name, data) for name, data in drop.items()]


def found_in(
    files: Iterable[DropFile], how: How | None = None
) -> tuple[list[Study], list[Unusable], list[str]]:
    """The studies, what cannot be used, and what was told."""
    told: list[str] = []
    every = list(arrange(files, how or How(), lambda note: told.append(str(note))))
    studies = [each for each in every if isinstance(each, Study)]
    return studies, [each for each in every if isinstance(each, Unusable)], told


def seen(study: Study) -> tuple[Any, ...]:
    """All of a study but the names of its files."""
    return study.uid, [
        (s.uid, s.plane, s.sequence, s.distance, s.count, s.reason,
         [(part.number, part.sha256, getattr(part.gray, "tobytes", lambda: None)())
          for part in s.slices()])
        for s in study.series
    ]  # fmt: skip


def reasons(study: Study) -> dict[str, str]:
    return {passed.input: passed.reason for passed in study.passed_over}


def axial(prefix: str, seed: str = "one", keep: int = 6, **elements: Any) -> dict[str, bytes]:
    """Six axial slices in the middle of a head."""
    files = series(
        HEAD, seed=seed, skip=set(range(SIZE[2])) - set(range(12, 12 + keep)), **elements
    )
    return {f"{prefix}{number}": data for number, data in files.items()}


@pytest.fixture(scope="module")
def drop() -> dict[str, bytes]:
    """Two studies of two patients, one of them with what is no slice, a volume and a picture."""
    localiser: dict[str, bytes] = {}
    for plane in ("axial", "coronal", "sagittal"):
        (number, data), *_ = series(
            HEAD, plane, "scout", set(range(40)) - {12}, StudyInstanceUID="1.2.3",
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ).items()  # fmt: skip
        localiser[f"a/scout-{plane}-{number}"] = data
    flat = slices(HEAD, "axial")[12][0]
    rest = {
        "a/mip": {"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"]},
        "a/mpr": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        "a/mosaic": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
        "a/screen": {"SOPClassUID": SECONDARY, "Modality": "OT"},
        "a/capture": {"SOPClassUID": SECONDARY},
        "a/ct": {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        "a/report": {"Modality": "SR", "Rows": None, "Columns": None},
        "a/raw": {"Rows": None, "Columns": None},
    }
    others = {
        name: dicom_bytes(flat, **({"Modality": "MR", "PatientID": "ZQX-4711-ID",
                                    "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": f"1.2.9.{i}",
                                    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                                    "ImagePositionPatient": [0, 0, 0]} | elements))
        for i, (name, elements) in enumerate(rest.items())
    }  # fmt: skip
    colour = dicom_bytes(
        np.dstack([flat.astype(np.uint8)] * 3), SamplesPerPixel=3, Modality="MR",
        PatientID="ZQX-4711-ID", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.9.99",
    )  # fmt: skip
    return {
        **axial("a/t1-", StudyInstanceUID="1.2.3"),
        **axial("b/", "two", StudyInstanceUID="1.2.4", PatientID="B"),
        **localiser,
        **others,
        "a/colour": colour,
        "c/sub-1_T2w.nii": nifti(HEAD),
        "c/picture.png": encode(draw_slice(3), ".png"),
    }


def test_a_mixed_drop_gives_each_study_with_its_slices_in_space(drop: dict[str, bytes]) -> None:
    told: list[str] = []
    found = list(arrange(files_of(drop), How(), lambda note: told.append(str(note))))
    volume, picture, first, second = found  # what is whole at once comes first
    assert isinstance(picture, DropFile)
    assert picture.name == "c/picture.png"
    assert isinstance(volume, Study)
    assert (volume.name, volume.uid) == ("c/sub-1_T2w.nii", None)
    shown = volume.series[0]
    assert (shown.plane, shown.sequence, shown.distance, shown.count) == ("axial", "T2", 2.5, 32)
    assert [part.number for part in shown.slices()] == list(range(32))
    assert [s.plane for s in volume.series] == ["axial", "coronal", "sagittal"]
    assert isinstance(first, Study)
    assert isinstance(second, Study)
    assert [first.name, second.name] == ["1.2.3", "1.2.4"]
    (t1,) = [each for each in first.series if each.reason is None]
    assert (t1.plane, t1.sequence, t1.distance, t1.count) == ("axial", "T1", 2.5, 6)
    # Towards the head, though InstanceNumber falls.
    assert [part.input for part in t1.slices()] == [f"a/t1-{n}" for n in range(12, 18)]
    assert reasons(first) == {
        **{name: words.LOCALIZER for name in drop if "scout" in name},
        "a/mip": words.PROJECTION, "a/mpr": "a reformat of another series",
        "a/mosaic": words.MOSAIC, "a/screen": words.NO_MR.format("OT"),
        "a/capture": words.SCREENSHOT, "a/ct": words.NO_MR.format("CT"),
        "a/report": words.NO_MR.format("SR"), "a/raw": words.BLANK, "a/colour": words.COLOURED,
    }  # fmt: skip
    (scout,) = [each for each in first.series if each.reason == words.LOCALIZER]
    assert (scout.count, list(scout.slices())) == (0, [])
    assert not second.passed_over
    (line,) = told
    assert line.startswith("1.2.3: 12 files give no slice: ")
    assert "a localiser (3)" in line


def cuts_in(voxels: Any, how: How, zooms: Sequence[float] = (2.0, 2.0, 2.0)) -> Study:
    data = nifti_bytes(voxels, np.diag([*zooms, 1.0]))
    (found,) = arrange([DropFile("v.nii", data)], how)
    assert isinstance(found, Study)
    return found


def test_an_even_volume_is_cut_in_all_planes() -> None:
    voxels = np.random.default_rng(1).integers(0, 255, (20, 24, 30)).astype(np.uint8)
    study = cuts_in(voxels, How())
    assert [(s.plane, s.count, s.distance) for s in study.series] == [
        ("axial", 30, 2.0), ("coronal", 24, 2.0), ("sagittal", 20, 2.0)
    ]  # fmt: skip
    assert {s.volume for s in study.series} == {"v.nii"}
    for cut in study.series:
        alone = cuts_in(voxels, How(plane=cut.plane))
        (only,) = alone.series
        assert (only.plane, only.volume) == (cut.plane, None), "as it was asked for"
        for part, same in zip(cut.slices(), only.slices(), strict=True):
            assert part.number == same.number
            np.testing.assert_array_equal(part.gray, same.gray)
    answer = classify_study(CLASSIFIER, study)
    entries = (answer.study or {})["series"]
    assert [(e["name"], e["plane"], e["first"], e["slices"]) for e in entries] == [
        ("v.nii", "axial", 0, 30), ("v.nii", "coronal", 30, 24), ("v.nii", "sagittal", 54, 20)
    ]  # fmt: skip
    assert len(answer.slices or ()) == 74


def test_a_volume_is_answered_alike_whichever_way_its_axes_go() -> None:
    """Slices come in their order in space, as the rule for studies wants them."""

    def said(axes: str) -> Any:
        (study,) = arrange([DropFile("v.nii", nifti(HEAD, axes))], How())
        assert isinstance(study, Study)
        answer = classify_study(CLASSIFIER, study)
        probabilities = [part.probabilities for part in answer.slices or ()]
        return [p and list(p.values()) for p in probabilities], (answer.study or {})["tumor"]

    plain, turned = said("RAS"), said("LPI")
    assert plain[1] == pytest.approx(turned[1], abs=1e-6)
    np.testing.assert_allclose(np.array(plain[0]), np.array(turned[0]), atol=1e-6)


@pytest.mark.parametrize("acquired", ["axial", "sagittal"])
def test_a_dicom_series_that_makes_an_even_volume_is_cut_as_a_volume_is(acquired: str) -> None:
    drop = {f"{number}.dcm": data for number, data in series(HEAD, acquired).items()}
    (study,), unusable, told = found_in(files_of(drop))
    assert (unusable, told) == ([], [])
    by_plane = {each.plane: each for each in study.series}
    assert by_plane.keys() == {"axial", "coronal", "sagittal"}
    assert len({each.volume for each in study.series} - {None}) == 1
    assert len({(each.name, each.uid, each.sequence) for each in study.series}) == 1
    (volume,) = arrange([DropFile("v.nii", nifti(HEAD))], How())
    assert isinstance(volume, Study)
    for other in volume.series:
        cut = by_plane[other.plane]
        assert (cut.count, cut.distance) == (other.count, pytest.approx(other.distance))
        if other.plane != acquired:
            for part, same in zip(cut.slices(), other.slices(), strict=True):
                np.testing.assert_allclose(np.float32(part.gray), np.float32(same.gray), atol=1)
    (only,), _, _ = found_in(files_of(drop), How(plane="coronal"))
    assert [(s.plane, s.volume, s.count) for s in only.series] == [("coronal", None, SIZE[1])]
    (own,), _, _ = found_in(files_of(drop), How(plane=acquired))
    assert [(s.plane, s.volume) for s in own.series] == [(acquired, None)]


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_every_cut_has_heatmaps_of_its_own(kind: str, tmp_path: Path) -> None:
    drop = {"v.nii": nifti(HEAD)}
    if kind == "dicom":
        drop = {f"{number}.dcm": data for number, data in series(HEAD).items()}
    (study,), _, _ = found_in(files_of(drop))
    few = [replace(s, slices=partial(islice, s.slices(), 2)) for s in study.series]
    answer = classify_study(CLASSIFIER, replace(study, series=tuple(few)), heatmaps=tmp_path)
    named = [part.heatmap for part in answer.slices or ()]
    assert len(named) == len(set(named)) == len(list(tmp_path.iterdir())) == 6


def test_dicom_series_that_make_no_even_volume_say_so() -> None:
    files = {f"{number}.dcm": data for number, data in series(HEAD).items()}
    hole = {name: data for name, data in files.items() if name != "15.dcm"}
    (study,), _, _ = found_in(files_of(hole))
    assert {s.plane: s.reason for s in study.series} == {
        "axial": None, "coronal": UNEVEN, "sagittal": UNEVEN
    }  # fmt: skip
    size = SIZE[0] * SIZE[1] * SIZE[2] * 4  # bytes
    for limits in (ImageLimits(max_bytes=size - 1), ImageLimits(max_memory=size)):
        (study,), _, _ = found_in(files_of(files), How(limits))
        assert {s.plane: s.reason for s in study.series} == {
            "axial": None, "coronal": LARGE, "sagittal": LARGE
        }  # fmt: skip
    entries = (classify_study(CLASSIFIER, study).study or {})["series"]
    assert [(e["plane"], e["first"], e["slices"]) for e in entries] == [
        ("axial", 0, 32), ("coronal", 32, 0), ("sagittal", 32, 0)
    ]  # fmt: skip
    coarse = {f"{n}.dcm": d for n, d in series(HEAD, PixelSpacing=[1e200, 1e200]).items()}
    (study,), _, _ = found_in(files_of(coarse))
    assert {s.reason for s in study.series} == {None, THICK}
    damaged = files | {"15.dcm": files["15.dcm"][:-100]}
    (study,), _, _ = found_in(files_of(damaged))
    counts = {s.plane: len(list(s.slices())) for s in study.series}
    assert counts == {"axial": 32, "coronal": 1, "sagittal": 1}, "an error stands for the cut"
    answer = classify_study(CLASSIFIER, study)
    assert sum(part.status is Status.ERROR for part in answer.slices or ()) == 3


@pytest.mark.parametrize(
    ("shape", "zooms", "own", "reason"),
    [
        ((20, 24, 18), (1.0, 1.0, 5.0), "axial", THICK),
        ((18, 24, 20), (4.0, 1.0, 1.0), "sagittal", THICK),
        ((20, 24, 8), (1.0, 1.0, 2.0), "axial", FEW),
    ],
)
def test_thick_slices_are_shown_in_their_own_plane_only(
    shape: tuple[int, ...], zooms: tuple[float, ...], own: str, reason: str
) -> None:
    voxels = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    study = cuts_in(voxels, How(), zooms)
    assert {s.plane: s.reason for s in study.series} == {
        plane: None if plane == own else reason for plane in ("axial", "coronal", "sagittal")
    }
    for each in study.series:
        assert len(list(each.slices())) == each.count == (0 if each.reason else min(shape))
    entries = (classify_study(CLASSIFIER, study).study or {})["series"]
    assert [e["reason"] for e in entries if e["plane"] != own] == [reason] * 2


@settings(max_examples=25, deadline=None)
@given(chance=st.randoms(use_true_random=False), copies=st.integers(0, 5))
def test_order_names_and_copies_do_not_tell(
    drop: dict[str, bytes], chance: random.Random, copies: int
) -> None:
    contents = [data for name, data in drop.items() if not name.startswith("c/")]
    plain, _, _ = found_in(files_of(dict(enumerate_names(contents))))
    again = contents + chance.choices(contents, k=copies)
    chance.shuffle(again)
    names = chance.sample(range(1000), len(again))
    mixed = {
        f"{chance.choice('xyz')}/{name}": data for name, data in zip(names, again, strict=True)
    }
    changed, unusable, _ = found_in(files_of(mixed))
    assert not unusable
    by_uid = {study.uid: seen(study) for study in plain}
    assert {study.uid: seen(study) for study in changed} == by_uid
    passed = [reason for study in changed for reason in reasons(study).values()]
    before = [reason for study in plain for reason in reasons(study).values()]
    assert len(passed) == len(before) + copies
    assert passed.count(COPY) == copies


def enumerate_names(contents: Iterable[bytes]) -> Iterable[tuple[str, bytes]]:
    return ((f"{i}", data) for i, data in enumerate(contents))


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def answers(files: Iterable[DropFile], prefix: str) -> list[dict[str, Any]]:
    """The answers, without the prefix of their names."""
    found = [answer.to_json() for answer in classify_drop(CLASSIFIER, files)]
    return json.loads(json.dumps(found).replace(json.dumps(prefix)[1:-1], ""))


CLASSIFIER = Classifier()


def test_folder_zip_and_bytes_are_answered_alike(drop: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in drop.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "drop.zip").write_bytes(zipped(drop))
    plain = answers([DropFile(f"x/{name}", data) for name, data in drop.items()], "x/")
    assert [answer["input"] for answer in plain] == [
        "c/sub-1_T2w.nii", "c/picture.png", "1.2.3", "1.2.4"
    ]  # fmt: skip
    assert [answer["status"] != "error" for answer in plain] == [True] * 4
    root = f"{tmp_path / 'in'}{os.sep}"
    paths = [DropFile(str(tmp_path / "in" / name), str(tmp_path / "in" / name)) for name in drop]
    assert answers(paths, root) == plain
    assert answers([DropFile("z", str(tmp_path / "drop.zip"))], "z/") == plain
    assert answers([DropFile("z", (tmp_path / "drop.zip").read_bytes())], "z/") == plain
    study = plain[2]["study"]
    kept = [each for each in study["series"] if each["slices"]]
    assert [(each["first"], each["slices"]) for each in kept] == [(0, 6)]
    assert len(study["passed_over"]) == 12
    assert [part["input"] for part in plain[2]["slices"]] == [f"a/t1-{n}" for n in range(12, 18)]
    # A slice of the series is shown as the file alone would be, but for its own range of values.
    alone = next(CLASSIFIER.classify_many([drop["c/picture.png"]]))
    assert {**alone.to_json(), "input": "c/picture.png"} == plain[1]


def test_slices_without_a_window_share_one_range() -> None:
    dim = axial("")
    values = [pydicom.dcmread(io.BytesIO(data)).pixel_array for data in dim.values()]
    (study,), _, _ = found_in(files_of(dim))
    low, high = np.percentile(np.stack(values), (0.1, 99.9))
    for part, raw in zip(study.series[0].slices(), values, strict=True):
        assert isinstance(part.gray, np.ndarray)
        wanted = np.clip((raw - low) / (high - low) * 255, 0, 255)
        assert np.abs(part.gray - wanted).max() <= 1.5


def test_one_file_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = {"WindowCenter": 600, "WindowWidth": 1200}
    reads: list[str] = []
    drop = axial(f"{tmp_path}/", keep=6, **windows)
    for path, data in drop.items():
        Path(path).write_bytes(data)
    read = DropFile.read
    monkeypatch.setattr(
        DropFile, "read", lambda self, *a: (reads.append(self.name), read(self, *a))[1]
    )
    (study,), _, _ = found_in([DropFile(path, path) for path in drop])
    assert reads == []  # their heads were enough
    for number, _ in enumerate(study.series[0].slices(), 1):
        assert len(reads) == number


@pytest.mark.parametrize("held", [1, 32 << 20])
def test_frames_of_an_enhanced_file_come_in_their_order_in_space(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "HELD", held)
    order = [5, 3, 4, 0, 1, 2]
    data = enhanced(HEAD, order, StudyInstanceUID="1.5")
    (study,), _, told = found_in([DropFile("e", data)])
    (shown,) = study.series
    parts = list(shown.slices())
    assert (shown.plane, shown.count, told) == ("axial", 6, [])
    assert [part.number for part in parts] == [3, 4, 5, 1, 2, 0]
    whole = {part.number: part.gray for part in _frames(data)}
    for part in parts:
        np.testing.assert_array_equal(part.gray, whole[part.number])


@pytest.mark.parametrize("windows", [{"WindowCenter": 600, "WindowWidth": 1200}, {}])
def test_of_files_of_several_frames_one_is_held_and_one_more_for_their_range(
    windows: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: weakref.WeakSet[Any] = weakref.WeakSet()
    most = [0]

    class Counted(frames_module.Frames):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            held.add(self)
            most[0] = max(most[0], len(held))

    monkeypatch.setattr(frames_module, "Frames", Counted)
    data = enhanced(HEAD, list(range(6)), StudyInstanceUID="1.5", **windows)
    places = [Place((), (), file, frame) for frame in range(6) for file in ("a", "b", "c")]
    frames = frames_module.SeriesFrames(lambda name: data, places, DEFAULT_LIMITS)
    shown = list(frames.slices())
    assert [(part.input, part.number) for part in shown] == [(p.file, p.frame) for p in places]
    assert most[0] == (1 if windows else 2)


def _frames(data: bytes) -> Any:
    from edge_runtime.imaging.readers import slices_of

    return slices_of(data)


def test_echoes_are_told_and_the_first_of_each_place_is_used() -> None:
    first = axial("e1-", EchoTime=10.0)
    second = axial("e2-", EchoTime=80.0, SOPInstanceUID=lambda n: f"1.9.{n}")
    (study,), _, told = found_in(files_of(second | first))
    (shown,) = study.series
    assert [part.input[:3] for part in shown.slices()] == ["e1-"] * 6
    assert reasons(study) == dict.fromkeys(second, REPEATED)
    assert any("6 pictures of places that another one shows" in line for line in told)


@pytest.mark.parametrize("numbered", [True, False])
def test_files_without_places_come_by_number_or_by_name(numbered: bool) -> None:
    lost: dict[str, Any] = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    lost |= {"InstanceNumber": (lambda n: 100 - n) if numbered else None}
    files = axial("slice-", **lost)
    files = {name.replace("slice-1", "slice-"): data for name, data in files.items()}
    files["slice-10"] = files.pop("slice-2")  # behind slice-7 by name
    (study,), unusable, told = found_in(files_of(files))
    (shown,) = study.series
    names = [part.input for part in shown.slices()]
    if numbered:
        assert names == ["slice-7", "slice-6", "slice-5", "slice-4", "slice-3", "slice-10"]
    else:
        assert names == ["slice-3", "slice-4", "slice-5", "slice-6", "slice-7", "slice-10"]
    assert (shown.plane, shown.distance, unusable) == (None, None, [])
    (line,) = told
    assert f"in the order of their {'numbers (InstanceNumber)' if numbered else 'names'}" in line


def test_two_patients_under_one_uid_are_never_put_together() -> None:
    one = axial("a", PatientID="Mueller")
    two = axial("b", PatientID="Meier", SOPInstanceUID=lambda n: f"1.9.{n}")
    blank = axial("c", PatientID=None, SOPInstanceUID=lambda n: f"1.8.{n}", keep=1)
    studies, _, told = found_in(files_of(one | two))
    assert len({study.uid for study in studies}) == 1
    assert [{p.input[0] for s in study.series for p in s.slices()} for study in studies] == [
        {"a"}, {"b"}
    ]  # fmt: skip
    (line,) = told
    assert "files of 2 patients under one StudyInstanceUID" in line
    assert "Meier" not in line
    # A file that does not say whose it is goes with the only patient of its study.
    (study,), _, _ = found_in(files_of(one | blank))
    assert reasons(study) == {"c12": REPEATED}


def test_frames_that_do_not_tell_their_places_are_kept_in_their_order() -> None:
    """The head of a file of several frames without functional groups tells of its first alone."""
    stack = np.stack([picture for picture, _ in slices(HEAD, "axial")[10:15]])
    data = dicom_bytes(
        stack, Modality="MR", StudyInstanceUID="1.2", SeriesInstanceUID="1.3",
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[0, 0, 0],
    )  # fmt: skip
    (study,), _, told = found_in([DropFile("a", data)])
    assert [part.number for part in study.series[0].slices()] == list(range(5))
    assert "5 pictures that do not all tell where they lie" in told[0]
    # With groups for all frames but the last.
    most = pydicom.dcmread(io.BytesIO(enhanced(HEAD, [5, 3, 4, 0], StudyInstanceUID="1.5")))
    del most.PerFrameFunctionalGroupsSequence[-1]
    out = io.BytesIO()
    most.save_as(out)
    (study,), _, told = found_in([DropFile("a", out.getvalue())])
    assert [part.number for part in study.series[0].slices()] == list(range(4))
    assert "in the order of their frames" in told[0]


def test_what_stands_for_a_uid_and_is_none_is_not_shown() -> None:
    files = axial("s", StudyInstanceUID="Mueller^Max", SeriesInstanceUID="Mueller^T1")
    (study,), _, told = found_in(files_of(files | {"x": files["s12"]}))
    assert (study.name, study.uid, study.series[0].uid) == ("s12", None, None)
    assert "Mueller" not in repr(study) + repr(told)
    uids = {study_uid(DropFile(name, data)) for name, data in files.items()}
    assert len(uids) == 1
    assert "Mueller" not in uids.pop()


def test_a_damaged_file_is_told_and_the_rest_is_answered() -> None:
    good = axial("s")
    whole = good["s14"]
    good["s14"] = whole[: len(whole) - 100]  # its pixels are cut off
    cut = dicom_bytes(draw_slice(1), Modality="MR", Manufacturer="a name of some length")
    cut = cut[: cut.index(b"some")]
    broken = {"head": whole[:200], "cut": cut, "text": b"no picture", "empty": b"", **good}
    found = list(classify_drop(CLASSIFIER, files_of(broken)))
    errors = {answer.input: answer.error for answer in found if answer.error}
    assert set(errors) == {"head", "cut", "text", "empty"}
    assert errors["cut"] == "truncated or damaged DICOM file"
    assert errors["empty"] == "empty file"
    (study,) = [answer for answer in found if not answer.error]
    assert study.slices is not None
    assert [part.input for part in study.slices if part.error] == ["s14"]
    assert len(study.slices) == 6
    assert all(part.sha256 for part in study.slices if not part.error)


def test_pictures_of_what_the_user_named_are_one_study_and_others_are_alone() -> None:
    pictures = {f"{i}.png": encode(draw_slice(i), ".png") for i in range(3)}
    (study,), _, _ = found_in([DropFile(name, data, "patient") for name, data in pictures.items()])
    assert (study.name, study.series[0].count) == ("patient", 3)
    assert [part.input for part in study.series[0].slices()] == list(pictures)
    alone = list(classify_drop(CLASSIFIER, files_of(pictures)))
    assert [answer.input for answer in alone] == list(pictures)
    assert all(answer.slices is None for answer in alone)


def with_directory(size: int) -> bytes:
    """A zip whose directory is so many bytes of members that hold nothing and have no name."""
    entry = b"PK\x01\x02" + bytes(42)
    count = size // len(entry)
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff\xff\xff"  # how many is not what counts
    local = b"PK\x03\x04" + bytes(26)
    length = (count * len(entry)).to_bytes(4, "little")
    return local + entry * count + end + length + len(local).to_bytes(4, "little") + bytes(2)


def encrypted() -> bytes:
    data = bytearray(zipped({"a.png": encode(draw_slice(1), ".png")}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def claiming(size: int, packed: int) -> bytes:
    """A member of zeros whose directory claims that it is packed in so many bytes."""
    data = bytearray(zipped({"a.dcm": bytes(size)}))
    at = data.rindex(b"PK\x01\x02") + 20
    data[at : at + 4] = packed.to_bytes(4, "little")
    return bytes(data)


def link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("passwd.dcm")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def misnamed() -> bytes:
    """A member whose own head has a name that is no text, unlike the directory."""
    data = bytearray(zipped({"Gr\u00f6\u00dfe.png": PICTURE}))
    data[30 + 3] = 0xFF
    return bytes(data)


def headless() -> bytes:
    """A zip whose first bytes went, so that the directory points before its begin."""
    data = zipped({"a.txt": b"words", "b.txt": b"words"})
    second = data.index(b"PK\x03\x04", 4)
    return data[second:]


def twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a\\b.png", b"1")
        archive.writestr("a/b.png", b"2")
    return out.getvalue()


PICTURE = encode(draw_slice(1), ".png")
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbs": (lambda: zipped({"a.png": PICTURE, "../evil.png": PICTURE}), "points outside"),
    "absolute": (lambda: zipped({"/etc/evil.png": PICTURE}), "points outside"),
    "drive": (lambda: zipped({"C:\\evil.png": PICTURE}), "points outside"),
    "bomb": (lambda: zipped({str(i): bytes(4 << 20) for i in range(20)}), "zip bomb"),
    "claims more than there is": (lambda: claiming(80 << 20, 70 << 20), "zip bomb"),
    "claims a ratio": (lambda: claiming(2 << 20, 100), "zip bomb"),
    "encrypted": (encrypted, "encrypted"),
    "nested": (lambda: zipped({"in.zip": zipped({"a.png": PICTURE})}), "a zip within a zip"),
    "bzip2": (lambda: zipped({"a.png": PICTURE}, zipfile.ZIP_BZIP2), "another method than deflate"),
    "link": (link, "links in a zip are not followed"),
    "twice": (twice, "two members are called"),
    "misnamed": (misnamed, "damaged in the archive"),
    "headless": (headless, "damaged in the archive"),
    "nothing": (lambda: zipped({}), "no image in this zip file"),
    "empty members": (
        lambda: zipped(dict.fromkeys(map(str, range(3000)), b"")), "no image in this zip file"
    ),
    "many": (
        lambda: zipped(dict.fromkeys(map(str, range(CAPS.members + 1)), b""), zipfile.ZIP_STORED),
        "more than 32,768 members",
    ),
    "directory": (lambda: with_directory(12 << 20), "more than 32,768 members"),
    "cut off": (lambda: zipped({"a.png": PICTURE})[:-30], "not a readable zip"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_zips_are_one_line_and_the_rest_is_answered(name: str) -> None:
    make, line = HOSTILE[name]
    found = list(
        classify_drop(CLASSIFIER, [DropFile("evil.zip", make()), DropFile("good.png", PICTURE)])
    )
    errors = [answer for answer in found if answer.error]
    assert len(errors) == 1
    assert line in str(errors[0].error)
    assert "\n" not in str(errors[0].error)
    assert errors[0].input.startswith("evil.zip")
    assert [answer.input for answer in found if not answer.error] == ["good.png"]


def test_files_and_frames_of_a_drop_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred bytes may claim as many frames as a file may have."""
    monkeypatch.setattr(arrange_module, "MOST_FRAMES", 7)
    claims = {"Modality": "MR", "StudyInstanceUID": "1.2", "NumberOfFrames": 3}
    blank = np.zeros((4, 4), np.uint8)
    files = {str(n): dicom_bytes(blank, SOPInstanceUID=f"1.9.{n}", **claims) for n in range(3)}
    (study,), (many,), _ = found_in(files_of(files | axial("s", keep=1, StudyInstanceUID="1.2")))
    assert sum(series.count for series in study.series) == 7
    assert (many.name, str(many.error)) == ("2", arrange_module.MANY_FRAMES)
    monkeypatch.setattr(arrange_module, "MOST_FILES", 1)
    _, more, _ = found_in(files_of(files))
    assert [(each.name, str(each.error)) for each in more] == [
        ("1", arrange_module.MANY), ("2", arrange_module.MANY),
    ]  # fmt: skip


def test_names_of_copies_do_not_grow_with_their_number() -> None:
    """Thousands of copies would take minutes."""
    files = arrange_module._DicomFiles(How(), lambda note: None)
    data = axial("s", keep=1)["s12"]
    kind = kind_in(data)
    assert kind is not None
    for _ in range(30):
        files.add(Begun(DropFile("a", data), kind, data[:BEGIN]))
    assert len(files._files) == 30
    assert max(map(len, files._files)) <= len("a (again 30)")


def test_a_path_that_is_none_is_one_line_and_the_rest_is_answered() -> None:
    """As of `find -print0`, whose paths no line's end parts."""
    none, good = classify_drop(
        CLASSIFIER, [DropFile("a\0b", "a\0b"), DropFile("good.png", PICTURE)]
    )
    assert "cannot be read" in str(none.error)
    assert good.error is None


def test_a_directory_of_millions_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[None] = []
    info = zipfile.ZipInfo

    def counted(*args: Any) -> zipfile.ZipInfo:
        made.append(None)
        return info(*args)

    data = with_directory(12 << 20)
    monkeypatch.setattr(zips.zipfile, "ZipInfo", counted)
    with pytest.raises(InputError, match="more than"):
        zips.ZipReader(data, CAPS)
    assert not made


def test_a_black_slice_is_no_bomb() -> None:
    black = dicom_bytes(np.zeros((1024, 1024), np.uint16), Modality="MR", StudyInstanceUID="1.2",
                        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                        ImagePositionPatient=[0, 0, 0])  # fmt: skip
    (study,), unusable, _ = found_in([DropFile("z", zipped({"black": black}))])
    assert (study.series[0].count, unusable) == (1, [])


def test_a_member_is_in_memory_once() -> None:
    size = 16 << 20
    noise = np.random.default_rng(0).integers(0, 30, size, np.uint8).tobytes()
    reader = zips.ZipReader(zipped({"a": noise}), CAPS)
    ((_, info),) = reader.members
    tracemalloc.start()
    try:
        assert reader.unpack(info, 2 * size) == noise
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * size


def test_many_zips_are_not_all_open_at_once(tmp_path: Path) -> None:
    """A file each of one series, in more zips than may be open."""
    files = []
    numbers = range(OPEN + 4)
    whole = series(HEAD, skip=set(range(SIZE[2])) - {*numbers})
    for number in numbers:
        path = tmp_path / f"{number}.zip"
        path.write_bytes(zipped({"a": whole[number]}))
        files.append(DropFile(path.name, str(path)))
    here = Path("/proc/self/fd")
    before = len(list(here.iterdir())) if here.is_dir() else 0
    (study,), _, _ = found_in(files)
    for _ in range(2):
        assert [part.input for part in study.series[0].slices()] == [f"{n}.zip/a" for n in numbers]
    if here.is_dir():
        assert len(list(here.iterdir())) <= before + OPEN


def index_of(*names: list[str] | str) -> bytes:
    """A DICOMDIR that names these files, and a patient."""
    records = []
    for name in names:
        record = pydicom.Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = name
        record.PatientName = "Zwetschkenbaum^Xaver"
        records.append(record)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = words.DIRECTORY
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.DirectoryRecordSequence = records
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_an_index_tells_what_is_missing_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"cd/IMAGES/{name.upper()}": data for name, data in axial("im").items()}
    files["cd/EXTRA"] = axial("x", "other", keep=1)["x12"]
    names = [["IMAGES", f"IM{n}"] for n in range(12, 19)] + [""]
    hostile = [["..", "..", "etc", "passwd"], "/etc/passwd", "C:\\x", ["", "etc", "passwd"]]
    index = index_of(*names, *hostile)
    monkeypatch.setattr("builtins.open", lambda *a, **k: pytest.fail("a file is opened"))
    monkeypatch.setattr(os, "open", lambda *a, **k: pytest.fail("a file is opened"))
    studies, unusable, told = found_in(files_of({"cd/DICOMDIR": index, **files}))
    monkeypatch.undo()
    assert [study.series[0].count for study in studies] == [6, 1]
    assert unusable == []
    assert told == [
        "cd/DICOMDIR: 4 names that point outside its folder are refused, such as ../../etc/passwd",
        "cd/DICOMDIR: names 1 files that are not there, such as IMAGES/IM18",
    ]
    # In a zip, with names as discs have them.
    members = {name.removeprefix("cd/") + ";1": data for name, data in files.items()}
    studies, unusable, told = found_in(
        [DropFile("z.zip", zipped({"DICOMDIR": index_of(*names[:-2]), **members}))]
    )
    assert (len(studies), unusable, told) == (2, [], [])


def test_a_file_that_cannot_be_read_is_not_missed_by_its_index(tmp_path: Path) -> None:
    good = files_of({"A": axial("", keep=1)["12"], "DICOMDIR": index_of("A", "B")})
    (tmp_path / "B").mkdir()
    _, (closed,), told = found_in([*good, DropFile("B", tmp_path / "B")])
    assert closed.name == "B"
    assert told == []


def test_an_index_alone_and_a_damaged_one_are_told() -> None:
    _, (alone,), told = found_in([DropFile("DICOMDIR", index_of("A"))])
    assert alone.name == "DICOMDIR"
    assert "none of which came with it" in str(alone.error)
    assert told == ["DICOMDIR: names 1 files that are not there, such as A"]
    good = axial("s")
    for damaged in (index_of("A")[:-20], index_of(*["A"] * 30_000)):
        studies, _, told = found_in(files_of({"DICOMDIR": damaged, **good}))
        assert studies[0].series[0].count == 6
        assert len(told) <= 1


def test_the_study_of_a_file_is_told_by_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "IM1"
    large = np.zeros((800, 800), np.uint16)
    path.write_bytes(dicom_bytes(large, StudyInstanceUID="1.2.77"))
    monkeypatch.setattr(DropFile, "read", lambda *a: pytest.fail("all of it is read"))
    assert study_uid(DropFile("x", str(path))) == "1.2.77"
    assert study_uid(DropFile("x", path.read_bytes())) == "1.2.77"
    monkeypatch.undo()
    # A header that is longer than that.
    path.write_bytes(
        dicom_bytes(large, StudyInstanceUID="1.2.78", RedPaletteColorLookupTableData=bytes(1 << 17))
    )
    assert study_uid(DropFile("x", str(path))) == "1.2.78"
    path.write_bytes(dicom_bytes(large))
    assert study_uid(DropFile("x", str(path))) == ""
    with pytest.raises(InputError, match="no DICOM"):
        study_uid(DropFile("x", PICTURE))
    with pytest.raises(InputError, match="No such file"):
        study_uid(DropFile("x", str(tmp_path / "nowhere")))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cut_and_changed_files_never_end_a_drop(data: st.DataObject) -> None:
    whole = bytearray(axial("s", keep=1)["s12"])
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, 1500))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    every = list(arrange([DropFile("a", cut), DropFile("b", PICTURE)], How(), lambda line: None))
    assert any(isinstance(each, DropFile) and each.name == "b" for each in every)
    assert len(every) == 2
    for each in every:
        if isinstance(each, Study):
            assert each.passed_over or sum(s.count for s in each.series) == len(
                [part for s in each.series for part in s.slices()]
            )


def everything_about_a_patient() -> dict[str, Any]:
    """Every element of the patient's group and what else names people, places or times."""
    said: dict[str, Any] = {}
    for tag, (vr, _, _, retired, keyword) in pydicom.datadict.DicomDictionary.items():
        personal = tag >> 16 in (0x0010, 0x0038, 0x0040, 0x0032) or vr == "PN" or "ID" in keyword
        if not personal or retired or not keyword or "Sequence" in keyword or tag >> 16 == 0x0028:
            continue
        if vr in ("PN", "LO", "SH", "LT", "ST", "UT", "UC"):
            said[keyword] = "Qx" + keyword[:8] + "zQ"
        elif vr == "CS":
            said[keyword] = "QXCSZQ"
        elif vr == "DA":
            said[keyword] = "19371117"
        elif vr == "TM":
            said[keyword] = "113711.937137"
        elif vr == "AS":
            said[keyword] = "097Y"
    return said


def test_no_word_of_the_patient_leaves(tmp_path: Path) -> None:
    said = everything_about_a_patient()
    assert len(said) > 150
    for name, data in axial("", StudyInstanceUID="1.2.3", **said).items():
        (tmp_path / f"im{name}").write_bytes(data)
    for name, data in axial("", "two", keep=1, StudyInstanceUID="1.2.3",
                            **{**said, "PatientID": "QxOtherzQ"}).items():  # fmt: skip
        (tmp_path / f"other{name}").write_bytes(data)
        (tmp_path / "damaged").write_bytes(data[:-100])
    lost = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
    (tmp_path / "lost").write_bytes(axial("", "three", keep=1, **said, **lost)["12"])
    scout = axial("", "four", keep=1, **said, ImageType="LOCALIZER")["12"]
    (tmp_path / "scout").write_bytes(scout)
    (tmp_path / "DICOMDIR").write_bytes(index_of("A"))
    for style in ("json", "table", "csv"):
        done = edge("classify", "--study", tmp_path, "--format", style)
        assert done.returncode == 1
        out = (done.stdout + done.stderr).replace(str(tmp_path), "")
        for word in ("Qx", "zQ", "QXCS", "19371117", "113711", "097Y", "Zwetschken"):
            assert word not in out, (style, word)


def test_whom_a_file_shows_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    read = words.read_elements

    def spied(data: bytes, limits: Any, names: Iterable[str], *more: Any) -> Any:
        asked.update(names)
        return read(data, limits, names, *more)

    monkeypatch.setattr(words, "read_elements", spied)
    found_in(files_of(axial("s")))
    assert asked
    people = {name for name in asked if pydicom.datadict.tag_for_keyword(name) >> 16 == 0x0010}
    assert people == {"PatientID"}


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "IM1").write_bytes(axial("s", keep=1)["s12"])
    (tmp_path / "a.png").write_bytes(PICTURE)
    program = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from edge_runtime.commands.main import main\n"
        "sys.argv[:] = ['btc-edge', 'classify', '--study', sys.argv[1], '--format', 'json']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "DICOM files need the package pydicom: pip install 'btc-edge[dicom]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads(done.stdout)) == 2


def test_studies_through_the_command(tmp_path: Path) -> None:
    files = axial("one-", StudyInstanceUID="1.2.3") | axial("two-", "two", StudyInstanceUID="1.2.4")
    folder = tmp_path / "cd"
    (folder / "sub").mkdir(parents=True)
    for name, data in files.items():
        (folder / "sub" / name).write_bytes(data)
    (folder / "DICOMDIR").write_bytes(index_of(*([["SUB", name.upper()] for name in files])))
    (folder / "README.txt").write_text("a viewer")

    def inputs(*more: object, **how: Any) -> tuple[list[str], int, str]:
        done = edge("classify", "--study", *more, "--format", "json", **how)
        return [each["input"] for each in json.loads(done.stdout)], done.returncode, done.stderr

    both = ["1.2.3", "1.2.4"]
    found, code, line = inputs(folder)
    assert (found, code) == (both, 0)
    assert line.count("\n") == 1
    assert "passed over 1 file that is no image: 1 .txt" in line
    assert inputs(folder / "DICOMDIR")[:2] == (both, 0)
    # Files one by one are one drop, from wherever they come, and named twice count once.
    paths = sorted(map(str, (folder / "sub").iterdir()))
    assert inputs(*paths) == (both, 0, "")
    assert inputs("-", stdin="\n".join(paths[::-1]) + "\n")[0] == both[::-1]
    again, code, line = inputs(paths[0], paths[0])
    assert (again, code) == (["1.2.3"], 0)
    assert COPY in line
    packed = zipped({Path(path).name: Path(path).read_bytes() for path in paths})
    (tmp_path / "both.zip").write_bytes(packed)
    assert inputs(tmp_path / "both.zip") == (both, 0, "")
    (folder / "both.zip").write_bytes(packed)
    (folder / "viewer.zip").write_bytes(zipped({"viewer.exe": b"MZ", "log.gz": b"\x1f\x8b"}))
    found, code, line = inputs(folder)
    assert (found, code) == (both, 0)
    assert "viewer.zip: no image in this zip file" in line
    assert inputs(folder / "viewer.zip")[1] == 1
    done = edge("classify", "--study", "--stdin", "--format", "json", stdin=packed)
    assert [each["input"] for each in json.loads(done.stdout)] == both
    assert json.loads(done.stdout)[0]["slices"][0]["input"] == "stdin/one-12"
    assert inputs("--stdin", stdin=b"")[1] == 1
    (folder / "sub" / "one-13").write_bytes(files["one-13"][:-50])
    found, code, line = inputs(folder / "sub")
    assert (found, code) == (both, 1)
    assert "one-13: truncated or damaged" in line


def test_files_that_take_turns_in_space_are_not_read_for_every_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two files of every second slice each, the frames of one falling."""
    how = {"StudyInstanceUID": "1.5", "WindowCenter": 600, "WindowWidth": 1200}
    even = enhanced(HEAD, range(0, 26, 2), SOPInstanceUID="1.5.1", **how)
    odd = enhanced(HEAD, range(19, 0, -2), SOPInstanceUID="1.5.2", **how)
    broken = enhanced(HEAD, range(21, 27, 2), SOPInstanceUID="1.5.3", BitsStored=None, **how)
    reads: list[str] = []
    read = DropFile.read

    def counted(self: DropFile, *limits: Any) -> bytes:
        reads.append(self.name)
        return read(self, *limits)

    monkeypatch.setattr(DropFile, "read", counted)
    (study,), _, _ = found_in(files_of({"even": even, "odd": odd, "broken": broken}))
    shown = study.series[0]
    reads.clear()
    parts = list(shown.slices())
    assert [part.input for part in parts] == ["even", "odd"] * 10 + ["even", "broken"] * 3
    assert [part.number for part in parts][:6] == [0, 9, 1, 8, 2, 7]
    assert {part.input for part in parts if isinstance(part.gray, InputError)} == {"broken"}
    assert sorted(reads) == ["broken", "even", "odd"]
    # Where only few frames may be held, the order is the same.
    monkeypatch.setattr(frames_module, "HELD", 3 * 34 * 40)
    reads.clear()
    again = list(shown.slices())
    assert [part[:3] for part in again] == [part[:3] for part in parts]
    assert reads.count("broken") == 1  # and what is wrong with it is known
    for one, other in zip(parts[:20], again, strict=False):
        np.testing.assert_array_equal(one.gray, other.gray)


def test_damaged_files_do_not_decide_the_range_of_the_others() -> None:
    """Sixteen files are sampled: these are damaged, and the others are shown all the same."""
    files = axial("s", keep=20)
    wanted = {f"s{12 + n}" for n in np.linspace(0, 19, 16).round().astype(int)}
    files = {n: data[:-100] if n in wanted else data for n, data in files.items()}
    (study,), _, _ = found_in(files_of(files))
    good = {part.input for part in study.series[0].slices() if isinstance(part.gray, np.ndarray)}
    assert good == set(files) - wanted
