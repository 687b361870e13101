"""The benchmark of `btc-data join`: what counts as right, on drawn data whose truth is known."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.join import BENDS, MAIN, SIDE, as_markdown, compare, like_original, main, overlap
from edge_runtime.imaging.decode import decode
from tests.trainer.test_near_duplicates import draw_slice
from trainer.data.near_duplicates import THRESHOLD, find_pairs, thumbnail


def jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(picture))[1].tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten slices, each in Training and four of them mirrored in Testing; the first six are of
    three patients, and one of them is upside down in a group of its own."""
    place = tmp_path_factory.mktemp("data")
    groups, boxes = ["path,label,source,patient,group"], ["path,x_center,y_center,width,height"]
    with zipfile.ZipFile(place / f"{MAIN}.zip", "w") as packed:
        for number in range(10):
            label = "notumor" if number > 5 else "glioma"
            source = "br35h" if number > 5 else "cheng"
            patient = "" if number > 5 else f"P{number // 2}"
            turned = {f"Training/{label}/{number}.jpg": draw_slice(number)}
            if number in (0, 2, 6, 8):
                turned[f"Testing/{label}/{number}m.jpg"] = draw_slice(number)[:, ::-1]
            if number == 7:
                turned[f"Training/{label}/{number}d.jpg"] = draw_slice(number)[::-1]
            for path, picture in turned.items():
                packed.writestr(path, jpeg(picture))
                group = f"g{path[-6:]}" if number == 7 else f"g{patient or number}"
                groups.append(f"{path},{label},{source},{patient},{group}")
                if patient:
                    x = 0.6 if "m" in Path(path).name else 0.4
                    boxes.append(f"{path},{x},0.3,0.2,0.1")
    (place / "groups.csv").write_text("\n".join([*groups, ""]))
    (place / "boxes.csv").write_text("\n".join([*boxes, ""]))
    return place


def test_an_original_looks_like_its_slice() -> None:
    gray = draw_slice(3)
    for bend in BENDS.values():
        stored = like_original(gray, bend, np.random.default_rng(1))
        assert (stored.shape, stored.dtype) == ((SIDE, SIDE), np.uint16)
        read = decode(cv2.imencode(".png", stored)[1].tobytes())
        (pairs,) = find_pairs(np.stack([thumbnail(gray), thumbnail(read)]))
        assert pairs.correlation[0] >= THRESHOLD
        assert abs(int(stored.max()) - int(gray.max())) > 200


def test_what_counts_as_right() -> None:
    table = {
        "a": {"source": "cheng", "patient": "P"}, "b": {"source": "cheng", "patient": "P"},
        "c": {"source": "cheng", "patient": "P"}, "d": {"source": "other", "patient": ""},
        "e": {"source": "other", "patient": ""},
    }  # fmt: skip
    patients = {"a": "P", "b": "Q", "c": "", "d": "", "e": "P"}
    got = {path: {"patient": patient} for path, patient in patients.items()}
    box, shifted = [0.2, 0.2, 0.4, 0.4], [0.3, 0.2, 0.5, 0.4]
    nothing = [np.nan] * 4
    given = np.array([box, shifted, nothing, nothing, box])
    true = np.array([box, box, box, nothing, nothing])
    found = compare(list(table), got, table, given, true)
    assert found == {
        "right": 1, "wrong": 1, "none": 1, "others": 2, "others_given": 1, "boxes": 3,
        "boxes_given": 2, "boxes_good": 1, "median_overlap": pytest.approx(2 / 3),
        "boxes_given_to_others": 1,
    }  # fmt: skip
    assert overlap(given[:2], true[:2]).tolist() == pytest.approx([1, 1 / 3])


def test_the_whole_of_it(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(data), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "join.json").read_text("utf-8"))
    fixed = result["corrected"]
    assert (fixed["slices"], fixed["groups"], fixed["became"]) == (15, 8, 7)
    assert fixed["crossing"] == {"upside down": 1}
    assert fixed["joined_by_source"] == {"br35h": 1}
    linear, bent, apart = result["given_back"]
    for row in (linear, bent):
        assert (row["originals"], row["right"], row["wrong"], row["none"]) == (6, 8, 0, 0)
        assert (row["others"], row["others_given"]) == (7, 0)
        assert row["median_overlap"] > 0.99
        assert (row["boxes"], row["boxes_good"]) == (8, 8)
    assert (apart["originals"], apart["right"], apart["alike"], apart["others"]) == (6, 2, 2, 2)
    assert result["all"]["inputs"] == {"main": 15}
    assert as_markdown(result) == (tmp_path / "join.md").read_text("utf-8")
