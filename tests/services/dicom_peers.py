"""DICOM files of drawn studies, and peers that send them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import EnhancedMRImageStorage, MRImageStorage, Verification

from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import draw_slice

STUDY, SERIES = "1.2.826.0.1.3680043.10.511.1", "1.2.826.0.1.3680043.10.511.1.1"
NAME, NUMBER = "Sample^Person", "ID-4711"  # of nobody


def drawn_file(number: int = 0, study: str = STUDY, size: int = 96, **elements: Any) -> bytes:
    """A slice of a drawn MR series, with all that a scanner says of patient and study."""
    shown: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"],
        "StudyDate": "20260102", "StudyTime": "030405", "AccessionNumber": "A-1",
        "Modality": "MR", "Manufacturer": "drawn", "ReferringPhysicianName": "Doe^Jane",
        "StudyDescription": "HEAD", "SeriesDescription": "T1 AX",
        "PatientName": NAME, "PatientID": NUMBER, "PatientBirthDate": "19700101",
        "PatientSex": "O", "IssuerOfPatientID": "WARD",
        "ScanningSequence": "SE", "SequenceVariant": "NONE", "ScanOptions": "",
        "MRAcquisitionType": "2D", "RepetitionTime": "500", "EchoTime": "15",
        "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1",
        "SOPInstanceUID": f"{study}.1.{number + 1}", "StudyID": "7", "SeriesNumber": 1,
        "InstanceNumber": number + 1, "FrameOfReferenceUID": f"{study}.9",
        "ImagePositionPatient": [-100, -100, 5.0 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 2], "SliceThickness": 5,
    }  # fmt: skip
    return dicom_bytes(draw_slice(number, size), **{**shown, **elements})


def drawn_study(folder: Path, count: int = 12, **elements: Any) -> list[Path]:
    """The files of a drawn series in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(drawn_file(number, **elements))
    return paths


def entity(title: str = "SCANNER", syntaxes: Sequence[str] = (ExplicitVRLittleEndian,)) -> AE:
    """A peer that may ask for all that is taken."""
    peer = AE(title)
    peer.acse_timeout = peer.dimse_timeout = peer.network_timeout = 10
    for sop_class in (MRImageStorage, EnhancedMRImageStorage):
        peer.add_requested_context(sop_class, list(syntaxes))
    peer.add_requested_context(Verification)
    return peer


def connect(address: tuple[str, int], title: str = "SCANNER", called: str = "BTC_EDGE") -> Any:
    """An association with a listener; it may have been refused."""
    return entity(title).associate(*address, ae_title=called)


def send(association: Any, data: bytes) -> int:
    """C-STORE a file; the status that is answered, or -1 where there was no answer."""
    answer = association.send_c_store(pydicom.dcmread(BytesIO(data)))
    return int(answer.get("Status", -1))


def pdv(control: int, data: bytes, context: int = 1) -> bytes:
    """A P-DATA-TF PDU of one fragment (PS3.8, 9.3.5)."""
    item = struct.pack(">IBB", len(data) + 2, context, control) + data
    return struct.pack(">BBI", 4, 0, len(item)) + item


def noise(size: int) -> np.ndarray:
    """Pixels that nothing shrinks."""
    return np.random.default_rng(0).integers(0, 255, (size, size), np.uint8)
