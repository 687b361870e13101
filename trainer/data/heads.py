"""Whole heads: volumes with a table of what they show.

A head is read when its turn comes, so an archive of many is never held whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.geometry import PLANES, cut_refusal
from edge_runtime.imaging.head import shows_head
from edge_runtime.imaging.kinds import gzipped_kind, kind_of
from edge_runtime.imaging.limits import DEFAULT_LIMITS
from edge_runtime.imaging.readers import open_slices
from edge_runtime.labels import normalise_label
from trainer.data.tables import read_table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edge_runtime.imaging.nifti import Volume
    from trainer.data.archive import ImageArchive

    Gray = npt.NDArray[np.uint8]

COLUMNS = ("path", "label", "subject", "sequence", "tumour_slices")
_RANGE = re.compile(r"(\d+)-(\d+) of (\d+)\b")


@dataclass(frozen=True)
class Head:
    """A row of the table.

    Attributes:
        path: of a volume in the archive, or, ending in a slash, of a folder of one series.
        label: what it shows, `tumor` where the type is not known.
        subject: whose it is: the patient, or the group, of the data's tables.
        sequence: such as T1; empty where nobody says.
        tumour_slices: `FIRST-LAST of COUNT`, counted from 0, or nothing.
    """

    path: str
    label: str
    subject: str
    sequence: str
    tumour_slices: str

    @property
    def inside(self) -> tuple[int, int] | None:
        """First and last slice with a tumour, where the table says."""
        found = _RANGE.match(self.tumour_slices)
        return None if found is None else (int(found[1]), int(found[2]))


class Heads(NamedTuple):
    """Whole heads that a training may use.

    Attributes:
        place: zip or folder of volumes.
        table: CSV of COLUMNS.
    """

    place: Path
    table: Path


class HeadSeries(NamedTuple):
    """The slices of a head in one plane, from the first that shows it to the last.

    Attributes:
        plane: one of PLANES; empty where nobody knows.
        distance: mm between two slices; 0 where it is not known.
        pixel: mm of a pixel of the slices; 0 where it is not known.
        grays: in their order in space; of a folder in that of the names of its files.
    """

    plane: str
    distance: float
    pixel: float
    grays: list[Gray]


def read_heads(table: Path) -> list[Head]:
    """The rows of a table of COLUMNS.

    Raises:
        DataError: no such table.
    """
    rows = read_table(table, COLUMNS)
    return [
        Head(**({c: row[c] for c in COLUMNS} | {"label": normalise_label(row["label"])}))
        for row in rows
    ]


def persons_of(names: Iterable[str]) -> set[str]:
    """Whom the patients and groups of a data set's tables mean, as a head's `subject` does:
    several data sets put their own name before, as in `data/g0000`."""
    return {name.rpartition("/")[2] for name in names} - {""}


def series_of(archive: ImageArchive, head: Head) -> Iterator[HeadSeries]:
    """The series of a head: a volume cut in the three planes, or a folder's slices as they are.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    volume = volume_of(archive, head)
    try:
        if volume is not None:
            yield from cuts_of(volume)
            return
        grays = [
            gray for n in files_of(archive, head) for gray in open_slices(archive.read(n)).grays
        ]
        yield _between(HeadSeries("", 0.0, 0.0, grays))
    except InputError as error:
        raise DataError(f"{head.path}: {one_line(error)}") from None


def volume_of(archive: ImageArchive, head: Head) -> Volume | None:
    """The volume of a head; None where it is a folder of slices.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    from edge_runtime.imaging.nifti import read_volume

    files = files_of(archive, head)
    try:
        first = archive.read(files[0])
        kind = kind_of(first) or gzipped_kind(first)
        if len(files) == 1 and kind is not None and kind.name == "nifti":
            return read_volume(first, DEFAULT_LIMITS)
    except InputError as error:
        raise DataError(f"{head.path}: {one_line(error)}") from None
    return None


def files_of(archive: ImageArchive, head: Head) -> list[str]:
    """The files of a head, in the order of their names.

    Raises:
        DataError: there is none.
    """
    folder = head.path.rstrip("/") + "/"
    files = [n for n in archive.names() if n == head.path or n.startswith(folder)]
    if not files:
        raise DataError(f"{head.path}: no such head there")
    return files


def cuts_of(volume: Volume) -> Iterator[HeadSeries]:
    """A volume in its own plane, and where it is even in the others.

    Raises:
        InputError: no head there, or no finite value.
    """
    from edge_runtime.imaging.nifti import Cut

    spacing = dict(zip(reversed(PLANES), volume.view.spacing, strict=True))  # through each plane
    for plane in PLANES:
        if cut_refusal(volume.voxels.shape, volume.view.spacing, plane):
            continue
        cut = Cut(volume.voxels, volume.view, plane)
        order = range(len(cut)) if cut.rising else reversed(range(len(cut)))
        # Pixels are made square by stretching: they have the finer of both sides.
        pixel = min(mm for other, mm in spacing.items() if other != plane)
        yield _between(HeadSeries(plane, cut.distance, pixel, [cut.gray(i) for i in order]))


def _between(series: HeadSeries) -> HeadSeries:
    """Without the air before and behind the head.

    Raises:
        InputError: no head there.
    """
    shown = [i for i, gray in enumerate(series.grays) if shows_head(gray)]
    if not shown:
        raise InputError("no slice of a head there")
    return series._replace(grays=series.grays[shown[0] : shown[-1] + 1])
