"""btc-audit: what it finds, what it leaves, and that no file can stop it."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import audit as benchmark
from edge_runtime.errors import DataError, UsageError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.model.metadata import INTENDED_USE
from tests.trainer.test_near_duplicates import as_jpeg, draw_slice
from trainer.audit.examine import Audit, answer, audit, share
from trainer.audit.files import ODDITIES, Files, read_files
from trainer.audit.groups import as_csv
from trainer.audit.near_duplicates import INVERSE, LISTED, Best, find_near_duplicates
from trainer.audit.page import as_html, check_out, shown, small_pictures, write_audit
from trainer.audit.shortcuts import ALL, measure_shortcuts, standard_error
from trainer.data.archive import open_archive
from trainer.data.dataset import read_dataset
from trainer.data.file_statistics import FILE_STATISTICS
from trainer.data.near_duplicates import TURN_NAMES, TURNS, Pairs, thumbnail

LABELS = ("glioma", "notumor")


def save(folder: Path, name: str, picture: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """12 training and 4 test slices, none like another."""
    folder = tmp_path / "data"
    for i in range(16):
        split = "Testing" if i >= 12 else "Training"
        save(folder, f"{split}/{LABELS[i % 2]}/{i:02d}.png", draw_slice(i))
    return folder


def turned(seed: int, turn: str = "same") -> np.ndarray:
    """A slice after a turn and a JPEG encoder."""
    return as_jpeg(np.ascontiguousarray(TURNS[turn](draw_slice(seed))), 80)


# What is found


def test_a_clean_split_has_no_leak(clean: Path) -> None:
    found = audit(clean)
    assert not found.leaks
    result = found.result
    assert result["answer"] == "0 of 4 test images (0 %) have a near-duplicate in training"
    glioma = result["leak"]["by_class"]["glioma"]
    assert glioma == {"test_images": 2, "with_near_duplicate_in_training": 0}
    assert result["groups"]["merged"] == 16
    assert result["counts"]["classes"]["notumor"] == {"testing": 2, "training": 6}
    assert result["counts"]["sizes"] == {"160×160": 16}
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("turn", TURN_NAMES)
def test_a_turned_copy_across_the_split_is_a_leak(clean: Path, turn: str) -> None:
    save(clean, "Testing/glioma/copy.png", turned(2, turn))
    result = audit(clean).result
    assert result["answer"] == "1 of 5 test images (20 %) has a near-duplicate in training"
    assert {t: n for t, n in result["leak"]["by_turn"].items() if n} == {
        TURN_NAMES[INVERSE[TURN_NAMES.index(turn)]]: 1
    }, "how the test image must be turned"
    (pair,) = result["leak"]["examples"]
    assert (pair["first"], pair["second"]) == ("Testing/glioma/copy.png", "Training/glioma/02.png")
    assert result["leak"]["with_exact_copy_in_training"] == 0


def test_exact_copies_and_near_duplicates_within_a_side(clean: Path) -> None:
    data = (clean / "Training/glioma/00.png").read_bytes()
    (clean / "Training/glioma/copy.png").write_bytes(data)
    save(clean, "Testing/glioma/other-file.bmp", cv2.imdecode(np.frombuffer(data, np.uint8), 0))
    result = audit(clean).result
    assert result["exact_copies"]["same_bytes"] == {
        "sets": 1, "images": 2, "sets_across": 0,
        "examples": [["Training/glioma/00.png", "Training/glioma/copy.png"]],
    }  # fmt: skip
    assert result["exact_copies"]["same_pixels"]["sets_across"] == 1
    assert result["leak"]["with_exact_copy_in_training"] == 1
    assert result["near_duplicates"]["pairs"]["same"] == {"within": 1, "across": 2}
    assert result["near_duplicates"]["clusters"] == 1


def test_conflicting_labels_come_first(clean: Path) -> None:
    save(clean, "Testing/notumor/wrong.png", turned(4, "mirrored"))  # a glioma in training
    save(clean, "Testing/glioma/right.png", draw_slice(6)[:, ::-1])  # more alike, same label
    result = audit(clean).result
    assert result["conflicts"]["count"] == 1
    (pair,) = result["conflicts"]["pairs"]
    assert {pair["first_label"], pair["second_label"]} == {"glioma", "notumor"}
    assert pair["across"]
    assert [p["first"] for p in result["leak"]["examples"]] == [
        "Testing/notumor/wrong.png", "Testing/glioma/right.png"
    ]  # fmt: skip


def test_without_a_testing_folder(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path, f"{LABELS[i % 2]}/{i}.png", draw_slice(i))
    save(tmp_path, "glioma/again.png", turned(0))
    found = audit(tmp_path)
    assert not found.leaks
    assert found.result["answer"].startswith(
        "There is no Testing folder; 2 of 5 images (40 %) have"
    )
    assert found.result["leak"]["by_class"] == {}


def test_bad_files_are_told_and_do_not_end_the_audit(clean: Path) -> None:
    whole = (clean / "Training/glioma/00.png").read_bytes()
    bad = {"half.png": whole[: len(whole) // 2], "text.jpg": b"no image", "empty.png": b"",
           "huge.png": whole[:16] + b"\0\1\0\0\0\1\0\0" + whole[24:]}  # fmt: skip
    for name, data in bad.items():
        (clean / "Training/glioma" / name).write_bytes(data)
    (clean / "stray.png").write_bytes(whole)
    latin = os.fsencode(clean / "Training/glioma") + b"/\xe9.png"
    if sys.platform == "linux":
        Path(os.fsdecode(latin)).write_bytes(whole)
    result = audit(clean).result
    assert result["images"] == 16
    reasons = {Path(row["path"]).name: row["reason"] for row in result["unreadable"]}
    assert set(reasons) - {"\\udce9.png"} == {*bad, "stray.png"}
    assert "over the limit" in reasons["huge.png"]
    if sys.platform == "linux":
        assert "UTF-8" in reasons["\\udce9.png"]
    (clean / "none").mkdir()
    with pytest.raises(DataError, match="no readable image"):
        audit(clean / "none")


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3, 2), (200, 63)])
def test_pictures_of_any_size_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        noise = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
        save(tmp_path, f"glioma/{channels}.png", noise)
    result = audit(tmp_path).result
    assert result["images"] == 2
    assert result["oddities"]["tiny"]["count"] == 2


def test_files_of_other_kinds_and_one_sided_classes_are_told(clean: Path) -> None:
    (clean / "Training/glioma/x.pdf").write_bytes(b"%PDF-1.7")
    save(clean, "Training/.ipynb_checkpoints/x.png", draw_slice(40))
    save(clean, "Testing/pituitary/x.png", draw_slice(41))
    save(clean, "Training/meningioma/x.png", draw_slice(42))
    found = audit(clean)
    assert found.result["counts"]["classes"].keys() == {*LABELS, "meningioma", "pituitary"}
    assert found.result["passed_over"] == [
        {"kind": ".pdf", "reason": "not a picture that is read here", "count": 1,
         "examples": ["Training/glioma/x.pdf"]}
    ]  # fmt: skip
    assert found.result["one_sided"] == {
        "no_training_images": ["pituitary"], "no_test_images": ["meningioma"]
    }  # fmt: skip
    assert found.untrainable == ("pituitary",)
    page = html.unescape(as_html(found.result, {}))
    assert "1 passed over" in page
    assert "1 .pdf: not a picture that is read here, such as" in page
    assert "pituitary has test images, but none to learn from" in page


# Odd files


def draw_odd() -> dict[str, tuple[np.ndarray, set[str]]]:
    rng = np.random.default_rng(5)
    slice_ = draw_slice(1)
    marked = np.repeat(slice_[..., None], 3, axis=2)
    marked[:8, :80] = (200, 40, 0)
    coarse = cv2.resize(rng.normal(120, 50, (9, 9)).astype(np.float32), (160, 160))
    texture = np.clip(coarse + rng.normal(0, 12, (160, 160)), 0, 255).astype(np.uint8)
    colours = np.clip(rng.normal(120, 60, (6, 6, 3)), 0, 255).astype(np.uint8)
    photo = cv2.resize(colours, (160, 160), interpolation=cv2.INTER_CUBIC)
    speckle = (rng.random((40, 40)) < 0.3).astype(np.uint8) * 200
    return {
        "slice.png": (slice_, set()),
        "stored-as-rgb.png": (np.repeat(slice_[..., None], 3, axis=2), set()),
        "tiny.png": (cv2.resize(slice_, (63, 63), interpolation=cv2.INTER_AREA), {"tiny"}),
        "wide.png": (cv2.resize(slice_, (200, 160)), {"not_square"}),
        "marked.png": (marked, {"colour"}),
        "deep.png": (slice_.astype(np.uint16) * 16, {"sixteen_bit"}),
        "frame.png": (np.full((160, 160), 3, np.uint8), {"blank"}),
        "gray.png": (np.full((160, 160), 140, np.uint8), {"blank"}),
        "noise.png": (rng.integers(0, 256, (160, 160), dtype=np.uint8), {"no dark background"}),
        "speckle.png": (cv2.resize(speckle, (160, 160), interpolation=0), {"noise"}),
        "texture.png": (texture, {"no dark background"}),
        "page.png": (255 - slice_, {"no dark background"}),
        "photo.png": (photo, {"colour", "colourful"}),
    }


@pytest.mark.parametrize("name", sorted(draw_odd()))
def test_odd_files(tmp_path: Path, name: str) -> None:
    drawn, expected = draw_odd()[name]
    save(tmp_path, f"glioma/{name}", drawn)
    files = read_files(tmp_path)
    found = {kind for kind, odd in zip(ODDITIES, files.odd[0], strict=True) if odd}
    # A random picture may break a second rule as well; a slice may break none but its own.
    assert expected <= found if "colourful" in expected or "noise" in found else expected == found


def test_modes(tmp_path: Path) -> None:
    slice_ = draw_slice(1)
    save(tmp_path, "a/gray.jpg", slice_)
    save(tmp_path, "a/rgb.jpg", cv2.cvtColor(slice_, cv2.COLOR_GRAY2BGR))
    save(tmp_path, "b/rgba.png", cv2.cvtColor(slice_, cv2.COLOR_GRAY2BGRA))
    save(tmp_path, "b/deep.png", slice_.astype(np.uint16))
    counts = audit(tmp_path).result["counts"]
    assert counts["modes"] == {"a": {"RGB": 1, "gray": 1}, "b": {"RGBA": 1, "gray 16-bit": 1}}
    assert counts["formats"] == {"a": {"jpeg": 2}, "b": {"png": 2}}


def test_phantoms_are_not_odd(phantom_zip: Path) -> None:
    oddities = audit(phantom_zip).result["oddities"]
    assert {name: kind["count"] for name, kind in oddities.items() if kind["count"]} == {}


# Bounded memory


def made_up(thumbnails: np.ndarray, splits: list[str], labels: list[str]) -> Files:
    n = len(thumbnails)
    return Files(
        paths=tuple(f"{i}.png" for i in range(n)), labels=tuple(labels), splits=tuple(splits),
        formats=("png",) * n, modes=("gray",) * n, sizes=np.full((n, 2), 32, np.int32),
        digests=(b"",) * n, pixels=tuple(str(t.tobytes()) for t in thumbnails),
        thumbnails=thumbnails, file_statistics=np.zeros((n, 10), np.float32),
        odd=np.zeros((n, len(ODDITIES)), bool),
    )  # fmt: skip


def test_pairs_are_counted_not_kept() -> None:
    n = 300
    thumbnails = np.repeat(thumbnail(draw_slice(3))[None], n, axis=0)
    splits = ["testing" if i % 3 == 0 else "training" for i in range(n)]
    found = find_near_duplicates(made_up(thumbnails, splits, [LABELS[i % 2] for i in range(n)]))
    assert found.counts.sum() == n * (n - 1) // 2
    assert found.counts[0].tolist() == [100 * 99 // 2 + 200 * 199 // 2, 100 * 200]
    assert found.conflicts.count == 150 * 150
    assert len(found.conflicts.pairs) == LISTED
    assert len(found.across.partner) == len(found.within.partner) == n
    assert set(found.clusters) == {0}
    assert found.across.partner[:2].tolist() == [1, 0], "among equals the first file"


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000), st.integers(1, 6))
def test_best_partner_does_not_depend_on_the_order_of_blocks(n: int, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(n, 1)
    kept = rng.random(len(first)) < 0.6
    first, second = first[kept], second[kept]
    correlation = rng.choice([0.98, 0.99, 1.0], len(first)).astype(np.float32)
    turn = rng.integers(0, 8, len(first)).astype(np.uint8)
    best = Best.none(n)
    for part in np.array_split(rng.permutation(len(first)), parts):
        best.update(Pairs(first[part], second[part], correlation[part], turn[part]))
    for i in range(n):
        offers = [
            (-float(c), int(INVERSE[t] if b == i else t), int(a if b == i else b))
            for a, b, c, t in zip(first, second, correlation, turn, strict=True)
            if i in (a, b)
        ]
        if not offers:
            assert best.partner[i] == -1
        else:
            expected = min(offers)
            assert (best.turn[i], best.partner[i]) == expected[1:]


def test_inverse_turns() -> None:
    picture = np.arange(1024).reshape(32, 32)
    for name, back in zip(TURN_NAMES, INVERSE, strict=True):
        np.testing.assert_array_equal(TURNS[TURN_NAMES[back]](TURNS[name](picture)), picture)


# Groups


def write_table(path: Path, rows: list[tuple[str, ...]], *columns: str) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def test_a_table_is_checked_against_the_pictures(clean: Path, tmp_path: Path) -> None:
    save(clean, "Testing/glioma/copy.png", turned(0, "upside down"))
    names = [p.relative_to(clean).as_posix() for p in sorted(clean.rglob("*.png"))]
    rows = [
        (name, f"g{i}", "notumor" if name.endswith("02.png") else Path(name).parent.name,
         "p1" if name.endswith(("00.png", "12.png", "13.png")) else "")
        for i, name in enumerate(names)
    ]  # fmt: skip
    table = write_table(tmp_path / "t.csv", rows, "path", "group", "label", "patient")
    found = audit(clean, table)
    groups = found.result["groups"]
    assert (groups["given"], groups["merged"]) == (17, 16)
    measured = groups["table"]
    assert measured["clusters_split"]["count"] == 1
    assert set(measured["clusters_split"]["examples"][0]["paths"]) == {
        "Testing/glioma/copy.png", "Training/glioma/00.png"
    }  # fmt: skip
    assert measured["patients_on_both_sides"] == {
        "count": 1, "examples": [{"name": "p1", "training": 1, "testing": 2}], "test_images": 2
    }  # fmt: skip
    assert measured["given_groups_on_both_sides"]["count"] == 0
    assert groups["on_both_sides"]["count"] == 1
    assert measured["patients_with_several_labels"]["examples"] == [
        {"patient": "p1", "labels": ["glioma", "notumor"]}
    ]
    assert measured["label_disagreements"]["examples"] == [
        {"path": "Training/glioma/02.png", "folder": "glioma", "table": "notumor"}
    ]
    by_path = {row[0]: row for row in found.groups}
    copied, original = by_path["Testing/glioma/copy.png"], by_path["Training/glioma/00.png"]
    assert copied[-1] == original[-1]
    assert original[3] == "p1"
    write_table(table, rows[1:], "path", "group", "label", "patient")
    with pytest.raises(DataError, match="no row for 1 of 17"):
        audit(clean, table)


def test_blank_frames_are_copies_but_tie_no_patients(clean: Path, tmp_path: Path) -> None:
    for name in ("Training/glioma/b1.png", "Training/notumor/b2.png", "Testing/glioma/b3.png"):
        save(clean, name, np.zeros((160, 160), np.uint8))
    found = audit(clean)
    assert found.result["leak"]["with_near_duplicate_in_training"] == 1
    assert found.result["conflicts"]["count"] == 2
    own = {row[0]: row[-1] for row in found.groups}
    assert own["Training/glioma/b1.png"] == own["Testing/glioma/b3.png"], "equal pictures"
    rows = [(path, f"g{i}") for i, path in enumerate(own)]
    table = write_table(tmp_path / "t.csv", rows, "path", "group")
    assert audit(clean, table).result["groups"]["merged"] == len(rows)


ODD_NAMES = (
    "<script>alert(1)<∕script>.png",
    "two words, [brackets] 'and' \"quotes\".png",
    "Größe-脳-🧠.png",
    "=1+1.png",
    "percent%20&amp;.png",
    "line\rend.png",
    "a\nb.png",
)


@pytest.fixture
def odd_names(clean: Path) -> Path:
    for name in ODD_NAMES:
        save(clean, f"Testing/glioma/{name}", turned(2, "mirrored"))
    return clean


def test_groups_go_back_into_a_training(odd_names: Path, tmp_path: Path) -> None:
    found = audit(odd_names)
    write_audit(found, open_archive(odd_names), tmp_path / "out")
    table = tmp_path / "out" / "groups.csv"
    raw = table.read_bytes().decode("utf-8")
    assert raw.startswith("path,label,source,patient,group\n")
    data = read_dataset(odd_names, Preprocess(), groups_csv=table)
    assert data.grouped
    assert dict(zip(data.paths, data.groups, strict=True)) == {
        row[0]: row[-1] for row in found.groups
    }
    again = audit(odd_names, table)
    assert again.groups == found.groups
    assert again.result["groups"]["given"] == again.result["groups"]["merged"]
    assert "\r\n" not in as_csv([row for row in found.groups if "\r" not in row[0]])


# What gives the class away


def test_a_statistic_that_tells_the_class_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = [LABELS[i % 2] for i in range(200)]
    statistics = rng.normal(size=(200, 10)).astype(np.float32)
    statistics[:, 3] += [3 * (label == "glioma") for label in labels]
    measured = measure_shortcuts(statistics, labels, [str(i // 2) for i in range(200)])
    assert measured["above_chance"] == [FILE_STATISTICS[3], ALL] or measured["above_chance"] == [
        ALL, FILE_STATISTICS[3]
    ]  # fmt: skip
    assert measured["chance"] == 0.5
    assert measured["each"][FILE_STATISTICS[3]]["balanced_accuracy"] > 0.85


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_not_learned_by_heart(seed: int) -> None:
    """Ten copies of each image would let a tree look its answer up in another fold."""
    rng = np.random.default_rng(seed)
    statistics = np.repeat(rng.normal(size=(40, 10)).astype(np.float32), 10, axis=0)
    labels = np.repeat(rng.choice(LABELS, 40), 10).tolist()
    groups = np.repeat(np.arange(40), 10).astype(str).tolist()
    assert measure_shortcuts(statistics, labels, groups)["above_chance"] == []


def test_too_little_to_measure() -> None:
    few = np.zeros((4, 10), np.float32)
    assert measure_shortcuts(few, ["a"] * 4, list("1234"))["reason"] == "only one class"
    assert "two groups" in measure_shortcuts(few, list("aaab"), list("1234"))["reason"]


def test_a_standard_error_counts_groups() -> None:
    codes = np.array([0] * 90 + [1] * 10)
    right = np.array([True] * 90 + [False] * 10)
    alone, together = np.arange(100), np.repeat(np.arange(10), 10)
    assert standard_error(right, codes, alone) == 0.0
    right[::2] = False
    assert standard_error(right, codes, together) < standard_error(right, codes, alone)
    right = np.repeat(np.arange(10) % 2 == 0, 10)
    assert standard_error(right, codes, together) > standard_error(right, codes, alone)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 9, "0 %"), (1, 900, "under 1 %"), (899, 900, "over 99 %"), (9, 9, "100 %"),
     (1002, 1311, "76 %"), (0, 0, "0 %")],
)  # fmt: skip
def test_shares_do_not_round_to_none_or_all(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_answer_has_thousands() -> None:
    leak = {"test_images": 1311, "with_near_duplicate_in_training": 1002}
    assert answer(leak, {}) == "1,002 of 1,311 test images (76 %) have a near-duplicate in training"


# The page


@pytest.fixture
def leaking(odd_names: Path) -> tuple[Path, Audit]:
    save(odd_names, "Testing/notumor/conflict.png", turned(4))
    (odd_names / "Training/glioma/<b>bad.jpg").write_bytes(b"no image")
    save(odd_names, "Training/glioma/<i>blank.png", np.zeros((80, 200), np.uint8))
    return odd_names, audit(odd_names)


def test_page_is_self_contained_and_escapes_names(leaking: tuple[Path, Audit]) -> None:
    folder, found = leaking
    source = open_archive(folder)
    page = as_html(found.result, small_pictures(source, shown(found.result)))
    assert page.startswith("<!doctype html>")
    assert not re.search(r"<(script|b>|i>bl)", page)
    text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"(?s)<style>.*?</style>", "", page)))
    assert ODD_NAMES[0] in text
    assert INTENDED_USE in text
    body = text[text.index("Audit of data", text.index("Audit of data") + 1) :]
    assert body.index(found.result["answer"]) < 40, "the answer comes first"
    plain = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", page)
    assert not re.search(r"//|@import|url\(|srcset", plain)
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', page)
    assert page.count("<img") == page.count("data:image/jpeg;base64,") > 10
    assert str(folder) not in page
    assert str(folder) not in json.dumps(found.result)


def test_page_of_a_clean_set_and_of_vanished_files(clean: Path) -> None:
    found = audit(clean)
    page = as_html(found.result, {})
    assert "No test image is a near-duplicate of one to learn from" in page
    assert "<img" not in page
    (clean / "Training/glioma/00.png").unlink()
    gone, there = "Training/glioma/00.png", "Training/glioma/02.png"
    assert list(small_pictures(open_archive(clean), [gone, there])) == [there]


# The command


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).parent / "btc-audit"
    return subprocess.run(
        [tool, *words], cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120
    )


def test_command_without_a_leak(clean: Path, tmp_path: Path) -> None:
    done = run("data", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    assert last == "0 of 4 test images (0 %) have a near-duplicate in training"
    assert sorted(p.name for p in (tmp_path / "audit").iterdir()) == [
        "audit.html", "audit.json", "data.toml", "groups.csv"
    ]  # fmt: skip


def test_command_with_a_leak_replaces_an_older_audit(clean: Path, tmp_path: Path) -> None:
    save(clean, "Testing/glioma/copy.png", turned(2, "mirrored"))
    (clean / "Testing/glioma/bad.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").write_text("old" * 99_999)
    done = run("data", "--out", "out", "--format", "json", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert done.stderr.splitlines() == [
        "Testing/glioma/bad.png: not an image in a supported format "
        "(jpeg, png, bmp, tiff, webp, gif, dicom, nifti); skipped"
    ]


def test_command_refuses_what_it_cannot_use(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "out").mkdir()
    table = write_table(tmp_path / "out" / "groups.csv", [("x.png", "g")], "path", "group")
    for code, words in (
        (1, ["text.zip"]),
        (1, ["data", "--groups", table]),
        (2, ["data", "--groups", table, "--out", "out"]),
        (2, ["nowhere"]),
        (2, ["data", "--groups", "out"]),
        (2, ["data", "--out", "text.zip"]),
        (2, ["data", "--threshold"]),
    ):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == code, words
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("btc-audit: ")
    assert table.read_text().splitlines() == ["path,group", "x.png,g"]


def test_a_table_that_is_no_audits_is_not_replaced(clean: Path, tmp_path: Path) -> None:
    table, former = clean / "groups.csv", tmp_path / "audit" / "audit.json"
    table.write_text("path,group\nTraining/glioma/00.png,mine\n")
    done = run("data", "--no-card", "--out", "data", cwd=tmp_path)
    assert done.returncode == 2
    assert "data holds a groups.csv that no audit left as it is" in done.stderr
    assert table.read_text() == "path,group\nTraining/glioma/00.png,mine\n"
    assert not (clean / "audit.json").exists()

    assert run("data", cwd=tmp_path).returncode == 0
    own = tmp_path / "audit" / "groups.csv"
    check_out(own.parent)
    content = json.loads(former.read_text())
    del content["groups_csv_sha256"]  # as version 0.1.0 wrote it
    former.write_text(json.dumps(content))
    check_out(own.parent)
    for other in ("[]", "{", json.dumps(content | {"groups_csv_sha256": "0"})):
        former.write_text(other)
        with pytest.raises(UsageError, match=r"holds a groups\.csv"):
            check_out(own.parent)


def test_names_of_files_do_not_steer_the_terminal(clean: Path, tmp_path: Path) -> None:
    (clean / "Testing/glioma/\x1b[31mbad.png").write_bytes(b"no image")
    (clean / "Testing/glioma/\x9b2J.txt").write_bytes(b"no image")
    save(clean, "Testing/\x1b]0;title\x07/a.png", draw_slice(50))
    for style in ("table", "json"):
        done = run("data", "--format", style, cwd=tmp_path)
        assert done.returncode == 1, "a class with nothing to learn from"
        lines = done.stderr.splitlines()
        assert lines[1] == "Testing/glioma/?2J.txt: not a picture that is read here; skipped"
        assert lines[2] == "?]0;title?: test images, but none to learn from"
        assert not re.search(r"[^\n\x20-\x7e\u00a0-\uffff]", done.stdout + done.stderr)


def test_help_tells_the_exit_codes_and_is_light(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "0 no test image has a " in " ".join(done.stdout.split())
    code = (
        "import sys, trainer.commands.audit as _; "
        "sys.exit('numpy' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_benchmark_runs_on_phantoms(
    phantom_zip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command and one measurement in processes of their own; the other sizes in this one."""
    command = benchmark.time_command
    own = benchmark.measure_alone("drawn", 200, tmp_path)
    assert own["images"] == 200
    assert own["peak_mib"] < 500

    def command_here(data: Path, groups: Path | None) -> dict[str, float]:
        if data == phantom_zip:
            return command(data, groups)
        begun = time.process_time()
        audit(data)
        spent = time.process_time() - begun
        return {"seconds": spent, "cpu_seconds": spent, "peak_mib": benchmark.peak_mib()}

    def thumbnails_here(kind: str, images: int, real: Path) -> dict[str, Any]:
        return benchmark.measure_thumbnails(kind, str(images), str(real))

    monkeypatch.setattr(benchmark, "SHARES", (0.25, 1.0))
    monkeypatch.setattr(benchmark, "time_command", command_here)
    monkeypatch.setattr(benchmark, "measure_alone", thumbnails_here)
    result = benchmark.measure(phantom_zip, None, 400)
    for kind in ("files", "drawn", "alike"):
        assert [row["images"] for row in result["growth"][kind]] == [100, 400]
    clocks = {name for name in benchmark.LIMITS if "seconds" in name or "exponent" in name}
    assert len(clocks) == 6
    for name in benchmark.LIMITS.keys() - clocks:
        assert result["checks"][name]["kept"], name
    table = benchmark.as_markdown(result)
    assert all(f"| {name.replace('_', ' ')} |" in table for name in benchmark.LIMITS)
