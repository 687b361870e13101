"""What a volume shows and whose it is, as the user says: one label for all, class folders, or a
table.

A table (CSV) has the column `label` and `patient`, `series` or both. `series` is a
SeriesInstanceUID, a NIfTI file's name or path, or the path of the folder that a DICOM series fills;
`patient` a PatientID, or of NIfTI files what stands behind `sub-` (BIDS) or the file's name. Where
a row has both, the series says which volume is meant and the patient whose it is. Columns that may
be there: `source`, `sequence`, and `first` and `last`: only slices of these numbers are taken, such
as those that show the tumour. They count in the plane that the volume was acquired in, as
InstanceNumber does (frames from 1 on), in NIfTI files as btc-edge does, from 0 on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from edge_runtime.errors import DataError
from edge_runtime.files import is_hidden
from edge_runtime.labels import KNOWN, NO_TUMOR, normalise_label
from edge_runtime.studies.sequences import SEQUENCES, sequence_in
from trainer.data.layout import SPLITS
from trainer.data.tables import read_table

NO_LABEL = "no row of the labels table fits it"
NO_CLASS = "in no class folder: give --label or --labels"
SEVERAL = "a series in several class folders"
MOST_BYTES = 64  # of a label: it names a folder
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae"})
MOST_CLASSES = 20  # that folders may name: beyond, they are patients rather than classes


class Said(NamedTuple):
    """What the user says of a volume; empty where nothing. `numbers` are the first and the last of
    the slices that may be taken."""

    label: str
    source: str = ""
    sequence: str = ""
    patient: str = ""
    numbers: tuple[int, int] | None = None


@dataclass
class Labels:
    """Labels of volumes.

    Attributes:
        known: every label that may come.
    """

    known: tuple[str, ...]

    def of(
        self, series: Sequence[str], patients: Sequence[str], paths: Iterable[str]
    ) -> Said | str:
        """What is said of a volume, or why nothing is.

        Args:
            series, patients: what a table may call the volume and its patient.
            paths: of its files.
        """
        return Said(self.known[0])

    def unused(self) -> list[str]:
        """Rows of a table that fitted nothing, in words."""
        return []


class FolderLabels(Labels):
    """The class folders.

    Args:
        paths: all files that may hold volumes.

    Raises:
        DataError: folders that cannot be classes.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        folders = {folder for path in paths if (folder := class_folder(path)) is not None}
        known = sorted({checked_label(folder, "the folder") for folder in folders})
        if len(known) > MOST_CLASSES:
            raise DataError(
                f"{len(known)} folders that would be classes: where folders are patients, say "
                "what they show by --label or --labels"
            )
        super().__init__(tuple(known))

    def of(
        self, series: Sequence[str], patients: Sequence[str], paths: Iterable[str]
    ) -> Said | str:
        found = {class_folder(path) for path in paths}
        if None in found:
            return NO_CLASS
        labels = {normalise_label(str(folder)) for folder in found}
        return Said(labels.pop()) if len(labels) == 1 else SEVERAL


class TableLabels(Labels):
    """A table's rows.

    Raises:
        DataError: unusable, or two rows say different things of one volume or patient.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._series: dict[str, tuple[Said, int]] = {}
        self._patients: dict[str, tuple[Said, int]] = {}
        self._fitting: set[int] = set()
        self._rows: dict[int, str] = {}
        for line, row in enumerate(read_table(path, ("label",)), start=2):
            cells = {name.strip().lower(): _plain(cell) for name, cell in row.items()}
            if len(cells) < len(row):
                twice = Counter(name.strip().lower() for name in row).most_common(1)[0][0]
                raise DataError(f"{path.name}: two columns are called {twice}")
            if not any(cells.values()):  # as spreadsheets leave behind the last
                continue
            series, patient = cells.get("series", ""), plain_patient(cells.get("patient", ""))
            place = f"{path.name}, row {line}"
            if not series and not patient:
                raise DataError(f"{place}: neither a series nor a patient")
            label = checked_label(cells["label"], f"{place}: the label")
            sequence, source = cells.get("sequence", ""), cells.get("source", "")
            if sequence and not sequence_in(sequence):
                raise DataError(f"{place}: {sequence!r} is none of {', '.join(SEQUENCES)}")
            if not source.isprintable():
                raise DataError(f"{place}: a source of characters that do not show")
            numbers = _numbers(cells.get("first", ""), cells.get("last", ""), place)
            said = Said(label, source, _known(sequence), patient, numbers)
            rows, key = (self._series, _series_key(series)) if series else (self._patients, patient)
            if rows.setdefault(key, (said, line))[0] != said:
                raise DataError(f"{place}: says something else of {series or patient} than another")
            self._rows[line] = series or patient
        if not self._rows:
            raise DataError(f"{path.name}: no row below the names of its columns")
        super().__init__(tuple(sorted({said.label for said, _ in self._all()})))

    def of(
        self, series: Sequence[str], patients: Sequence[str], paths: Iterable[str]
    ) -> Said | str:
        for name in map(_series_key, series):
            if name in self._series:
                return self._take(self._series[name])
        for name in map(plain_patient, patients):
            if name in self._patients:
                return self._take(self._patients[name])
        return NO_LABEL

    def unused(self) -> list[str]:
        lines = sorted({line for _, line in self._all()} - self._fitting)
        return [f"row {line} ({self._rows[line]})" for line in lines]

    def _all(self) -> list[tuple[Said, int]]:
        return [*self._series.values(), *self._patients.values()]

    def _take(self, found: tuple[Said, int]) -> Said:
        said, line = found
        self._fitting.add(line)
        return said


def class_folder(path: str) -> str | None:
    """The folder that names a file's class: the topmost, or the topmost in Training or Testing;
    None where there is none."""
    folders = PurePosixPath(path).parts[:-1]
    inside = next((at for at, folder in enumerate(folders) if folder.lower() in SPLITS), -1)
    return folders[inside + 1] if inside + 1 < len(folders) else None


def checked_label(name: str, what: str) -> str:
    """A label that may name a folder.

    Raises:
        DataError: it may not.
    """
    label = normalise_label(name)
    bad = not label or is_hidden(label) or any(c in '/\\:*?"<>|' for c in label)
    if bad or not label.isprintable() or len(label.encode("utf-8", "replace")) > MOST_BYTES:
        raise DataError(f"{what} {name[:80]!r} cannot be a class: it would name a folder")
    return label


def plain_patient(name: str) -> str:
    """What a patient is called, whether a table or a file says it, with `sub-` or without."""
    return _plain(name).removeprefix("sub-")


def is_called_like(label: str, names: Iterable[str]) -> bool:
    """Whether a folder's label, but for the usual classes, tells one of the names of a patient.

    Args:
        names: numbers and names, as DICOM files and paths have them.
    """
    if label in (*KNOWN, NO_TUMOR):
        return False
    parts = {
        spelling
        for name in names
        for part in [name, *re.split(r"[\^= ]+", name)]
        # A number with hyphens may tell a collection and a class: UPENN-GBM-00001.
        for piece in [part, *([] if re.search(r"\d", part) else re.split(r"[-']", part))]
        for spelling in _spellings(piece)
    }
    words = {spelling for word in re.split(r"[\W_]+", label) for spelling in _spellings(word)}
    whole = _spellings(label)
    return bool({part for part in parts if len(part) > 1} & words or (parts - {""}) & whole) or any(
        len(part) > 3 and part in spelling for part in parts for spelling in whole
    )


def _spellings(name: str) -> set[str]:
    """A name's letters and digits without accents, and with umlauts as two letters."""
    lower = name.casefold()
    return {
        "".join(c for c in unicodedata.normalize("NFKD", spelling) if c.isalnum())
        for spelling in (lower, lower.translate(UMLAUTS))
    }


def _numbers(first: str, last: str, place: str) -> tuple[int, int] | None:
    if not first and not last:
        return None
    try:
        return int(first), int(last)
    except ValueError:
        raise DataError(f"{place}: first and last are not two whole numbers") from None


def _known(sequence: str) -> str:
    return sequence if sequence in SEQUENCES else sequence_in(sequence)


def _series_key(name: str) -> str:
    return _plain(name).rstrip("/")


def _plain(cell: str) -> str:
    return unicodedata.normalize("NFC", " ".join(cell.split()))
