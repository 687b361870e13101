"""The sides of several collections: each divided as it would be alone, and no group on two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import DataError
from edge_runtime.imaging.preprocess import Preprocess
from trainer.data.collection import Collection
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.partial_labels import PartialLabels, divide, read_partial_labels
from trainer.data.split import Split, fold_splits, split_dataset

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDES = ("training", "validation", "test")
Slices = Sequence[tuple[int, int]]  # the number of each slice's group, and its label


def alone(slices: Slices, source: str = "", classes: Sequence[str] = ("a", "b")) -> Dataset:
    """Slices as read of one zip or folder."""
    n = len(slices)
    return Dataset(
        images=np.zeros((n, 16, 16), np.uint8),
        labels=np.array([label for _, label in slices], dtype=np.int64),
        class_names=tuple(classes),
        paths=tuple(f"{i:03d}.png" for i in range(n)),
        splits=("",) * n,
        groups=tuple(f"g{group:03d}" for group, _ in slices),
        given_groups=("",) * n,
        sources=(source,) * n,
        patients=("",) * n,
        planes=("",) * n,
        sequences=("",) * n,
        problems=(),
        sha256="",
        thumbnails=np.zeros((n, 32, 32), np.uint8),
        file_statistics=np.zeros((n, 10), np.float32),
        crop_boxes=np.zeros((n, 4), np.float32),
        boxes=np.full((n, 4), np.nan),
    )


def together(parts: dict[str, Dataset], ties: dict[tuple[str, str], str] | None = None) -> Dataset:
    """The same slices as read of several: their names come first, and groups that are tied to
    others are called as those."""
    names = sorted(parts)
    whole = [(name, parts[name], i) for name in names for i in range(len(parts[name]))]

    def each(field: str, prefix: bool = False) -> tuple[str, ...]:
        return tuple(f"{n}/" * prefix + getattr(data, field)[i] for n, data, i in whole)

    own = each("groups")
    tied = ties or {}
    homes = [name for name, _, _ in whole]
    return replace(
        alone([(0, int(data.labels[i])) for _, data, i in whole]),
        paths=each("paths", prefix=True),
        groups=tuple(tied.get(key, "/".join(key)) for key in zip(homes, own, strict=True)),
        sources=tuple(s or n for s, n in zip(each("sources"), homes, strict=True)),
        own_groups=own,
        own_sources=each("sources"),
    )


def sides(split: Split, data: Dataset, name: str = "") -> dict[str, str]:
    """The side of each slice, by its path in the collection."""
    parts = zip(SIDES, (split.train, split.validation, split.test), strict=True)
    found = {data.paths[i]: side for side, part in parts for i in part}
    prefix = f"{name}/" if name else ""
    return {p.removeprefix(prefix): s for p, s in found.items() if p.startswith(prefix)}


def check_groups(split: Split, data: Dataset) -> None:
    """No group stands on two sides, and every slice on one."""
    names = [{data.groups[i] for i in part} for part in (split.train, split.validation, split.test)]
    assert sum(map(len, names)) == len(set.union(*names))
    found = np.concatenate([split.train, split.validation, split.test])
    assert sorted(found) == list(range(len(data)))


# Enough groups to be divided alone; and too few, or of one class, as those of healthy heads.
many = st.integers(20, 40).flatmap(
    lambda n: st.lists(st.integers(1, 4), min_size=n, max_size=n).map(
        lambda sizes: [(g, g % 2) for g, size in enumerate(sizes) for _ in range(size)]
    )
)
few = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(
    lambda sizes: [(g, 1) for g, size in enumerate(sizes) for _ in range(size)]
)
one_class = many.map(lambda slices: [(group, 1) for group, _ in slices])


@settings(max_examples=20, deadline=None)
@given(many, one_class, few, st.integers(0, 99), st.sampled_from(["grouped", "official"]))
def test_each_is_divided_as_alone(
    main: Slices, healthy: Slices, small: Slices, seed: int, protocol: str
) -> None:
    parts = {"z": alone(main), "b": alone(healthy, "far"), "a": alone(small)}
    data = together(parts)
    if protocol == "official":
        pairs = [(split_dataset(parts["z"], protocol, seed), split_dataset(data, protocol, seed))]
    else:
        pairs = list(zip(fold_splits(parts["z"], 5, seed), fold_splits(data, 5, seed), strict=True))
    two = together({name: parts[name] for name in "zb"})
    for number, (one, all_of_them) in enumerate(pairs):
        assert sides(one, parts["z"]) == sides(all_of_them, data, "z")
        check_groups(all_of_them, data)
        before = (
            fold_splits(two, 5, seed)[number]
            if protocol == "grouped"
            else split_dataset(two, protocol, seed)
        )
        assert sides(before, two, "b") == sides(all_of_them, data, "b")
    tested = np.concatenate([split.test for _, split in pairs])
    assert sorted(tested) == list(range(len(data))) * (protocol == "grouped")


@settings(max_examples=20, deadline=None)
@given(many, few, st.integers(0, 99))
def test_few_groups_are_spread_as_far_as_they_go(main: Slices, small: Slices, seed: int) -> None:
    data = together({"main": alone(main), "small": alone(small)})
    tested = []
    for split in fold_splits(data, 5, seed):
        found = sides(split, data, "small")
        assert "validation" not in found.values()
        groups = {data.groups[i] for i in split.test} - {f"main/g{g:03d}" for g, _ in main}
        assert len(groups) <= 1, "one patient a fold"
        tested += sorted(groups)
    assert sorted(tested) == sorted({f"small/g{g:03d}" for g, _ in small})


@settings(max_examples=30, deadline=None)
@given(many, one_class, few, st.integers(0, 99), st.data())
def test_what_reaches_over_stays_on_one_side(
    main: Slices, healthy: Slices, small: Slices, seed: int, drawn: st.DataObject
) -> None:
    healthy = healthy[: len(main) - 1]  # main is the largest
    parts = {"z": alone(main), "b": alone(healthy), "a": alone(small)}
    keys = sorted({(name, group) for name, data in parts.items() for group in data.groups})
    ties = drawn.draw(st.dictionaries(st.sampled_from(keys), st.sampled_from("uvwxy"), max_size=6))
    data = together(parts, ties)
    splits = fold_splits(data, 5, seed)
    of_main = [tie for (name, _), tie in ties.items() if name == "z"]
    for before, split in zip(fold_splits(parts["z"], 5, seed), splits, strict=True):
        check_groups(split, data)
        mine, found = sides(before, parts["z"]), sides(split, data, "z")
        for path, group in zip(parts["z"].paths, parts["z"].groups, strict=True):
            if of_main.count(ties.get(("z", group), "")) <= 1:
                assert found[path] == mine[path], "the largest stays, but for what others join"
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(data)))


def test_the_largest_decides_and_its_largest_part_among_several() -> None:
    main = [(g, g % 2) for g in range(40) for _ in range(2)] + [(0, 0)]
    parts = {"a": alone([(g, 1) for g in range(20)]), "z": alone(main)}
    ties = {("a", "g003"): "t", ("z", "g000"): "t", ("z", "g001"): "t"}
    data = together(parts, ties)
    for one, split in zip(fold_splits(parts["z"], 5, 1), fold_splits(data, 5, 1), strict=True):
        mine = sides(one, parts["z"])
        found = sides(split, data)
        wanted = mine["000.png"]  # of g000, the larger of the two that the other joins
        assert {found["a/003.png"], found["z/000.png"], found["z/002.png"]} == {wanted}
        rest = {p for p, g in zip(parts["z"].paths, parts["z"].groups, strict=True) if g > "g001"}
        assert all(found[f"z/{p}"] == mine[p] for p in rest)


def test_small_ones_are_divided_together_where_that_is_enough() -> None:
    parts = {name: alone([(g, g % 2) for g in range(4)] * 3, "far") for name in "abcdef"}
    data = together(parts)
    splits = fold_splits(data, 5, 3)
    assert all(split.test.size and split.validation.size for split in splits)
    for split in splits:
        check_groups(split, data)
    with pytest.raises(DataError, match="only 4 groups of images; need at least 5"):
        fold_splits(together({name: alone([(0, 0), (1, 1)] * 5) for name in "ab"}), 5, 3)
    with pytest.raises(DataError, match="only 4 groups of images; need at least 5"):
        fold_splits(parts["a"], 5, 3)


def test_what_a_source_leaves_is_divided_by_collection() -> None:
    main = alone([(g, g % 2) for g in range(30)], "here")
    parts = {"main": main, "far": alone([(g, 1) for g in range(20)], "far")}
    data = together(parts, {("main", "g004"): "both", ("far", "g004"): "both"})
    split = split_dataset(data, "source:far", 1)
    assert {data.sources[i] for i in split.test} == {"far"}
    assert (len(split.test), split.left_out) == (20, 1)
    apart = together({"main": main, "far": parts["far"]})
    found = sides(split_dataset(apart, "source:far", 1), apart, "main")
    assert found == sides(split_dataset(main, "official", 1), main)


def test_one_collection_is_divided_as_ever() -> None:
    """The folds of one data set, as version 0.1.0 made them."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), rng.integers(1, 5, 40))
    data = alone([(int(g), int(g) % 3 % 2) for g in groups])
    data = replace(data, sources=tuple("xy"[int(g) % 2] for g in groups))
    assert [
        "".join(sides(split, data)[path][1] for path in data.paths)
        for split in fold_splits(data, 5, 1)
    ] == EXPECTED


EXPECTED = [
    "rrrrrrrrrreeeerrrrrrraaaaerrrrrrrrreeeerrreeeerrrrrerrrrrrrrrrrreeeeerrrraaaarrrrrrrrrrrrrrrreeeeaaaarrrrrrrrrrrr",
    "aaaaeeerrrrrrrrrreeeerrrrrrrrrrrrrrrrrrrrrrrrrerrrrarreeeerreeaarrraarrrrrrrrrrreeerrrrrraaaarrrrrrrrrrrrrreeeeee",
    "rrrrrrrrrrrrrrrrrrrrrrrrrreeerreeeeaaaarrrrrrrrrrrrarrrrrrrraarrrrraaeeeerreerrrrrrrrrrrraaaarrrreeeeeeeeeerrrrrr",
    "aaaarrreeerrrreeerrrreeeerarrrrrrrrrrrrerrrrrrreeeereerrrrrraaeerrrrrrrrrrrrreeerrrrrrrrrrrrrrrrraaaarrraaarrrrrr",
    "eeeeaaarrrrrrrrrrrrrraaaarrrreerrrrrrrrreerrrrarrrrarrrrrreerrrrrrrrrrrrreerrrrrrrreeeeeeeeeerrrraaaarrrrrrrrrrrr",
]  # the second letter of each slice's side


def partly(groups: Sequence[str], touches: Sequence[frozenset[str]]) -> PartialLabels:
    slices = alone([(0, 0)] * len(groups), classes=("tumor",))
    return PartialLabels(
        replace(slices, groups=tuple(groups)), np.array([[True, False]]), tuple(touches)
    )


def test_partial_slices_stay_when_a_collection_is_added() -> None:
    main = alone([(g, g % 2) for g in range(30)])
    healthy = alone([(g, 1) for g in range(20)])
    names = [f"p{i // 2:02d}" for i in range(40)]
    touched = [frozenset({"g003"} if i < 4 else ()) for i in range(40)]
    one = partly(names, touched)
    data = together({"main": main, "healthy": healthy})
    # Among several p05 looks like a healthy head: that says nothing of where the others go.
    beside = [
        frozenset({"main/g003"} if i < 4 else {"healthy/g002"} if name == "p05" else ())
        for i, name in enumerate(names)
    ]
    slices = together({"main": one.slices})
    both = PartialLabels(slices, one.sets, tuple(beside))
    for mine, all_of_them in zip(fold_splits(main, 5, 1), fold_splits(data, 5, 1), strict=True):
        alike = [i for i, name in enumerate(names) if name != "p05"]
        for before, after in zip(
            divide(one, main, mine, 1), divide(both, data, all_of_them, 1), strict=True
        ):
            assert set(before) & set(alike) == set(after) & set(alike)
        tested = {data.groups[i] for i in all_of_them.test}
        follows = set(divide(both, data, all_of_them, 1)[1]) & {10, 11}
        assert bool(follows) == ("healthy/g002" in tested)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not beside this checkout")
def test_the_real_folds_stay_when_healthy_heads_are_added() -> None:
    options = Preprocess(16)
    archive, untyped = DATA / "brain-tumor-mri.zip", DATA / "tumor-untyped.zip"
    main = read_dataset(archive, options, groups_csv=DATA / "groups.csv")
    partial = read_partial_labels(untyped, options, main, groups_csv=DATA / "tumor-untyped.csv")
    healthy = ("healthy-ixi", "healthy-ms")
    data = read_dataset(
        [Collection(archive, "data", "", DATA / "groups.csv"),
         *(Collection(DATA / f"{n}.zip", n, "", DATA / f"{n}.csv") for n in healthy)],
        options,
    )  # fmt: skip
    beside = read_partial_labels(
        [Collection(untyped, "data", "", DATA / "tumor-untyped.csv")], options, data
    )
    for one, split in zip(fold_splits(main, 5, 1), fold_splits(data, 5, 1), strict=True):
        assert sides(one, main) == sides(split, data, "data")
        check_groups(split, data)
        for mine, theirs in zip(
            divide(partial, main, one, 1), divide(beside, data, split, 1), strict=True
        ):
            assert mine.tolist() == theirs.tolist()
