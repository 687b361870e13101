"""From a zip or folder of labelled slices to arrays in memory."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.imaging.decode import decode
from edge_runtime.imaging.preprocess import Preprocess, crop_box, preprocess
from edge_runtime.labels import NO_TUMOR, normalise_label
from edge_runtime.model.metadata import MOST_LABELS, is_label
from trainer.data.archive import ANYWHERE, NO_PICTURE, Source, open_source
from trainer.data.boxes import into_input, read_boxes
from trainer.data.file_statistics import describe
from trainer.data.near_duplicates import clusters, merge_groups, thumbnail
from trainer.data.tables import key_of, read_table

SPLITS = {"training": "training", "train": "training", "testing": "testing", "test": "testing"}
OUTSIDE = "in no class folder of Training or Testing"
NO_CLASS = "no picture that is read here, so no class"
ONE_SIDED = "no picture that is read here"
NAMED = 3  # files of a kind that are told by name
Progress = Callable[[int, int], None]


class PassedOver(NamedTuple):
    """Files (or folders) that were not read, all for one reason.

    Attributes:
        kind: what they have in common, such as a suffix; may be empty.
        reason: why.
        paths: their names within the data set.
    """

    kind: str
    reason: str
    paths: tuple[str, ...]

    @property
    def words(self) -> str:
        """The first of them by name, and how many more there are."""
        named = ", ".join(self.paths[:NAMED])
        more = len(self.paths) - NAMED
        return f"{named} and {more:,} more {self.kind}".rstrip() if more > 0 else named


@dataclass(frozen=True)
class Dataset:
    """Preprocessed slices and what is known of each.

    Attributes:
        images: uint8 array of N×size×size.
        labels: int64 array of N, indices into `class_names`.
        paths: name of each file within the data set.
        splits: `training`, `testing` or empty (no such folders).
        groups: slices of one group never stand on two sides of a split: those of the table,
            where one was given, joined wherever slices look alike (see `lookalikes`).
        sources: where a slice comes from; empty where nobody knows.
        patients: the patient of a slice; empty where nobody knows.
        problems: (path, reason) of files that could not be read.
        passed_over: files that are no pictures to learn from.
        sha256: digest over paths, labels and file contents.
        thumbnails: uint8 array of N×32×32 of the whole pictures, see `lookalikes`.
        properties: float32 array of N×10, see `properties`.
        frames: float32 array of N×4, where the input lies in the picture, see `crop_box`.
        boxes: float64 array of N×4, the tumour's box within the input, see `boxes`; NaN where
            unknown.
        grouped: whether a table gave a group to any slice, rather than look-alikes only.
        tumour_free: the classes that show no tumour for certain, see `read_dataset`.
        tables: digests of what the tables (`groups`, `boxes`) say of these slices, whatever else
            stands in them; empty without tables.
        origin: the zip or folder that the slices were read from; None where nobody knows.
        warnings: sentences on classes of which nothing can be read, and on what a table leaves
            open.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    patients: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    sha256: str
    thumbnails: npt.NDArray[np.uint8]
    properties: npt.NDArray[np.float32]
    frames: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float64]
    grouped: bool = False
    tumour_free: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    origin: Path | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the slices of a split."""
        return np.flatnonzero(np.asarray(self.splits) == split)

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Dataset:
        """The slices at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[i] for i in chosen)

        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            paths=pick(self.paths),
            splits=pick(self.splits),
            groups=pick(self.groups),
            sources=pick(self.sources),
            patients=pick(self.patients),
            thumbnails=self.thumbnails[chosen],
            properties=self.properties[chosen],
            frames=self.frames[chosen],
            boxes=self.boxes[chosen],
        )


def read_dataset(
    path: str | os.PathLike[str],
    options: Preprocess,
    *,
    class_names: Sequence[str] | None = None,
    least_classes: int = 2,
    groups_csv: str | os.PathLike[str] | None = None,
    boxes_csv: str | os.PathLike[str] | None = None,
    tumour_free: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read each image of a zip or folder once, decode and preprocess it.

    The class is the name of the folder that holds the file; a folder called Training or Testing
    anywhere above it is the split. Common spellings of the four classes are folded. What is read
    and what is passed over: see `arrange` and the module `archive`.

    Args:
        class_names: the classes and their order; default: those found, sorted.
        least_classes: how many there must be.
        groups_csv: table with the columns path and group, optionally label, source, patient.
        boxes_csv: table of tumours' boxes, see `read_boxes`.
        tumour_free: the classes without a tumour; default: the class `notumor`, where there is
            one. Nothing else tells: a class without boxes may merely lack them.
        progress: called with (done, total).

    Raises:
        DataError: no readable image, an unknown class, a hostile archive, an unusable table.
    """
    source = open_source(path)
    names, passed_over = arrange(source)
    slices: list[_Slice] = []
    problems: list[tuple[str, str]] = []
    for done, name in enumerate(names, 1):
        try:
            slices.append(_read_slice(name, source.read, options))
        except InputError as error:
            problems.append((name, one_line(error)))
        if progress is not None:
            progress(done, len(names))
    if not slices:
        raise DataError(
            f"{Path(path).name}: no readable image in class folders "
            f"({len(problems)} unreadable{told_over(passed_over)}); "
            "need CLASS/image.jpg or Training/CLASS/image.jpg"
        )
    known = _classes({s.label for s in slices}, class_names, least_classes)
    table = read_groups(groups_csv, {s.path for s in slices}) if groups_csv else {}
    extra = [table.get(s.path, {}) for s in slices]
    thumbnails = np.stack([s.thumbnail for s in slices])
    # Flat pictures look like nothing; equal ones share a group all the same.
    own = tuple(e.get("group") or f"look-{s.pixels}" for e, s in zip(extra, slices, strict=True))
    frames = np.array([s.frame for s in slices], dtype=np.float32)
    boxes = np.full((len(slices), 4), np.nan)
    tables: dict[str, str] = {}
    if groups_csv is not None:
        said = [(e.get("group", ""), e.get("source", ""), e.get("patient", "")) for e in extra]
        tables["groups"] = _digest((s.path, *e) for s, e in zip(slices, said, strict=True))
    if boxes_csv is not None:
        boxes = read_boxes(boxes_csv, [s.path for s in slices])
        tables["boxes"] = _digest(
            (s.path, *map(repr, box.tolist())) for s, box in zip(slices, boxes, strict=True)
        )
        boxes = into_input(boxes, frames)
    return Dataset(
        images=np.stack([s.image for s in slices]),
        labels=np.array([known.index(s.label) for s in slices], dtype=np.int64),
        class_names=known,
        paths=tuple(s.path for s in slices),
        splits=tuple(s.split for s in slices),
        groups=merge_groups(own, clusters(thumbnails)),
        sources=tuple(e.get("source", "") for e in extra),
        patients=tuple(e.get("patient", "") for e in extra),
        problems=tuple(problems),
        sha256=_digest((s.path, s.label, s.split, s.digest) for s in slices),
        thumbnails=thumbnails,
        properties=np.stack([s.properties for s in slices]),
        frames=frames,
        boxes=boxes,
        grouped=any(e.get("group") for e in extra),
        tumour_free=_tumour_free(known, tumour_free),
        passed_over=passed_over,
        tables=tables,
        origin=Path(path),
        warnings=(*_told_lost(known, problems), *told_ungrouped(groups_csv, table)),
    )


def originals(
    data: Dataset, rows: Sequence[int] | npt.NDArray[np.int64]
) -> list[npt.NDArray[np.uint8] | None]:
    """Slices as their files have them, read again from where `data` came from.

    They only illustrate, so nothing that became of a file since may end a long training: a file
    that is gone, unreadable or holds another picture by now gives None.

    Args:
        rows: indices of the slices.

    Returns:
        For each row uint8 H×W, gray levels 0-255, or None.
    """
    if data.origin is None or not len(rows):
        return [None] * len(rows)
    try:
        source = open_source(data.origin)
    except (DataError, OSError):
        return [None] * len(rows)
    found: list[npt.NDArray[np.uint8] | None] = []
    for row in rows:
        try:
            gray = decode(source.read(data.paths[row]))
        except (InputError, KeyError, OSError):  # KeyError: no such member in the zip
            found.append(None)
            continue
        same = np.array_equal(thumbnail(gray), data.thumbnails[row])
        found.append(gray if same else None)
    return found


class _Slice(NamedTuple):
    path: str
    label: str
    split: str
    digest: str  # of the file
    pixels: str  # digest of the decoded picture
    image: npt.NDArray[np.uint8]
    thumbnail: npt.NDArray[np.uint8]
    properties: npt.NDArray[np.float32]
    frame: tuple[float, float, float, float]


def _read_slice(name: str, read: Callable[[str], bytes], options: Preprocess) -> _Slice:
    label, split = place(name)
    data = read(name)
    gray = decode(data)
    return _Slice(
        name,
        label,
        split,
        hashlib.sha256(data).hexdigest(),
        hashlib.sha256(gray.tobytes()).hexdigest()[:16],
        preprocess(gray, options),
        thumbnail(gray),
        describe(data, gray),
        crop_box(gray, options),
    )


def _classes(found: set[str], wanted: Sequence[str] | None, least: int) -> tuple[str, ...]:
    known = tuple(wanted) if wanted is not None else tuple(sorted(found))
    if strange := sorted(found - set(known)):
        raise DataError(f"classes {strange} are not among the model's {list(known)}")
    if wrong := sorted(name for name in known if not is_label(name)):
        raise DataError(
            f"no model may have a class called {wrong[0]!a}: rename its folder, without "
            "characters that do not show"
        )
    if len(known) > MOST_LABELS:
        raise DataError(
            f"{len(known):,} classes, such as {known[0]}; a model has {MOST_LABELS:,} at most: the "
            "folder that holds a picture is its class"
        )
    if len(known) < least:
        raise DataError(f"only one class ({known[0]}); need at least two")
    return known


def _told_lost(known: Sequence[str], problems: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence on each class that is none since none of its pictures could be read."""
    spots = [spot for name, _ in problems if (spot := _spot(name)) is not None]
    lost = Counter(label for label, _ in spots if label not in known)
    return [
        f"no picture of {label} could be read ({count:,} tried), so it is no class"
        for label, count in sorted(lost.items())
    ]


def _tumour_free(known: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return tuple(name for name in known if name == NO_TUMOR)
    named = {normalise_label(name) for name in wanted}
    if strange := sorted(named - set(known)):
        raise DataError(f"tumour-free classes {strange} are not in the data; it has {list(known)}")
    if named >= set(known):
        raise DataError("every class is called tumour-free: nothing is left to be found")
    return tuple(name for name in known if name in named)


def check_boxes(data: Dataset) -> None:
    """Refuse data whose table of boxes says that a class without tumours shows some.

    Raises:
        DataError: a box in a slice of a tumour-free class.
    """
    clear = np.isin(data.labels, [data.class_names.index(name) for name in data.tumour_free])
    wrong = np.flatnonzero(clear & ~np.isnan(data.boxes).any(axis=1))
    if wrong.size:
        label = data.class_names[data.labels[wrong[0]]]
        raise DataError(
            f"{data.paths[wrong[0]]} has a tumour's box, but {label} is a class without tumours "
            f"({wrong.size} such slices): correct the table, or name other classes with "
            "--tumour-free"
        )


def _digest(rows: Iterable[Sequence[str]]) -> str:
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()


def told_over(passed_over: Sequence[PassedOver]) -> str:
    """How a message goes on about files that were passed over; empty where there are none."""
    count = sum(len(each.paths) for each in passed_over)
    first = next((f", such as {e.paths[0]}: {e.reason}" for e in passed_over), "")
    return f", {count} passed over{first}" if count else ""


def arrange(source: Source) -> tuple[list[str], tuple[PassedOver, ...]]:
    """The pictures of a data set that are to be read, and what is passed over.

    Where there are Training or Testing folders, they say which classes there are: pictures
    elsewhere count only in folders of the same names. Files that are no pictures are told where
    they lie in class folders, and so is a class folder that holds no pictures at all: without a
    word its class would be missing from the model.

    Returns:
        Names of pictures, sorted; those in no class folder are among them, as problems to tell.
    """
    names = source.names()
    places = {name: spot for name in names if (spot := _spot(name)) is not None}
    classes = {label for label, split in places.values() if split}
    outside: list[str] = []
    divided = bool(classes)
    if divided:
        outside = [name for name, (label, _) in places.items() if label not in classes]
    else:
        classes = {label for label, _ in places.values()}
    filled = set(places.values())
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    bare: dict[str, str] = {}  # folders without a picture, and the class that each would be

    def add(path: str, reason: str) -> None:
        suffix = PurePosixPath(path).suffix.lower()
        kind = suffix or ("without a suffix" if reason == NO_PICTURE else "")
        found[kind, reason].append(path)

    for name in outside:
        found["pictures", OUTSIDE].append(name)
    for path, reason in source.others():
        spot = _spot(path)
        if reason in ANYWHERE:
            found["", reason].append(path)
        elif spot is not None and (spot[1] or not divided or spot[0] in classes):
            if spot not in filled and (spot[1] or not divided):
                bare[PurePosixPath(path).parent.as_posix()] = spot[0]
            add(path, reason)
        elif _is_beside_classes(path):
            add(path, reason)
    for folder, label in bare.items():
        found["", ONE_SIDED if label in classes else NO_CLASS].append(folder)
    left_out = set(outside)
    passed_over = [PassedOver(*key, tuple(paths)) for key, paths in sorted(found.items())]
    return [name for name in names if name not in left_out], tuple(passed_over)


def _spot(name: str) -> tuple[str, str] | None:
    try:
        return place(name)
    except InputError:
        return None


def _is_beside_classes(name: str) -> bool:
    """Whether a file lies where class folders are expected."""
    return PurePosixPath(name).parent.name.lower() in SPLITS


def place(name: str) -> tuple[str, str]:
    """The label and the split (`training`, `testing` or empty) that a file's path says.

    Raises:
        InputError: the file lies in no class folder, or its name cannot stand in a table.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError("its name is not UTF-8 and cannot stand in a table") from None
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise InputError("lies in no class folder")
    split = next((SPLITS[p.lower()] for p in parts[:-2] if p.lower() in SPLITS), "")
    if parts[-2].lower() in SPLITS:
        raise InputError("lies in no class folder")
    return normalise_label(parts[-2]), split


def read_groups(path: str | os.PathLike[str], wanted: set[str]) -> dict[str, dict[str, str]]:
    """The row of each image (`wanted`) in a table with the columns path and group.

    Spaces around a cell do not count. Several rows of one image are joined.

    Raises:
        DataError: an unusable table, two rows that say different things of one image, or an image
            without a row.
    """
    rows: dict[str, dict[str, str]] = {}
    for row in read_table(path, ("path", "group")):
        cells = {column: cell.strip() for column, cell in row.items()}
        before = rows.setdefault(cells["path"], cells)
        for column in ("group", "source", "patient", "label"):
            one, other = before.get(column, ""), cells.get(column, "")
            if one and other and one != other:
                raise DataError(
                    f"{Path(path).name}: two rows of {cells['path']} contradict each other: "
                    f"{column} {one} and {column} {other}"
                )
        before |= {column: cell for column, cell in cells.items() if cell}
    matched = {
        name: rows[key] for name in wanted if (key := key_of(name.strip(), rows)) is not None
    }
    if len(matched) < len(wanted):
        missing = min(wanted - set(matched))
        raise DataError(
            f"{Path(path).name}: no row for {len(wanted) - len(matched)} of {len(wanted)} images, "
            f"such as {missing}"
        )
    return matched


def told_ungrouped(
    path: str | os.PathLike[str] | None, table: Mapping[str, Mapping[str, str]]
) -> tuple[str, ...]:
    """A sentence on the images that a table of groups (see `read_groups`) has no group for; none
    where all have one."""
    blank = sum(not row["group"] for row in table.values())
    if path is None or not blank:
        return ()
    return (
        f"{blank:,} of {len(table):,} images have no group in {Path(path).name}; they are grouped "
        "by looks alone",
    )
