"""Slices of Cheng's collection of brain tumours (figshare 1512427), from its MATLAB files.

3,064 files `1.mat` to `3064.mat`, each with a struct `cjdata`, as the collection's README says:
`image` (int16, 512x512, a few of 256x256), `label` (1 meningioma, 2 glioma, 3 pituitary tumour),
`PID` (the patient), `tumorMask`, and `tumorBorder`, x1, y1, x2, y2, … in MATLAB's pixels: counted
from 1, x to the right and y down.

The collection speaks of 233 patients and has 233 identifiers, but 18 of these are followed by
others that differ only in a letter at their end (MR040240, MR040240B, …): series of one patient.
Without the letter 209 are left, and slices of one are kept together.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.gray import as_gray
from edge_runtime.model.metadata import INTENDED_USE
from trainer.data.archive import ImageArchive, open_archive
from trainer.data.card import NAME, DataCard, Source, find_card
from trainer.data.layout import PassedOver, and_passed_over
from trainer.data.reading import Progress
from trainer.prepare.cheng.matlab import MAX_BYTES, Array, MatReader, MatStruct, too_large
from trainer.prepare.folder import CROISSANT, DataFolder, Dropped, NewSlice, content_digest
from trainer.prepare.rows import Box, Row

Pixels = npt.NDArray[np.uint8]

STRUCT = "cjdata"
LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
SEQUENCE = "T1 contrast"
COLLECTION = Source(
    "cheng",
    title="Brain tumor dataset (Jun Cheng)",
    license="CC BY 4.0",
    citation=(
        "Cheng J. et al., Enhanced Performance of Brain Tumor Classification via Tumor Region "
        "Augmentation and Partition, PLOS ONE 10(10):e0140381, 2015; "
        "figshare, doi 10.6084/m9.figshare.1512427"
    ),
    url="https://doi.org/10.6084/m9.figshare.1512427",
)
NOTES = (
    "T1 after contrast; axial, coronal and sagittal slices. The patients are the collection's own "
    "pseudonyms; those that differ only in a letter at their end are one. Gray levels are those "
    f"that the device makes of 16 bits. {INTENDED_USE}"
)
FOLDS = "cvind.mat"

# Why a file is passed over.
OWN_FOLDS = "the collection's own folds: btc-train divides by patient"
NO_MAT = "no .mat file"
NESTED = "a zip within a zip: unpack it"
NOTHING = "a zip without a .mat file"
COPY = "a copy of another file"

# What becomes of a slice whose mask cannot be used.
OTHER_BOX = ": the box is that of tumorBorder"
NO_BOX = ": no box"

FIELDS = ("image", "label", "PID", "tumorMask", "tumorBorder")
_PATIENT = re.compile(r"((?:MR)?\d{1,8})[A-Z]?")  # all 233 are such
_NUMBERED = re.compile(r"0*(\d{1,6})\.mat", re.IGNORECASE)
BEYOND = 1.5  # pixels that a border may lie outside the picture


class MatFile(NamedTuple):
    """A file to read.

    Attributes:
        path: as the user knows it, below the folder or zip: `PART.zip/1.mat`.
        stem: of the name that its slice gets; empty where its content names it.
        archive, name: where it is read from.
    """

    path: str
    stem: str
    archive: ImageArchive
    name: str

    def read(self) -> bytes:
        """The file's bytes. Raises InputError when it cannot be read, or is too large."""
        if self.archive.size(self.name) > MAX_BYTES:
            raise too_large()
        return self.archive.read(self.name)


class Found(NamedTuple):
    """What lies in a folder or zip.

    Attributes:
        files: to read, by their number and name.
        passed_over: what is not read.
    """

    files: Sequence[MatFile]
    passed_over: Sequence[PassedOver]

    @property
    def sha256(self) -> str:
        """A digest of which files there are, by names and sizes."""
        listed = [f"{each.archive.size(each.name)} {each.path}" for each in self.files]
        joined = "\n".join(listed).encode("utf-8", "surrogateescape")
        return hashlib.sha256(joined).hexdigest()


def find_files(place: Path) -> Found:
    """The collection's files in a folder, a zip, or the zips in a folder.

    A folder may hold the four zips as they are downloaded, or what they unpack to, or both: copies
    are passed over.

    Raises:
        DataError: no zip or folder, a hostile one, or no .mat file in it.
    """
    archive = open_archive(place, every=True)
    files, others = _listed(archive, "", None if place.is_dir() else NESTED)
    if place.is_dir():
        for name in archive.names():
            if name.lower().endswith(".zip"):
                try:
                    inner = open_archive(place / name, every=True)
                except DataError as error:  # a hostile or damaged one is its own problem
                    others[str(error).removeprefix(f"{Path(name).name}: ")].append(name)
                    continue
                inside, more = _listed(inner, f"{name}/", NESTED)
                files += inside
                for reason, paths in more.items():
                    others[reason] += paths
                if not inside:
                    others[NOTHING].append(name)
    kept, copies = _without_copies(files)
    if copies:
        others[COPY] += copies
    passed_over = tuple(
        PassedOver("", why, tuple(sorted(paths))) for why, paths in sorted(others.items())
    )
    if not kept:
        raise DataError(
            f"{place}: holds no .mat file of the collection (1.mat to 3064.mat)"
            + and_passed_over(passed_over)
        )
    return Found(kept, passed_over)


def read_slice(data: bytes, stem: str, reader: MatReader) -> tuple[NewSlice, list[str]]:
    """A file's slice, and what is wrong with the tumour's outline, a line each.

    The box is that of the mask, or of the border where there is no mask to go by; a slice without
    either has none.

    Args:
        stem: of the picture's name; empty to name it by the file's content.

    Raises:
        InputError: the file cannot be used.
    """
    found = reader.read(data, STRUCT, FIELDS)
    label = _label(_array(found, "label"))
    patient = _patient(_array(found, "PID"))
    image = _array(found, "image")
    if image.ndim != 2:
        raise InputError(f"image is no slice, its shape is {image.shape}")
    gray = as_gray(np.ascontiguousarray(image))
    mask, box, lines = _outline(found, gray.shape)
    name = f"{label}/{stem or hashlib.sha256(data).hexdigest()[:16]}.png"
    # The plane is not said: there are all three.
    row = Row(name, label, "", COLLECTION.name, patient, patient, sequence=SEQUENCE, box=box)
    return NewSlice(_png(gray), row, None if mask is None else _png(mask)), lines


def read_all(
    files: Sequence[MatFile],
    folder: DataFolder,
    reader: MatReader,
    tell: Callable[[str, str, bool], None],
    progress: Progress,
) -> str:
    """Read the files into a folder, but for those that it has already.

    Args:
        tell: called with a file's path, what is wrong with it, and whether it gave no slice.
        progress: called with (done, total).

    Returns:
        A digest over the files that gave a slice.
    """
    digests = []
    for done, file in enumerate(files):
        progress(done, len(files))
        item, digest = file.path, ""
        try:
            data = file.read()
            digest = hashlib.sha256(data).hexdigest()
            item = f"{file.path} {digest}"  # one that changed is another
            lines = folder.dropped_of(item)
            if lines is None:
                new, lines = read_slice(data, file.stem, reader)
                folder.add(item, [new], [Dropped(file.path, line) for line in lines])
        except InputError as error:
            lines = [one_line(error)]
            if folder.dropped_of(item) is None:
                folder.add(item, [], [Dropped(file.path, lines[0])])
        skipped = any(not line.endswith((OTHER_BOX, NO_BOX)) for line in lines)
        for line in lines:
            tell(file.path, line, skipped)
        if not skipped:
            digests.append(digest)
    progress(len(files), len(files))
    return content_digest(digests)


def sources_of(place: Path, files: Sequence[MatFile]) -> tuple[Source, ...]:
    """The collection, with the addresses, versions and digests that cards state, such as
    `btc-data fetch` leaves: that beside all the data or, where there is none, those of its folders,
    of which each holds a part.

    Args:
        files: where one lies in no such folder, a source without a version stands for it.

    Raises:
        DataError: a wrong card.
    """
    if (of_all := find_card(place)) is not None or not place.is_dir():
        return (_stated(of_all),)
    tops = dict.fromkeys(file.path.partition("/")[0] for file in files)
    cards = [find_card(place / top) if (place / top).is_dir() else None for top in sorted(tops)]
    return tuple(dict.fromkeys(map(_stated, cards)))


def _stated(card: DataCard | None) -> Source:
    """The collection as far as a card knows more of it."""
    sources = () if card is None else card.sources
    for each in sources:
        if each.name == COLLECTION.name or len(sources) == 1:
            url = each.url or COLLECTION.url
            return replace(COLLECTION, url=url, version=each.version, sha256=each.sha256)
    return COLLECTION


def _listed(
    archive: ImageArchive, above: str, nested: str | None
) -> tuple[list[MatFile], dict[str, list[str]]]:
    """The .mat files of an archive, and the other files by the reason why they are not read.

    Args:
        above: what their names are to begin with.
        nested: why zips in it are not read; None where they are.
    """
    files: list[MatFile] = []
    others: dict[str, list[str]] = defaultdict(list)
    for name in archive.names():
        last = PurePosixPath(name).name.lower()
        if last == FOLDS:
            others[OWN_FOLDS].append(above + name)
        elif last.endswith(".mat"):
            number = _NUMBERED.fullmatch(last)
            stem = f"{int(number[1]):04d}" if number else ""
            files.append(MatFile(above + name, stem, archive, name))
        elif last.endswith(".zip"):
            if nested is not None:
                others[nested].append(above + name)
        elif last not in (NAME, CROISSANT):  # cards are read
            others[NO_MAT].append(above + name)
    for path, reason in archive.others():
        others[reason].append(above + path)
    return files, others


def _without_copies(files: Sequence[MatFile]) -> tuple[list[MatFile], list[str]]:
    """The files without copies among those that would get one name, and the copies' paths.

    Different files of one number, and those without a number, are named by their content.
    """
    by_stem: dict[str, list[MatFile]] = defaultdict(list)
    for each in sorted(files, key=lambda file: (file.stem == "", file.stem, file.path)):
        by_stem[each.stem].append(each)
    kept: list[MatFile] = []
    copies: list[str] = []
    for stem, same in by_stem.items():
        if stem and len(same) == 1:
            kept += same
            continue
        first: dict[str, MatFile] = {}
        for each in same:
            try:
                digest = hashlib.sha256(each.read()).hexdigest()
            except InputError:  # reading it again will tell
                digest = each.path
            if digest in first:
                copies.append(each.path)
            else:
                first[digest] = each
        alone = len(first) == 1
        kept += [each if alone else each._replace(stem="") for each in first.values()]
    return kept, copies


def _label(values: Array) -> str:
    number = float(values.ravel()[0]) if values.size == 1 else float("nan")
    if number not in LABELS:
        known = ", ".join(f"{key} {name}" for key, name in LABELS.items())
        raise InputError(f"an unknown label; there are {known}")
    return LABELS[int(number)]


def _patient(values: Array) -> str:
    """The patient of an identifier.

    One that does not look like those of the collection may be a real one, and goes nowhere.
    """
    codes = values.ravel()[:64].tolist()
    letters = "".join(chr(int(code)) if 0 <= code < 128 else "?" for code in codes)
    found = _PATIENT.fullmatch(letters.strip("\0 "))
    if found is None:
        raise InputError("PID is no identifier of the collection, such as 100360 or MR040240B")
    return found[1]


def _array(found: MatStruct, field: str) -> Array:
    """A field's numbers; InputError where they could not be read."""
    if field in found.problems:
        raise InputError(found.problems[field])
    return found.arrays[field]


def _outline(
    found: MatStruct, shape: tuple[int, ...]
) -> tuple[Pixels | None, Box | None, list[str]]:
    """The tumour's mask, its box, and what is wrong with them."""
    try:
        mask = _mask(_array(found, "tumorMask"), shape)
        return mask, _box_of(mask), []
    except InputError as error:
        of_mask = str(error)
    try:
        box = _border_box(_array(found, "tumorBorder"), shape)
    except InputError as error:
        return None, None, [f"{of_mask}, and {error}{NO_BOX}"]
    return None, box, [f"{of_mask}{OTHER_BOX}"]


def _mask(values: Array, shape: tuple[int, ...]) -> Pixels:
    """A tumour's mask, white on black."""
    if values.size == 0:
        raise InputError("tumorMask is empty")
    if values.shape != shape:
        raise InputError("tumorMask is of another size than image")
    if not np.isfinite(values).all():
        raise InputError("tumorMask has values that are not finite")
    inside = np.ascontiguousarray(values != 0)
    if not inside.any():
        raise InputError("tumorMask is all zeros")
    return np.where(inside, np.uint8(255), np.uint8(0))


def _box_of(mask: Pixels) -> Box:
    """The box around what is white."""
    height, width = mask.shape
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    left, top = float(columns[0] / width), float(rows[0] / height)
    return left, top, float((columns[-1] + 1) / width), float((rows[-1] + 1) / height)


def _border_box(values: Array, shape: tuple[int, ...]) -> Box:
    """The box of a tumour's border."""
    if values.size < 6 or values.size % 2:
        raise InputError("tumorBorder is no row of points")
    points = values.ravel().reshape(-1, 2).astype(np.float64)
    if not np.isfinite(points).all():
        raise InputError("tumorBorder has values that are not finite")
    sides = np.array(shape[::-1])
    if (points < 0.5 - BEYOND).any() or (points > sides + 0.5 + BEYOND).any():
        raise InputError("tumorBorder lies outside image")
    points = ((points - 0.5) / sides).clip(0, 1)  # pixel 1 reaches from 0.5 to 1.5
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if left >= right or top >= bottom:
        raise InputError("tumorBorder encloses nothing")
    return float(left), float(top), float(right), float(bottom)


def _png(gray: Pixels) -> bytes:
    import cv2

    encoded: bytes = cv2.imencode(".png", gray)[1].tobytes()
    return encoded
