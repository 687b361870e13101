"""croissant.json: what MLCommons' own reader makes of it is what the tables say."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mlcroissant
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.tables import guard, unguard
from trainer.data.card import CardText, Source
from trainer.data.tables import read_table
from trainer.prepare.croissant import _UNGUARD, describe, license_url
from trainer.prepare.folder import DataFolder, NewSlice
from trainer.prepare.rows import COLUMNS, Row, groups_text

CARD = CardText(
    "btc-data cheng 1.0.0",
    (Source("cheng", "Brain tumor dataset", "CC BY 4.0", "Cheng 2015", "https://doi.org/10.6084/x",
            "5", "ab" * 32),),
    "Some notes.",
)  # fmt: skip
# rdflib, which reads the JSON-LD, of itself.
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
DATE = "datePublished"  # nobody knows it of what was just made
BOX = (0.25, 0.5, 0.5, 0.75)


def picture(level: int, side: int = 4) -> bytes:
    return cv2.imencode(".png", np.full((side, side), level, np.uint8))[1].tobytes()


def make(
    out: Path,
    rows: Sequence[Row],
    card: CardText = CARD,
    masked: Sequence[str] = (),
    labels: Sequence[str] = ("glioma", "notumor"),
) -> dict[str, Any]:
    """A finished folder, and its description."""
    folder = DataFolder(out, {}, {*labels, *(row.label for row in rows)})
    for level, row in enumerate(rows):
        mask = picture(255) if row.path in masked else None
        folder.add(row.path, [NewSlice(picture(level), row, mask)])
    folder.finish(card)
    content: dict[str, Any] = json.loads((out / "croissant.json").read_text("utf-8"))
    return content


def validated(out: Path, without: Sequence[str] = (DATE,)) -> mlcroissant.Dataset:
    """The data set as its reader sees it: no error, and no warning but that what nobody knows is
    not said."""
    found = mlcroissant.Dataset(str(out / "croissant.json"))
    assert not found.metadata.ctx.issues.errors
    warnings = found.metadata.ctx.issues.warnings
    named = [re.search(r"schema\.org/(\w+)|croissant/(\w+)", warning) for warning in warnings]
    assert sorted(match[1] or match[2] for match in named if match) == sorted(without), warnings
    assert all("is recommended, but does not exist" in warning for warning in warnings)
    return found


def records(found: mlcroissant.Dataset, name: str) -> list[dict[str, Any]]:
    """Records, without the name of their set; texts as texts."""
    return [
        {
            key.removeprefix(f"{name}/"): value.decode()
            if isinstance(value, bytes)
            else value or ""
            for key, value in record.items()
        }
        for record in found.records(name)
    ]


def level_of(image: Any) -> int:
    return int(np.asarray(image).max())


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A folder with all that there may be."""
    out = tmp_path / "out"
    rows = [
        Row("glioma/0001.png", "glioma", "", "cheng", "MR1", "MR1", "axial", "T1", BOX),
        Row("glioma/0002.png", "glioma", "", "cheng", "MR1", "MR1", "", "T1", BOX),
        Row("notumor/1.png", "notumor", "", "ixi", "p2", "g2", "coronal"),
        Row("tumor/1.png", "tumor", "", "br35h", "", "g3"),
        Row("glioma+pituitary/1.png", "glioma+pituitary", "", "br35h", "", "g4"),
    ]
    make(out, rows, masked=("glioma/0002.png", "tumor/1.png"))
    return out


def test_all_that_is_there_is_read_as_the_tables_have_it(everything: Path) -> None:
    found = validated(everything)
    assert records(found, "classes") == [{"name": "glioma"}, {"name": "notumor"}]
    for table, name, pictures in (
        ("groups.csv", "slices", "slices"), ("partial.csv", "partial_slices", "partial"),
    ):  # fmt: skip
        rows = records(found, name)
        images = [row.pop("image") for row in rows]
        assert rows == read_table(everything / table, COLUMNS)
        for row, image in zip(rows, images, strict=True):
            on_disk = cv2.imread(str(everything / pictures / row["path"]), cv2.IMREAD_GRAYSCALE)
            assert level_of(image) == on_disk.max()
    boxes = records(found, "boxes")
    assert [box.pop("path") for box in boxes] == ["glioma/0001.png", "glioma/0002.png"]
    assert boxes[0] == {"x_center": 0.375, "y_center": 0.625, "width": 0.25, "height": 0.25}
    masks = records(found, "masks")
    assert [mask["path"] for mask in masks] == ["glioma/0002.png", "tumor/1.png"]
    assert all(level_of(mask["mask"]) == 255 for mask in masks)
    assert len(records(found, "pictures")) == 3
    assert len(records(found, "partial_pictures")) == 2


def test_it_says_what_is_known(everything: Path) -> None:
    content = json.loads((everything / "croissant.json").read_text())
    assert content["@type"] == "sc:Dataset"
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert content["name"] == "Brain tumor dataset"
    assert content["license"] == ["https://creativecommons.org/licenses/by/4.0/"]
    assert (content["citeAs"], content["version"]) == ("Cheng 2015", 5)
    assert content["url"] == "https://doi.org/10.6084/x"
    assert content["isLiveDataset"] is False
    assert content["isBasedOn"][0]["sha256"] == "ab" * 32
    assert "Research use only; not for diagnosis." in content["description"]
    assert "Some notes." in content["description"]
    files = {each["@id"]: each for each in content["distribution"]}
    for name in ("groups.csv", "partial.csv", "boxes.csv"):
        data = (everything / name).read_bytes()
        assert files[name]["sha256"] == hashlib.sha256(data).hexdigest()
        assert files[name]["contentSize"] == f"{len(data)} B"
    assert "date" not in json.dumps({k: v for k, v in content.items() if k != "@context"})


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [Row(f"glioma/{i}.png", "glioma", "", "x", box=BOX) for i in range(3)]
    make(tmp_path / "one", rows)
    make(tmp_path / "two", rows[::-1])
    for name in ("groups.csv", "boxes.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = ((tmp_path / name / "croissant.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert str(tmp_path).encode() not in one


def test_without_boxes_masks_and_partial_labels_none_are_described(tmp_path: Path) -> None:
    content = make(tmp_path / "out", [Row("glioma/1.png", "glioma", "")])
    assert [each["@id"] for each in content["recordSet"]] == ["classes", "pictures", "slices"]
    assert [each["@id"] for each in content["distribution"]] == ["pictures-files", "groups.csv"]
    validated(tmp_path / "out")


NOBODY = CardText("btc-data volumes 1.0.0", (Source("hospital"),))


def test_what_nobody_knows_is_left_out(tmp_path: Path) -> None:
    content = make(tmp_path / "out", [Row("glioma/1.png", "glioma", "")], NOBODY)
    assert content["name"] == "hospital"
    assert not {"license", "citeAs", "version", "url"} & content.keys()
    validated(tmp_path / "out", (DATE, "license", "citeAs", "version"))


def test_several_sources_each_say_their_own(tmp_path: Path) -> None:
    sources = (
        CARD.sources[0],
        Source("ixi", "IXI", "CC BY-SA 3.0", "IXI 2010", "https://x.org", "r1"),
        Source("other", "IXI", "CC BY-SA 3.0"),
    )
    content = make(
        tmp_path / "out", [Row("glioma/1.png", "glioma", "")], replace(CARD, sources=sources)
    )
    assert content["license"] == [
        "https://creativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org/licenses/by-sa/3.0/",
    ]
    assert content["name"] == "Brain tumor dataset; IXI"
    assert content["citeAs"] == "Cheng 2015; IXI 2010"
    assert [each["identifier"] for each in content["isBasedOn"]] == ["cheng", "ixi", "other"]
    assert content["isBasedOn"][1]["version"] == "r1"
    validated(tmp_path / "out", (DATE, "version"))


def test_files_that_are_no_pictures_are_described_by_their_sources(tmp_path: Path) -> None:
    """What `btc-data fetch` leaves of a collection of MATLAB files."""
    (tmp_path / "croissant.json").write_text(describe({}, [], [], CARD))
    assert list(validated(tmp_path).metadata.record_sets) == []


def test_pictures_of_any_kind_and_depth(tmp_path: Path) -> None:
    """What `btc-data fetch` leaves of a collection of pictures."""
    names = ("Training/glioma/a b.jpg", "Testing/glioma/c.png", "Testing/notumor/files/d.jpeg")
    for level, name in enumerate(names):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_bytes(picture(10 * level))
    rows = [Row(name, "glioma", "") for name in sorted(names)]
    (tmp_path / "groups.csv").write_text(groups_text(rows))
    text = describe({"images": "files", "groups": "groups.csv"}, rows, [], CARD)
    (tmp_path / "croissant.json").write_text(text)
    found = records(validated(tmp_path), "slices")
    assert {row["path"]: level_of(row["image"]) for row in found} == {
        name: 10 * level for level, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("cc-by-sa-3.0", "https://creativecommons.org/licenses/by-sa/3.0/"),
        ("CC BY-NC-SA 4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
        ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC BY", "CC BY"), ("all rights reserved", "all rights reserved"),
        ("https://x.org/license", "https://x.org/license"), ("CC BY 4.0 or so", "CC BY 4.0 or so"),
    ],
)  # fmt: skip
def test_known_licences_are_addresses(text: str, url: str) -> None:
    assert license_url(text) == url


@pytest.mark.parametrize(
    ("version", "said"), [("5", 5), ("1.2.3", "1.2.3"), ("1.2.3+a", "1.2.3+a"), ("9f3c", None),
                          ("v1", None), ("", None), ("12345678901", None)],
)  # fmt: skip
def test_a_version_is_one_as_croissant_has_them(version: str, said: object) -> None:
    source = replace(CARD.sources[0], version=version)
    content = json.loads(describe({}, [], [], replace(CARD, sources=(source,))))
    assert content.get("version") == said
    assert content["isBasedOn"][0].get("version", "") == version


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_guarded_cell_is_read_as_it_was(text: str) -> None:
    match = re.match(_UNGUARD, guard(text))
    assert match is not None
    assert match[1] == text == unguard(guard(text))


# What a file may be called, and what a table's cell may hold. The reader takes texts that look
# like numbers or nothing (007, 1e5, NA, None) for such, hence the letters; where it joins, it takes
# a guard off twice.
NAMES = st.text(
    st.characters(exclude_characters="/\\", exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=8,
).filter(lambda name: name.strip() == name and name[0] != "." and guard(name)[:2] != "''")
CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).map(
    lambda text: f"{text}z" if text else text
)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            lambda label, name, cells, box: Row(
                f"{label}/{name}.png", label, "", *cells, plane="", sequence="", box=box
            ),
            st.one_of(
                NAMES, st.sampled_from(["=cmd", "@x", "-1+z", 'a, "b"', "it's", "slices", "masks"])
            ),
            NAMES,
            st.tuples(CELLS, CELLS, CELLS),
            st.sampled_from([None, BOX]),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda row: row.path.casefold(),
    ).filter(lambda rows: any("+" not in row.label for row in rows)),  # a+b is no single class
    masked=st.booleans(),
)
def test_odd_names_are_read_as_they_are(rows: list[Row], masked: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        make(out, rows, masked=[row.path for row in rows] if masked else [], labels=())
        found = validated(out)
        of_rows = [(name, partial) for name, partial in _sets(out) if (out / partial).exists()]
        for name, table in of_rows:
            read = records(found, name)
            images = [row.pop("image") for row in read]
            assert [_without_numbers(row) for row in read] == [
                _without_numbers(row) for row in _table(out / table)
            ]
            assert all(image != "" for image in images), "each row has its picture"
        if masked:
            assert sorted(each["path"] for each in records(found, "masks")) == sorted(
                row.path for row in rows
            )


def _sets(out: Path) -> Iterator[tuple[str, str]]:
    content = json.loads((out / "croissant.json").read_text("utf-8"))
    there = {each["@id"] for each in content["recordSet"]}
    for name, table in (("slices", "groups.csv"), ("partial_slices", "partial.csv")):
        if name in there:
            yield name, table


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return [{k: unguard(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def _without_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without labels, which may look like numbers and nothing to the reader."""
    return {key: value for key, value in row.items() if key != "label"}
