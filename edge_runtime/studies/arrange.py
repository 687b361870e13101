"""From a drop of files to the studies in it: who belongs together, in which order, and what is left
out and why.

DICOM files are told apart by what they say of themselves, whatever they are called and wherever
they lie; of the patient nothing is read but what tells one from another. A volume is a study of
one series.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.batch import Unusable
from edge_runtime.errors import InputError, one_line
from edge_runtime.files import Note
from edge_runtime.imaging.geometry import FEWEST, PLANES, cut_refusal, is_thick
from edge_runtime.imaging.limits import DEFAULT_LIMITS, ImageLimits
from edge_runtime.imaging.readers import numbered, open_slices, reader_of
from edge_runtime.studies.files import BEGIN, Begun, DropFile, begin_all
from edge_runtime.studies.sequences import sequence_in
from edge_runtime.studies.study import PassedOver, Study, StudySeries, StudySlice

if TYPE_CHECKING:
    from edge_runtime.studies.series import FileHead, Place, Series, Stack

Tell = Callable[[Note], None]

MOST_FILES = 100_000  # DICOM files of a drop, of each of which some kilobytes are kept
MOST_FRAMES = 200_000  # of all of them, of each of which up to a kilobyte is kept

# Why a file gives no slice, beside what its readers say.
COPY = "a copy of another file of its series"
REPEATED = "a picture of a place that another one of its series shows"
MANY = f"more than {MOST_FILES:,} DICOM files at once"
MANY_FRAMES = f"more than {MOST_FRAMES:,} frames of DICOM files at once"
ALONE = "a DICOMDIR, the index of other files, none of which came with it"


@dataclass(frozen=True)
class How:
    """How files are read.

    Attributes:
        limits: what is refused unread.
        plane: in which volumes are cut; None: in all in which they can be.
        volume: of a file of several, see `readers.open_slices`.
    """

    limits: ImageLimits = DEFAULT_LIMITS
    plane: str | None = None
    volume: int | None = None


def arrange(
    files: Iterable[DropFile | Unusable], how: How, tell: Tell = lambda note: None
) -> Iterator[Study | DropFile | Unusable]:
    """The studies of a drop, its loose pictures and what of it cannot be used.

    Volumes, pictures and what cannot be used come as they are found; studies of DICOM files behind
    all else, once all files are known, in the order of the first file of each.

    Args:
        files: see `DropFile`; zips are opened.
        tell: called with what is left out or guessed.
    """
    dicom = _DicomFiles(how, tell)
    pictures: list[DropFile] = []
    for begun in begin_all(files, how.limits, tell):
        if isinstance(begun, Unusable):
            dicom.unusable.append(begun.name)
            yield begun
            continue
        if pictures and begun.file.of != pictures[0].of:
            yield _of_pictures(pictures, how)
            pictures = []
        if begun.kind.name == "dicom":
            try:
                dicom.add(begun)
            except InputError as error:
                dicom.unusable.append(begun.file.name)
                yield Unusable(begun.file.name, error)
        elif not begun.kind.is_picture:
            yield _of_volume(begun.file, how)
        elif begun.file.of:
            pictures.append(begun.file)
        else:
            yield begun.file
    if pictures:
        yield _of_pictures(pictures, how)
    yield from dicom.studies()


def _of_volume(file: DropFile, how: How) -> Study:
    """The study of a volume, cut in each plane in which it can be, or in the one that is asked
    for. Its file is read again for each, so that no more than one is in memory."""
    sequence = sequence_in(PurePath(file.name).name) or None
    cuts = _cuts(file, how)
    series = []
    for plane, (count, distance, rising, reason) in cuts.items():
        slices = partial(_slices, [file], replace(how, plane=plane)) if count else lambda: iter(())
        volume = file.name if len(cuts) > 1 else None
        series.append(
            StudySeries(
                file.name, None, plane, sequence, distance, count, slices, reason, volume,
                not rising,
            )
        )  # fmt: skip
    return Study(file.name, None, tuple(series))


class _VolumeCut(NamedTuple):
    """How many slices a volume has in a plane, mm between them, whether they rise in the file, and
    why they are not used."""

    length: int
    distance: float | None
    rising: bool = True
    reason: str | None = None


def _cuts(file: DropFile, how: How) -> dict[str | None, _VolumeCut]:
    """By plane, how a volume is cut; of a file that has no planes, or cannot be read, one entry
    without a plane."""
    asked = how.plane or PLANES[0]
    try:
        data = file.read(how.limits)
        first = open_slices(data, how.limits, asked, how.volume)
        if first.distance is None or how.plane is not None:
            plane = None if first.distance is None else asked
            return {plane: _VolumeCut(first.length, first.distance, first.rising)}
        stacks = {p: open_slices(data, how.limits, p, how.volume) for p in PLANES}
    except InputError:  # told where its slices are read
        return {None: _VolumeCut(1, None)}
    shape = [stacks[plane].length for plane in reversed(PLANES)]
    spacing = [stacks[plane].distance or 0.0 for plane in reversed(PLANES)]
    return {
        plane: _VolumeCut(0, stack.distance, stack.rising, reason)
        if (reason := cut_refusal(shape, spacing, plane))
        else _VolumeCut(stack.length, stack.distance, stack.rising)
        for plane, stack in stacks.items()
    }


def _of_pictures(files: Sequence[DropFile], how: How) -> Study:
    """The study of the loose pictures of what the user named."""
    name = files[0].of
    slices = partial(_slices, tuple(files), how)
    return Study(name, None, (StudySeries(name, None, None, None, None, len(files), slices),))


def _slices(files: Sequence[DropFile], how: How) -> Iterator[StudySlice]:
    """The slices of pictures and volumes, file by file."""
    for file in files:
        digest = None
        try:
            data = file.read(how.limits)
            digest = sha256(data).hexdigest()
            for part in numbered(open_slices(data, how.limits, how.plane or PLANES[0], how.volume)):
                yield StudySlice(file.name, part.number, digest, part.gray)
        except InputError as error:
            yield StudySlice(file.name, None, digest, InputError(one_line(error)))


class _DicomFiles:
    """The DICOM files of a drop.

    Attributes:
        unusable: names of files that are there and were told of.
    """

    def __init__(self, how: How, tell: Tell) -> None:
        self._limits, self._plane, self._tell = how.limits, how.plane, tell
        self._files: dict[str, DropFile] = {}  # in the order in which they came
        self._heads: list[FileHead] = []
        self._indexes: list[str] = []
        self.unusable: list[str] = []
        self._frames = 0

    def add(self, begun: Begun) -> None:
        """Take a file.

        Raises:
            InputError: it cannot be read, there are too many, or the package pydicom is missing.
        """
        reader_of(begun.kind)
        from edge_runtime.studies.series import INDEX, OF_A_STUDY, read_file_head

        if len(self._files) >= MOST_FILES:
            raise InputError(MANY)
        name, number = begun.file.name, len(self._files)
        while name in self._files:
            name, number = f"{begun.file.name} (again {number})", number + 1
        cut_off = len(begun.start) == BEGIN
        head = read_file_head(name, begun.start, self._limits, cut_off, OF_A_STUDY)
        if head is None:
            data = begun.file.read(self._limits)
            head = read_file_head(name, data, self._limits, False, OF_A_STUDY)
        assert head is not None  # of a whole file
        frames = head.lost + len(head.places)
        if self._frames + frames > MOST_FRAMES:  # a few bytes may claim thousands
            raise InputError(MANY_FRAMES)
        self._frames += frames
        if head.useless == INDEX:
            self._indexes.append(name)
        else:
            self._heads.append(head)
        self._files[name] = begun.file

    def studies(self) -> Iterator[Study | Unusable]:
        """The studies, and indexes without any of their files."""
        if not self._files:
            return
        from edge_runtime.studies.series import group_series

        for index in self._indexes:
            yield from self._check(index)
        rank = {name: number for number, name in enumerate(self._files)}
        found: dict[tuple[str, ...], list[Series]] = defaultdict(list)
        for series in group_series(self._told_apart(), lambda name: self._files[name].size()):
            # Without a study's UID, a series is all that is known to belong together.
            alone = () if series.first.study else series.identity
            found[(series.first.study, series.first.patient, *alone)].append(series)
        first = {key: min(map(_ranked(rank), of_it)) for key, of_it in found.items()}
        for key in sorted(found, key=first.__getitem__):
            yield self._study(found[key], rank)

    def _check(self, index: str) -> Iterator[Unusable]:
        """Tell of what an index names and is not there."""
        from edge_runtime.studies.index import files_named, notes_on

        file = self._files[index]
        try:
            named = files_named(file.read(self._limits), self._limits)
        except InputError as error:
            self._tell(Note(index, f"the index is not looked at: {one_line(error)}"))
            return
        for note in notes_on(index, named, [*self._files, *self.unusable]):
            self._tell(note)
        if not self._heads:
            yield Unusable(index, InputError(ALONE))

    def _told_apart(self) -> list[FileHead]:
        """The heads, those of one study without a patient given to its only one.

        Files of two patients are never put together, whatever their UID says.
        """
        patients: dict[str, set[str]] = defaultdict(set)
        for head in self._heads:
            patients[head.study].add(head.patient)
        for study, known in patients.items():
            if study and len(known - {""}) > 1:
                name = _uid(study) or self._first_of(study)
                self._tell(Note(
                    name, f"files of {len(known - {''})} patients under one StudyInstanceUID; each "
                    "patient is answered apart"
                ))  # fmt: skip
        only = {
            study: next(iter(known - {""}))
            for study, known in patients.items()
            if study and len(known - {""}) == 1
        }
        return [replace(head, patient=only.get(head.study, head.patient)) for head in self._heads]

    def _first_of(self, study: str) -> str:
        """The name of a study's first file."""
        return next(self._named(head.name) for head in self._heads if head.study == study)

    def _study(self, found: Sequence[Series], rank: Mapping[str, int]) -> Study:
        uid = _uid(found[0].first.study)
        made = _Made()
        for series in found:
            self._add_series(series, made)
        names = [name for series in found for name in (*series.names, *series.copies)]
        name = uid or self._named(min(names, key=rank.__getitem__))
        why = Counter(passed.reason for passed in made.passed_over)
        if why:
            words = ", ".join(f"{reason} ({count})" for reason, count in sorted(why.items()))
            files = "1 file gives" if why.total() == 1 else f"{why.total()} files give"
            self._tell(Note(name, f"{files} no slice: {words}"))
        return Study(name, uid, tuple(made.series), tuple(sorted(made.passed_over)))

    def _add_series(self, series: Series, made: _Made) -> None:
        """Sort the files of a series into its stacks and what is passed over."""
        from edge_runtime.studies.series import NOWHERE, stacks_of

        uid = _uid(series.first.series)
        name = uid or self._named(series.names[0])
        made.pass_over(map(self._named, series.copies), COPY)
        placed, lost, reasons = [], [], Counter[str]()
        for head in series.heads:
            reason = head.aside or (head.useless if head.useless != NOWHERE else "")
            if reason:
                made.pass_over([self._named(head.name)], reason)
                reasons[reason] += 1
            elif head.lost:
                lost.append(head)
            else:
                placed.append(head)
        try:
            stacks = stacks_of(replace(series, heads=placed))
        except InputError as error:
            stacks = []
            made.pass_over([self._named(head.name) for head in placed], one_line(error))
            reasons[one_line(error)] += len(placed)
        sequences = {head.name: head.sequence for head in series.heads}
        for stack in stacks:
            own = self._of_stack(name, series, stack, sequences)
            made.series += self._planes_of(own, stack, f"{name} {len(made.series)}")
        self._pass_over_repeated(name, placed, stacks, made)
        if lost:
            made.series.append(self._of_lost(name, series, lost))
        if reasons and not (stacks or lost):
            most = min(reasons, key=lambda reason: (-reasons[reason], reason))
            made.series.append(
                StudySeries(name, uid, None, series.first.sequence or None,
                            None, 0, lambda: iter(()), most)
            )  # fmt: skip

    def _of_stack(
        self, name: str, series: Series, stack: Stack, sequences: Mapping[str, str]
    ) -> StudySeries:
        sequence = sequences[stack.places[0].file] or None
        uid, slices = _uid(series.first.series), partial(self._slices, stack.places)
        distance, count = stack.distance or None, len(stack.places)
        return StudySeries(name, uid, stack.plane, sequence, distance, count, slices)

    def _planes_of(self, own: StudySeries, stack: Stack, volume: str) -> list[StudySeries]:
        """A stack as it was acquired, and where its slices make an even volume in the other planes;
        or only in the one that was asked for.

        The files are read again for each of these, so that no more than one volume is in memory.
        """
        wanted = [plane for plane in PLANES if self._plane in (None, plane)]
        if is_thick(stack.distance) or len(stack.places) < FEWEST or wanted == [own.plane]:
            return [own]

        def other(
            plane: str, count: int, distance: float | None, reason: str | None
        ) -> StudySeries:
            cut = partial(self._cut, own.name, stack, plane)
            return replace(
                own, plane=plane, count=count, distance=distance, reason=reason,
                slices=(lambda: iter(())) if reason else cut,
            )  # fmt: skip

        try:
            from edge_runtime.studies.volumes import (
                LARGE,
                stack_memory,
                stack_refusal,
                stack_view,
            )

            reason, _ = stack_refusal(stack, self._limits)
            if stack_memory(stack) > self._limits.max_memory:
                reason = reason or LARGE
            view = None if reason else stack_view(stack)
        except ModuleNotFoundError as error:
            reason, view = f"to be cut in other planes it needs the package {error.name}", None
        except InputError as error:
            reason, view = one_line(error), None
        if view is None:
            return [own, *(other(p, 0, None, reason) for p in PLANES if p != own.plane)]
        shape = (*stack.lie.shape[::-1], len(stack.places))
        counts = dict(zip(reversed(PLANES), (shape[axis] for axis in view.order), strict=True))
        between = dict(zip(reversed(PLANES), view.spacing, strict=True))
        found = [own if p == own.plane else other(p, counts[p], between[p], None) for p in wanted]
        return [replace(each, volume=volume) for each in found] if len(found) > 1 else found

    def _cut(self, name: str, stack: Stack, plane: str) -> Iterator[StudySlice]:
        """The slices of a stack in a plane that it was not acquired in."""
        from edge_runtime.studies.frames import SeriesFrames
        from edge_runtime.studies.volumes import stack_cut

        frames = SeriesFrames(
            lambda file: self._files[file].read(self._limits), stack.places, self._limits
        )
        try:
            for number, gray in enumerate(stack_cut(frames, stack, plane)):
                yield StudySlice(name, number, None, gray)
        except InputError as error:
            yield StudySlice(name, None, None, InputError(one_line(error)))

    def _pass_over_repeated(
        self, name: str, placed: Sequence[FileHead], stacks: Sequence[Stack], made: _Made
    ) -> None:
        """Tell of pictures of places of which an earlier one is shown: echoes, phases."""
        if repeated := sum(stack.repeated for stack in stacks):
            self._tell(Note(
                name, f"{repeated:,} pictures of places that another one shows (echoes, time "
                "points): the first of each is used"
            ))  # fmt: skip
        used = {place.file for stack in stacks for place in stack.places}
        others = [self._named(head.name) for head in placed if stacks and head.name not in used]
        made.pass_over(others, REPEATED)

    def _of_lost(self, name: str, series: Series, heads: Sequence[FileHead]) -> StudySeries:
        """A series of files that do not tell where their pictures lie, in the order of their
        numbers, or of their names where they have none of their own."""
        from edge_runtime.studies.series import ORDER, Place

        at = ORDER.index("InstanceNumber")
        by_number = len({head.order[at] for head in heads}) == len(heads)
        ordered = sorted(
            heads, key=lambda head: (head.order[at] if by_number else 0, _natural(head.name))
        )
        places = [
            Place((), head.order, head.name, frame)
            for head in ordered
            for frame in range(head.lost + len(head.places))
        ]
        means = "numbers (InstanceNumber)" if by_number else "names"
        order = "frames" if len(heads) == 1 else means
        self._tell(Note(
            name, f"{len(places):,} pictures that do not all tell where they lie in the patient: "
            f"taken in the order of their {order}"
        ))  # fmt: skip
        uid, sequence = _uid(series.first.series), heads[0].sequence or None
        slices = partial(self._slices, places)
        return StudySeries(name, uid, None, sequence, None, len(places), slices)

    def _slices(self, places: Sequence[Place]) -> Iterator[StudySlice]:
        from edge_runtime.studies.frames import SeriesFrames

        frames = SeriesFrames(
            lambda name: self._files[name].read(self._limits), places, self._limits
        )
        for part in frames.slices():
            yield part._replace(input=self._named(part.input))

    def _named(self, name: str) -> str:
        """What answers call a file."""
        return self._files[name].name


@dataclass
class _Made:
    """What a study is made of so far."""

    series: list[StudySeries] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)

    def pass_over(self, names: Iterable[str], reason: str) -> None:
        self.passed_over += [PassedOver(name, reason) for name in names]


def _uid(text: str) -> str | None:
    """A UID as answers may call it."""
    from edge_runtime.studies.series import is_uid

    return text if is_uid(text) else None


def _ranked(rank: Mapping[str, int]) -> Callable[[Series], int]:
    return lambda series: min(rank[name] for name in (*series.names, *series.copies))


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A name so that slice-2 comes before slice-10."""
    import re

    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
