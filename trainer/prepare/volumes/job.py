"""From DICOM series and NIfTI volumes to labelled slices, without anything of the patient.

What is written of a patient are keyed digests: see `pseudonyms`. Headers are read first, of every
file a few kilobytes; then one volume at a time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.geometry import cut_refusal
from edge_runtime.imaging.kinds import halves_of, other_halves
from edge_runtime.imaging.nifti import read_volume
from edge_runtime.imaging.nifti_pair import join_pair
from edge_runtime.labels import NO_TUMOR
from edge_runtime.studies.frames import NOTHING
from edge_runtime.studies.sequences import sequence_in
from edge_runtime.studies.series import Series, Stack, stacks_of
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.card import CardText, Source
from trainer.data.layout import PassedOver
from trainer.prepare.folder import DataFolder, Dropped, NewSlice, Summary
from trainer.prepare.rows import Box, Row
from trainer.prepare.volumes.head_slices import evenly, within_head
from trainer.prepare.volumes.labels import (
    FolderLabels,
    Labels,
    Said,
    TableLabels,
    checked_label,
    is_called_like,
    plain_patient,
)
from trainer.prepare.volumes.masks import Masks, is_mask, without_sequence
from trainer.prepare.volumes.planes import DicomVolume, Shown, cut_volume
from trainer.prepare.volumes.pseudonyms import DIGITS
from trainer.prepare.volumes.units import (
    LIMITS,
    Tell,
    Unit,
    bids_subject,
    find_units,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from trainer.prepare.volumes.pseudonyms import Pseudonyms

    Progress = Callable[[int, int], None]
    Mask = npt.NDArray[np.bool_]

VISIBLE = 0.0005  # share of a slice's pixels that a mask must mark for the slice to show the tumour

# Why a volume gives no slice in a plane, beside what its readers say.
HEADLESS = "no head to be seen"
UNNUMBERED = "the numbers first and last of its row count in another plane"
NO_NUMBERS = "no slice has a number from first to last of its row"
UNMARKED = "its mask marks nothing that could be seen in the plane"


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        planes: of PLANES.
        per_volume: slices of a volume in a plane; None for all within the head.
        source: name of where the volumes come from.
        label: of all of them; `table` says it of each; class folders do where both are None.
        masks: folder or zip of NIfTI masks, or None.
        by_study: each study counts as a patient.
    """

    planes: tuple[str, ...]
    per_volume: int | None
    source: str
    label: str | None = None
    table: Path | None = None
    masks: Path | None = None
    by_study: bool = False


def cut_volumes(
    data: Path,
    out: Path,
    wanted: Wanted,
    pseudonyms: Pseudonyms,
    tell: Tell,
    looking: Progress,
    cutting: Progress,
    made_by: str,
) -> Summary:
    """Cut the volumes of a folder or zip into slices, in `out`.

    Args:
        looking, cutting: called with how many files (volumes) are done, and of how many.
        made_by: the command and its version.

    Raises:
        DataError: no volumes, a table or folders that give no labels, a hostile archive.
        UsageError: `out` holds something else.
    """
    stated = _stated_labels(wanted)  # before minutes of work
    archive = open_archive(data, every=True)
    same = wanted.masks is not None and wanted.masks.samefile(data)
    mask_archive = open_archive(wanted.masks, every=True) if wanted.masks else None
    masks = Masks(mask_archive, LIMITS, beside=same)
    inside = _inside(wanted.masks, data)

    def is_left_out(name: str) -> bool:
        return is_mask(name) if same else bool(inside) and name.startswith(inside)

    found = find_units(archive, is_left_out, pseudonyms, tell, looking)
    paths = (path for unit in found.units for path in unit.paths)
    labels = FolderLabels(paths) if stated is None else stated
    _refuse_names(labels, found.units)
    inputs = _state(data, archive)
    if mask_archive is not None and wanted.masks is not None:
        inputs += _state(wanted.masks, mask_archive)
    settings = _settings(wanted, pseudonyms) | {"inputs": pseudonyms.of("inputs", *inputs)}
    folder = DataFolder(out, settings, labels.known)
    for item, useless in found.dropped.items():
        if folder.dropped_of(item) is None:
            folder.add(item, [], useless)
    cutter = _Cutter(archive, wanted, pseudonyms, masks, tell)
    said = [(unit, labels.of(unit.names, unit.patients, unit.paths)) for unit in found.units]
    _tell_guesses(said, wanted, tell)
    for done, (unit, of_it) in enumerate(said):
        cutting(done, len(said))
        if folder.dropped_of(unit.item) is None:
            slices, dropped = cutter.cut(unit, of_it)
            folder.add(unit.item, slices, dropped)
        elif not isinstance(of_it, str) and of_it.label != NO_TUMOR:
            with suppress(InputError):  # told when it was cut
                masks.find(unit.names)
    cutting(len(said), len(said))
    _tell_unused("the labels table", "fit no volume", labels.unused(), tell)
    _tell_unused("--masks", "belong to no tumour's volume", masks.unused(), tell)
    return folder.finish(_card(wanted, said, made_by))


def _stated_labels(wanted: Wanted) -> Labels | None:
    """What the user says; None where class folders do."""
    if wanted.label is not None:
        return Labels((checked_label(wanted.label, "--label"),))
    if wanted.table is not None:
        return TableLabels(wanted.table)
    return None


def _settings(wanted: Wanted, pseudonyms: Pseudonyms) -> dict[str, object]:
    """All that decides what is written; nothing in it can be turned back into an identifier."""
    table = wanted.table.read_bytes() if wanted.table else b""
    return {
        "command": "volumes",
        "planes": wanted.planes,
        "per_volume": wanted.per_volume,
        "source": wanted.source,
        "by_study": wanted.by_study,
        "masks": wanted.masks is not None,
        "table": pseudonyms.of("table", hashlib.sha256(table).hexdigest()),
        "key": pseudonyms.of("key"),
    }


def _state(place: Path, archive: ImageArchive) -> list[str]:
    """What changes with the files of a folder or zip: their names, sizes and times."""
    names = archive.names() if place.is_dir() else [""]
    state = []
    for name in names:
        with suppress(OSError):  # reading it tells why
            found = (place / name).stat()
            state.append(f"{name} {found.st_size} {found.st_mtime_ns}")
    return state


def _card(wanted: Wanted, said: Sequence[tuple[Unit, Said | str]], made_by: str) -> CardText:
    labelled = (of_it for _, of_it in said if not isinstance(of_it, str))
    sources = {of_it.source or wanted.source for of_it in labelled} or {wanted.source}
    number = "all" if wanted.per_volume is None else f"up to {wanted.per_volume}"
    notes = (
        f"Slices of MR volumes, planes: {', '.join(wanted.planes)}; {number} of each volume, "
        "evenly spaced within the head. Patients and series are keyed digests."
    )
    return CardText(made_by, tuple(Source(name) for name in sorted(sources)), notes)


def _inside(masks: Path | None, data: Path) -> str:
    """Where the masks lie below the data; empty where they do not."""
    if masks is None or not (data.is_dir() and masks.is_dir()):
        return ""
    inner, outer = masks.resolve(), data.resolve()
    return inner.relative_to(outer).as_posix() + "/" if outer in inner.parents else ""


def _refuse_names(labels: Labels, units: Sequence[Unit]) -> None:
    """Refuse class folders that are called like the patients in them.

    Raises:
        DataError: one is.
    """
    if not isinstance(labels, FolderLabels):
        return
    for unit in units:
        said = labels.of(unit.names, unit.patients, unit.paths)
        if isinstance(said, str):
            continue
        subject = bids_subject(unit.paths[0])
        names = [f"sub-{subject}"] if subject else []
        if unit.series is not None:
            first = unit.series.first
            names = [first.patient, first.patient_name]
        if is_called_like(said.label, names):
            raise DataError(
                f"the folder {said.label!r} is called like the patient in it, and would name a "
                "class: say what the volumes show by --label or --labels"
            )


def _tell_guesses(said: Sequence[tuple[Unit, Said | str]], wanted: Wanted, tell: Tell) -> None:
    """Tell where patients are guessed, and where slices may not show the tumour."""
    heads = [unit.series.first for unit, _ in said if unit.series is not None]
    if (blank := sum(not head.patient for head in heads)) and not wanted.by_study:
        tell.note(f"{blank:,} series without a PatientID: each study counts as a patient")
    studies = {head.study for head in heads}
    if len({head.patient for head in heads}) == 1 < len(studies) and not wanted.by_study:
        tell.note(
            f"all series have one PatientID, in {len(studies):,} studies: one patient, or what "
            "an anonymiser wrote for all; with --patient-from study each study counts as one"
        )
    known = [(unit, of_it) for unit, of_it in said if not isinstance(of_it, str)]
    bare = sum(
        unit.series is None and not (of_it.patient or bids_subject(unit.paths[0]))
        for unit, of_it in known
    )
    if bare:
        tell.note(
            f"{bare:,} NIfTI files without sub-… in their names: each name, but for what names "
            "the sequence, counts as a patient; a labels table with series and patient tells "
            "whose they are"
        )
    whole = sum(of_it.label != NO_TUMOR and of_it.numbers is None for _, of_it in known)
    if whole and wanted.masks is None:
        tell.note(
            f"{whole:,} volumes with a tumour: slices of the whole head, of which some may not "
            "show it; --masks, or first and last in the labels table, take those that do"
        )


class _Cutter:
    """Cuts one unit after the other."""

    def __init__(
        self,
        archive: ImageArchive,
        wanted: Wanted,
        pseudonyms: Pseudonyms,
        masks: Masks,
        tell: Tell,
    ) -> None:
        self._archive, self._wanted, self._pseudonyms = archive, wanted, pseudonyms
        self._masks, self._tell = masks, tell

    def cut(self, unit: Unit, said: Said | str) -> tuple[list[NewSlice], list[Dropped]]:
        """The slices of a unit, and what of it gives none; each is told."""
        if isinstance(said, str):
            return [], [self._tell.drop(unit.what, said)]
        row = Row(
            "", said.label, "", said.source or self._wanted.source, self._patient(unit, said),
        )  # fmt: skip
        if unit.series is None:
            slices, dropped = self._cut_nifti(unit, said, row)
        else:
            slices, dropped = self._cut_series(unit, unit.series, said, row)
        unsure = said.label != NO_TUMOR and said.numbers is None and self._wanted.masks
        if unsure and any(each.mask is None for each in slices):
            self._tell.note(
                f"{unit.what}: no mask that fits: slices of the whole head, of which some may not "
                "show the tumour"
            )
        return slices, dropped

    def _patient(self, unit: Unit, said: Said) -> str:
        """A patient's pseudonym."""
        return "p" + self._pseudonyms.of(*self._identity(unit, said))[:DIGITS]

    def _identity(self, unit: Unit, said: Said) -> tuple[str, ...]:
        source = said.source or self._wanted.source
        if unit.series is None:
            # Numbers of a collection's own, unlike those of a hospital.
            if known := said.patient or bids_subject(unit.paths[0]):
                return "subject", source, known
            return "volume", source, without_sequence(unit.paths[0])
        first = unit.series.first
        if said.patient:
            return "patient", said.patient
        if first.patient and not self._wanted.by_study:
            return "patient", plain_patient(first.patient)
        if first.study:
            return "study", first.study
        return "series", first.series or first.instance or first.name

    def _cut_nifti(self, unit: Unit, said: Said, row: Row) -> tuple[list[NewSlice], list[Dropped]]:
        try:
            volume = read_volume(self._nifti_bytes(unit.paths[0]), LIMITS)
        except InputError as error:
            return [], [self._tell.drop(unit.what, one_line(error))]
        if volume.volumes > 1:
            self._tell.note(f"{unit.what}: {volume.volumes:,} volumes, of which the first is cut")
        sequence = said.sequence or sequence_in(PurePosixPath(unit.paths[0]).name)
        row = replace(row, sequence=sequence)
        mask = self._mask_of(unit, said, volume.voxels.shape, volume.affine)
        slices: list[NewSlice] = []
        reasons: dict[str, None] = {}
        for plane in self._wanted.planes:
            try:
                if refusal := cut_refusal(volume.voxels.shape, volume.view.spacing, plane):
                    raise InputError(refusal)
                slices += self._take(unit.item[:DIGITS], cut_volume(volume, plane, mask), row, said)
            except InputError as error:
                reasons[one_line(error)] = None
        return slices, [self._tell.drop(unit.what, reason) for reason in reasons]

    def _nifti_bytes(self, name: str) -> bytes:
        """A volume's file; both halves of a pair as one."""
        data = self._archive.read(name)
        if not halves_of(name) or data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0":
            return data
        for half in other_halves(name):
            try:
                image = self._archive.read(half)
            except (InputError, KeyError):
                continue
            return join_pair(data, io.BytesIO(image), LIMITS)
        raise InputError("the header of a NIfTI pair: its .img file is missing")

    def _cut_series(
        self, unit: Unit, series: Series, said: Said, row: Row
    ) -> tuple[list[NewSlice], list[Dropped]]:
        sequences = {head.name: head.sequence for head in series.heads}
        slices: list[NewSlice] = []
        reasons: dict[str, str] = {}  # each is told once, though it may hold for several stacks
        damaged: dict[str, str] = {}
        if lost := sum(head.lost for head in series.heads):
            self._tell.note(
                f"{unit.what}: {lost:,} frames that do not tell where they lie in the patient"
            )
        try:
            stacks = stacks_of(series)
        except InputError as error:
            return [], [self._tell.drop(unit.what, one_line(error))]
        for number, stack in enumerate(stacks):
            # By what it holds: the order of files and their names must not tell.
            held = repr((stack.lie, stack.places[0].position))
            digits = self._pseudonyms.of("stack", *series.identity, held)[:DIGITS]
            volume = DicomVolume(self._archive, stack, LIMITS)
            self._tell_stack(unit.what, stack)
            if number == 0:
                volume.mask = self._stack_mask(unit, said, stack)
            sequence = said.sequence or sequences[stack.places[0].file]
            row = replace(row, sequence=sequence)
            slices += self._cut_stack(volume, digits, said, row, reasons)
            damaged |= volume.damaged
        if damaged:  # each is told
            reasons.pop(NOTHING, None)
        dropped = [self._tell.drop(unit.what, *reason) for reason in reasons.items()]
        dropped += [self._tell.drop(name, reason) for name, reason in sorted(damaged.items())]
        return slices, dropped

    def _cut_stack(
        self, dicom: DicomVolume, digits: str, said: Said, row: Row, reasons: dict[str, str]
    ) -> list[NewSlice]:
        """The slices of one stack of a series, and why there are none in some plane."""
        own = dicom.stack.plane
        others = [plane for plane in self._wanted.planes if plane != own]
        slices: list[NewSlice] = []
        try:
            if own in self._wanted.planes:
                slices += self._take(digits, dicom.shown(), row, said)
            if others and (refusal := dicom.refusal())[0]:
                reasons.setdefault(*refusal)
            elif others:
                volume = dicom.volume()
                for plane in others:
                    shown = replace(cut_volume(volume, plane, dicom.mask), numbers=None)
                    slices += self._take(digits, shown, row, said)
        except InputError as error:
            reasons.setdefault(one_line(error), "")
        return slices

    def _tell_stack(self, what: str, stack: Stack) -> None:
        if stack.repeated:
            self._tell.note(
                f"{what}: {stack.repeated:,} pictures of places that another one shows (echoes, "
                "time points): the first of each is cut"
            )
        if len(stack.places) > 1 and stack.unevenness and self._wanted.planes == (stack.plane,):
            self._tell.note(f"{what}: {stack.unevenness}")
        if not stack.upright:
            self._tell.note(f"{what}: slices that are stored turned or mirrored; they stay so")

    def _stack_mask(self, unit: Unit, said: Said, stack: Stack) -> Mask | None:
        rows, columns = stack.lie.shape
        shape = columns, rows, len(stack.places)
        if stack.unevenness:  # no volume that a mask could lie in
            return None
        return self._mask_of(unit, said, shape, stack.affine)

    def _mask_of(
        self, unit: Unit, said: Said, shape: Sequence[int], affine: npt.NDArray[np.float64]
    ) -> Mask | None:
        """A tumour's mask in the voxels of its volume, where there is one that fits."""
        if said.label == NO_TUMOR:
            return None
        try:
            name = self._masks.find(unit.names)
            if name is not None:
                return self._masks.read(name, shape, affine)
        except InputError as error:
            self._tell.note(f"{unit.what}: its mask is not used: {one_line(error)}")
        return None

    def _take(self, digits: str, shown: Shown, row: Row, said: Said) -> list[NewSlice]:
        """Evenly spaced slices.

        Raises:
            InputError: none shows a head, or what the mask marks, or has the wanted numbers.
        """
        if shown.marked is not None:
            numbers, none = _showing(shown.marked), UNMARKED
        elif said.numbers is None:
            numbers, none = within_head(shown.grays, shown.plane, shown.distance), HEADLESS
        else:
            numbers, none = list(range(len(shown.grays))), NO_NUMBERS
        if said.numbers is not None:
            if shown.numbers is None:
                raise InputError(UNNUMBERED)
            first, last = said.numbers
            numbers = [each for each in numbers if first <= shown.numbers[each] <= last]
        if not numbers:
            raise InputError(none)
        slices = []
        for number in evenly(numbers, self._wanted.per_volume):
            gray = shown.grays[number]
            name = f"{row.patient}_{digits}_{shown.plane}_{number:04d}.png"
            path = f"{row.label}/{name}"
            box, mask = None, None
            if shown.marked is not None:
                marked = _scaled(shown.marked[number], gray.shape)
                box, mask = _box(marked), _png(marked * np.uint8(255))
            new = replace(row, path=path, group=row.patient, plane=shown.plane, box=box)
            slices.append(NewSlice(_png(gray), new, mask))
        return slices


def _showing(marked: Mask) -> list[int]:
    """The slices in which a mask (N×H×W) marks enough to be seen."""
    shares = marked.reshape(len(marked), -1).mean(axis=1)
    return [int(number) for number in np.flatnonzero(shares >= VISIBLE)]


def _scaled(marked: Mask, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A mask (0 and 1) in the size of its slice, whose pixels were made square."""
    import cv2

    height, width = shape
    flat = np.ascontiguousarray(marked, np.uint8)
    scaled: npt.NDArray[np.uint8]
    scaled = cv2.resize(flat, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return scaled


def _box(marked: npt.NDArray[np.uint8]) -> Box | None:
    rows, columns = (np.flatnonzero(marked.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    height, width = marked.shape
    return (
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )


def _png(gray: npt.NDArray[np.uint8]) -> bytes:
    import cv2

    data: bytes = cv2.imencode(".png", gray)[1].tobytes()
    return data


def _tell_unused(where: str, why: str, names: Sequence[str], tell: Tell) -> None:
    if names:
        tell.problem(f"{where}: {PassedOver('', '', tuple(names)).words}", why)
