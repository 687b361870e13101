"""What volumes a folder or zip holds: NIfTI files and DICOM series, and what else there is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.kinds import gzipped_kind, halves_of, kind_of, other_halves
from edge_runtime.imaging.limits import ImageLimits
from edge_runtime.studies.series import FileHead, Series, group_series, read_file_head
from trainer.data.archive import MAX_VOLUME_BYTES, ImageArchive
from trainer.data.layout import PassedOver
from trainer.prepare.folder import Dropped
from trainer.prepare.volumes.masks import is_mask, stem_of

if TYPE_CHECKING:
    from trainer.prepare.volumes.pseudonyms import Pseudonyms

    Progress = Callable[[int, int], None]

# More than a device takes: this is a workstation.
LIMITS = ImageLimits(max_bytes=MAX_VOLUME_BYTES, max_memory=MAX_VOLUME_BYTES)
BEGIN = 1 << 16  # bytes of a file that are read at first: nearly every header ends there

# Why an input gives no slice, beside what its readers say.
EMPTY = "empty file"
PICTURE = "a picture, no volume: btc-train reads class folders of pictures as they are"
OTHER = "neither DICOM nor NIfTI"
MASK = "a mask by its name, no picture"
HALF = "half of a NIfTI pair: its .hdr is missing"
COPY = "a copy of another file of its series"
TOGETHER = (PICTURE, OTHER, MASK)  # all files of one reason are told in one line
# How reasons begin that go on with a text or name of the file's, and what is written for them.
QUOTING = {
    "damaged in the archive": "damaged in the archive",
    "not supported: a DICOM file compressed as": "not supported: a DICOM file of an unknown "
    "compression",
}


@dataclass
class Tell:
    """Lines for the user.

    Attributes:
        problem: takes what was dropped, and why.
        note: takes anything else.
    """

    problem: Callable[[str, str], None]
    note: Callable[[str], None]

    def drop(self, what: str, reason: str, more: str = "") -> Dropped:
        """Tell that something gives no slice, and why.

        Args:
            more: of the reason, for the terminal alone.
        """
        self.problem(what, f"{reason} ({more})" if more else reason)
        plain = next((to for start, to in QUOTING.items() if reason.startswith(start)), reason)
        return Dropped(what, plain)


@dataclass
class Unit:
    """A NIfTI file or a DICOM series.

    Attributes:
        item: what tells it from all others, as a keyed digest.
        what: its name for the terminal.
        paths: of its files.
        names: what tables and masks may call it, and no other volume.
        patients: what a table may call its patient.
        series: of DICOM; None for NIfTI.
    """

    item: str
    what: str
    paths: list[str]
    names: list[str]
    patients: list[str]
    series: Series | None = None


@dataclass
class Found:
    """All that an archive holds: its volumes, and what gives none, once for each file or series, by
    keyed digests."""

    units: list[Unit] = field(default_factory=list)
    dropped: dict[str, list[Dropped]] = field(default_factory=dict)


def find_units(
    archive: ImageArchive,
    is_left_out: Callable[[str], bool],
    pseudonyms: Pseudonyms,
    tell: Tell,
    progress: Progress,
) -> Found:
    """Read what every file says of itself; what is of no use is told.

    Args:
        archive: lists every file.
        is_left_out: whether a file is none of them, such as a mask that is asked for.
        progress: called with how many files are done, and of how many.

    Raises:
        DataError: no volume.
    """
    names = [name for name in archive.names() if not is_left_out(name)]
    present = set(names)
    useless: dict[str, list[str]] = defaultdict(list)  # files by reason
    heads: list[FileHead] = []
    found = Found()
    for done, name in enumerate(names):
        progress(done, len(names))
        if _is_second_half(name, present):
            continue
        try:
            head = look_at(archive, name)
        except InputError as error:
            useless[one_line(error)].append(name)
            continue
        if head is None:
            found.units.append(_nifti_unit(name, pseudonyms))
        else:
            heads.append(head)
    progress(len(names), len(names))
    for path, reason in archive.others():
        useless[reason].append(path)
    for reason, files in sorted(useless.items()):
        for part in [files] if reason in TOGETHER else [[file] for file in files]:
            item = pseudonyms.of("file", reason, *part)
            found.dropped[item] = [tell.drop(_words(part), reason)] * len(part)
    for series in group_series(heads, archive.size):
        unit = _dicom_unit(series, pseudonyms)
        for files, reason in _useless_parts(series):
            item = pseudonyms.of("part", unit.item, reason)
            found.dropped[item] = [tell.drop(_words(files), reason)]
        if series.heads:
            found.units.append(unit)
    if not found.units:
        raise DataError("no DICOM series and no NIfTI volume to cut: see the lines above")
    shared = Counter(name for unit in found.units for name in {*unit.names})
    for unit in found.units:
        unit.names = [name for name in unit.names if shared[name] == 1]
    return found


def look_at(archive: ImageArchive, name: str) -> FileHead | None:
    """What a DICOM file says of itself; None for a NIfTI file.

    Raises:
        InputError: why it is of no use.
    """
    data = archive.begin(name, BEGIN)
    if not data:
        raise InputError(EMPTY)
    kind = kind_of(data) or gzipped_kind(data)
    if kind is not None and kind.name == "dicom":
        head = read_file_head(name, data, LIMITS, cut_off=len(data) == BEGIN)
        return head or read_file_head(name, archive.read(name), LIMITS, cut_off=False)
    halves = halves_of(name)
    if halves and kind is None and not name.lower().endswith(halves[0]):
        raise InputError(HALF)
    if not halves and (kind is None or kind.name != "nifti"):
        raise InputError(OTHER if kind is None else PICTURE)
    if is_mask(name):
        raise InputError(MASK)
    return None


def bids_subject(name: str) -> str:
    """What stands behind `sub-` in a path (BIDS 1.9, entity `sub`); empty where nothing does."""
    for part in reversed(PurePosixPath(name).parts):
        found = re.match(r"sub-([0-9A-Za-z+]+)", part)
        if found:
            return found[1]
    return ""


def _is_second_half(name: str, present: set[str]) -> bool:
    """Whether a file holds the voxels of a pair whose header is there, too."""
    halves = halves_of(name)
    voxels = bool(halves) and not name.lower().endswith(halves[0])
    return voxels and not present.isdisjoint(other_halves(name))


def _nifti_unit(name: str, pseudonyms: Pseudonyms) -> Unit:
    stem, base = stem_of(name), PurePosixPath(name).name
    names = [name, stem, base, PurePosixPath(stem).name]
    subject = bids_subject(name)
    patients = [subject] if subject else [base, PurePosixPath(stem).name]
    return Unit(pseudonyms.of("nifti", name), name, [name], names, patients)


def _dicom_unit(series: Series, pseudonyms: Pseudonyms) -> Unit:
    names = series.names
    folders = {PurePosixPath(name).parent.as_posix() for name in names}
    called = [series.first.series] if series.first.series else []
    if len(folders) == 1:
        folder = folders.pop()
        called += [folder, PurePosixPath(folder).name]
    words = names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
    patients = [series.first.patient] if series.first.patient else []
    return Unit(pseudonyms.of("series", *series.identity), words, names, called, patients, series)


def _useless_parts(series: Series) -> Iterator[tuple[list[str], str]]:
    """Files of a series that give no slice, and why; they are left out of it."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for head in series.heads:
        if head.useless:
            reasons[head.useless].append(head.name)
    if series.copies:
        reasons[COPY] += series.copies
    series.heads = [head for head in series.heads if not head.useless]
    for reason, names in sorted(reasons.items()):
        yield sorted(names), reason


def _words(names: Sequence[str]) -> str:
    return PassedOver("", "", tuple(names)).words
