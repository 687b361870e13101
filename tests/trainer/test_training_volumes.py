"""DICOM and NIfTI files in class folders: cut as on the device, grouped by file and patient."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile.pictures import encode
from edge_runtime import Classifier
from edge_runtime.errors import DataError
from edge_runtime.imaging.head import shows_head
from edge_runtime.imaging.limits import DEFAULT_LIMITS, MIB
from edge_runtime.imaging.preprocess import Preprocess, preprocess
from edge_runtime.imaging.readers import slices_of
from edge_runtime.model.load import bundled_model
from export.calibration_images import read_calibration_images
from trainer.audit.examine import audit
from trainer.audit.page import write_audit
from trainer.data import reading
from trainer.data.archive import PAIR, open_archive
from trainer.data.dataset import Dataset, originals, read_dataset
from trainer.data.partial_labels import read_partial_labels
from trainer.data.slices import file_and_number, slice_name

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

from benchmarks.hostile.files import dicom_bytes, nifti_bytes  # noqa: E402 - they need both

OPTIONS = Preprocess(size=32)
BIN = Path(sys.executable).parent
SIZE = 64
HEADS = range(2, 5)  # the slices of a drawn volume that show one
PATIENT = "ZYXWV-PATIENT-4711"
RLE = pydicom.uid.RLELossless


def head(seed: int) -> np.ndarray:
    """An ellipse of spots (uint8), none like another."""
    spots = np.random.default_rng(seed).integers(40, 255, (8, 8)).astype(np.uint8)
    drawn = cv2.resize(spots, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    inside = cv2.ellipse(np.zeros_like(drawn), (32, 32), (22, 27), 0, 0, 360, 1, -1)
    return drawn * inside


def frames(seed: int, heads: int = len(HEADS)) -> np.ndarray:
    """Slices of a head (N×H×W, int16), none like another, with two of air before and one behind."""
    air = np.random.default_rng(seed).integers(0, 90, (3, SIZE, SIZE))
    drawn = [head(100 * seed + i).astype(np.int16) * 8 for i in range(heads)]
    return np.stack([*air[:2], *drawn, air[2]]).astype(np.int16)


def volume(seed: int, heads: int = len(HEADS)) -> bytes:
    """A NIfTI file of which the axial slices are `frames` (their rows from the front)."""
    return nifti_bytes(np.ascontiguousarray(frames(seed, heads).transpose(2, 1, 0)[::-1, ::-1]))


def scan(seed: int, **elements: Any) -> bytes:
    """A DICOM file of one slice."""
    return dicom_bytes(head(seed).astype(np.uint16) * 8, **elements)


def save(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def packed(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def png(seed: int) -> bytes:
    return encode(head(seed), ".png")


PLAIN = {"a/1.png": png(1), "b/1.png": png(2)}  # two classes


def groups_by_path(data: Dataset) -> dict[str, str]:
    return dict(zip(data.paths, data.groups, strict=True))


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


# Names


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 10**8))
def test_a_slices_name_tells_its_file_and_number(file: str, number: int) -> None:
    name = slice_name(file, number)
    assert file_and_number(name, {file}) == (file, number)
    assert file_and_number(file, {file}) == (file, None)
    assert file_and_number(name, {file, name}) == (name, None), "a file that is called so"


@pytest.mark.parametrize(
    "name", ["x.png", "x#", "#1", "x#01", "x#-1", "x#1.png", "x#²", f"x#{10**9}"]
)
def test_other_names_are_those_of_files(name: str) -> None:
    assert file_and_number(name, ()) == (name, None)


def test_no_slice_is_called_like_a_file(tmp_path: Path) -> None:
    save(tmp_path, PLAIN | {"a/head": volume(1), "a/head#3": png(3), "a/other#3": png(4)})
    data = read_dataset(tmp_path, OPTIONS)
    assert set(data.paths) == {*PLAIN, "a/head#3", "a/other#3"}
    assert data.problems == (
        ("a/head", "its slice 3 is called as the file a/head#3 is: rename that"),
    )  # fmt: skip
    assert len(set(data.paths)) == len(data)


# What is read


TURNED = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
ORIENTED = np.array([[0, 0, -1.2, 9], [-0.9, 0, 0, 4], [0, 1, 0, 0], [0, 0, 0, 1]], float)
VOLUMES: dict[str, Callable[[], dict[str, bytes]]] = {
    "nii": lambda: {"v.nii": volume(1)},
    "nii.gz": lambda: {"v.nii.gz": gzip.compress(volume(1))},
    "nifti-2": lambda: {"v.nii": nifti_bytes(frames(2).transpose(2, 1, 0).copy(), kind=2)},
    "oriented": lambda: {"v.nii": nifti_bytes(frames(3), ORIENTED)},
    "turned": lambda: {"v.nii": nifti_bytes(frames(3).transpose(1, 2, 0).copy(), TURNED)},
    "floats": lambda: {"v.nii": nifti_bytes(frames(4).transpose(2, 1, 0) / np.float32(7))},
    "without a suffix": lambda: {"v": volume(1)},
    "frames": lambda: {"v.dcm": dicom_bytes(frames(5))},
    "frames with a window": lambda: {
        "v.dcm": dicom_bytes(frames(5), WindowCenter=700, WindowWidth=1500)
    },
    "compressed frames": lambda: {"v.dcm": dicom_bytes(frames(5), TransferSyntaxUID=RLE)},
    "pixels not square": lambda: {"v.dcm": dicom_bytes(frames(5), PixelSpacing=[1.0, 0.6])},
    "a series": lambda: {f"IM{i}": scan(i, InstanceNumber=9 - i) for i in range(3)},
    "colour": lambda: {"v.dcm": dicom_bytes(np.stack([head(7)] * 3, axis=2), SamplesPerPixel=3)},
    "a volume called a picture": lambda: {"v.png": volume(1)},
    "a picture called a volume": lambda: {"v.dcm": png(9)},
    "pair": lambda: pair(volume(1)),
}


def pair(single: bytes) -> dict[str, bytes]:
    header = bytearray(single[:348])
    header[344:348] = b"ni1\0"
    header[108:112] = struct.pack("<f", 0)
    return {"v.hdr": bytes(header), "v.img": single[352:]}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


@pytest.mark.parametrize("kind", VOLUMES)
def test_the_model_sees_what_it_sees_on_the_device(
    kind: str, tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = VOLUMES[kind]()
    save(tmp_path / "a", files)
    save(tmp_path, {"b/1.png": png(2)})
    data = read_dataset(tmp_path, classifier.info.preprocess)
    mine = dict(zip(data.paths, data.images, strict=True))
    seen: list[np.ndarray] = []
    real = classifier._run
    monkeypatch.setattr(
        classifier, "_run", lambda pixels, maps: seen.append(pixels) or real(pixels, maps)
    )
    of_device: dict[str, np.ndarray] = {}
    for name in files:
        if name != "v.hdr":
            for answer in classifier.classify_slices(tmp_path / "a" / name):
                of_device[slice_name(f"a/{name}", answer.slice)] = seen.pop()
    of_a = {path for path in mine if path.startswith("a/")}
    assert not data.problems
    assert of_a <= set(of_device)
    assert len(of_a) >= (len(HEADS) if len(of_device) > 1 else 1)
    for path in of_a:
        np.testing.assert_array_equal(mine[path], of_device[path])


def test_volumes_of_every_orientation_are_cut_as_on_the_device(tmp_path: Path) -> None:
    files = {}
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.zeros((4, 4))
            turn[order, range(3)] = signs
            turn[3, 3] = 1
            files[f"a/{len(files)}.nii"] = nifti_bytes(cube(len(files)), turn)
    data = read_dataset(save(tmp_path, files | {"b/1.png": png(2)}), OPTIONS)
    assert not data.problems
    images = dict(zip(data.paths, data.images, strict=True))
    for name, content in files.items():
        for number, gray in slices_of(content):
            np.testing.assert_array_equal(
                images[slice_name(name, number)], preprocess(gray, OPTIONS)
            )


def cube(seed: int) -> np.ndarray:
    """A volume that fills its slices in every direction."""
    drawn = np.random.default_rng(seed).integers(200, 999, (18, 20, 22))
    return drawn.astype(np.int16)


@pytest.mark.parametrize("kind", ["nii.gz", "frames", "a series", "pixels not square"])
def test_a_folder_and_a_zip_give_the_same(kind: str, tmp_path: Path) -> None:
    files = {f"a/{name}": content for name, content in VOLUMES[kind]().items()}
    folder = save(tmp_path / "data", PLAIN | files)
    one, two = read_dataset(folder, OPTIONS), read_dataset(packed(folder), OPTIONS)
    assert one.sha256 == two.sha256
    assert (one.paths, one.groups, one.warnings) == (two.paths, two.groups, two.warnings)
    np.testing.assert_array_equal(one.images, two.images)
    assert len(one) == 5


@pytest.mark.parametrize("zipped", [False, True])
def test_slices_beyond_the_head_are_left_out_and_counted(tmp_path: Path, zipped: bool) -> None:
    dark = np.zeros((9, SIZE, SIZE), np.int16)
    dark[4, 30, 30] = 1000
    files = {
        "a/v.nii": volume(1),
        "a/w.dcm": dicom_bytes(frames(2)),
        "b/dark.dcm": dicom_bytes(dark),
    }
    folder = save(tmp_path / "data", PLAIN | files)
    data = read_dataset(packed(folder) if zipped else folder, OPTIONS)
    of_heads = {slice_name(name, i) for name in ("a/v.nii", "a/w.dcm") for i in HEADS}
    assert set(data.paths) == {*PLAIN, *of_heads}
    assert data.problems == (("b/dark.dcm", "none of its 9 slices shows a head"),)
    for name in ("a/v.nii", "a/w.dcm"):
        assert f"{name}: 3 of 6 slices show no head and are left out" in data.warnings


def test_what_shows_a_head() -> None:
    drawn = frames(1)
    rounded = np.clip(drawn / drawn.max() * 255, 0, 255).astype(np.uint8)
    assert [shows_head(gray) for gray in rounded] == [i in HEADS for i in range(6)]
    assert not shows_head(np.zeros((8, 8), np.uint8))
    vertex = np.zeros((200, 200), np.uint8)
    cv2.circle(vertex, (100, 100), 20, 200, -1)
    assert shows_head(vertex)


def test_an_only_slice_is_taken_as_a_picture_is(tmp_path: Path) -> None:
    save(tmp_path, PLAIN | {"a/dark.dcm": dicom_bytes(np.zeros((SIZE, SIZE), np.uint16))})
    data = read_dataset(tmp_path, OPTIONS)
    assert "a/dark.dcm" in data.paths
    assert not data.problems


def test_that_slices_take_the_class_of_their_folder_is_said_once(tmp_path: Path) -> None:
    save(tmp_path, PLAIN | {"a/v.nii": volume(1), "a/1.dcm": scan(5), "notumor/v.nii": volume(2)})
    said = [words for words in read_dataset(tmp_path, OPTIONS).warnings if "--masks" in words]
    assert len(said) == 1
    assert said[0].startswith("4 slices of DICOM and NIfTI files take the class of their folder")
    assert said[0] in audit(tmp_path).warnings
    shutil.rmtree(tmp_path / "a")
    assert not any("--masks" in words for words in read_dataset(tmp_path, OPTIONS).warnings)


def test_a_pair_is_read_from_a_folder_and_refused_in_a_zip(tmp_path: Path) -> None:
    files = {f"a/{name}": content for name, content in pair(volume(1)).items()}
    folder = save(tmp_path / "data", PLAIN | files)
    save(tmp_path, PLAIN | {"a/v.img": volume(1)})
    data = read_dataset(folder, OPTIONS)
    assert set(data.paths) == {*PLAIN, *(f"a/v.img#{i}" for i in HEADS)}
    assert (data.problems, data.passed_over) == ((), ())
    zipped = read_dataset(packed(folder), OPTIONS)
    assert zipped.problems == (("a/v.img", PAIR),)
    (folder / "a" / "v.img").unlink()
    assert read_dataset(folder, OPTIONS).problems == (
        ("a/v.hdr", "the header of a NIfTI pair: its .img file is missing"),
    )


def test_originals_are_read_again(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "data", PLAIN | {"a/v.nii.gz": gzip.compress(volume(1)), "b/2": scan(6)}
    )
    for place in (folder, packed(folder)):
        data = read_dataset(place, OPTIONS)
        assert len(data) == 6
        again = originals(data, range(len(data)))
        for path, gray, thumbnail in zip(data.paths, again, data.thumbnails, strict=True):
            assert gray is not None, path
            np.testing.assert_array_equal(reading.thumbnail(gray), thumbnail)
    data = read_dataset(folder, OPTIONS)
    (folder / "a" / "v.nii.gz").write_bytes(gzip.compress(volume(9)))
    assert [gray is None for gray in originals(data, range(len(data)))] == [
        "#" in path for path in data.paths
    ]  # fmt: skip


def test_calibration_images_may_come_from_volumes(tmp_path: Path) -> None:
    save(tmp_path, {"1.png": png(1), "2.nii": volume(1, 4), "3.dcm": scan(3)})
    pixels = read_calibration_images(tmp_path, OPTIONS, 9)
    data = read_dataset(save(tmp_path / "data", PLAIN | {"a/2.nii": volume(1, 4)}), OPTIONS)
    assert len(pixels) == 3
    np.testing.assert_array_equal(pixels[1], data.images[data.paths.index("a/2.nii#3")])


# Groups


def test_the_slices_of_a_file_are_one_group(tmp_path: Path) -> None:
    save(tmp_path, PLAIN | {"a/v.nii": volume(1), "b/w.dcm": dicom_bytes(frames(2))})
    groups = groups_by_path(read_dataset(tmp_path, OPTIONS))
    assert len(set(groups.values())) == 4
    for name in ("a/v.nii", "b/w.dcm"):
        assert len({group for path, group in groups.items() if path.startswith(name)}) == 1
    assert all(group.startswith("look-") for group in groups.values())
    found = audit(tmp_path)
    assert {row[0]: row[4] for row in found.groups} == groups


STUDIES = {
    "a/1.dcm": ("P1", "1.1"), "a/2.dcm": ("P1 ", "1.2"), "a/3.dcm": ("P2", "1.3"),
    "b/4.dcm": ("", "1.4"), "b/5.dcm": (None, "1.4"), "b/6.dcm": (None, None),
    "b/7.dcm": ("", ""),
}  # fmt: skip


def series(studies: dict[str, tuple[str | None, str | None]]) -> dict[str, bytes]:
    return {
        name: scan(20 + i, PatientID=patient, StudyInstanceUID=study)
        for i, (name, (patient, study)) in enumerate(studies.items())
    }


def parts(data: Dataset) -> set[frozenset[str]]:
    """The groups, as the paths of each."""
    groups = groups_by_path(data)
    return {
        frozenset(path for path, other in groups.items() if other == group)
        for group in groups.values()
    }


def test_dicom_files_of_one_patient_are_one_group(tmp_path: Path) -> None:
    data = read_dataset(save(tmp_path, series(STUDIES)), OPTIONS)
    assert parts(data) == {
        frozenset({"a/1.dcm", "a/2.dcm"}), frozenset({"a/3.dcm"}),
        frozenset({"b/4.dcm", "b/5.dcm"}), frozenset({"b/6.dcm"}), frozenset({"b/7.dcm"}),
    }  # fmt: skip
    assert all(patient == "" for patient in data.patients)
    assert not any("PatientID" in words for words in data.warnings)
    again = read_dataset(tmp_path, OPTIONS)
    assert (again.groups, again.sha256) == (data.groups, data.sha256)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", RLE])
def test_patients_are_known_in_every_encoding(syntax: str, tmp_path: Path) -> None:
    def of(seed: int, patient: str, syntax: str) -> bytes:
        data = pydicom.dcmread(io.BytesIO(scan(seed, PatientID=patient)))
        if syntax == RLE:
            return scan(seed, PatientID=patient, TransferSyntaxUID=RLE)
        out = io.BytesIO()
        implicit, little = syntax.endswith("10008.1.2"), not syntax.endswith(".2.2")
        data.file_meta.TransferSyntaxUID = syntax
        if not little:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        plain = pydicom.Dataset()  # one that was not read knows no order of bytes
        plain.update(data)
        plain.file_meta = data.file_meta
        plain.save_as(out, implicit_vr=implicit, little_endian=little)
        return out.getvalue()

    plain = "1.2.840.10008.1.2.1"
    files = {"a/1": of(1, "P1", plain), "b/2": of(2, "P1", syntax), "b/3": of(3, "P2", syntax)}
    assert parts(read_dataset(save(tmp_path, files), OPTIONS)) == {
        frozenset({"a/1", "b/2"}), frozenset({"b/3"}),
    }  # fmt: skip


def test_patients_are_known_in_every_character_set(tmp_path: Path) -> None:
    files = {
        f"{'ab'[i]}/{i}": scan(i, PatientID="ÄÖ-1", SpecificCharacterSet=characters)
        for i, characters in enumerate(("ISO_IR 100", "ISO_IR 192"))
    }
    wrong = [scan(i, PatientID="abcd", SpecificCharacterSet="ISO_IR 192") for i in (2, 3)]
    for i, stored in enumerate((b"\xc4\xd6-2", b"\xc4\xd7-2")):  # no UTF-8
        files[f"b/w{i}"] = wrong[i].replace(b"LO\4\0abcd", b"LO\4\0" + stored)
        assert stored in files[f"b/w{i}"]
    assert parts(read_dataset(save(tmp_path, files), OPTIONS)) == {
        frozenset({"a/0", "b/1"}), frozenset({"b/w0"}), frozenset({"b/w1"}),
    }  # fmt: skip


def test_one_identifier_for_all_is_none(tmp_path: Path) -> None:
    studies = {f"{'ab'[i % 2]}/{i}.dcm": ("ANON", f"1.{i // 2}") for i in range(6)}
    data = read_dataset(save(tmp_path, series(studies)), OPTIONS)
    assert len(parts(data)) == 3
    words = "the DICOM files of 3 studies all carry one PatientID"
    assert [w for w in data.warnings if w.startswith(words)]
    assert [w for w in audit(tmp_path).warnings if w.startswith(words)]
    assert not any("ANON" in words for words in data.warnings)


def test_a_table_may_say_otherwise_of_patients(tmp_path: Path) -> None:
    studies = {f"{'ab'[i % 2]}/{i}.dcm": ("P1" if i < 4 else "P2", f"1.{i}") for i in range(6)}
    folder = save(tmp_path / "data", series(studies))
    rows = ["path,group"] + [
        f"{name},{group}" for name, group in zip(studies, "gghh  ", strict=True)
    ]
    data = read_dataset(folder, OPTIONS, groups_csv=table(tmp_path / "groups.csv", *rows))
    assert parts(data) == {
        frozenset({"a/0.dcm", "b/1.dcm"}), frozenset({"a/2.dcm", "b/3.dcm"}),
        frozenset({"a/4.dcm", "b/5.dcm"}),
    }  # fmt: skip
    # Where it names one of a patient's only, the others come along.
    rows = ["path,group", *(f"{name},{'g' if name == 'a/0.dcm' else ''}" for name in studies)]
    data = read_dataset(folder, OPTIONS, groups_csv=table(tmp_path / "groups.csv", *rows))
    assert sorted(map(len, parts(data))) == [2, 4]


def test_partly_labelled_slices_of_a_patient_stay_on_his_side(tmp_path: Path) -> None:
    both = {"a/1.dcm": ("P1", "1.1"), "b/2.dcm": ("P2", "1.2")}
    data = read_dataset(save(tmp_path / "data", series(both)), OPTIONS)
    files = {"a+b/1.dcm": scan(90, PatientID="P2"), "a+b/2.dcm": scan(91, PatientID="P3")}
    save(tmp_path / "part", files | {"a+b+c/3.png": png(92)})
    shutil.rmtree(tmp_path / "part" / "a+b+c")
    three = Dataset(**{**vars(data), "class_names": ("a", "b", "c")})
    partial = read_partial_labels(tmp_path / "part", OPTIONS, three)
    group = groups_by_path(data)["b/2.dcm"]
    assert dict(zip(partial.slices.paths, partial.touches, strict=True)) == {
        "a+b/1.dcm": frozenset({group}), "a+b/2.dcm": frozenset(),
    }  # fmt: skip


# Tables


def test_a_row_names_a_file_or_one_of_its_slices(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "data", PLAIN | {"a/v.nii": volume(1), "b/w.dcm": dicom_bytes(frames(2))}
    )
    groups = table(
        tmp_path / "groups.csv", "path,group,source,patient",
        "1.png,,web,", "a/v.nii,g1,here,p1", "v.nii#3,,there,", "b/w.dcm#2,g2,here,",
        "b/w.dcm#3,g2,here,", "b/w.dcm#4,g2,here,", "nobody.nii,g9,,",
    )  # fmt: skip
    data = read_dataset(folder, OPTIONS, groups_csv=groups)
    known = dict(
        zip(data.paths, zip(data.groups, data.sources, data.patients, strict=True), strict=True)
    )
    assert known["a/v.nii#2"] == known["a/v.nii#4"] == ("g1", "here", "p1")
    assert known["a/v.nii#3"] == ("g1", "there", "p1")
    assert known["b/w.dcm#4"] == ("g2", "here", "")
    assert known["a/1.png"][1] == "web"
    assert audit(folder, groups).result["groups"]["given"] == 2
    groups.write_text(groups.read_text().replace("b/w.dcm#3,g2,here,\n", ""))
    with pytest.raises(DataError, match=r"no row for 1 of 8 images, such as b/w\.dcm#3"):
        read_dataset(folder, OPTIONS, groups_csv=groups)


def test_a_file_that_is_called_like_a_slice_has_rows_of_its_own(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", PLAIN | {"a/x": png(3), "a/x#3": png(4)})
    rows = ("path,group", "a/x,g1", "1.png,", "b/1.png,")
    with pytest.raises(DataError, match=r"no row for 1 of 4 images, such as a/x#3"):
        read_dataset(folder, OPTIONS, groups_csv=table(tmp_path / "groups.csv", *rows))


def test_boxes_are_of_slices(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", PLAIN | {"a/v.nii": volume(1), "a/1.dcm": scan(4)})
    columns = "path,x_center,y_center,width,height"
    rows = [columns, "a/v.nii#3,0.5,0.5,0.2,0.2", "a/1.dcm,0.5,0.5,0.1,0.1", "v.nii,,,,"]
    data = read_dataset(folder, OPTIONS, boxes_csv=table(tmp_path / "boxes.csv", *rows))
    boxed = {data.paths[i] for i in np.flatnonzero(~np.isnan(data.boxes).any(axis=1))}
    assert boxed == {"a/v.nii#3", "a/1.dcm"}
    rows.append("v.nii,0.5,0.5,0.2,0.2")
    with pytest.raises(DataError, match=r"v\.nii is a file of several slices, and a box is of one"):
        read_dataset(folder, OPTIONS, boxes_csv=table(tmp_path / "boxes.csv", *rows))


# What cannot be read


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 3 // 4]


BAD = {
    "half.nii": (lambda: truncated(volume(1)), "damaged"),
    "half.nii.gz": (lambda: truncated(gzip.compress(volume(1))), "damaged"),
    "half.dcm": (lambda: truncated(dicom_bytes(frames(1), TransferSyntaxUID=RLE)), "damaged"),
    "four.nii": (
        lambda: nifti_bytes(np.stack([frames(1)] * 7, axis=3)),
        "a NIfTI file of 7 volumes: save the one that counts as a file of its own",
    ),
    "rgb.nii": (lambda: nifti_bytes(np.zeros((9, 9, 9), [(c, "u1") for c in "RGB"])), "colours"),
    "empty.nii": (lambda: b"", "empty file"),
    "text.nii": (lambda: b"no volume", "not an image in a supported format"),
    "text.gz": (lambda: gzip.compress(b"no volume"), None),
    "text.nii.gz": (lambda: gzip.compress(b"no volume"), "holds no NIfTI volume"),
    "report.dcm": (lambda: dicom_bytes(frames(1), Rows=None), "without an image"),
    "huge.dcm": (lambda: dicom_bytes(frames(1), Rows=60_000, Columns=60_000), "over the limit"),
    "many.dcm": (lambda: dicom_bytes(frames(1), NumberOfFrames=9999), "over the limit of 4,096"),
    "deflated.dcm": (
        lambda: dicom_bytes(frames(1)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"),
        "deflated",
    ),
    "patient.dcm": (lambda: large_patient(), "too many or too large parts"),
    "bomb.nii.gz": (lambda: bomb(), "over the limit|unpacks to more than the limit of 256 MiB"),
}


def bomb() -> bytes:
    """A small file that says that it unpacks to 2 GB."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1000, 1000, 2000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    return gzip.compress(header.binaryblock + bytes(4) + bytes(1 << 20))


def large_patient() -> bytes:
    """A file whose patient has a name of 20 MB, which implicit files may have."""
    data = scan(1, PatientID="P1", TransferSyntaxUID="1.2.840.10008.1.2")
    noise = np.random.default_rng(0).bytes(20 * MIB)  # a zip of zeros would be refused as a bomb
    element = b"\x10\0\x20\0\x02\0\0\0P1"
    assert data.count(element) == 1
    return data.replace(element, element[:4] + struct.pack("<I", 20 * MIB) + noise)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_file_costs_a_line_and_nothing_else(tmp_path: Path, zipped: bool) -> None:
    files = {f"a/{name}": make() for name, (make, _) in BAD.items()}
    folder = save(tmp_path / "data", PLAIN | files | {"a/good.nii": volume(2)})
    data = read_dataset(packed(folder) if zipped else folder, OPTIONS)
    assert set(data.paths) == {*PLAIN, *(f"a/good.nii#{i}" for i in HEADS)}
    said = {Path(name).name: reason for name, reason in data.problems}
    wanted = {name: words for name, (_, words) in BAD.items() if words is not None}
    assert set(said) == set(wanted)
    for name, words in wanted.items():
        assert any(part in said[name] for part in words.split("|")), (name, said[name])
        assert "--volume" not in said[name]


def test_files_with_wrong_bytes_are_slices_or_problems(tmp_path: Path) -> None:
    """Whatever a header says, nothing but a line comes of it."""
    rng = np.random.default_rng(5)
    kinds = [volume(1), dicom_bytes(frames(1)), scan(1, PatientID="P1"), gzip.compress(volume(1)),
             dicom_bytes(frames(2), TransferSyntaxUID=RLE)]  # fmt: skip
    files = {}
    for i in range(200):
        data = bytearray(kinds[i % len(kinds)])
        for at in rng.integers(0, min(len(data), 700), 1 + i % 4):
            data[at] = rng.integers(256)
        files[f"{'ab'[i % 2]}/{i}.dcm"] = bytes(data)
    data = read_dataset(save(tmp_path, files), OPTIONS)
    read = {path.partition("#")[0] for path in data.paths}
    assert read.isdisjoint(path for path, _ in data.problems)
    assert len(read) + len(data.problems) == len(files)
    assert 20 < len(read) < 180


def test_a_picture_may_not_be_as_large_as_a_volume(tmp_path: Path) -> None:
    save(tmp_path, PLAIN | {"a/called.dcm": png(3), "a/2.png": png(4), "a/v.nii": volume(1)})
    for name in ("called.dcm", "2.png", "v.nii"):
        with (tmp_path / "a" / name).open("r+b") as stream:
            stream.truncate(65 * MIB)
    data = read_dataset(tmp_path, OPTIONS)
    assert set(data.paths) == {*PLAIN, *(f"a/v.nii#{i}" for i in HEADS)}
    assert {reason for _, reason in data.problems} == {"larger than the limit of 64 MiB"}
    with (tmp_path / "a" / "v.nii").open("r+b") as stream:
        stream.truncate(DEFAULT_LIMITS.max_bytes + 1)
    said = dict(read_dataset(tmp_path, OPTIONS).problems)
    assert said["a/v.nii"] == "larger than the limit of 256 MiB"


def test_far_too_many_slices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, PLAIN | {"a/v.nii": volume(1)})
    monkeypatch.setattr(reading, "MAX_SLICES", 4)
    with pytest.raises(DataError, match="more than 4 slices"):
        read_dataset(tmp_path, OPTIONS)


@pytest.mark.parametrize(("module", "package"), [("dicom", "pydicom"), ("nifti", "nibabel")])
def test_a_missing_package_is_told_once(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"dicom": ".dcm", "nifti": ".nii"}[module]
    file = {"dicom": scan(3), "nifti": volume(1)}[module]
    save(tmp_path, PLAIN | {f"{'abc'[i % 3]}/{i}{kind}": file for i in range(30)})
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"edge_runtime.imaging.{module}", raising=False)
    data = read_dataset(tmp_path, OPTIONS)
    assert set(data.paths) == set(PLAIN)
    assert data.problems == ()
    ((words, reason),) = [(each.words, each.reason) for each in data.passed_over]
    assert words == f"a/0{kind}, a/12{kind}, a/15{kind} and 27 more {kind}"
    assert f"pip install 'btc-edge[{module}]'" in reason
    assert "no picture of c could be read (10 tried), so it is no class" in data.warnings
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b" / "1.png").unlink()
    with pytest.raises(DataError, match=f"20 passed over, such as b/.*{package}"):
        read_dataset(tmp_path, OPTIONS)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc to measure by")
def test_memory_is_that_of_one_slice_not_of_all(tmp_path: Path) -> None:
    from tests.trainer.test_reading import MEASURE

    side, count = 512, 160
    one = (cv2.resize(head(1), (side, side)).astype(np.uint16) * 8)[None]
    large = dicom_bytes(np.repeat(one, 2, axis=0))
    begin = large.index(one.tobytes())
    # The elements of a file of two frames, made one of many without holding it twice.
    start = large[: begin - 12].replace(b"IS\x02\x002 ", b"IS\x04\x00160 ")
    size = struct.pack("<I", one.nbytes * count)
    for name, frames in (("warm", 2), ("data", count)):
        place = tmp_path / name / "glioma"
        place.mkdir(parents=True)
        for copy in range(3):
            with (place / f"{copy}.dcm").open("wb") as stream:
                stream.write(
                    large[:begin] if frames == 2 else start + large[begin - 12 : begin - 4] + size
                )
                for _ in range(frames):
                    stream.write(one.tobytes())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "warm"), str(tmp_path / "data")],
        capture_output=True, text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept, problems, taken = json.loads(done.stdout)
    assert (kept, problems) == (3 * count, [])
    file = one.nbytes * count
    assert file < taken < 2 * file, "one file at a time, and not its slices beside it"


# An audit


def test_an_audit_tells_volumes_from_pictures(tmp_path: Path) -> None:
    files = {"Training/a/v.nii": volume(1), "Training/b/w.dcm": dicom_bytes(frames(2)),
             "Testing/b/copy.dcm": dicom_bytes(frames(2)), "Testing/a/1.png": png(1)}  # fmt: skip
    folder = save(tmp_path / "data", files)
    found = audit(folder)
    result = found.result
    assert result["counts"]["formats"] == {"a": {"nifti": 3, "png": 1}, "b": {"dicom": 6}}
    assert result["counts"]["modes"] == {"a": {"gray": 4}, "b": {"gray": 6}}
    assert result["oddities"]["sixteen_bit"]["count"] == 0
    assert result["exact_copies"]["same_bytes"]["sets"] == 3
    assert result["exact_copies"]["same_pixels"]["sets"] == 3
    assert result["leak"]["with_near_duplicate_in_training"] == 3
    (tmp_path / "out").mkdir()
    write_audit(found, open_archive(folder), tmp_path / "out")
    page = (tmp_path / "out" / "audit.html").read_text()
    assert page.count("data:image/jpeg") >= 6
    assert "copy.dcm#2" in page


# The commands


def tool(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / name), *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and Testing of four classes, as NIfTI volumes, DICOM series and pictures."""
    folder = tmp_path_factory.mktemp("studies") / "data"
    seed = 0
    for split, count in (("Training", 3), ("Testing", 1)):
        for label in ("glioma", "meningioma", "notumor", "pituitary"):
            for i in range(count):
                seed += 1
                named = {"PatientID": f"{PATIENT}-{seed}", "PatientName": "Doe^Jane",
                         "StudyInstanceUID": f"1.2.3.4711.{seed}"}  # fmt: skip
                place = f"{split}/{label}"
                save(
                    folder,
                    {
                        f"{place}/v{i}.nii.gz": gzip.compress(volume(seed)),
                        f"{place}/m{i}.dcm": dicom_bytes(frames(500 + seed), **named),
                        **{
                            f"{place}/s{i}-{j}.dcm": scan(90_000 + 10 * seed + j, **named)
                            for j in range(3)
                        },
                        f"{place}/p{i}.png": png(70_000 + seed),
                    },
                )
    save(folder, {"Training/glioma/bad.nii": truncated(volume(1))})
    return folder


def nothing_of_a_patient(*folders: Path) -> None:
    looked = 0
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                looked += 1
                if zipfile.is_zipfile(path):
                    with zipfile.ZipFile(path) as archive:
                        content += b"".join(map(archive.read, archive.namelist()))
                for word in (PATIENT, "Doe^Jane", "1.2.3.4711"):
                    assert word.encode() not in content, path
    assert looked


def test_an_audit_of_studies(studies: Path, tmp_path: Path) -> None:
    done = tool("btc-audit", studies, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "160 read, 1 unusable" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0] == "Training/glioma/bad.nii: truncated or damaged NIfTI file; skipped"
    assert sum("3 of 6 slices show no head" in line for line in lines) == 32
    assert sum("--masks" in line for line in lines) == 1
    assert "look-" in (tmp_path / "out" / "groups.csv").read_text()
    nothing_of_a_patient(tmp_path / "out")


def test_an_evaluation_on_studies(studies: Path, tmp_path: Path) -> None:
    from trainer.commands.evaluate import evaluate_command

    model = bundled_model()
    words = [str(model), str(studies), "--out", str(tmp_path / "out"), "--format", "json"]
    done = CliRunner().invoke(evaluate_command, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n"] == 40
    assert "Testing/glioma/m0.dcm: 3 of 6 slices show no head and are left out" in done.stderr
    table = (tmp_path / "out" / "predictions.csv").read_text()
    rows = [row["path"] for row in csv.DictReader(table.splitlines())]
    assert {f"Testing/glioma/{name}" for name in ("v0.nii.gz#2", "m0.dcm#4", "s0-1.dcm")} < set(
        rows
    )
    nothing_of_a_patient(tmp_path / "out")


@pytest.mark.slow
def test_a_training_on_studies(studies: Path, tmp_path: Path) -> None:
    small = ("--epochs", 1, "--batch-size", 16, "--size", 32, "--network", "classic")
    done = tool("btc-train", studies, "--out", "run", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "160 slices" in done.stderr
    assert "Training/glioma/bad.nii: truncated or damaged NIfTI file; skipped" in done.stderr
    predictions = (tmp_path / "run" / "predictions.csv").read_text()
    assert "Testing/glioma/v0.nii.gz#3" in predictions
    measured = tool("btc-evaluate", "run", studies, "--out", "out", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert "Testing/glioma/v0.nii.gz#3" in (tmp_path / "out" / "predictions.csv").read_text()
    nothing_of_a_patient(tmp_path / "run", tmp_path / "out")
    nothing_of_a_patient(tmp_path)
