"""Whole heads become a data set that stands with others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.head_slices import main
from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.data.dataset import read_dataset

nibabel = pytest.importorskip("nibabel")


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    """Two balls as heads, one of them with a tumour."""
    grid = np.indices((40, 44, 36)) - np.array([20, 22, 18])[:, None, None, None]
    for name, size in (("a", 14), ("b", 15)):
        ball = (np.square(grid).sum(axis=0) < size**2) * 200
        ball[15:20, 18:24, 10:15] //= 2
        image = nibabel.Nifti1Image(ball.astype(np.int16), np.diag([2.0, 2, 2, 1]))
        (tmp_path / "heads").mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / "heads" / f"{name}.nii.gz")
    rows = ["path,label,subject,sequence,tumour_slices", "a.nii.gz,no_tumor,P1,T1,",
            "b.nii.gz,tumor,P2,T1,10-14 of 36"]  # fmt: skip
    (tmp_path / "heads.csv").write_text("\n".join([*rows, ""]))
    return tmp_path


def run(place: Path, *words: str) -> str:
    done = CliRunner().invoke(
        main, [str(place / "heads"), str(place / "heads.csv"), "--source", "s", *words],
        catch_exceptions=True,
    )  # fmt: skip
    if done.exception is not None:
        raise done.exception
    return done.output


def test_healthy_heads_are_cut_in_all_planes(heads: Path) -> None:
    assert "slices of 1 heads" in run(heads, "--out", str(heads / "out"), "--every", "3")
    data = read_dataset(
        heads / "out" / "slices", Preprocess(size=32),
        groups_csv=heads / "out" / "groups.csv", least_classes=1,
    )  # fmt: skip
    assert set(data.groups) == set(data.patients) == {"P1"}
    assert set(data.sources) == {"s"}
    planes = Counter(data.planes)
    assert set(planes) == {"axial", "coronal", "sagittal"}
    assert all(7 <= count <= 11 for count in planes.values()), "every third of some 28"


def test_what_is_there_is_not_written_to(heads: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        run(heads, "--out", str(heads))
    (heads / "heads.csv").write_text(
        "path,label,subject,sequence,tumour_slices\nb.nii.gz,tumor,P2,T1,\n"
    )
    with pytest.raises(DataError, match="no head without a tumour"):
        run(heads, "--out", str(heads / "out"))
