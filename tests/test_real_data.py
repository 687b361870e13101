"""A small, fixed sample of the real data, where it lies beside the checkout."""

from __future__ import annotations

import csv
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import Classifier
from edge_runtime.imaging.decode import load_gray
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.studies.arrange import How, arrange
from edge_runtime.studies.files import DropFile
from edge_runtime.studies.study import Study
from trainer.audit.examine import Audit, audit
from trainer.data.dataset import read_dataset
from trainer.data.split import split_dataset
from trainer.features.extractor import Extractor
from trainer.models.classical import ClassicalSettings, fit_classical
from trainer.synthetic.ood_pictures import CHANGED, DRAWN, draw_ood_pictures

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ARCHIVE, GROUPS = DATA / "brain-tumor-mri.zip", DATA / "groups.csv"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason="the real data is not beside this checkout"),
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 20th slice as a zip of its own."""
    path = tmp_path_factory.mktemp("real") / "sample.zip"
    with zipfile.ZipFile(ARCHIVE) as source, zipfile.ZipFile(path, "w") as out:
        for name in sorted(source.namelist())[::20]:
            out.writestr(name, source.read(name))
    return path


def test_bundled_model_recognises_real_slices(sample: Path) -> None:
    classifier = Classifier()
    with zipfile.ZipFile(sample) as archive:
        names = archive.namelist()
        answers = list(classifier.classify_many(archive.read(name) for name in names))
    right = [a.raw_label == Path(n).parent.name for a, n in zip(answers, names, strict=True)]
    # Most of these were trained on: this finds a wrong label order or preprocessing, no more.
    assert np.mean(right) > 0.9
    answered = [r for a, r in zip(answers, right, strict=True) if a.label is not None]
    assert len(answered) > 0.6 * len(names), "it withholds what looks like T2 or FLAIR"
    assert np.mean(answered) > 0.95


def test_bundled_model_refuses_inverted_and_turned_slices(sample: Path) -> None:
    classifier = Classifier()
    with zipfile.ZipFile(sample) as archive:
        slices = [load_gray(archive.read(name)) for name in archive.namelist()]

    def refused(pictures: list[np.ndarray]) -> float:
        answers = classifier.classify_many(pictures)
        return float(np.mean([a.status.value == "unfamiliar" for a in answers]))

    # Most real slices of the sample were trained on: this holds the threshold in its place.
    assert refused(slices) < 0.08
    changed = {name: refused([change(s) for s in slices]) for name, change in CHANGED.items()}
    drawn = {name: refused(draw_ood_pictures(name, 60)) for name in DRAWN}
    assert np.mean([*changed.values(), *drawn.values()]) >= 0.95
    # Training shows tone curves that turn levels around: inverted slices are refused less often.
    assert min(changed.values()) > 0.7, changed


def test_groups_stay_on_one_side(sample: Path) -> None:
    data = read_dataset(sample, Preprocess(), groups_csv=GROUPS)
    assert len(data) > 300
    assert not data.problems
    split = split_dataset(data, "grouped", seed=1)
    sides = [{data.groups[i] for i in side} for side in (split.train, split.validation, split.test)]
    assert sum(map(len, sides)) == len(set.union(*sides))
    with GROUPS.open(newline="") as stream:
        patients = {row["path"]: row["patient"] for row in csv.DictReader(stream)}
    owners = [{patients[data.paths[i]] for i in side} - {""} for side in
              (split.train, split.validation, split.test)]  # fmt: skip
    assert not owners[0] & owners[2]


def test_device_path_and_training_path_see_the_same(sample: Path) -> None:
    data = read_dataset(sample, Preprocess())
    with zipfile.ZipFile(sample) as archive:
        raw = archive.read(data.paths[3])
    np.testing.assert_array_equal(data.images[3], preprocess(load_gray(raw), Preprocess()))


@pytest.fixture(scope="module")
def audited() -> Audit:
    return audit(ARCHIVE, GROUPS)


def test_audit_finds_the_leak_of_the_official_split(audited: Audit) -> None:
    result = audited.result
    assert audited.leaks
    assert result["answer"] == "1,002 of 1,311 test images (76 %) have a near-duplicate in training"
    assert result["leak"]["by_turn"]["mirrored"] > result["leak"]["by_turn"]["same"]
    assert result["conflicts"]["count"] == 4
    assert result["unreadable"] == []


def test_audit_joins_what_the_table_splits(audited: Audit) -> None:
    groups = audited.result["groups"]
    assert (groups["given"], groups["merged"]) == (778, 702)
    # The table that version 0.1.0 leaves: the published folds were made of these groups.
    digest = audited.result["groups_csv_sha256"]
    assert digest == "b28b1ccee5f48b6b0765cb7558da0a0f3e7f65f360993df2fc4bedb467e4e271"
    assert groups["table"]["clusters_split"]["count"] > 0
    assert groups["table"]["label_disagreements"]["count"] == 0
    assert groups["table"]["patients_on_both_sides"]["count"] > 150


def test_audit_doubts_hardly_any_real_slice(audited: Audit) -> None:
    oddities = audited.result["oddities"]
    assert oddities["not_mri_like"]["count"] <= 2
    assert oddities["colour"]["count"] < 50, (
        "over half are stored as RGB, and nearly all of these are gray"
    )
    assert "channels" in audited.result["shortcuts"]["above_chance"]


def test_classical_model_on_unseen_groups(sample: Path) -> None:
    """HOG with a support vector machine: far above chance (a quarter) with 250 slices to learn
    from, and far below what slices of the same patients would give it."""
    options = Preprocess(size=128)
    data = read_dataset(sample, options, groups_csv=GROUPS)
    split = split_dataset(data, "grouped", 1)
    features = Extractor(["histogram", "hog"], 128)(data.images)
    training = data.take(split.train)
    model, _ = fit_classical(
        ClassicalSettings("svm", ("histogram", "hog")), features[split.train], training.labels,
        training.groups,
    )  # fmt: skip
    predicted = model.predict(features[split.test])[0].argmax(axis=1)
    assert 0.5 < np.mean(predicted == data.labels[split.test]) < 0.95


def test_series_of_a_real_study_are_arranged_rightly() -> None:
    pytest.importorskip("pydicom")
    with zipfile.ZipFile(DATA / "heads.zip") as archive:
        names = [name for name in archive.namelist() if "brainix" in name and name[-1] != "/"]
        files = [DropFile(name, archive.read(name)) for name in names]
    random.Random(1).shuffle(files)
    told: list[object] = []
    (study,) = arrange(files, How(), told.append)
    assert isinstance(study, Study)
    assert (told, study.passed_over) == ([], ())
    flair, t1 = study.series
    assert (flair.sequence, flair.plane, flair.count) == ("FLAIR", "axial", 22)
    assert (t1.sequence, t1.plane, t1.count) == ("T1", "axial", 22)
    assert t1.distance == pytest.approx(6, abs=1e-3)
    # From the feet to the head, against the numbers of the files.
    assert [part.input[-8:-4] for part in t1.slices()] == [f"{n:04d}" for n in range(22, 0, -1)]


def test_a_page_answers_real_slices_as_the_command_does(sample: Path) -> None:
    pytest.importorskip("playwright")
    pytest.importorskip("btc_edge_web")
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        pytest.skip("no Chromium here: apt-get install chromium")
    from benchmarks.web import measure

    result = measure(sample, 40)
    assert (result["slices"], result["differ"]) == (40, 0)
    assert result["worst_difference"] < 1e-12
