"""Drawn heads as NIfTI files and DICOM series, with names that must never be found again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from benchmarks.hostile.files import MR_IMAGE, dicom_bytes, nifti_bytes

SIZE = (34, 40, 32)  # voxels to the right, the front and the head
SPACING = 2.5  # mm
# What a hospital's files say of people. No part of it may be written anywhere.
SECRET = {
    "PatientID": "ZQX-4711-ID",
    "PatientName": "Zwetschkenbaum^Xaver",
    "PatientBirthDate": "19390117",
    "PatientSex": "O",
    "PatientAddress": "Kreuzgasse-77",
    "AccessionNumber": "ACC99817263",
    "InstitutionName": "Spital-Qwertz",
    "ReferringPhysicianName": "Doktorowitsch^Igor",
    "StudyDate": "20190823",
    "StudyTime": "131722",
    "StudyDescription": "Verlaufskontrolle-Zwetschkenbaum",
    "SeriesDescription": "T1 Zwetschkenbaum sag",
    "DeviceSerialNumber": "SN-55512",
    "StationName": "STATIONQ7",
}


def draw_head(seed: int = 0) -> np.ndarray:
    """A head (int16; to the right, the front and the head) that is alike in no two directions."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    right, front, up = axes
    inside = (right / 0.8) ** 2 + (front / 0.85) ** 2 + (up / 0.9) ** 2 < 1
    values = inside * (400 + 120 * right + 200 * front + 80 * up)
    for centre, level in (((0.4, 0, 0), 1500), ((0, 0.5, 0.2), 1100), ((-0.2, 0, 0.5), 900)):
        x, y, z = centre
        values[(right - x) ** 2 + (front - y) ** 2 + (up - z) ** 2 < 0.04] = level
    return (values + inside * rng.normal(0, 10, SIZE)).clip(0).astype(np.int16)


def affine_of(shape: tuple[int, ...] = SIZE, spacing: float = SPACING) -> np.ndarray:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * np.array(shape) / 2
    return affine


def nifti(head: np.ndarray, axes: str = "RAS", spacing: float = SPACING) -> bytes:
    """A NIfTI file of a head whose axes go where the letters say."""
    image = nibabel.Nifti1Image(head, affine_of(head.shape, spacing))
    ways = nibabel.orientations.axcodes2ornt(tuple(axes))
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), ways)
    )
    return nifti_bytes(np.asarray(turned.dataobj), turned.affine)


# Directions of rows and columns of the usual acquisitions (to the left, the back, the head).
COSINES = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}


def slices(head: np.ndarray, plane: str) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """The slices of a head as a scanner stores them, and where the first pixel of each lies; to the
    right, the front or the head."""
    origin = affine_of()[:3, 3]
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    found = []
    for number in range(head.shape[axis]):
        cut = np.take(head, number, axis)  # two of right, front and head, in this order
        picture = np.ascontiguousarray(cut[::-1, ::-1].T)
        # The first pixel: the rightmost (or the front), and the front or the top. On the screen the
        # right of the patient is left.
        place = [length - 1 for length in head.shape]
        place[axis] = number
        right, front, up = origin + SPACING * np.array(place)
        found.append((picture, (-right, -front, up)))
    return found


def series(
    head: np.ndarray,
    plane: str = "axial",
    seed: str = "one",
    skip: Iterable[int] = (),
    **elements: Any,
) -> dict[int, bytes]:
    """The files of a DICOM series by the number of their slices; InstanceNumber falls."""
    study = elements.pop("StudyInstanceUID", generate_uid(entropy_srcs=[seed, "study"]))
    uid = elements.pop("SeriesInstanceUID", generate_uid(entropy_srcs=[seed, "series"]))
    files = {}
    for number, (picture, place) in enumerate(slices(head, plane)):
        if number in set(skip):
            continue
        said = {
            "SpecificCharacterSet": "ISO_IR 192",
            **SECRET,
            "SOPClassUID": MR_IMAGE,
            "Modality": "MR",
            "StudyInstanceUID": study,
            "SeriesInstanceUID": uid,
            "SOPInstanceUID": generate_uid(entropy_srcs=[seed, str(number)]),
            "ImageOrientationPatient": list(COSINES[plane]),
            "ImagePositionPatient": list(place),
            "PixelSpacing": [SPACING, SPACING],
            "InstanceNumber": 1000 - number,
            **{k: v(number) if callable(v) else v for k, v in elements.items()},
        }
        files[number] = dicom_bytes(picture, **said)
    return files


def write(folder: Path, files: dict[Any, bytes], name: str = "{}.dcm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in files.items():
        (folder / name.format(number)).write_bytes(data)
    return folder


def enhanced(head: np.ndarray, order: Iterable[int], **elements: Any) -> bytes:
    """An enhanced MR file of axial frames in any order."""
    cut = slices(head, "axial")
    groups = []
    order = list(order)
    for number in order:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = list(cut[number][1])
        group.PlanePositionSequence = [position]
        groups.append(group)
    shared, lie, measures = Dataset(), Dataset(), Dataset()
    lie.ImageOrientationPatient = list(COSINES["axial"])
    measures.PixelSpacing = [SPACING, SPACING]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [lie], [measures]
    frames = np.stack([cut[number][0] for number in order])
    return dicom_bytes(
        frames, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        SeriesInstanceUID=generate_uid(entropy_srcs=["enhanced"]), PatientID="E1",
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=groups,
        **elements,
    )  # fmt: skip
