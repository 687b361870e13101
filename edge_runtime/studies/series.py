"""From DICOM files, whatever they are called and wherever they lie, to series sorted in space.

Files of one series (PS3.3, C.7.3.1) and size that lie in parallel make a stack, sorted by their
places along the normal of their rows and columns (C.7.6.2); a localiser of three planes gives
three. Of the patient nothing is kept but what tells one from another.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pydicom

from edge_runtime.errors import InputError
from edge_runtime.imaging.dicom_head import (
    DAMAGED,
    SEQUENCES,
    count_frames,
    identifier,
    read_elements,
    text_of,
)
from edge_runtime.imaging.geometry import PLANES
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.studies.sequences import sequence_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Vector = npt.NDArray[np.float64]

# All that is read beside the pixels.
KINDS = ("Modality", "SOPClassUID", "ImageType", "BurnedInAnnotation")
IDENTITY = ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
ORDER = ("TemporalPositionIdentifier", "EchoTime", "DiffusionBValue", "AcquisitionNumber",
         "InstanceNumber")  # fmt: skip
TEXTS = ("SeriesDescription", "ProtocolName", "ContrastBolusAgent")
TIMES = ("RepetitionTime", "EchoTime", "InversionTime")
SIZE = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation")
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
NAMES = ("SpecificCharacterSet", *KINDS, *IDENTITY, *GEOMETRY, *ORDER, *TEXTS, *TIMES, *SIZE,
         *GROUPS)  # fmt: skip
OF_A_STUDY = tuple(name for name in NAMES if name != "PatientName")  # without whom it shows
INNER = (GROUPS, (*SEQUENCES[1], "PlanePositionSequence", "PlaneOrientationSequence"))

PIXELS = (b"\xe0\x7f", b"\x7f\xe0")  # the group of the pixels, in either order of bytes
DIRECTORY = "1.2.840.10008.1.3.10"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
MODALITIES = frozenset(
    [
        *("AU", "BI", "CR", "CT", "DG", "DOC", "DX", "ECG", "EPS", "ES", "FID", "GM", "HC", "IO"),
        *("IVUS", "KO", "LS", "MG", "NM", "OCT", "OP", "OPT", "OT", "PLAN", "PR", "PT", "PX"),
        *("REG", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC"),
        *("SEG", "SM", "SR", "US", "XA", "XC"),
    ]
)  # others might be anything
PROJECTIONS = frozenset(("PROJECTION IMAGE", "MIP", "MAX_IP", "MNIP", "MIN_IP"))

# Why a file gives no slice.
INDEX = "a DICOMDIR, the index of other files"
NO_MR = "not an MR picture ({})"
SCREENSHOT = "a screenshot or another secondary capture, no MR picture"
MOSAIC = "a mosaic of many slices in one picture: export the series as an enhanced file or as NIfTI"
PROJECTION = "a projection through the head, no slice of it"
WRITTEN_ON = "a picture with burned-in annotation, which may name the patient"
COLOURED = "a colour picture, such as a map of values"
NOWHERE = "a DICOM file that does not tell where its picture lies in the patient"
BLANK = "a DICOM file without an image"

# Why a picture of a head is no slice to answer a study by (PS3.3, C.7.6.1.1.2 and C.8.3.1.1.1; the
# words of vendors for ImageType), each by the words that tell it.
LOCALIZER = "a localiser"
ASIDE = {
    LOCALIZER: ("LOCALIZER",),
    "a reformat of another series": ("MPR", "CSA MPR", "MPR_THICK", "REFORMATTED", "CPR", "CSA 3D",
                                     "VRT", "SSD", "VOLREND", "3D MPR"),
    "a subtraction of two series": ("SUB", "SUBTRACT", "SUBTRACTION", "CSA SUBTRACT"),
    "a map of values": ("ADC", "ADC_UNSPECIFIED", "EADC", "FA", "TENSOR", "TENSOR_B0", "CBF", "CBV",
                        "MTT", "TTP", "RCBF", "RCBV", "PBP", "GBP", "T1 MAP", "T2 MAP",
                        "T2_STAR MAP", "R2 MAP", "R2_STAR MAP", "T1_MAP", "T2_MAP", "FIELDMAP",
                        "FIELD_MAP", "PERFUSION_MAP", "DIFFUSION_MAP"),
    "a picture of phases": ("P", "PHASE", "PHASE MAP", "PHASE_MAP", "VELOCITY"),
}  # fmt: skip

# Of each plane, the axis (to the left, the back, the head) and the direction of rows and columns.
UPRIGHT = {
    "axial": ((0, 1), (1, 1)),
    "coronal": ((0, 1), (2, -1)),
    "sagittal": ((1, 1), (2, -1)),
}
MOST_STACKS = 64  # of a series
TOO_MANY = f"a series of more than {MOST_STACKS} directions"
PARALLEL = 0.02  # between the cosines of two slices in one stack: 1 degree
SAME_PLACE = 0.05  # mm
EVEN = 0.05  # share of a distance between slices by which others may differ from it
STRAIGHT = 0.1  # share of it by which a slice may lie beside the line of the others


class Place(NamedTuple):
    """Where one frame of a file lies.

    Attributes:
        position: of its first pixel, in mm (to the left, to the back, to the head).
        order: of several pictures of one place, the least is the first that was taken.
        file, frame: which it is.
    """

    position: tuple[float, ...]
    order: tuple[float, ...]
    file: str
    frame: int

    @property
    def instance(self) -> int:
        """The file's InstanceNumber; 0 where it has none."""
        return int(self.order[ORDER.index("InstanceNumber")])


class Lie(NamedTuple):
    """What the slices of a stack have in common: the directions of rows and columns (six cosines),
    mm of a pixel down and across, and the size in pixels."""

    cosines: tuple[float, ...]
    spacing: tuple[float, float]
    shape: tuple[int, int]


@dataclass(frozen=True)
class FileHead:
    """What a DICOM file says of itself.

    Attributes:
        name: of the file.
        patient, patient_name, study, series, instance: as in the file; empty where it is silent.
        sequence: one of `sequences.SEQUENCES`, or empty.
        places: each frame's, and how it lies.
        useless: why it gives no slice; empty where it may.
        lost: how many frames do not tell where they lie.
        order: the values of ORDER.
        aside: why a study is not answered by it, such as a localiser; empty where it may be.
    """

    name: str
    patient: str
    patient_name: str
    study: str
    series: str
    instance: str
    sequence: str
    places: tuple[tuple[Lie, Place], ...]
    useless: str
    lost: int
    order: tuple[float, ...] = ()
    aside: str = ""


def is_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5, 9.1), which names nobody; some programs write others."""
    return re.fullmatch(r"[0-9.]{1,64}", text) is not None


def is_whole(data: bytes, at: int) -> bool:
    """Whether a file that was cut off holds all before its pixels, which begin at `at`."""
    return data[at : at + 2] in PIXELS


def read_file_head(
    name: str, data: bytes, limits: ImageLimits, cut_off: bool, elements: Sequence[str] = NAMES
) -> FileHead | None:
    """What a DICOM file says of itself.

    Args:
        data: the file, or its beginning.
        cut_off: the latter.
        elements: those of NAMES that may be read.

    Returns:
        None where the beginning is not enough.

    Raises:
        InputError: damaged or over the limits.
    """
    try:
        head, end = read_elements(data, limits, elements, INNER)
        useless = _useless(head)
        if cut_off and not useless and not is_whole(data, end):
            return None
        if not useless and "Rows" not in head:
            if end > len(data):
                raise InputError(DAMAGED)
            useless = BLANK
        frames = 0 if useless else count_frames(head, limits)
        places = tuple(_places(head, name, frames))
        if not (useless or places):
            useless = NOWHERE
        return _file_head(name, head, places, useless, frames - len(places))
    except InputError:
        if cut_off:
            return None
        raise
    except Exception:  # pydicom raises many kinds on a damaged file
        if cut_off:
            return None
        raise InputError(DAMAGED) from None


def _file_head(
    name: str, head: pydicom.Dataset, places: tuple[tuple[Lie, Place], ...], useless: str, lost: int
) -> FileHead:
    repetition, echo, inversion = (_number(head, each) for each in TIMES)
    description = " ".join(text_of(head, each) for each in TEXTS[:2])
    sequence = sequence_of(description, text_of(head, TEXTS[2]), repetition, echo, inversion)
    patient = identifier(head, IDENTITY[0])
    patient_name, study, series, instance = (text_of(head, each) for each in IDENTITY[1:])
    return FileHead(
        name, patient, patient_name, study, series, instance, sequence, places, useless, lost,
        tuple(_number(head, each) for each in ORDER), _aside(head),
    )  # fmt: skip


def _useless(head: pydicom.Dataset) -> str:
    """Why a file cannot give slices of a head in gray, as far as its head says."""
    kind = text_of(head, "SOPClassUID") or str(
        getattr(head, "file_meta", {}).get("MediaStorageSOPClassUID", "")
    )
    modality = text_of(head, "Modality").upper()
    types = _types(head)
    if kind == DIRECTORY:
        return INDEX
    if modality not in ("MR", ""):
        return NO_MR.format(modality if modality in MODALITIES else "another modality")
    if kind.startswith(SECONDARY) or "SCREEN SAVE" in types:
        return SCREENSHOT
    if modality == "" and kind and not kind.startswith("1.2.840.10008.5.1.4.1.1.4"):
        return NO_MR.format("another kind of file")
    if text_of(head, "BurnedInAnnotation").upper() == "YES":
        return WRITTEN_ON
    if "MOSAIC" in types:
        return MOSAIC
    if types & PROJECTIONS:
        return PROJECTION
    photometric = text_of(head, "PhotometricInterpretation")
    if _number(head, "SamplesPerPixel") > 1 or photometric == "PALETTE COLOR":
        return COLOURED
    return ""


def _types(head: pydicom.Dataset) -> set[str]:
    return {part.strip().upper() for part in text_of(head, "ImageType").split("\\")}


def _aside(head: pydicom.Dataset) -> str:
    """Why a study is not answered by what a file shows; empty where it may be."""
    types = _types(head)
    return next((why for why, words in ASIDE.items() if not types.isdisjoint(words)), "")


def _places(head: pydicom.Dataset, name: str, count: int) -> Iterable[tuple[Lie, Place]]:
    """Those of so many frames that tell where they lie."""
    if not count:
        return
    shape = int(head.Rows), int(head.Columns)
    shared = _first(head, GROUPS[0])
    own = head.get(GROUPS[1]) or []
    order = tuple(_number(head, each) for each in ORDER)
    # Without functional groups, what the head tells is the first frame's; and a few bytes may claim
    # thousands of frames.
    for frame in range(min(count, len(own)) if count > 1 else 1):
        groups = [own[frame] if frame < len(own) else None, shared]
        position = _numbers(_layer(groups, "PlanePositionSequence", head), GEOMETRY[0], 3)
        cosines = _numbers(_layer(groups, "PlaneOrientationSequence", head), GEOMETRY[1], 6)
        spacing = _numbers(_layer(groups, "PixelMeasuresSequence", head), GEOMETRY[2], 2)
        if position is None or cosines is None:
            continue
        if abs(np.linalg.norm(_normal(cosines)) - 1) > PARALLEL:
            continue
        down, across = spacing if spacing is not None and min(spacing) > 0 else (1.0, 1.0)
        yield Lie(cosines, (down, across), shape), Place(position, (*order, frame), name, frame)


@dataclass
class Series:
    """A series' files.

    Attributes:
        identity: what tells it from all others: never written.
        heads: its files, sorted by what they hold.
        copies: files that another one repeats.
    """

    identity: tuple[str, ...]
    heads: list[FileHead]
    copies: list[str]

    @property
    def first(self) -> FileHead:
        return self.heads[0]

    @property
    def names(self) -> list[str]:
        return sorted(head.name for head in self.heads)


def group_series(heads: Iterable[FileHead], size: Callable[[str], int]) -> list[Series]:
    """The series, each of one patient and study; files that tell no series are one each.

    Args:
        size: bytes of a file; of copies, one of which may be cut off, the longest counts.
    """
    found: dict[tuple[str, ...], list[FileHead]] = defaultdict(list)
    for head in heads:
        alone = "" if head.series else head.instance or head.name
        found[head.series, head.patient, head.study, alone].append(head)
    series = []
    for identity, files in sorted(found.items()):
        kept: dict[object, FileHead] = {}
        copies = []
        for head in sorted(files, key=lambda head: (_content(head), head.name)):
            # Some anonymisers write one SOPInstanceUID into all files.
            key = _content(head) if head.instance else head.name
            other = kept.get(key)
            if other is None:
                kept[key] = head
            elif size(head.name) > size(other.name):
                copies.append(other.name)
                kept[key] = head
            else:
                copies.append(head.name)
        series.append(Series(identity, list(kept.values()), copies))
    return series


def _content(head: FileHead) -> tuple[Any, ...]:
    """What a file says but for its name, so that names do not tell which of two counts."""
    places = tuple((lie, place.position, place.order) for lie, place in head.places)
    return head.instance, places, () if places else head.order


@dataclass
class Stack:
    """Slices of a series that lie in parallel, sorted to the right, the front or the head.

    Attributes:
        lie: how they lie.
        plane: one of PLANES: the nearest.
        places: one for each place.
        repeated: how many pictures were left out, since another one is of the same place.
    """

    lie: Lie
    plane: str
    places: list[Place]
    repeated: int

    @property
    def distance(self) -> float:
        """mm between two slices, as most of them lie; 0 for one."""
        between = self._distances
        return float(np.median(between)) if len(between) else 0.0

    @property
    def unevenness(self) -> str:
        """In words, where the slices do not make a volume; empty where they do."""
        between, usual = self._distances, self.distance
        if not len(between):
            return "one slice only"
        widest = float(between.max())
        if widest > usual * (1 + EVEN):
            return f"a gap of {widest:.1f} mm between slices that lie {usual:.1f} mm apart"
        if float(between.min()) < usual * (1 - EVEN):
            return f"slices {float(between.min()):.1f} to {widest:.1f} mm apart"
        positions = np.array([place.position for place in self.places])
        ideal = np.linspace(positions[0], positions[-1], len(positions))
        if float(np.abs(positions - ideal).max()) > STRAIGHT * usual:
            return "slices that do not lie in line"
        return ""

    @property
    def upright(self) -> bool:
        """Whether the slices are stored as radiologists look at them."""
        rows, columns = self.lie.cosines[:3], self.lie.cosines[3:]
        across, down = UPRIGHT[self.plane]
        return rows[across[0]] * across[1] > 0.5 and columns[down[0]] * down[1] > 0.5

    @property
    def affine(self) -> Vector:
        """4×4: from column, row and slice to mm to the right, anterior and superior."""
        positions = np.array([place.position for place in self.places])
        down, across = self.lie.spacing
        cosines = np.array(self.lie.cosines)
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = cosines[:3] * across, cosines[3:] * down
        affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
        affine[:3, 3] = positions[0]
        affine[:2] *= -1  # DICOM's axes go to the left and to the back
        return affine

    @property
    def _distances(self) -> Vector:
        offsets = _offsets(self.lie, [place.position for place in self.places])
        return np.diff(offsets)


def stacks_of(series: Series) -> list[Stack]:
    """The stacks of a series, those of most slices first.

    Raises:
        InputError: more than MOST_STACKS.
    """
    lying: list[tuple[Lie, list[Place]]] = []
    every = (found for head in series.heads for found in head.places)
    for lie, place in sorted(every, key=lambda found: (found[0], found[1].position)):
        stack = next((places for other, places in lying if _is_parallel(lie, other)), None)
        if stack is None:
            if len(lying) == MOST_STACKS:
                raise InputError(TOO_MANY)
            lying.append((lie, [place]))
        else:
            stack.append(place)
    stacks = [_stack(lie, places) for lie, places in lying]
    return sorted(stacks, key=lambda stack: (-len(stack.places), stack.lie))


def _stack(lie: Lie, places: list[Place]) -> Stack:
    offsets = _offsets(lie, [place.position for place in places])
    kept: list[Place] = []
    last = -np.inf
    for number in np.argsort(offsets, kind="stable").tolist():
        if offsets[number] - last > SAME_PLACE:
            kept.append(places[number])
            last = offsets[number]
        elif places[number].order < kept[-1].order:
            kept[-1] = places[number]
    plane = PLANES[len(PLANES) - 1 - _axis(lie)]
    return Stack(lie, plane, kept, len(places) - len(kept))


def _is_parallel(one: Lie, other: Lie) -> bool:
    near = zip(one.cosines, other.cosines, strict=True)
    alike = zip(one.spacing, other.spacing, strict=True)
    return (
        one.shape == other.shape
        and all(abs(a - b) < PARALLEL for a, b in near)
        and all(abs(a - b) < SAME_PLACE * max(a, b) for a, b in alike)
    )


def _offsets(lie: Lie, positions: Sequence[tuple[float, ...]]) -> Vector:
    """How far positions lie to the right, the front or the head, in mm."""
    normal, axis = _normal(lie.cosines), _axis(lie)
    away = 1 if axis == 2 else -1  # DICOM's axes go to the left and to the back
    sign = away * np.sign(normal[axis])
    offsets: Vector = np.array(positions, np.float64) @ (normal * sign)
    return offsets


def _axis(lie: Lie) -> int:
    """The patient's axis nearest to the normal: 0 to 2, across, to the back, to the head."""
    return int(np.abs(_normal(lie.cosines)).argmax())


def _normal(cosines: Sequence[float]) -> Vector:
    normal: Vector = np.cross(cosines[:3], cosines[3:])
    return normal


def _layer(groups: Sequence[Any], sequence: str, head: pydicom.Dataset) -> pydicom.Dataset:
    """Where a frame's values stand: its own functional group, the shared one, or the head."""
    return next((found for group in groups if group and (found := _first(group, sequence))), head)


def _first(of: pydicom.Dataset, sequence: str) -> Any:
    items = of.get(sequence)
    return items[0] if items else None


def _numbers(of: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Finite numbers, or None where there are not so many."""
    try:
        values = tuple(float(value) for value in of.get(name) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _number(of: pydicom.Dataset, name: str) -> float:
    """The first number of an element; 0 where there is none."""
    value = of.get(name)
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if np.isfinite(number) else 0.0
