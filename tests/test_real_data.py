"""A small, fixed sample of the real data, where it lies beside the checkout."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import Classifier
from edge_runtime.images import load_gray
from edge_runtime.preprocess import Preprocess, preprocess
from trainer.data.dataset import read_dataset
from trainer.data.split import split_dataset

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
    right = [a.label == Path(n).parent.name for a, n in zip(answers, names, strict=True)]
    # Most of these were trained on: this finds a wrong label order or preprocessing, no more.
    assert np.mean(right) > 0.9


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
