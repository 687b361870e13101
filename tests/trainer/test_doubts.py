"""Slices whose label a table doubts: not learned from, tested, and told with and without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError
from edge_runtime.imaging.preprocess import Preprocess
from tests.trainer.test_dataset import fake_dataset
from tests.trainer.test_join import draw_slice, png, read, row, run, write_set
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.split import Split, fold_splits, split_dataset
from trainer.evaluation.predictions import make_predictions, metrics_of, read_predictions

OPTIONS = Preprocess(size=32)


def doubted(data: Dataset, every: int) -> Dataset:
    return replace(data, doubts=tuple("odd" if i % every == 0 else "" for i in range(len(data))))


@settings(max_examples=20, deadline=None)
@given(st.integers(24, 60), st.integers(3, 7), st.integers(0, 99), st.booleans())
def test_they_are_on_the_test_side_only_and_move_nothing_else(
    n: int, every: int, seed: int, folds: bool
) -> None:
    groups = [i // 3 for i in range(3 * n)]
    data = fake_dataset(groups, [g % 2 for g in groups])

    def splits(of: Dataset) -> list[Split]:
        return fold_splits(of, 5, seed) if folds else [split_dataset(of, "official", seed)]

    certain = ~doubted(data, every).doubtful
    for plain, split in zip(splits(data), splits(doubted(data, every)), strict=True):
        np.testing.assert_array_equal(split.train, plain.train[certain[plain.train]])
        np.testing.assert_array_equal(split.validation, plain.validation[certain[plain.validation]])
        np.testing.assert_array_equal(split.test, plain.test)
        assert len(split.train_and_validation) + split.doubtful == len(plain.train_and_validation)


def test_a_column_of_the_groups_says_why(tmp_path: Path) -> None:
    pictures = {f"{'ab'[i % 2]}/{i}.png": png(draw_slice(i)) for i in range(6)}
    rows = [row(path, f"g{i}") for i, path in enumerate(pictures)]
    told = [row(path, f"g{i}", doubt="a lesion" * (i == 2)) for i, path in enumerate(pictures)]
    blank = [cells | {"doubt": ""} for cells in rows]
    plain, none, data = (
        read_dataset(place / "slices", OPTIONS, groups_csv=place / "groups.csv")
        for place in (
            write_set(tmp_path / str(number), pictures, cells)
            for number, cells in enumerate((rows, blank, told))
        )
    )
    assert plain.doubts == none.doubts == ()
    assert plain.tables == none.tables, "a run of before may be resumed"
    assert data.tables != plain.tables
    assert dict(zip(data.paths, data.doubts, strict=True))["a/2.png"] == "a lesion"
    assert data.doubtful.sum() == 1
    assert data.take([0, 1]).doubts == data.doubts[:2]


def test_figures_stand_beside_those_without_them(tmp_path: Path) -> None:
    groups = list(range(40))
    data = doubted(fake_dataset(groups, [g % 2 for g in groups]), 4)
    right = np.eye(2)[data.labels] * 0.8 + 0.1
    wrong = np.where(data.doubtful[:, None], right[:, ::-1], right)  # wrong on these alone
    predictions = make_predictions(
        data, wrong, "grouped", "test", {"doubtful": data.doubtful.astype(int)}
    )
    predictions.write(tmp_path / "p.csv")
    again = read_predictions(tmp_path / "p.csv", data.class_names, "grouped", "test")
    for table in (predictions, again):
        metrics = metrics_of(table)
        without = metrics["without_doubtful"]
        assert (metrics["n"], metrics["accuracy"]) == (40, 0.75)
        assert (without["n"], without["accuracy"]) == (30, 1.0)
        assert without["protocol"] == "grouped, without slices of doubted label"
    plain = make_predictions(replace(data, doubts=()), wrong, "grouped", "test")
    assert metrics_of(plain)["without_doubtful"] is None


@pytest.mark.parametrize("doubt", ["a lesion", ""])
def test_a_joined_set_keeps_them(tmp_path: Path, doubt: str) -> None:
    pictures = {f"{'ab'[i % 2]}/{i}.png": png(draw_slice(i)) for i in range(4)}
    rows = [row(path, f"g{i}", doubt=doubt * (i == 1)) for i, path in enumerate(pictures)]
    run(write_set(tmp_path / "one", pictures, rows), "--out", tmp_path / "out")
    found = {path: cells.get("doubt") for path, cells in read(tmp_path / "out").items()}
    assert found["one/b/1.png"] == (doubt or None)
    assert {*found.values()} == ({doubt, ""} if doubt else {None})
    about = json.loads((tmp_path / "out" / "croissant.json").read_text("utf-8"))
    fields = {field["@id"] for record in about["recordSet"] for field in record["field"]}
    assert any(name.endswith("/doubt") for name in fields) == bool(doubt)


def test_the_list_fits_the_real_table(tmp_path: Path) -> None:
    from benchmarks.doubts import DOUBTFUL, with_doubts
    from trainer.data.tables import read_table

    groups = Path(__file__).resolve().parents[3] / "shared" / "data" / "groups.csv"
    if not groups.is_file():
        pytest.skip("needs ../shared/data/groups.csv")
    out = tmp_path / "groups.csv"
    out.write_text(with_doubts(groups), "utf-8")
    before, after = read_table(groups, ("path",)), read_table(out, ("path", "doubt"))
    assert [{**cells, "doubt": ""} for cells in before] == [
        {**cells, "doubt": ""} for cells in after
    ]
    doubted = {cells["path"]: cells for cells in after if cells["doubt"]}
    assert len(doubted) == len(read_table(DOUBTFUL, ("path",)))
    assert {cells["label"] for cells in doubted.values()} == {"notumor"}


def test_the_list_is_not_put_on_other_data(tmp_path: Path) -> None:
    from benchmarks.doubts import with_doubts

    groups, doubtful = tmp_path / "groups.csv", tmp_path / "doubtful.csv"
    groups.write_text("path,group,doubt\nz/a/0.png,g0,former\nz/a/1.png,g1,\n")
    doubtful.write_text("path,doubt\na/1.png,odd\n")
    assert with_doubts(groups, doubtful) == "path,group,doubt\nz/a/0.png,g0,\nz/a/1.png,g1,odd\n"
    doubtful.write_text("path,doubt\na/1.png,odd\nb/2.png,odd\n")
    with pytest.raises(DataError, match=r"groups.csv: no row for 1 images, such as b/2.png"):
        with_doubts(groups, doubtful)
