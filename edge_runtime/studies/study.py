"""What a study is: series of slices that lie one behind the other, and what was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Gray = npt.NDArray[np.uint8]


class StudySlice(NamedTuple):
    """A slice of a series, or why there is none.

    Attributes:
        input: the file that it is from, as answers call it.
        number: which slice of that file, from 0; None where the file holds one.
        sha256: digest of the file's bytes.
        gray: the slice as it is shown (H×W), or the error that stands in its place.
    """

    input: str
    number: int | None
    sha256: str | None
    gray: Gray | InputError


@dataclass(frozen=True)
class StudySeries:
    """Slices in parallel, sorted to the right, the front or the head where that is known.

    Attributes:
        name: what answers call it: the SeriesInstanceUID, or the path of a volume or folder.
        uid: SeriesInstanceUID; None where it is no DICOM series.
        plane: one of PLANES, as the file says; None where it does not.
        sequence: one of `sequences.SEQUENCES`, as the file says; None where it does not.
        distance: mm between two slices; None where it is not known.
        count: how many slices there are.
        slices: gives them, one at a time, in their order in space.
        reason: why it is left out as a whole, such as a localiser; None where it is not.
        volume: what tells the cuts of one volume in several planes from those of others; None where
            it is no such cut.
        falling: whether `slices` gives them the other way about, as they stand in a volume's file.
    """

    name: str
    uid: str | None
    plane: str | None
    sequence: str | None
    distance: float | None
    count: int
    slices: Callable[[], Iterator[StudySlice]]
    reason: str | None = None
    volume: str | None = None
    falling: bool = False


class PassedOver(NamedTuple):
    """A file that gives no slice, and why."""

    input: str
    reason: str


@dataclass(frozen=True)
class Study:
    """All that belongs to one examination of one patient.

    Attributes:
        name: what answers call it: the StudyInstanceUID, or the path as given.
        uid: StudyInstanceUID; None where it is no DICOM study.
        series: in the order of their names.
        passed_over: files that give no slice.
    """

    name: str
    uid: str | None
    series: tuple[StudySeries, ...]
    passed_over: tuple[PassedOver, ...] = ()
