"""btc-data volumes: the right slices of the right series, and nothing of the patient."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile.files import dicom_bytes, nifti_bytes
from edge_runtime.errors import BtcError, DataError, InputError, UsageError
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.imaging.readers import slices_of
from edge_runtime.studies.sequences import SEQUENCES, sequence_in, sequence_of
from edge_runtime.studies.series import read_file_head
from tests.device.volume_files import (
    SECRET,
    SIZE,
    SPACING,
    affine_of,
    draw_head,
    enhanced,
    nifti,
    series,
    write,
)
from trainer.commands.data import command
from trainer.data.archive import ZipArchive, open_archive
from trainer.prepare import folder as data_folder
from trainer.prepare.folder import JOURNAL, DataFolder
from trainer.prepare.volumes.head_slices import BRAIN, evenly, within_head
from trainer.prepare.volumes.labels import class_folder
from trainer.prepare.volumes.pseudonyms import read_key
from trainer.prepare.volumes.units import look_at

BIN = Path(sys.executable).parent
HEAD = draw_head()
MARKED = np.zeros(SIZE, np.uint8)
MARKED[20:28, 8:14, 10:15] = 2
ALL = [word for plane in PLANES for word in ("--plane", plane)]


class Made:
    """What a run left and said."""

    def __init__(self, out: Path, stdout: str, stderr: str) -> None:
        self.out, self.stdout, self.lines = out, stdout, stderr.splitlines()

    @property
    def rows(self) -> list[dict[str, str]]:
        found = []
        for name in ("groups.csv", "partial.csv"):
            if (self.out / name).exists():
                found += list(csv.DictReader(io.StringIO((self.out / name).read_text())))
        return found

    def pictures(self, **wanted: str) -> list[np.ndarray]:
        """Slices of rows that say this, in the order of their names."""
        rows = [row for row in self.rows if wanted.items() <= row.items()]
        return [cv2.imread(str(self.out / "slices" / row["path"]), -1) for row in rows]

    def values(self, column: str) -> set[str]:
        return {row[column] for row in self.rows}

    def said(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]


def run(data: Path, *words: object, out: Path | None = None) -> Made:
    """Run the command with a key beside the data; a problem is raised."""
    place = out or data.with_name("made")
    if "--key" not in words:
        key = data.with_name("the.key")
        if not key.exists():
            key.write_bytes(b"k" * 32)
            key.chmod(0o600)
        words = (*words, "--key", key)
    told = [*map(str, ("volumes", data, "--out", place, *words))]
    done = CliRunner().invoke(command, told)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return Made(place, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def packed(folder: Path) -> Path:
    """A zip of a folder's files."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tree(folder).items():
            archive.writestr(name, data)
    return path


def same(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# -- Orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL", "ARI"])
def test_a_volume_gives_the_same_slices_however_its_axes_go(tmp_path: Path, axes: str) -> None:
    made = []
    for name in ("RAS", axes):
        data = tmp_path / name / "data"
        write(data / "glioma", {"sub-1_T1w": nifti(HEAD, name)}, "{}.nii")
        key = tmp_path / "key"
        made.append(run(data, *ALL, "--per-volume", 4, "--key", key))
    assert tree(made[0].out) == tree(made[1].out)
    assert len(made[0].rows) == 12


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_sides_are_right_in_each_plane(tmp_path: Path, axes: str) -> None:
    """As in nibabel's canonical volume, in the radiological convention, and on the device."""
    data = nifti(HEAD, axes)
    write(tmp_path / "data" / "notumor", {"a": data}, "{}.nii")
    made = run(tmp_path / "data", *ALL, "--per-volume", "all")
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(data)).get_fdata()
    low, high = np.percentile(HEAD, (0.1, 99.9))
    gray = np.clip((canonical - low) / (high - low) * 255, 0, 255)
    for plane, axis in zip(PLANES, (2, 1, 0), strict=True):
        on_device = [part.gray for part in slices_of(data, plane=plane)]
        for row in (row for row in made.rows if row["plane"] == plane):
            number = int(row["path"].split("_")[-1].removesuffix(".png"))
            picture = cv2.imread(str(made.out / "slices" / row["path"]), -1)
            wanted = np.take(gray, number, axis)[::-1, ::-1].T
            assert np.abs(picture - wanted).max() <= 1
            assert any(np.array_equal(picture, one) for one in on_device)


@pytest.mark.parametrize("acquired", PLANES)
def test_a_series_is_cut_as_the_volume_that_it_makes(tmp_path: Path, acquired: str) -> None:
    write(tmp_path / "dicom" / "glioma", series(HEAD, acquired))
    write(tmp_path / "nifti" / "glioma", {"a": nifti(HEAD)}, "{}.nii")
    words = [*ALL, "--per-volume", "all"]
    dicom = run(tmp_path / "dicom", *words, out=tmp_path / "a")
    volume = run(tmp_path / "nifti", *words, out=tmp_path / "b")
    assert not dicom.said("not cut")
    for plane in PLANES:
        one, other = dicom.pictures(plane=plane), volume.pictures(plane=plane)
        assert len(one) == len(other) > 15
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("angle", "plane"), [(10, "axial"), (44, "axial"), (46, "coronal")])
def test_an_oblique_series_is_of_the_nearest_plane(
    tmp_path: Path, angle: float, plane: str
) -> None:
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    cosines = [1, 0, 0, 0, c, -s]  # the back of the head tilts down: towards coronal
    normal = np.cross(cosines[:3], cosines[3:])
    files = series(
        HEAD, ImageOrientationPatient=cosines, WindowCenter=400, WindowWidth=800,
        ImagePositionPatient=lambda number: list(number * SPACING * normal),
    )  # fmt: skip
    write(tmp_path / "data" / "glioma", files)
    made = run(tmp_path / "data", *ALL, "--per-volume", 3)
    on_device = [next(slices_of(file)).gray for file in files.values()]
    pictures = made.pictures(plane=plane)
    assert len(pictures) == 3
    assert all(any(np.array_equal(p, one) for one in on_device) for p in pictures)
    assert made.values("plane") == set(PLANES)  # the others are cut of the tilted volume


# -- DICOM series --------------------------------------------------------------------------------


def test_names_folders_and_numbers_of_files_tell_nothing(tmp_path: Path) -> None:
    """Two series in one folder, one of them in two; names and InstanceNumber in any order."""
    one, two = series(HEAD, seed="one"), series(draw_head(1), seed="two")
    tidy, mixed = tmp_path / "tidy" / "data", tmp_path / "mixed" / "data"
    write(tidy / "glioma" / "one", one)
    write(tidy / "glioma" / "two", two)
    turn = {len(one) - number: data for number, data in one.items()}
    write(mixed / "glioma", dict(list(turn.items())[:9]), "a{:03d}")
    write(mixed / "glioma" / "rest", dict(list(turn.items())[9:]), "b{}.IMA")
    write(mixed / "glioma", two, "z{}")
    made = [run(data, *ALL, "--key", tmp_path / "key") for data in (tidy, mixed)]
    assert tree(made[0].out) == tree(made[1].out)
    assert len(made[0].rows) == 2 * 3 * 10
    assert len(made[0].values("patient")) == 1


def test_the_acquired_plane_is_the_device_s_own(tmp_path: Path) -> None:
    """Bit for bit where the files have a window, each its own."""
    windows = {"WindowCenter": lambda n: 400 + 10 * n, "WindowWidth": lambda n: 900 + 7 * n}
    files = series(HEAD, **windows)
    write(tmp_path / "data" / "glioma", files)
    made = run(tmp_path / "data", "--per-volume", "all")
    shown = {number: next(slices_of(data)).gray for number, data in files.items()}
    for row in made.rows:
        number = int(row["path"].split("_")[-1].removesuffix(".png"))
        picture = cv2.imread(str(made.out / "slices" / row["path"]), -1)
        np.testing.assert_array_equal(picture, shown[number])


def test_files_without_a_window_share_one_range(tmp_path: Path) -> None:
    files = series(HEAD)
    write(tmp_path / "data" / "glioma", files)
    made = run(tmp_path / "data", "--per-volume", "all")
    numbers = [int(row["path"].split("_")[-1].removesuffix(".png")) for row in made.rows]
    pairs = zip(numbers, made.pictures(), strict=True)
    levels: dict[int, set[int]] = {}
    for number, picture in pairs:
        stored = pydicom.dcmread(io.BytesIO(files[number])).pixel_array
        for value, gray in zip(stored.ravel().tolist(), picture.ravel().tolist(), strict=True):
            levels.setdefault(value, set()).add(gray)
    assert all(len(grays) == 1 for grays in levels.values())


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless])
def test_what_the_device_decodes_is_decoded(tmp_path: Path, syntax: str) -> None:
    how = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -50,
           "PixelPaddingValue": 0}  # fmt: skip
    head = HEAD.astype(np.uint16)
    made = []
    for name, more in (("plain", {}), ("packed", {"TransferSyntaxUID": syntax})):
        write(tmp_path / name / "data" / "glioma", series(head, **how, **more))
        made.append(run(tmp_path / name / "data", *ALL, "--key", tmp_path / "key"))
    assert tree(made[0].out) == tree(made[1].out)
    middle = made[0].pictures(plane="coronal")[5]
    assert middle[0, 0] == 0  # padding is black
    assert np.ptp(middle) > 100


def test_a_gap_costs_the_other_planes_only(tmp_path: Path) -> None:
    write(tmp_path / "data" / "glioma", series(HEAD, skip=(12, 13)))
    made = run(tmp_path / "data", *ALL, "--per-volume", 5)
    assert made.values("plane") == {"axial"}
    assert len(made.rows) == 5
    (line,) = made.said("a gap of 7.5 mm between slices that lie 2.5 mm apart")
    assert "not cut in other planes" in line
    alone = run(tmp_path / "data", "--per-volume", 5, out=tmp_path / "alone")
    assert len(alone.said("a gap of 7.5 mm")) == 1
    assert "dropped" not in alone.stdout
    assert "dropped, 1: slices that make no even volume" in made.stdout


def test_a_localiser_is_three_stacks(tmp_path: Path) -> None:
    shared = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "seed": "x"}
    files: dict[str, bytes] = {}
    for plane in PLANES:
        cut = series(HEAD, plane, **shared, SOPInstanceUID=lambda n, p=plane: f"1.{len(p)}.{n + 1}")
        files |= {f"{plane}{n}": cut[n] for n in (14, 16, 18)}
    write(tmp_path / "data" / "glioma", files)
    made = run(tmp_path / "data", *ALL)
    planes = [row["plane"] for row in made.rows]
    assert {plane: planes.count(plane) for plane in PLANES} == dict.fromkeys(PLANES, 3)
    assert len(made.said("fewer than 16 slices are not cut in other planes")) == 1
    axial = [next(slices_of(data)).gray for name, data in files.items() if "axial" in name]
    assert {p.shape for p in made.pictures(plane="axial")} == {axial[0].shape}


def test_of_several_pictures_of_a_place_the_first_is_cut(tmp_path: Path) -> None:
    shared = {"StudyInstanceUID": "1.9", "SeriesInstanceUID": "1.2.3", "RepetitionTime": 3000,
              "SeriesDescription": "PD+T2 tse"}  # fmt: skip
    late = series(HEAD // 3, seed="late", EchoTime=90, **shared)
    early = series(HEAD, seed="early", EchoTime=10, **shared)
    write(tmp_path / "both" / "data" / "glioma", early, "z{}")
    write(tmp_path / "both" / "data" / "glioma", late, "a{}")
    write(tmp_path / "one" / "data" / "glioma", early)
    both, one = (run(tmp_path / n / "data", "--key", tmp_path / "key") for n in ("both", "one"))
    assert tree(both.out) == tree(one.out)
    assert len(both.said("32 pictures of places that another one shows")) == 1
    assert both.values("sequence") == {"PD"}


def test_copies_of_a_file_are_told_and_count_once(tmp_path: Path) -> None:
    files = series(HEAD)
    write(tmp_path / "data" / "glioma" / "a", files)
    write(tmp_path / "data" / "glioma" / "b", files)
    made = run(tmp_path / "data", *ALL)
    assert len(made.rows) == 30
    assert len(made.said("a copy of another file")) == 1
    assert not made.said("pictures of places")


def test_one_number_for_all_files_makes_them_no_copies(tmp_path: Path) -> None:
    """As some anonymisers write it."""
    write(tmp_path / "data" / "glioma", series(HEAD, SOPInstanceUID="1.2.3"))
    made = run(tmp_path / "data", "--per-volume", 10)
    assert len(made.rows) == 10
    assert not made.said("copy")


def test_sizes_that_differ_are_stacks_of_their_own(tmp_path: Path) -> None:
    study = {"StudyInstanceUID": "1.9", "SeriesInstanceUID": "1.2.3"}
    small = series(HEAD[4:-4, 4:-4], seed="small", **study)
    write(tmp_path / "data" / "glioma", series(HEAD, **study), "a{}")
    write(tmp_path / "data" / "glioma", small, "b{}")
    made = run(tmp_path / "data", "--per-volume", 4)
    assert sorted(p.shape for p in made.pictures()) == [(32, 26)] * 4 + [(40, 34)] * 4


def test_frames_of_an_enhanced_file_are_sorted_in_space(tmp_path: Path) -> None:
    order = list(np.random.default_rng(0).permutation(SIZE[2]))
    write(tmp_path / "data" / "glioma", {0: enhanced(HEAD, order)})
    made = run(tmp_path / "data", *ALL, "--per-volume", "all")
    shown = {n: part.gray for n, part in zip(order, slices_of(enhanced(HEAD, order)), strict=True)}
    for row in (row for row in made.rows if row["plane"] == "axial"):
        number = int(row["path"].split("_")[-1].removesuffix(".png"))
        picture = cv2.imread(str(made.out / "slices" / row["path"]), -1)
        np.testing.assert_array_equal(picture, shown[number])
    assert made.values("plane") == set(PLANES)


def test_frames_that_lie_nowhere_are_told(tmp_path: Path) -> None:
    whole = pydicom.dcmread(io.BytesIO(enhanced(HEAD, range(SIZE[2]))))
    groups = whole.PerFrameFunctionalGroupsSequence
    del groups[0].PlanePositionSequence
    stream = io.BytesIO()
    whole.save_as(stream)
    write(tmp_path / "data" / "glioma", {0: stream.getvalue()})
    made = run(tmp_path / "data")
    assert len(made.rows) == 10
    assert len(made.said("1 frames that do not tell where they lie in the patient")) == 1


def _useless() -> dict[str, tuple[bytes, str]]:
    one = series(HEAD)[10]

    def altered(**elements: Any) -> bytes:
        whole = pydicom.dcmread(io.BytesIO(one))
        for name, value in elements.items():
            setattr(whole, name, value)
        for name, value in elements.items():
            if value is None:
                delattr(whole, name)
        whole.SeriesInstanceUID = whole.SOPInstanceUID = f"1.2.{len(str(elements))}.{len(elements)}"
        stream = io.BytesIO()
        whole.save_as(stream)
        return stream.getvalue()

    colour = dicom_bytes(
        np.zeros((20, 20, 3), np.uint8), SamplesPerPixel=3, Modality="MR", SeriesInstanceUID="1.5"
    )
    index = dicom_bytes(
        np.zeros((2, 2), np.uint8), SOPClassUID="1.2.840.10008.1.3.10", PixelData=None, Rows=None
    )
    return {
        "ct.dcm": (altered(Modality="CT"), "not an MR picture (CT)"),
        "seg.dcm": (altered(Modality="SEG"), "not an MR picture (SEG)"),
        "report.dcm": (altered(Modality="SR", PixelData=None, Rows=None), "not an MR picture (SR)"),
        "odd.dcm": (altered(Modality="ZWETSCHKE"), "not an MR picture (another modality)"),
        "screen.dcm": (altered(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "a screenshot"),
        "mip.dcm": (altered(ImageType=["DERIVED", "PRIMARY", "PROJECTION IMAGE"]), "a projection"),
        "mosaic.dcm": (altered(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "a mosaic"),
        "burned.dcm": (altered(BurnedInAnnotation="YES"), "burned-in annotation"),
        "packed.dcm": (
            altered(EchoTime=9).replace(b"1.2.840.10008.1.2.1\0", b"1.2.17.4711.19390117"),
            "a DICOM file compressed as 1.2.17.4711.19390117",
        ),
        "colour.dcm": (colour, "a colour picture"),
        "nowhere.dcm": (altered(ImagePositionPatient=None), "does not tell where"),
        "DICOMDIR": (index, "a DICOMDIR"),
        "cut.dcm": (series(HEAD, seed="cut")[9][:1900], "damaged"),
        "head.dcm": (one[:200], "a DICOM file without an image"),
        "volume.nii": (nifti(HEAD)[:9000], "damaged"),
        "pair.hdr": (nifti(HEAD)[:348], "damaged"),
        "gzip.nii.gz": (gzip.compress(b"nothing" * 99), "holds no NIfTI volume"),
        "empty.dcm": (b"", "empty file"),
        "notes.txt": (b"Zwetschkenbaum", "neither DICOM nor NIfTI"),
        "shot.png": (cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes(), "a picture"),
        "a_seg.nii": (nifti(HEAD), "a mask by its name"),
        "flat.nii": (nifti(np.zeros(SIZE, np.int16)), "no head"),
        "colours.nii": (_rgb_nifti(), "not supported: a NIfTI file of colours"),
    }


def _rgb_nifti() -> bytes:
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return bytes(nibabel.Nifti1Image(rgb, np.eye(4)).to_bytes())


def test_a_file_that_gives_nothing_costs_one_line(tmp_path: Path) -> None:
    write(tmp_path / "clean" / "glioma", series(HEAD))
    useless = _useless()
    write(tmp_path / "data" / "glioma", series(HEAD))
    for name, (data, _) in useless.items():
        (tmp_path / "data" / "glioma" / name).write_bytes(data)
    clean = run(tmp_path / "clean", *ALL, out=tmp_path / "a")
    made = run(tmp_path / "data", *ALL, out=tmp_path / "b")
    for name, (_, why) in useless.items():
        (line,) = made.said(f"glioma/{name}")
        assert why in line, line
        assert line.endswith("; skipped")
    ours, theirs = tree(clean.out), tree(made.out)
    assert theirs == ours
    assert made.stdout.count("dropped, ") >= 15
    assert "4711" not in made.stdout
    assert "dropped, 1: not supported: a DICOM file of an unknown compression" in made.stdout


def test_a_file_damaged_inside_is_left_out(tmp_path: Path) -> None:
    files = series(HEAD, TransferSyntaxUID=pydicom.uid.RLELossless)
    at = files[15].rindex(b"\xfe\xff\x00\xe0") + 8
    files[15] = files[15][: at + 64] + b"\xff" * (len(files[15]) - at - 72) + files[15][-8:]
    write(tmp_path / "data" / "glioma", files)
    made = run(tmp_path / "data", *ALL, "--per-volume", "all")
    (line,) = made.said("15.dcm")
    assert "damaged" in line
    assert made.values("plane") == {"axial"}
    assert len(made.said("not cut in other planes")) == 1


def test_frames_that_are_only_claimed_are_not_kept() -> None:
    """Nor a name that is a book."""
    data = enhanced(HEAD[:8, :8, :6], range(6), ImagePositionPatient=[0, 0, 0],
                    ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PatientName="a" * 60_000,
                    NumberOfFrames=4000)  # fmt: skip
    head = read_file_head("x", data, ImageLimits(), False)
    assert head is not None
    assert len(head.places) == 6
    assert len(head.patient_name) == 1024
    plain = dicom_bytes(np.zeros((6, 8, 8), np.uint16), Modality="MR", NumberOfFrames=4000,
                        ImagePositionPatient=[0, 0, 0],
                        ImageOrientationPatient=[1, 0, 0, 0, 1, 0])  # fmt: skip
    head = read_file_head("x", plain, ImageLimits(), False)
    assert head is not None
    assert "does not tell where" in head.useless


def test_a_series_of_very_many_directions_is_dropped(tmp_path: Path) -> None:
    def cosines(number: int) -> list[float]:
        angle = 0.09 * number
        return [float(np.cos(angle)), float(np.sin(angle)), 0, 0, 0, -1]

    files = series(np.stack([HEAD[:, :, 9]] * 70, 2), ImageOrientationPatient=cosines)
    write(tmp_path / "data" / "glioma", files)
    write(tmp_path / "data" / "glioma", series(HEAD, seed="good"), "g{}.dcm")
    made = run(tmp_path / "data")
    assert len(made.said("more than 64 directions")) == 1
    assert len(made.rows) == 10


def test_slices_that_are_stored_turned_are_told(tmp_path: Path) -> None:
    """They are what the device shows of such a file; other planes are upright all the same."""
    files = series(HEAD[::-1].copy(), ImageOrientationPatient=[-1, 0, 0, 0, 1, 0],
                   ImagePositionPatient=lambda n: [40, -50, n * SPACING])  # fmt: skip
    write(tmp_path / "data" / "glioma", files)
    made = run(tmp_path / "data", *ALL, "--per-volume", "all")
    assert len(made.said("stored turned or mirrored")) == 1
    write(tmp_path / "usual" / "data" / "glioma", series(HEAD))
    usual = run(tmp_path / "usual" / "data", *ALL, "--per-volume", "all")
    same(made.pictures(plane="coronal"), usual.pictures(plane="coronal"))
    pairs = zip(made.pictures(plane="axial"), usual.pictures(plane="axial"), strict=True)
    assert all(np.array_equal(one, other[:, ::-1]) for one, other in pairs)


def test_a_damaged_member_of_a_zip_is_not_named_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path / "data" / "glioma",
        {"Zwetschkenbaum": b"12345678" * 9, "a.nii": nifti(HEAD)},
        "{}",
    )
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tree(tmp_path / "data").items():
            archive.writestr(name, data)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"12345678")] ^= 1
    path.write_bytes(raw)
    add, journals = DataFolder.add, []

    def spied(self: DataFolder, *arguments: Any) -> None:
        add(self, *arguments)
        journals.append((self.out / JOURNAL).read_text())

    monkeypatch.setattr(DataFolder, "add", spied)
    made = run(path)
    assert len(made.said("glioma/Zwetschkenbaum: damaged in the archive")) == 1
    assert "damaged in the archive" in journals[0]
    assert not any("Zwetschkenbaum" in text for text in (*journals, made.stdout))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.binary(min_size=1, max_size=8), st.integers(100, 5000))
def test_no_head_of_a_file_raises_anything_else(at: int, bytes_: bytes, length: int) -> None:
    data = bytearray(enhanced(HEAD[:8, :8, :6], range(6)))
    data[at : at + len(bytes_)] = bytes_
    for part, cut_off in ((data, False), (data[:length], True)):
        try:
            read_file_head("x", bytes(part), ImageLimits(), cut_off)
        except InputError:
            assert not cut_off


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_damage_is_told_and_costs_that_file_only(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("damaged") / "data"
    files = {
        "good.nii": nifti(HEAD),
        "a.nii": nifti(HEAD[:20, :20, :20]),
        "b.nii.gz": gzip.compress(nifti(HEAD[:20, :20, :20])),
        "c.dcm": enhanced(HEAD[:20, :20, :18], range(18)),
        **{f"d{n}.dcm": file for n, file in series(HEAD[:20, :20, :18]).items() if n < 3},
    }
    for name in sorted(files.keys() - {"good.nii"}):
        raw = bytearray(files[name])
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, min(len(raw), 2500) - 1))
            raw[at] = data.draw(st.integers(0, 255))
        files[name] = bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2, 400]))])
    made = run(write(place, files, "{}"), "--label", "glioma", "--per-volume", 2, *ALL)
    good = [row for row in made.rows if row["plane"] == "axial"]
    assert len(good) >= 2
    told = "\n".join(made.lines)
    assert "Traceback" not in told
    assert "Error" not in told


# -- NIfTI ---------------------------------------------------------------------------------------


def test_kinds_of_nifti_files_are_alike(tmp_path: Path) -> None:
    plain = nifti(HEAD)
    header = bytearray(plain[:348])
    header[344:348] = b"ni1\0"
    header[108:112] = np.array(0, "<f4").tobytes()
    kinds = {
        "plain": {"sub-1.nii": plain},
        "packed": {"sub-1.nii.gz": gzip.compress(plain)},
        "pair": {"sub-1.hdr": bytes(header), "sub-1.img": plain[352:]},
        "several": {"sub-1.nii": nifti_bytes(np.stack([HEAD, HEAD // 2], 3), affine_of())},
    }
    pictures = {}
    for name, files in kinds.items():
        data = write(tmp_path / name / "data" / "glioma", files, "{}").parent
        made = run(data, *ALL)
        pictures[name] = made.pictures()
        zipped = run(packed(data), *ALL, out=tmp_path / name / "z")
        assert tree(zipped.out) == tree(made.out)
        assert bool(made.said("2 volumes, of which the first is cut")) == (name == "several")
    for name in kinds:
        same(pictures["plain"], pictures[name])
    alone = write(
        tmp_path / "half" / "data" / "glioma", {"a.img": plain[352:]} | kinds["plain"], "{}"
    )
    assert run(alone.parent).said("its .hdr is missing")


def test_thick_volumes_are_cut_in_their_own_plane_only(tmp_path: Path) -> None:
    thick = nifti_bytes(HEAD[:, :, ::2], np.diag([2.5, 2.5, 5, 1]))
    write(tmp_path / "data" / "glioma", {"a": thick}, "{}.nii")
    made = run(tmp_path / "data", *ALL, "--per-volume", 3)
    assert made.values("plane") == {"axial"}
    assert len(made.said("more than 3 mm apart")) == 1


# -- Which slices --------------------------------------------------------------------------------


def test_three_millimetres_are_not_more_than_three(tmp_path: Path) -> None:
    """Oblique ones neither, whose places are rounded."""
    c, s = np.cos(np.radians(17)), np.sin(np.radians(17))
    normal = np.cross([1, 0, 0], [0, c, s])
    files = series(
        HEAD, ImageOrientationPatient=[1, 0, 0, 0, round(c, 6), round(s, 6)],
        ImagePositionPatient=lambda n: [round(x, 6) for x in n * 3.00001 * normal],
    )  # fmt: skip
    write(tmp_path / "data" / "glioma", files)
    assert run(tmp_path / "data", *ALL).values("plane") == set(PLANES)


def test_slices_lie_evenly_within_the_head(tmp_path: Path) -> None:
    tall = np.zeros((SIZE[0], SIZE[1], 90), np.int16)
    tall[:, :, 50:82] = HEAD
    tall[:, :, :50] = HEAD[:, :, 8:9]  # a neck as wide as the head
    tall[:, :, :30] = HEAD[:, :, 16:17].max()  # shoulders fill the picture
    write(tmp_path / "data" / "glioma", {"a": nifti(tall)}, "{}.nii")
    made = run(tmp_path / "data", "--per-volume", 8)
    numbers = [int(row["path"].split("_")[-1].removesuffix(".png")) for row in made.rows]
    steps = np.diff(numbers)
    assert len(numbers) == 8
    assert np.ptp(steps) <= 1
    assert max(numbers) < 82
    assert 45 - BRAIN / SPACING + 30 <= min(numbers) <= 82 - BRAIN / SPACING + 3


@given(st.lists(st.integers(), unique=True, max_size=40).map(sorted), st.integers(1, 20))
def test_evenly_spaced(numbers: list[int], count: int) -> None:
    taken = evenly(numbers, count)
    assert len(taken) == min(count, len(numbers))
    assert taken == sorted(set(taken))
    assert set(taken) <= set(numbers)
    assert evenly(numbers, None) == numbers


def test_an_empty_volume_shows_no_head() -> None:
    assert within_head([np.zeros((9, 9), np.uint8)] * 3, "axial", 1.0) == []


# -- Labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("glioma/a/b/c.dcm", "glioma"), ("Training/glioma/x.nii", "glioma"),
        ("data/Testing/no tumor/p/x.nii", "no tumor"), ("x.nii", None), ("Training/x.nii", None),
    ],
)  # fmt: skip
def test_the_topmost_folder_is_the_class(path: str, folder: str | None) -> None:
    assert class_folder(path) == folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A DICOM series and two NIfTI files, in folders that are no classes."""
    data = tmp_path / "data"
    write(data / "p" / "s1", series(HEAD, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.77"))
    write(data / "q", {"sub-07_T1w": nifti(HEAD), "other": nifti(HEAD)}, "{}.nii")
    return data


@pytest.mark.parametrize(
    "rows",
    [
        "series,label\n1.2.77,glioma\nsub-07_T1w.nii,no tumor\nother,tumor\n",
        "patient,label\nZQX-4711-ID,glioma\nsub-07,healthy\nother,tumor\n",
        "series,patient,label\np/s1,,glioma\n,07,notumor\nq/other.nii,x1,tumor\n",
    ],
)
def test_a_table_says_what_volumes_show(two: Path, rows: str) -> None:
    table = two.with_name("labels.csv")
    table.write_text(rows)
    made = run(two, "--labels", table, "--per-volume", 2)
    assert made.values("label") == {"glioma", "notumor", "tumor"}
    assert (made.out / "partial" / "tumor").is_dir()  # beside a typed tumour
    assert not made.said("row")


def test_what_a_table_says_of_a_series(two: Path) -> None:
    table = two.with_name("labels.csv")
    table.write_text(
        "series,patient,label,source,sequence,first,last\n"
        "1.2.77,x1,glioma,north,FLAIR,985,990\n"  # InstanceNumber falls from 1000
        "sub-07_T1w,,notumor,north,,0,1\n"  # as it is said, though no head is there
        "other.nii,x1,glioma+meningioma,south,t1 gd,,\n"
        "nothing,,glioma,,,,\n"
    )
    made = run(two, "--labels", table, "--source", "own", "--per-volume", "all")
    north = [row for row in made.rows if row["source"] == "north"]
    numbers = {(row["label"], int(row["path"][-8:-4]), row["sequence"]) for row in north}
    wanted = {("glioma", n, "FLAIR") for n in range(10, 16)}
    assert numbers == wanted | {("notumor", n, "T1") for n in (0, 1)}
    assert {row["sequence"] for row in made.rows if row["source"] == "south"} == {"T1 contrast"}
    assert len(made.values("patient")) == 3  # numbers of different collections' own
    (line,) = made.said("fit no volume")
    assert "row 5 (nothing)" in line
    card = (made.out / "data.toml").read_text()
    assert re.findall('^name = "(.*)"$', card, re.M) == ["north", "south"]


def test_a_table_and_a_file_call_a_patient_the_same(tmp_path: Path) -> None:
    """With sub- or without it, and however many blanks stand between."""
    for number in range(3):
        files = series(
            HEAD, seed=str(number), SeriesInstanceUID=f"1.2.{number}", PatientID="sub-A  1"
        )
        write(tmp_path / "data" / str(number), files)
    table = tmp_path / "labels.csv"
    table.write_text("series,patient,label\n1.2.0,A  1,glioma\n,A  1,glioma\n")
    made = run(tmp_path / "data", "--labels", table)
    table.write_text("series,label\n1.2.0,glioma\n1.2.1,glioma\n1.2.2,glioma\n")
    plain = run(tmp_path / "data", "--labels", table, out=tmp_path / "plain")
    assert made.values("patient") == plain.values("patient")
    assert len(made.rows) == len(plain.rows) == 30


def test_volumes_without_a_row_are_left_out(two: Path) -> None:
    table = two.with_name("labels.csv")
    table.write_text("patient,label\n07,notumor\n")
    made = run(two, "--labels", table)
    assert len(made.said("no row of the labels table fits it; skipped")) == 2
    assert made.values("label") == {"notumor"}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("series,label\nx,../../evil\n", "cannot be a class"),
        ("series,label\nx,\n", "cannot be a class"),
        ("series,label\n,glioma\n", "neither a series nor a patient"),
        ("series,label\nx,glioma\nx,notumor\n", "something else of x"),
        ("series,label,sequence\nx,glioma,Zwetschke\n", "is none of"),
        ("series,label,first,last\nx,glioma,a,3\n", "two whole numbers"),
        ("series,class\nx,glioma\n", "missing: label"),
        ("series,label\n", "no row"),
        ("series,label\n,\n", "no row"),
        ("series;label\r\nx;glioma\r\n", "commas"),
        ("series\tlabel\nx\tglioma\n", "commas"),
        ("series,label,label\nx,glioma,notumor\n", "two columns are called label"),
        ("series,label,Label\nx,glioma,notumor\n", "two columns are called label"),
        ("series,label\nx,gli\udcfcma\n", "save it as UTF-8"),
    ],
)
def test_a_wrong_table_is_one_line(two: Path, rows: str, why: str) -> None:
    table = two.with_name("labels.csv")
    table.write_bytes(rows.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=re.escape(why)):
        run(two, "--labels", table)


def test_a_table_as_excel_saves_it(two: Path) -> None:
    table = two.with_name("labels.csv")
    table.write_bytes(b"\xef\xbb\xbfPatient,label,source\r\n07,no tumor,\r\n,,\r\n\r\n")
    assert run(two, "--labels", table).values("label") == {"notumor"}


def test_folders_called_like_patients_are_no_classes(tmp_path: Path) -> None:
    names = ("ZQX 4711 ID", "xaver", "Zwetschkenbaum_Xaver", "Xaver Zwetschkenbaum",
             "zwetschkenbaum, x. 1939", "zqx-4711-id_t1")  # fmt: skip
    for number, name in enumerate(names):
        data = write(tmp_path / str(number) / "data" / name / "s", series(HEAD)).parents[1]
        with pytest.raises(DataError, match="called like the patient"):
            run(data)
    with pytest.raises(DataError, match="called like the patient"):
        run(
            write(
                tmp_path / "bids" / "data" / "sub-7" / "anat", {0: nifti(HEAD)}, "{}.nii"
            ).parents[1]
        )
    umlaut = series(HEAD, PatientName="Müller^Änne")
    for name in ("Mueller Aenne", "Muller"):
        with pytest.raises(DataError, match="called like the patient"):
            run(write(tmp_path / name / "data" / name, umlaut).parent)
    for name in ("Glioma^001", "Tumor^No"):  # a name that an anonymiser made
        made = run(
            write(tmp_path / name / "data" / "glioma", series(HEAD, PatientName=name)).parent
        )
        assert made.values("label") == {"glioma"}
    many = tmp_path / "many"
    for number in range(21):
        write(many / f"person {number}", {0: b"n"}, "{}.nii")
        write(many / f"person {number}", {0: nifti(HEAD)}, "{}.nii")
    with pytest.raises(DataError, match="21 folders that would be classes"):
        run(many)


def test_usage(two: Path) -> None:
    for words, why in (
        (("--label", "a", "--labels", __file__), "give one of them"),
        (("--source", " "), "--source"),
        (("--key", two.with_name("made") / "key"), "would lie in --out"),
        (("--label", "a/b"), "cannot be a class"),
        (("--label", "a", "--out", two / "made"), "lies in the data"),
        (("--label", "a", "--masks", BIN, "--out", BIN / "made"), "lies in --masks"),
    ):
        with pytest.raises(BtcError, match=re.escape(why)):
            run(two, *words)
    with pytest.raises(DataError, match="no DICOM series and no NIfTI"):
        run(write(two.parent / "none", {"a": b"text"}, "{}.txt"), "--label", "x")


# -- Patients ------------------------------------------------------------------------------------


def _tell(made: Made) -> str:
    (row,) = made.values("patient")
    return row


def test_pseudonyms_hang_on_the_key_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "data", series(HEAD))
    other = write(tmp_path / "later", series(draw_head(1), "sagittal", seed="later"), "x{}")
    words = ["--label", "glioma", "--per-volume", 1]
    key = tmp_path / "keys" / "own"
    first = run(data, *words, "--key", key, out=tmp_path / "1")
    assert first.said("a new key for pseudonyms; keep it")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    later = run(other, *words, "--key", key, out=tmp_path / "2")
    assert not later.said("key")
    assert _tell(first) == _tell(later)
    foreign = run(data, *words, "--key", tmp_path / "another", out=tmp_path / "3")
    assert _tell(foreign) != _tell(first)
    assert re.fullmatch(r"p[0-9a-f]{12}", _tell(first))
    secret = key.read_text().strip()
    assert not any(secret.encode() in data for data in tree(tmp_path / "1").values())
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / JOURNAL).write_text("{}\n")
    with pytest.raises(UsageError, match="began"):
        run(data, *words, "--key", key, out=tmp_path / "4")


def test_a_key_lies_in_the_user_s_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data", series(HEAD))
    for name in ("HOME", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    told = ["volumes", str(data), "--out", str(tmp_path / "made"), "--label", "glioma"]
    done = CliRunner().invoke(command, told)
    assert done.exit_code == 0
    (key,) = (path for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert str(key) in done.stderr
    assert len(key.read_text()) == 65


def test_two_commands_that_make_a_key_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link, others = tmp_path / "keys" / "key", os.link, []

    def late(*places: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        others.append(read_key(path)[0].of("x"))
        link(*places)

    monkeypatch.setattr(os, "link", late)
    assert [read_key(path)[0].of("x")] == others
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_a_key_is_made_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refusing)
    path = tmp_path / "key"
    assert read_key(path)[0].of("x") == read_key(path)[0].of("x")
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", bytes(5000)])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    data = write(tmp_path / "data", series(HEAD))
    with pytest.raises(UsageError, match="the key"):
        run(data, "--label", "glioma", "--key", tmp_path / "key")


@pytest.mark.skipif(os.name == "nt", reason="no such permissions there")
def test_a_key_that_others_may_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "the.key").write_bytes(b"x" * 32)
    (tmp_path / "the.key").chmod(0o644)
    data = write(tmp_path / "data", series(HEAD))
    assert run(data, "--label", "glioma").said("chmod 600")


def test_studies_may_tell_patients_apart(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "data" / str(number), series(HEAD, seed=str(number)))
    words = ["--label", "glioma", "--per-volume", 1]
    by_id = run(tmp_path / "data", *words, out=tmp_path / "1")
    assert by_id.said("all series have one PatientID, in 3 studies")
    assert len(by_id.values("patient")) == 1
    by_study = run(tmp_path / "data", *words, "--patient-from", "study", out=tmp_path / "2")
    assert len(by_study.values("patient")) == 3
    assert not by_study.said("PatientID")


def test_a_blank_patient_is_a_study(tmp_path: Path) -> None:
    for number, blank in enumerate(("", " ", None)):
        files = series(HEAD, seed=str(number), PatientID=blank)
        write(tmp_path / "data" / str(number), files)
    made = run(tmp_path / "data", "--label", "glioma", "--per-volume", 1)
    assert made.said("3 series without a PatientID: each study counts as a patient")
    assert len(made.values("patient")) == 3


def test_a_patient_is_the_same_in_every_character_set(tmp_path: Path) -> None:
    for number, charset in enumerate(("ISO_IR 100", "ISO_IR 192")):
        files = series(HEAD, seed=str(number), SpecificCharacterSet=charset, PatientID="ÄÖ-1")
        write(tmp_path / "data" / str(number), files)
    for number, wrong in enumerate((b"\xc4\xd6-2", b"\xc4\xd7-2")):  # no UTF-8
        files = series(HEAD, seed=f"w{number}", PatientID="abcd")
        files = {n: data.replace(b"LO\4\0abcd", b"LO\4\0" + wrong) for n, data in files.items()}
        assert wrong in files[0]
        write(tmp_path / "data" / f"w{number}", files)
    made = run(tmp_path / "data", "--label", "glioma", "--per-volume", 1)
    assert len(made.rows) == 4
    assert len(made.values("patient")) == 3


def test_one_series_number_of_two_patients_is_two_series(tmp_path: Path) -> None:
    for name in ("a", "b"):
        files = series(HEAD, seed=name, PatientID=name, SeriesInstanceUID="1.2.3")
        write(tmp_path / "data" / "mixed", files, name + "{}")
    made = run(tmp_path / "data", "--label", "glioma", "--per-volume", 2)
    assert len(made.values("patient")) == 2
    assert len(made.rows) == 4


def test_nifti_files_of_one_subject_are_one_patient(tmp_path: Path) -> None:
    names = ["sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_FLAIR", "sub-02/anat/sub-02_T1w",
             "BraTS_3/BraTS_3_t1ce", "BraTS_3/BraTS_3_flair", "BraTS_4/BraTS_4_flair",
             "9/T2"]  # fmt: skip
    for name in names:
        path = tmp_path / "data" / f"{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nifti(HEAD))
    made = run(tmp_path / "data", "--label", "glioma", "--per-volume", 1)
    assert len(made.values("patient")) == 5
    assert made.said("4 NIfTI files without sub-")
    assert made.values("sequence") == {"T1", "FLAIR", "T1 contrast", "T2"}


# -- Nothing of the patient ----------------------------------------------------------------------


CHARSETS = {
    "ISO_IR 100": "Müßiggänger^Ödön",
    "ISO_IR 192": "Ωμέγα^Τέστ",
    "ISO_IR 144": "Люксембург^Роза",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎",
    "GB18030": "Wang^XiaoDong=王^小东",
}


def _everything(out: Path) -> bytes:
    """All bytes of a folder, its names among them, and what PNG files hold unpacked."""
    parts = []
    for name, data in tree(out).items():
        parts += [name.encode(), data]
        if name.endswith(".png"):
            at = 8
            kinds = []
            while at < len(data):
                length = int.from_bytes(data[at : at + 4], "big")
                kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
                kinds.append(kind)
                if kind == b"IDAT":
                    body = zlib.decompressobj().decompress(body)
                parts.append(body)
                at += 12 + length
            assert set(kinds) <= {b"IHDR", b"IDAT", b"IEND"}
    return b"\0".join(parts)


def _encoded(text: str) -> set[bytes]:
    found = set()
    for charset in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "iso2022_jp", "gb18030",
                    "iso8859-5"):  # fmt: skip
        for form in (text, text.lower(), json.dumps(text)[1:-1]):
            try:
                found.add(form.encode(charset))
            except UnicodeEncodeError:
                continue
    return found


def _people(tmp_path: Path) -> tuple[Path, set[str]]:
    """DICOM and NIfTI files full of what must not be written, and all of that."""
    data = tmp_path / "Spitalordner-Hofrat"
    secret = set(SECRET.values()) - {"O"}
    for number, (charset, name) in enumerate(CHARSETS.items()):
        files = series(
            HEAD, seed=name, SpecificCharacterSet=charset.split("\\"), PatientName=name,
            PatientID=f"ÄID-{number}-Q" if "100" in charset else f"QID-{number}-Z",
            SeriesDescription=f"FLAIR {name}", ContrastBolusAgent=f"Gadozwetsch {number}",
            ProtocolName=f"prot-{name}",
        )  # fmt: skip
        folder = data / "glioma" / f"Ordner-{name}".replace("^", "-") / f"Serie-Nr-{number}"
        write(folder, files, "Bild-Hofrat-{:03d}.dcm")
        whole = pydicom.dcmread(io.BytesIO(files[0]))
        secret |= {str(element.value) for element in whole if element.VR == "UI"}
        secret |= {name, f"QID-{number}-Z", f"ÄID-{number}-Q", f"Gadozwetsch {number}"}
        secret |= {*re.split(r"[\^=]", name), folder.name, folder.parent.name}
    write(data / "notumor" / "Privat-Hofrat", {"sub-Nepomuk_T1w": nifti(HEAD)}, "{}.nii")
    write(data / "notumor", {"Kyselak": nifti(HEAD), "Kyselak_seg": nifti(HEAD)}, "{}.nii")
    (data / "notumor" / "Kaputt-Hofrat.dcm").write_bytes(series(HEAD)[3][:900])
    return data, secret | {"Nepomuk", "Kyselak", "Kaputt", "Hofrat", "Spitalordner",
                           str(tmp_path)}  # fmt: skip


def test_nothing_of_the_patient_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, secret = _people(tmp_path)
    table = tmp_path / "Tabelle.csv"
    table.write_text("series,patient,label\nKyselak.nii,Pat-Rosenzweig,notumor\n")
    secret |= {"Rosenzweig", "Tabelle"}
    unmistakable = {text for text in secret if len(text) > 3}
    assert len(unmistakable) > 60
    add = DataFolder.add
    journals = []

    def spied(self: DataFolder, *arguments: Any) -> None:
        add(self, *arguments)
        journals.append(_everything(self.out))

    monkeypatch.setattr(DataFolder, "add", spied)
    for name, words in (("a", ALL), ("b", ["--labels", table]), ("c", ["--patient-from", "study"])):
        made = run(data, *words, "--per-volume", 2, "--source", "north", out=tmp_path / name)
        assert len(made.rows) > 1
        journals.append(_everything(made.out))
    for text in sorted(unmistakable):
        for form in _encoded(text):
            assert not any(form in everything for everything in journals), (text, form)
    assert any(b'"dropped": ["' in everything for everything in journals)


def test_the_sequence_is_never_a_copy(tmp_path: Path) -> None:
    data, _ = _people(tmp_path)
    made = run(data, "--per-volume", 1)
    assert made.values("sequence") <= {*SEQUENCES, ""}
    assert "FLAIR" in made.values("sequence")


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("sT2W/FLAIR SENSE", "FLAIR"), ("T1/SE/extrp", "T1"), ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("AX T1 POST", "T1 contrast"), ("t1_mprage_sag without contrast", "T1"),
        ("ep2d_diff_trace_ADC", "ADC"), ("ep2d_diff_3scan_trace", "DWI"), ("T2* GRE", "T2*"),
        ("AX T2 FSE", "T2"), ("Ax PD", "PD"), ("3D TOF", "MRA"), ("T1 +C", "T1 contrast"),
        ("sub-1_ce-gadolinium_T1w", "T1 contrast"), ("Ax T1 FLAIR", "T1"), ("localizer", ""),
        ("Frau Pdolsky", ""), ("BraTS_flair", "FLAIR"),
    ],
)  # fmt: skip
def test_sequences_by_their_words(text: str, sequence: str) -> None:
    assert sequence_in(text) == sequence


@pytest.mark.parametrize(
    ("description", "agent", "times", "sequence"),
    [
        ("brain", "", (9000, 100, 2500), "FLAIR"), ("", "", (450, 10, 0), "T1"),
        ("", "Dotarem", (450, 10, 0), "T1 contrast"), ("", "", (4000, 90, 0), "T2"),
        ("", "", (3000, 15, 0), "PD"), ("", "", (2000, 3, 900), "T1"), ("", "", (0, 0, 0), ""),
        ("pd+t2_tse", "", (3000, 15, 0), "PD"), ("PD/T2", "", (3000, 95, 0), "T2"),
        ("T1", "NONE", (450, 10, 0), "T1"), ("T2", "Gd", (4000, 90, 0), "T2"),
    ],
)  # fmt: skip
def test_sequences_by_their_times(
    description: str, agent: str, times: tuple[float, float, float], sequence: str
) -> None:
    assert sequence_of(description, agent, *times) == sequence


@given(st.text(max_size=40), st.text(max_size=10))
def test_a_sequence_is_of_our_words(description: str, agent: str) -> None:
    assert sequence_of(description, agent, 0, 0, 0) in ("", *SEQUENCES)


# -- The same bytes ------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    write(data / "glioma" / "one", series(HEAD))
    write(data / "glioma" / "two", series(draw_head(1), "sagittal", seed="two", skip=(7,)))
    write(data / "notumor", {"sub-3_T1w": nifti(HEAD, "PIR"), "notes": b"text"}, "{}.nii")
    write(data / "glioma", {"sub-4_T1w": nifti(HEAD)}, "{}.nii")
    write(data.with_name("masks"), {"sub-4_seg": nifti(MARKED)}, "{}.nii")
    return data


def test_a_zip_gives_the_same_bytes(mixed: Path) -> None:
    words = [*ALL, "--per-volume", 3]
    first = run(mixed, *words, out=mixed.with_name("1"))
    second = run(mixed, *words, out=mixed.with_name("2"))
    third = run(packed(mixed), *words, out=mixed.with_name("3"))
    assert tree(first.out) == tree(second.out) == tree(third.out)
    assert not any(path.startswith(".") for path in tree(first.out))


def test_a_run_that_was_stopped_goes_on(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ALL, "--per-volume", 3, "--masks", mixed.with_name("masks")]
    whole = run(mixed, *words, out=mixed.with_name("whole"))
    write_file = data_folder._write
    writes = len(whole.rows)
    for stop in (1, 4, 10, writes - 1, writes):
        out = mixed.with_name(f"stopped{stop}")
        left = iter(range(stop - 1))

        def stopping(place: Path, data: bytes, left: Any = left) -> None:
            if next(left, None) is None:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data[: len(data) // 2])  # as if the machine had gone
                raise KeyboardInterrupt
            write_file(place, data)

        monkeypatch.setattr(data_folder, "_write", stopping)
        with pytest.raises(AssertionError):  # exit code 1: aborted
            run(mixed, *words, out=out)
        monkeypatch.setattr(data_folder, "_write", write_file)
        assert (out / JOURNAL).exists()
        with pytest.raises(UsageError, match="other options"):
            run(mixed, *ALL, out=out)
        again = run(mixed, *words, out=out)
        assert not again.said("belong to no")
        assert tree(out) == tree(whole.out)
        assert again.stdout.splitlines()[:-2] == whole.stdout.splitlines()[:-2]


@pytest.mark.parametrize("what", ["a file more", "another file", "another mask"])
def test_a_stopped_run_does_not_go_on_with_other_inputs(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    masks, out = mixed.with_name("masks"), mixed.with_name("made")
    words = ["--per-volume", 1, "--masks", masks]
    with monkeypatch.context() as patch:
        patch.setattr(DataFolder, "finish", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(AssertionError):
            run(mixed, *words)
    path = min((masks if "mask" in what else mixed).rglob("*.nii"))
    if "more" in what:
        write(mixed / "glioma", {"more": path.read_bytes()}, "{}.nii")
    else:
        was = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 10**9))
    before = tree(out)
    with pytest.raises(UsageError, match="other options or data"):
        run(mixed, *words)
    assert tree(out) == before


@pytest.mark.skipif(os.name == "nt", reason="a signal of Unix")
def test_a_run_that_was_killed_goes_on(mixed: Path) -> None:
    out, key = mixed.with_name("killed"), mixed.with_name("the.key")
    whole = run(mixed, *ALL, out=mixed.with_name("whole"))
    words = [BIN / "btc-data", "volumes", mixed, "--out", out, "--key", key, *ALL]
    process = subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while process.poll() is None and not list(out.rglob("*.png")):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if not (out / "data.toml").exists():  # it had not ended just before
        run(mixed, *ALL, out=out)
    assert tree(out) == tree(whole.out)


# -- Masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("name", ["a", "a_mask", "a-seg", "a_label", "deep/a_seg"])
def test_a_mask_gives_boxes(tmp_path: Path, axes: str, name: str) -> None:
    write(tmp_path / "data" / "glioma", {"a": nifti(HEAD)}, "{}.nii")
    place = tmp_path / "masks" / f"{name}.nii.gz"
    place.parent.mkdir(parents=True)
    place.write_bytes(gzip.compress(nifti(MARKED, axes)))
    made = run(tmp_path / "data", *ALL, "--masks", tmp_path / "masks", "--per-volume", "all")
    planes = [row["plane"] for row in made.rows]
    assert [planes.count(plane) for plane in PLANES] == [5, 6, 8]
    assert not made.said("mask")
    for row in made.rows:
        mask = cv2.imread(str(made.out / "masks" / row["path"]), -1)
        picture = cv2.imread(str(made.out / "slices" / row["path"]), -1)
        assert mask.shape == picture.shape
        number = int(row["path"].split("_")[-1].removesuffix(".png"))
        axis = 2 - PLANES.index(row["plane"])
        wanted = np.take(MARKED, number, axis)[::-1, ::-1].T > 0
        np.testing.assert_array_equal(mask, wanted * np.uint8(255))
    boxes = list(csv.DictReader((made.out / "boxes.csv").open()))
    assert len(boxes) == len(made.rows)
    axial = next(box for box in boxes if "_axial_" in box["path"])
    wanted = [(SIZE[0] - 24) / SIZE[0], (SIZE[1] - 11) / SIZE[1], 8 / SIZE[0], 6 / SIZE[1]]
    found = [float(axial[c]) for c in ("x_center", "y_center", "width", "height")]
    assert found == pytest.approx(wanted, abs=1e-5)


def test_masks_beside_the_volumes_and_in_their_midst(tmp_path: Path) -> None:
    for at in ("glioma", "masks"):
        data = tmp_path / at / "data"
        write(data / "glioma", {"p_t1": nifti(HEAD)}, "{}.nii")
        write(data / at, {"p_seg": nifti(MARKED)}, "{}.nii")
        made = run(data, "--masks", data if at == "glioma" else data / at)
        assert not made.said("a mask by its name")
        assert len(made.rows) == 5
        assert "5 slices with a box" in made.stdout


def test_a_mask_of_a_series(tmp_path: Path) -> None:
    """Bit for bit the device's slices, with the mask on them, in every plane."""
    for acquired in PLANES:
        data = tmp_path / acquired / "data"
        write(data / "glioma" / "series7", series(HEAD, acquired))
        write(tmp_path / acquired / "masks", {"series7": nifti(MARKED, "LIP")}, "{}.nii")
        made = run(data, *ALL, "--masks", data.with_name("masks"), "--per-volume", "all")
        assert len(made.rows) == 5 + 6 + 8
        for row in made.rows:
            number = int(row["path"].split("_")[-1].removesuffix(".png"))
            mask = cv2.imread(str(made.out / "masks" / row["path"]), -1)
            cut = np.take(MARKED, number, 2 - PLANES.index(row["plane"]))
            np.testing.assert_array_equal(mask > 0, cut[::-1, ::-1].T > 0)


def test_labels_of_a_mask_are_not_smeared(tmp_path: Path) -> None:
    """Where pixels are made square, a mask stays black and white and covers its own pixels."""
    wide = np.diag([1.0, 2.5, 2.5, 1])
    write(tmp_path / "data" / "glioma", {"a": nifti_bytes(HEAD, wide)}, "{}.nii")
    write(tmp_path / "masks", {"a": nifti_bytes(MARKED, wide)}, "{}.nii")
    made = run(tmp_path / "data", "--masks", tmp_path / "masks", "--per-volume", 1)
    mask = cv2.imread(str(made.out / "masks" / made.rows[0]["path"]), -1)
    assert mask.shape == made.pictures()[0].shape == (100, 34)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == 8 * 15


def test_masks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    files = {name: nifti(HEAD) for name in "abcdf"}
    write(tmp_path / "data" / "glioma", files, "{}.nii")
    write(tmp_path / "data" / "notumor", {"h": nifti(HEAD)}, "{}.nii")
    shifted = nifti_bytes(MARKED, affine_of() + np.eye(4, k=3) * 9)
    masks = {"a": shifted, "b": nifti(MARKED[:-1]), "c": nifti(MARKED)[:5000], "e": nifti(MARKED),
             "d": nifti(MARKED * 0),
             "f": nifti_bytes(np.stack([MARKED, MARKED], -1), affine_of())}  # fmt: skip
    write(tmp_path / "masks", masks, "{}.nii")
    made = run(tmp_path / "data", "--masks", tmp_path / "masks", "--per-volume", 2)
    assert len(made.said("its mask is not used: a mask that does not lie as the volume does")) == 2
    assert len(made.said("its mask is not used: truncated or damaged")) == 1
    lines = made.said("no mask that fits: slices of the whole head")
    assert [line.split(":")[0] for line in lines] == [f"glioma/{name}.nii" for name in "abcf"]
    assert len(made.said("its mask is not used: a mask of 2 volumes")) == 1
    assert made.said("glioma/d.nii: its mask marks nothing")
    (line,) = made.said("belong to no tumour's volume")
    assert "e.nii" in line
    assert len(made.rows) == 2 * 5


def test_a_mask_is_of_one_volume_only(tmp_path: Path) -> None:
    """Neither a name that several volumes have, nor one alike, gives another's mask."""
    for name in ("p1/T1", "p2/T1", "head_1", "head_2"):
        path = tmp_path / "data" / "glioma" / f"{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nifti(HEAD))
    write(tmp_path / "masks" / "glioma" / "p1", {"T1": nifti(MARKED)}, "{}.nii")
    write(tmp_path / "masks", {"head_seg": nifti(MARKED)}, "{}.nii")
    made = run(tmp_path / "data", "--masks", tmp_path / "masks")
    assert "\n4 patients, 4 groups, 5 slices with a box" in made.stdout
    assert len(made.said("no mask that fits")) == 3
    masks = packed(tmp_path / "masks")
    zipped = run(packed(tmp_path / "data"), "--masks", masks, out=tmp_path / "z")
    assert tree(zipped.out) == tree(made.out)


def test_files_of_no_use_are_told_together_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "data" / "glioma", dict.fromkeys(range(7), b"text"), "{}.txt")
    write(tmp_path / "data" / "glioma", {"a": nifti(HEAD)}, "{}.nii")
    made = run(tmp_path / "data")
    (line,) = made.said("neither DICOM nor NIfTI")
    assert "and 4 more" in line
    assert "dropped, 7: neither DICOM nor NIfTI" in made.stdout


# -- Archives ------------------------------------------------------------------------------------


def test_an_archive_of_volumes_lists_every_file(tmp_path: Path) -> None:
    files = {"a.nii": bytes(300_000), "b": b"text", ".hidden": b"x"}
    write(tmp_path / "data", files, "{}")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = open_archive(place, every=True)
        assert archive.names() == ["a.nii", "b"]
        assert archive.begin("b", 2) == b"te"
        assert len(archive.begin("a.nii", 1000)) == 1000
        assert archive.read("a.nii") == files["a.nii"]


def test_masks_pack_better_than_pictures(tmp_path: Path) -> None:
    """Deflate's own limit holds for them, and a size."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.nii", bytes(40 << 20))
    assert len(ZipArchive(path, every=True).read("a.nii")) == 40 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.nii", bytes(40 << 20))
    with pytest.raises(DataError, match="beyond reason"):
        ZipArchive(path, every=True)


def test_many_files_are_read_by_their_beginnings(tmp_path: Path) -> None:
    """A series' pixels are read once; before that, no file is read whole."""
    big = np.zeros((400, 300, 4), np.int16)
    big[100:300, 50:250] = 900
    write(tmp_path / "data" / "glioma", series(big))
    read: list[str] = []
    archive = open_archive(tmp_path / "data", every=True)

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(archive, name)

        def read(self, name: str) -> bytes:
            read.append(name)
            return archive.read(name)

    for name in archive.names():
        assert look_at(Spy(), name) is not None  # type: ignore[arg-type]
    assert read == []
