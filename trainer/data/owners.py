"""Whose slices are whose: what a file says of itself that keeps slices on one side of a split.

The identifiers of a DICOM file are compared and nothing else. What is kept of them are digests with
a key that ends with the process, so that none of it can stand in a file.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError

_KEY = os.urandom(32)
CHARACTERS, PATIENT, STUDY = "SpecificCharacterSet", "PatientID", "StudyInstanceUID"
Digest = bytes


class Owner(NamedTuple):
    """What the slices of one owner share.

    Attributes:
        file: name of the slice's file.
        patient, study: digests of what a DICOM file says; empty where it says nothing.
    """

    file: str
    patient: Digest = b""
    study: Digest = b""


def read_owner(file: str, encoded: bytes) -> Owner:
    """The owner of a DICOM file of which `readers.open_slices` has read the elements before the
    pixels: so these are not too many, and no file is looked through twice.

    Raises:
        InputError: damaged.
    """
    import pydicom

    from edge_runtime.imaging.dicom_head import (
        DAMAGED,
        MAX_READS,
        Bounded,
        identifier,
        refuse_large,
    )

    try:
        head = pydicom.dcmread(
            Bounded(encoded, iter(range(MAX_READS))),
            specific_tags=[CHARACTERS, PATIENT, STUDY],
            stop_before_pixels=True,
            force=True,
        )
        refuse_large(head)
        return Owner(file, _digest(identifier(head, PATIENT)), _digest(identifier(head, STUDY)))
    except InputError:
        raise
    except Exception:  # pydicom raises many kinds on a damaged file
        raise InputError(DAMAGED) from None


def _digest(text: str) -> Digest:
    plain = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(plain, key=_KEY, digest_size=16).digest() if plain else b""


def files_of(paths: Sequence[str], owners: Sequence[Owner]) -> Sequence[str]:
    """The file of each slice (`paths`); the slice itself where there are no owners."""
    return [owner.file for owner in owners] if owners else paths


def patients_of(owners: Sequence[Owner]) -> tuple[list[Digest], list[str]]:
    """Whom each of N slices belongs to by its DICOM file: the patient, or where that is blank or a
    mark (see `without_mark`) the study; empty where the file says nothing.

    Returns:
        N digests, and a sentence on such a mark.
    """
    known, warnings = without_mark(owners)
    return [owner.patient or owner.study for owner in known], warnings


def without_mark(owners: Sequence[Owner]) -> tuple[Sequence[Owner], list[str]]:
    """The owners of the slices of a data set, without a patient that is none: where several studies
    name one patient and no other, that is the mark of an anonymised export.

    Returns:
        The owners, and a sentence on such a mark.
    """
    named = {(owner.patient, owner.study) for owner in owners if owner.patient}
    patients, studies = {patient for patient, _ in named}, {study for _, study in named}
    if len(patients) == 1 and len(studies) > 1:
        return [owner._replace(patient=b"") for owner in owners], [
            f"the DICOM files of {len(studies):,} studies all carry one PatientID, as anonymised "
            "ones do: they are grouped by study, not by patient"
        ]
    return owners, []


def ties_of(
    owners: Sequence[Owner], given: Sequence[str], tables: Sequence[str] = ()
) -> tuple[list[npt.NDArray[np.int64]], list[str]]:
    """Which of N slices come into one group, whatever they look like: those of one file, and those
    of one patient (see `patients_of`) unless a table gives them several groups.

    Args:
        owners: N or none.
        given: N groups of a table; empty where it says nothing.
        tables: of several tables, which of them speaks of each slice: no other keeps it apart.

    Returns:
        Numbers for `merge_groups`, N each: slices of one number belong together. And sentences on
        what is odd about the patients.
    """
    if not owners:
        return [], []
    patients, warnings = patients_of(owners)
    known = list(zip(patients, tables or [""] * len(patients), strict=True))
    groups: dict[tuple[Digest, str], set[str]] = defaultdict(set)
    for each, group in zip(known, given, strict=True):
        groups[each].add(group)
    several = {each for each, named in groups.items() if len(named - {""}) > 1}
    # What a table keeps apart is tied by file only; what it leaves open stays together.
    tied = [
        patient if patient and not ((patient, table) in several and group) else owner.file
        for owner, (patient, table), group in zip(owners, known, given, strict=True)
    ]
    return [_numbers(owner.file for owner in owners), _numbers(tied)], warnings


def _numbers(keys: Iterable[object]) -> npt.NDArray[np.int64]:
    """One number for each key."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)
