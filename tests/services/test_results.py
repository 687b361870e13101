"""An answer as a Secondary Capture and a report."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from edge_runtime.classifier import Classifier
from edge_runtime.decision.prediction import Prediction, Status, failure
from edge_runtime.errors import InputError, ModelError
from edge_runtime.services.results import (
    WARNING,
    Result,
    make_results,
    of_answer,
    read_sources,
    strongest,
)
from edge_runtime.studies.drop import DropFile, classify_drop
from tests.services.dicom_peers import NAME, NUMBER, STUDY, drawn_file, drawn_study

COUNT = 3
STUDY_OF = {
    "uid": STUDY,
    "tumor": 0.97,
    "type": {"label": "glioma", "confidence": 0.9},
    "findings": [{"series": 0, "first": 1, "last": 2, "slice": 1, "box": [0.25, 0.5, 0.25, 0.25]}],
    "series": [{"uid": f"{STUDY}.1", "used": True}, {"uid": f"{STUDY}.2", "used": False}],
    "passed_over": [],
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return drawn_study(tmp_path_factory.mktemp("study"), COUNT)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


@pytest.fixture(scope="module")
def unfamiliar(classifier: Classifier, paths: list[Path]) -> Prediction:
    """What the model answers for drawn slices: that it does not know them."""
    return classifier.classify_study(STUDY, paths)


@pytest.fixture(scope="module")
def answers(unfamiliar: Prediction) -> Mapping[str, Prediction]:
    """One of each kind."""
    told = {"reason": None, "confidence": 0.9}
    return {
        "unfamiliar": unfamiliar,
        "tumor": replace(unfamiliar, status=Status.OK, label="glioma", study=STUDY_OF, **told),
        "none": replace(unfamiliar, status=Status.OK, label="notumor", raw_label="notumor", **told),
        "uncertain": replace(
            unfamiliar,
            status=Status.UNCERTAIN,
            reason="only 1 slice",
            study={**STUDY_OF, "tumor": None, "type": None, "findings": []},
        ),
        "error": failure(STUDY, unfamiliar.model, "no slice could be classified"),
    }


KINDS = ["unfamiliar", "tumor", "none", "uncertain", "error"]


@pytest.fixture(scope="module")
def made(
    classifier: Classifier, paths: list[Path], answers: Mapping[str, Prediction]
) -> Mapping[str, list[Result]]:
    sources = read_sources(paths)
    return {kind: make_results(classifier, answers[kind], sources) for kind in KINDS}


def opened(results: list[Result]) -> tuple[pydicom.Dataset, Any]:
    """The capture and the report."""
    assert [each.kind for each in results] == ["SC", "SR"]
    return pydicom.dcmread(BytesIO(results[0].data)), srread(BytesIO(results[1].data))


def run_tool(name: str, *words: str) -> str:
    """What one of dcmtk's or dicom3tools' programs prints."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *words], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_both_are_what_the_standard_asks_for(
    made: Mapping[str, list[Result]], kind: str, tmp_path: Path
) -> None:
    for result, name in zip(made[kind], ("SCImage", "ComprehensiveSR"), strict=True):
        path = tmp_path / f"{result.kind}.dcm"
        path.write_bytes(result.data)
        told = run_tool("dciodvfy", str(path))
        assert name in told
        assert "Error" not in told


def test_others_read_the_report(made: Mapping[str, list[Result]], tmp_path: Path) -> None:
    path = tmp_path / "SR.dcm"
    path.write_bytes(made["tumor"][1].data)
    told = run_tool("dsrdump", "+Pl", str(path))
    for words in (
        WARNING, "UNVERIFIED", "COMPLETE", '"Tumor")=(52101004,SCT,"Present")',
        '(GLIOMA,99BTCEDGE,"glioma")', '"Probability")="0.9"', "Algorithm Name",
    ):  # fmt: skip
        assert words in told, words


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_files_them_under_the_same_patient_and_study(
    made: Mapping[str, list[Result]], kind: str
) -> None:
    for each in opened(made[kind]):
        assert each.StudyInstanceUID == STUDY
        assert (str(each.PatientName), each.PatientID) == (NAME, NUMBER)
        assert (each.PatientBirthDate, each.PatientSex) == ("19700101", "O")
        assert (each.StudyDate, each.StudyTime, each.StudyID) == ("20260102", "030405", "7")
        assert (each.AccessionNumber, each.IssuerOfPatientID) == ("A-1", "WARD")
        assert str(each.ReferringPhysicianName) == "Doe^Jane"
        assert each.SeriesInstanceUID != f"{STUDY}.1"


def test_names_of_any_alphabet_come_back_as_they_were(
    classifier: Classifier, tmp_path: Path, unfamiliar: Prediction
) -> None:
    name = "Yamada^Tarou=山田^太郎"
    data = drawn_file(PatientName=name, SpecificCharacterSet=["", "ISO 2022 IR 87"])
    (tmp_path / "a.dcm").write_bytes(data)
    for each in opened(make_results(classifier, unfamiliar, read_sources(tmp_path.iterdir()))):
        assert str(each.PatientName) == name
        assert each.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    "odd",
    [
        {"PatientBirthDate": "around 1970", "StudyDate": "2026.01.02", "StudyTime": "noon"},
        {"PatientName": "", "PatientID": "", "StudyID": "", "AccessionNumber": ""},
        {"PatientID": "x" * 5000, "PatientName": "no caret", "PatientSex": "unknown"},
        {"PatientName": "a\\b", "StudyDescription": "line\nline", "StudyID": "7" * 40},
        dict.fromkeys(("PatientName", "PatientID", "StudyDate", "ReferringPhysicianName")),
    ],
)
def test_odd_headers_are_no_reason_to_send_nothing(
    classifier: Classifier, tmp_path: Path, unfamiliar: Prediction, odd: dict[str, Any],
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    (tmp_path / "a.dcm").write_bytes(drawn_file(**odd))
    recwarn.clear()
    capture, report = opened(make_results(classifier, unfamiliar, read_sources(tmp_path.iterdir())))
    assert capture.StudyInstanceUID == report.StudyInstanceUID == STUDY
    assert capture.PatientID == report.PatientID == ("" if "PatientID" in odd else NUMBER)
    assert not [each for each in recwarn if "x" * 100 in str(each.message)]


def test_what_is_copied_stays_as_it_is(
    classifier: Classifier, tmp_path: Path, unfamiliar: Prediction
) -> None:
    """A backslash, which parts values, is in some texts of one."""
    told = {"PatientName": "Sample\\Person", "PatientID": "4\\7", "StudyDescription": "HEAD\\MR"}
    (tmp_path / "a.dcm").write_bytes(drawn_file(**told))
    for result in make_results(classifier, unfamiliar, read_sources(tmp_path.iterdir())):
        made = pydicom.dcmread(BytesIO(result.data))
        assert {name: made.get_item(name).value.decode() for name in told} == {
            name: text + " " * (len(text) % 2) for name, text in told.items()
        }


def test_an_image_that_does_not_say_whose_it_is_goes_with_the_others(
    classifier: Classifier, tmp_path: Path
) -> None:
    blank: list[dict[str, Any]] = [
        {"PatientID": "", "PatientName": ""},
        {"IssuerOfPatientID": None},
    ]
    for number, elements in enumerate([*blank, {}]):
        (tmp_path / f"{number}.dcm").write_bytes(drawn_file(number, **elements))
    files = sorted(tmp_path.iterdir())
    [answer] = classify_drop(classifier, [DropFile(str(path), path) for path in files])
    sources = of_answer(answer, read_sources(files))
    assert [source.path for source in sources] == files
    for each in opened(make_results(classifier, answer, sources)):
        assert (str(each.PatientName), each.PatientID) == (NAME, NUMBER)
        assert each.IssuerOfPatientID == "WARD"


@pytest.mark.parametrize(
    ("others", "count"), [(b"4 \xff7", 1), (b"4  7", 2)], ids=["no text", "more blanks"]
)
def test_patients_are_told_apart_as_by_answers(
    classifier: Classifier, tmp_path: Path, others: bytes, count: int
) -> None:
    mine = b"4 \xfe7" if count == 1 else b"4 7 "
    for number, patient in enumerate((mine, others)):
        data = drawn_file(number, PatientID="abcd", SpecificCharacterSet="ISO_IR 192")
        (tmp_path / f"{number}.dcm").write_bytes(data.replace(b"abcd", patient))
    files = sorted(tmp_path.iterdir())
    answers = list(classify_drop(classifier, [DropFile(str(path), path) for path in files]))
    assert len(answers) == 3 - count
    assert len(of_answer(answers[0], read_sources(files))) == count


def test_twice_is_the_same_instance_to_the_byte(
    classifier: Classifier, paths: list[Path], answers: Mapping[str, Prediction],
    made: Mapping[str, list[Result]],
) -> None:  # fmt: skip
    again = make_results(classifier, answers["tumor"], read_sources(reversed(paths)))
    assert again == made["tumor"]
    other = {each.instance for kind in KINDS for each in made[kind]}
    assert len(other) == 2 * len(KINDS)
    assert all(re.fullmatch(r"2\.25\.[0-9]{1,39}", uid) for uid in other)


def test_other_files_make_other_instances(
    classifier: Classifier, paths: list[Path], answers: Mapping[str, Prediction],
    made: Mapping[str, list[Result]],
) -> None:  # fmt: skip
    fewer = make_results(classifier, answers["tumor"], read_sources(paths[:2]))
    assert not {r.instance for r in fewer} & {r.instance for r in made["tumor"]}


def test_the_capture_says_what_it_is(made: Mapping[str, list[Result]]) -> None:
    capture, _ = opened(made["tumor"])
    assert list(capture.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert capture.ConversionType == "WSD"
    assert capture.Modality == "OT"
    assert capture.BurnedInAnnotation == "NO"
    assert WARNING in capture.ImageComments
    assert WARNING in capture.SeriesDescription


def test_what_was_burned_into_an_image_is_in_the_capture_too(
    classifier: Classifier, tmp_path: Path, unfamiliar: Prediction
) -> None:
    (tmp_path / "a.dcm").write_bytes(drawn_file(0, BurnedInAnnotation="NO"))
    (tmp_path / "b.dcm").write_bytes(drawn_file(1, BurnedInAnnotation="YES"))
    capture, _ = opened(make_results(classifier, unfamiliar, read_sources(tmp_path.iterdir())))
    assert capture.BurnedInAnnotation == "YES"


def test_the_picture_shows_slice_box_heatmap_and_words(made: Mapping[str, list[Result]]) -> None:
    pixels = opened(made["tumor"])[0].pixel_array
    assert pixels.shape[1] == 1024
    yellow = (pixels == [255, 255, 0]).all(axis=2)
    rows = np.flatnonzero(yellow[:, :512].any(axis=1))
    assert rows.min() < 34  # the warning above
    assert rows.max() > len(pixels) - 34  # and below
    box = np.argwhere(yellow[34:546, :512])
    assert np.abs(box.min(axis=0) - [256, 128]).max() <= 2
    assert np.abs(box.max(axis=0) - [384, 256]).max() <= 2
    slice_, heat = pixels[34:546, :512], pixels[34:546, 512:]
    assert (np.ptp(slice_[:120].astype(int), axis=2) == 0).all()  # gray
    assert np.ptp(heat.astype(int), axis=2).max() > 50  # colour


def test_a_picture_without_any_slice_has_words(made: Mapping[str, list[Result]]) -> None:
    pixels = opened(made["error"])[0].pixel_array
    assert 60 < pixels.shape[0] < 200


def test_a_model_without_class_maps_shows_the_slice(
    classifier: Classifier, paths: list[Path], unfamiliar: Prediction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def none(*_: Any, **__: Any) -> Any:
        raise ModelError("this model gives no class maps, so it has no heatmaps")

    monkeypatch.setattr(classifier, "classify_slices", none)
    pixels = opened(make_results(classifier, unfamiliar, read_sources(paths)))[0].pixel_array
    assert (pixels[34:546, :512] == pixels[34:546, 512:]).all()


def test_a_report_refers_to_the_images_of_the_finding(made: Mapping[str, list[Result]]) -> None:
    capture, report = opened(made["tumor"])
    [group] = report.content.get_image_measurement_groups()
    assert [image.referenced_sop_instance_uid for image in group.source_images] == [
        f"{STUDY}.1.2", f"{STUDY}.1.3",
    ]  # fmt: skip
    evidence = [str(uids[2]) for uids in report.get_evidence()]
    assert {f"{STUDY}.1.{n + 1}" for n in range(COUNT)} | {capture.SOPInstanceUID} == set(evidence)


def test_a_report_refers_to_frames_of_an_enhanced_image(
    classifier: Classifier, tmp_path: Path
) -> None:
    frames = np.stack([np.full((32, 32), 40 * n, np.uint8) for n in range(4)])
    data = drawn_file(NumberOfFrames=4, Rows=32, Columns=32, PixelData=frames.tobytes())
    (tmp_path / "a.dcm").write_bytes(data)
    answer = classifier.classify_study(STUDY, list(tmp_path.iterdir()))
    answer = replace(answer, status=Status.OK, label="glioma", study=STUDY_OF)
    _, report = opened(make_results(classifier, answer, read_sources(tmp_path.iterdir())))
    [group] = report.content.get_image_measurement_groups()
    [image] = group.source_images
    assert image.referenced_frame_numbers == [2, 3]


@pytest.mark.parametrize(
    ("kind", "value", "complete", "verified"),
    [
        ("tumor", "Present", "COMPLETE", "UNVERIFIED"),
        ("none", "Absent", "COMPLETE", "UNVERIFIED"),
        ("uncertain", "Indeterminate result", "PARTIAL", "UNVERIFIED"),
        ("unfamiliar", "Indeterminate result", "PARTIAL", "UNVERIFIED"),
        ("error", "Indeterminate result", "PARTIAL", "UNVERIFIED"),
    ],
)
def test_a_report_says_no_more_than_the_answer(
    made: Mapping[str, list[Result]], kind: str, value: str, complete: str, verified: str
) -> None:
    report = opened(made[kind])[1]
    assert (report.CompletionFlag, report.VerificationFlag) == (complete, verified)
    assert report.PreliminaryFlag == "PRELIMINARY"
    [group] = report.content.get_image_measurement_groups()
    told = [
        each.value.meaning
        for each in group.get_qualitative_evaluations()
        if each.name.meaning != "Algorithm Family"
    ]
    assert told == ([value, "glioma"] if kind == "tumor" else [value])
    values = {each.name.meaning: each.value for each in group.get_measurements()}
    assert ("Probability" in values) == (complete == "COMPLETE")
    evidence = 0.97 if kind == "tumor" else None
    assert values.get("Evidence that the study shows a tumor") == evidence
    of_type = values.get("Probability of the type, given a tumor")
    assert of_type == (0.9 if kind == "tumor" else None)
    texts = [i.TextValue for i in report.ContentSequence if i.ValueType == "TEXT"]
    assert WARNING in texts


def test_the_slice_that_is_shown_speaks_most_for_a_tumour(
    unfamiliar: Prediction, answers: Mapping[str, Prediction]
) -> None:
    slices = unfamiliar.slices
    assert slices is not None
    values = [0.1, 0.9, 0.5]  # that there is none
    parts = tuple(
        replace(each, probabilities={"glioma": 1 - value, "notumor": value})
        for each, value in zip(slices, values, strict=True)
    )
    assert strongest(replace(unfamiliar, slices=parts)) == 0
    assert strongest(replace(answers["tumor"], slices=parts)) == 1  # of the finding
    assert strongest(answers["error"]) is None
    # What was cut in another plane is no image that can be shown.
    cut = tuple(replace(each, sha256=None) if n == 0 else each for n, each in enumerate(parts))
    assert strongest(replace(unfamiliar, slices=cut)) == 2
    study = {"findings": [{"series": 0, "first": 0, "last": 0, "slice": 0, "box": None}]}
    assert strongest(replace(answers["tumor"], slices=cut, study=study)) == 2


def test_files_that_are_none_make_no_results(
    classifier: Classifier, tmp_path: Path, unfamiliar: Prediction
) -> None:
    (tmp_path / "a").write_bytes(b"x" * 200)
    with pytest.raises(InputError, match="no image"):
        make_results(classifier, unfamiliar, read_sources(tmp_path.iterdir()))
    (tmp_path / "b").write_bytes(drawn_file())
    (tmp_path / "c").write_bytes(drawn_file(3, study="1.2.3"))
    with pytest.raises(InputError, match="several studies"):
        make_results(classifier, unfamiliar, read_sources(tmp_path.iterdir()))


def test_times_are_those_of_the_files(
    classifier: Classifier, tmp_path: Path, unfamiliar: Prediction
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(drawn_file())
    os.utime(path, (1e9, 1e9))
    for each in opened(make_results(classifier, unfamiliar, read_sources([path]))):
        assert each.ContentDate in ("20010908", "20010909")


def test_two_patients_under_one_study_uid_are_never_mixed(
    classifier: Classifier, tmp_path: Path
) -> None:
    mine, theirs = tmp_path / "a.dcm", tmp_path / "b.dcm"
    mine.write_bytes(drawn_file(0))
    theirs.write_bytes(drawn_file(1, PatientID="ANOTHER", PatientName="Other^One"))
    sources = read_sources([mine, theirs])
    answer = classifier.classify_study(STUDY, [theirs])
    [kept] = of_answer(answer, sources)
    assert kept.path == theirs
    for each in opened(make_results(classifier, answer, [kept])):
        assert each.PatientID == "ANOTHER"
    with pytest.raises(InputError, match="several patients"):
        make_results(classifier, answer, sources)
    with pytest.raises(InputError, match="several patients"):
        of_answer(classifier.classify_study(STUDY, [mine, theirs]), sources)
    with pytest.raises(InputError, match="several patients"):
        of_answer(failure(STUDY, "model", "none"), sources)
