"""Archives of drawn files; no slice lies in the repository."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

import nibabel
import pyarrow.parquet as pq

from benchmarks.hostile.files import dicom_bytes, nifti_bytes
from benchmarks.hostile.pictures import draw_slice, encode
from edge_runtime.archive.manifest import Manifest
from edge_runtime.archive.places import place_of
from edge_runtime.archive.rows import ClassifierSettings, make_shard, write_shard
from edge_runtime.archive.sources import Source, open_source
from edge_runtime.classifier import Classifier

UID = "1.2.826.0.1.3680043.8.498.1"


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def volume(slices: int = 5) -> np.ndarray:
    return np.stack([draw_slice(i, 64) for i in range(slices)], axis=2).astype(np.int16)


def damaged_frames() -> bytes:
    """Three frames of which the second is cut off."""
    picture = draw_slice(7, 64).astype(np.uint16)
    data = dicom_bytes(np.stack([picture] * 3), StudyInstanceUID=f"{UID}.7")
    return data[: -picture.nbytes - 100]


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def mixed_files() -> dict[str, bytes]:
    """Files of every kind, good and bad, by their names; no zip."""
    slices = {f"pictures/{i:02d}.jpg": encode(draw_slice(i)) for i in range(6)}
    deep = draw_slice(3, 96).astype(np.uint16)
    pair = nibabel.Nifti1Pair(volume(3), np.eye(4))
    halves = pair.make_file_map()
    for half in halves.values():
        half.fileobj = io.BytesIO()
    pair.to_file_map(halves)
    return slices | {
        "a.png": encode(draw_slice(20), ".png"),
        "b.bmp": encode(draw_slice(21), ".bmp"),
        "study/IM0001": dicom_bytes(deep, StudyInstanceUID=UID),
        "study/two.dcm": dicom_bytes(np.stack([deep, deep]), StudyInstanceUID=UID),
        "study/no.dcm": dicom_bytes(deep),
        "study/damaged.dcm": damaged_frames(),
        "volumes/head.nii": nifti_bytes(volume()),
        "volumes/packed.nii.gz": gzip.compress(nifti_bytes(volume(2)), mtime=0),
        "volumes/cut.nii.gz": gzip.compress(nifti_bytes(volume(2)), mtime=0)[:-40],
        "volumes/pair.hdr": halves["header"].fileobj.getvalue(),
        "volumes/pair.img": halves["image"].fileobj.getvalue(),
        "bad/empty.jpg": b"",
        "bad/half.jpg": encode(draw_slice(1))[:900],
        "bad/text.png": b"no picture",
        "bad/=cmd().jpg": b"<html>",
        "notes.txt": b"a note",
        "pictures/readme": b"another",
        ".hidden.jpg": encode(draw_slice(1)),
    }


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("mixed") / "archive", mixed_files())


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    return Classifier()


@pytest.fixture(scope="session")
def settings(classifier: Classifier) -> ClassifierSettings:
    return ClassifierSettings.of(classifier)


def make(
    classifier: Classifier, word: object, out: object, shard_size: int = 7
) -> tuple[Source, Manifest]:
    """A manifest, and its source."""
    source = open_source(str(word))
    settings = ClassifierSettings.of(classifier).to_json()
    return source, Manifest.make(source, str(out), settings, shard_size=shard_size)


def answer(
    classifier: Classifier, source: Source, manifest: Manifest, numbers: Iterable[int] | None = None
) -> None:
    """What workers do."""
    for number in manifest.missing() if numbers is None else numbers:
        table = make_shard(classifier, source, manifest.shard(number))
        write_shard(manifest.out, number, table)


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    """All rows, in the order of shards."""
    place, _ = place_of(manifest.out)
    rows: list[dict[str, Any]] = []
    for number in range(manifest.shards):
        with place.opened(manifest.path_of(number)) as stream:
            rows += pq.read_table(stream).to_pylist()
    return rows
