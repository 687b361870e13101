"""From a zip or folder of labelled slices to arrays in memory."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, UsageError, did_you_mean
from edge_runtime.imaging.preprocess import Preprocess, crop_box, preprocess
from edge_runtime.labels import NO_TUMOR, normalise_label
from edge_runtime.model.metadata import MOST_LABELS, is_label
from trainer.data.boxes import into_input, read_box_tables
from trainer.data.collection import (
    Collection,
    Data,
    are_several,
    collections_of,
    open_data,
    owners_among,
    read_collections,
    tables_of,
)
from trainer.data.groups import (
    GroupTable,
    column,
    group_slices,
    one_group_a_person,
    read_group_tables,
)
from trainer.data.layout import PassedOver, class_spot
from trainer.data.near_duplicates import clusters, thumbnail
from trainer.data.owners import Owner, ties_of
from trainer.data.reading import Picture, Progress, label_warning, read_again
from trainer.data.tables import first_folder
from trainer.data.views import normalise_plane, normalise_sequence, normalised

T = TypeVar("T")


@dataclass(frozen=True)
class Dataset:
    """Preprocessed slices and what is known of each.

    Attributes:
        images: uint8 array of N×size×size.
        labels: int64 array of N, indices into `class_names`.
        paths: name of each slice within the data set: that of its file, see `slice_name`.
        splits: `training`, `testing` or empty (no such folders).
        groups: slices of one group never stand on two sides of a split: those of the table,
            where one was given, joined wherever slices are near-duplicates.
        given_groups: those of the table before they were joined; empty where it says nothing.
        sources: where a slice comes from; empty where nobody knows.
        patients: the patient of a slice; empty where nobody knows.
        planes, sequences: how a slice was taken, see `views`; empty where nobody knows. No network
            learns from them, so they are in no digest: a training that goes on may know more.
        doubts: why a table doubts the label of a slice; empty where it does not, none where it
            doubts none. No model learns from such a slice and nothing is chosen on it; it is
            tested all the same, and the figures without such slices stand beside those with them.
        problems: (path, reason) of files that could not be read.
        passed_over: files that are no pictures to learn from.
        sha256: digest over paths, labels and file contents.
        each_sha256: of several collections the digest that each would have alone.
        thumbnails: uint8 array of N×32×32 of the whole pictures, see `near_duplicates`.
        file_statistics: float32 array of N×10, see `file_statistics`.
        crop_boxes: float32 array of N×4, where the input lies in the picture, see `crop_box`.
        boxes: float64 array of N×4, the tumour's box within the input, see `boxes`; NaN where
            unknown.
        grouped: whether a table gave a group to any slice, rather than near-duplicates only.
        tumour_free: the classes that show no tumour for certain, see `read_dataset`.
        tables: digests of what the tables (`groups`, `boxes`) say of these slices, whatever else
            stands in them; empty without tables.
        origin: the zip or folder that the slices were read from, or the collections; None where
            nobody knows.
        warnings: sentences on classes of which nothing can be read, on volumes, and on what a
            table leaves open.
        owners: whose each slice is, in this process only; may be empty.
        own_groups, own_sources: of several collections the groups and sources that each would have
            alone, from which its slices are divided; empty of one.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    given_groups: tuple[str, ...]
    sources: tuple[str, ...]
    patients: tuple[str, ...]
    planes: tuple[str, ...]
    sequences: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    sha256: str
    thumbnails: npt.NDArray[np.uint8]
    file_statistics: npt.NDArray[np.float32]
    crop_boxes: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float64]
    grouped: bool = False
    tumour_free: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    origin: Path | tuple[Collection, ...] | None = None
    warnings: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()
    each_sha256: tuple[str, ...] = ()
    own_groups: tuple[str, ...] = ()
    own_sources: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def of_several(self) -> bool:
        """Whether the slices are of several collections."""
        return isinstance(self.origin, tuple)

    @property
    def doubtful(self) -> npt.NDArray[np.bool_]:
        """Whether the label of each of the N slices is doubted."""
        return np.array([bool(why) for why in self.doubts or [""] * len(self)], dtype=bool)

    def where(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the slices of a split."""
        return np.flatnonzero(np.asarray(self.splits) == split)

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Dataset:
        """The slices at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)

        def pick(values: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(values[i] for i in chosen)

        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            paths=pick(self.paths),
            splits=pick(self.splits),
            groups=pick(self.groups),
            given_groups=pick(self.given_groups),
            sources=pick(self.sources),
            patients=pick(self.patients),
            planes=pick(self.planes),
            sequences=pick(self.sequences),
            thumbnails=self.thumbnails[chosen],
            file_statistics=self.file_statistics[chosen],
            crop_boxes=self.crop_boxes[chosen],
            boxes=self.boxes[chosen],
            owners=pick(self.owners) if self.owners else (),
            own_groups=pick(self.own_groups) if self.own_groups else (),
            own_sources=pick(self.own_sources) if self.own_sources else (),
            doubts=pick(self.doubts) if self.doubts else (),
        )


def read_dataset(
    origin: Data,
    options: Preprocess,
    *,
    class_names: Sequence[str] | None = None,
    least_classes: int = 2,
    groups_csv: str | os.PathLike[str] | None = None,
    boxes_csv: str | os.PathLike[str] | None = None,
    tumour_free: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read each image of a zip or folder, or of several collections, once; decode and preprocess
    it.

    The class is the name of the folder that holds the file; a folder called Training or Testing
    anywhere above it is the split. Common spellings of the four classes are folded. What is read
    and what is passed over: see `arrange` and the module `archive`; which slices of a volume are
    taken: see `reading`.

    Args:
        origin: the zip or folder, or the collections, of which the paths then begin with the names.
        class_names: the classes and their order; default: those found, sorted.
        least_classes: how many there must be.
        groups_csv: table with the columns path and group, optionally label, source, patient and
            doubt (why the label of a slice is doubted), in place of the collections' own.
        boxes_csv: table of tumours' boxes, see `read_boxes`, likewise.
        tumour_free: the classes without a tumour; default: the class `notumor`, where there is
            one, which counts among several collections in any case. Nothing else tells: a class
            without boxes may merely lack them.
        progress: called with (done, total).

    Raises:
        DataError: no readable image, an unknown class, a hostile archive, an unusable table.
        UsageError: a tumour-free class that is not there.
    """
    collections = collections_of(origin)
    read, passed_over = read_collections(
        collections, lambda picture: _preprocessed(picture, options), progress
    )
    slices = read.kept
    known = _classes({s.label for s in slices}, class_names, least_classes)
    without = _tumour_free(known, tumour_free, are_several(collections))
    unseen = label_warning(((s.label, s.format) for s in slices), without)
    owners, marked = owners_among(collections, [s.path for s in slices], [s.owner for s in slices])
    data = Dataset(
        images=np.stack([s.image for s in slices]),
        labels=np.array([known.index(s.label) for s in slices], dtype=np.int64),
        class_names=known,
        paths=tuple(s.path for s in slices),
        splits=tuple(s.split for s in slices),
        groups=("",) * len(slices),
        given_groups=("",) * len(slices),
        sources=("",) * len(slices),
        patients=("",) * len(slices),
        planes=("",) * len(slices),
        sequences=("",) * len(slices),
        problems=tuple(read.problems),
        sha256=_digest((s.path, s.label, s.split, s.digest) for s in slices),
        thumbnails=np.stack([s.thumbnail for s in slices]),
        file_statistics=np.stack([s.file_statistics for s in slices]),
        crop_boxes=np.array([s.crop_box for s in slices], dtype=np.float32),
        boxes=np.full((len(slices), 4), np.nan),
        tumour_free=without,
        passed_over=passed_over,
        origin=collections if are_several(collections) else collections[0].path,
        warnings=(
            *_lost_classes(known, read.unread, are_several(collections)),
            *read.notes,
            *unseen,
            *marked,
        ),
        owners=owners,
        each_sha256=_each_digest(collections, slices),
    )
    table, left_open = read_group_tables(collections, data.paths, groups_csv, data.owners)
    data = _with_groups(data, [s.pixels for s in slices], collections, groups_csv, table)
    data = replace(data, warnings=(*data.warnings, *left_open))
    return _with_boxes(_with_views(data, collections, table), collections, boxes_csv)


def _with_groups(
    data: Dataset,
    pixels: Sequence[str],
    collections: Sequence[Collection],
    groups_csv: str | os.PathLike[str] | None,
    table: GroupTable,
) -> Dataset:
    """The data with what tables say of groups, sources and patients, joined by looks and, among
    several collections, by patients.

    Args:
        pixels: a digest of each slice's pixels.
        table: the rows of all slices.
    """
    given, sources, patients, doubts = (
        column(table, data.paths, c) for c in ("group", "source", "patient", "doubt")
    )
    if are_several(collections):
        data = _with_own_groups(data, pixels, collections, None if groups_csv is None else table)
        table = one_group_a_person(table)
    tables = dict(data.tables)
    if says_groups(collections, groups_csv):
        said = (data.paths, given, sources, patients, *([doubts] if any(doubts) else []))
        tables["groups"] = _digest(zip(*said, strict=True))
    own = column(table, data.paths, "group")
    ties, odd = ties_of(data.owners, own, tables_of(collections, data.paths, groups_csv))
    return replace(
        data,
        groups=group_slices(own, pixels, clusters(data.thumbnails), *ties),
        given_groups=given,
        sources=sources,
        patients=patients,
        grouped=any(given),
        doubts=doubts if any(doubts) else (),
        tables=tables,
        warnings=(*data.warnings, *odd),
    )


def _with_views(data: Dataset, collections: Sequence[Collection], table: GroupTable) -> Dataset:
    """The data with what tables, and cards where these say nothing, tell of planes and
    sequences."""
    found: dict[str, tuple[str, ...]] = {}
    warnings: tuple[str, ...] = ()
    for name, normalise in (("plane", normalise_plane), ("sequence", normalise_sequence)):
        cells = list(column(table, data.paths, name))
        for each in collections:
            of_card = {view.source: getattr(view, name) for view in each.views}
            for i in each.members(data.paths).values() if of_card else ():
                cells[i] = cells[i] or of_card.get(data.sources[i], "")
        found[name], told = normalised(cells, normalise, name)
        warnings += told
    return replace(
        data,
        planes=found["plane"],
        sequences=found["sequence"],
        warnings=(*data.warnings, *warnings),
    )


def _with_own_groups(
    data: Dataset,
    pixels: Sequence[str],
    collections: Sequence[Collection],
    shared: GroupTable | None,
) -> Dataset:
    """The data of several collections with the groups and sources that each would have alone.

    Args:
        shared: the rows of one table of all, in place of the collections' own.
    """
    groups, sources = [""] * len(data), [""] * len(data)
    for each in collections:
        members = each.members(data.paths)
        paths, at = tuple(members), np.array(list(members.values()), dtype=np.int64)
        owners = each.own_owners(data.owners, members)
        rows = (
            read_group_tables([replace(each, name="")], paths, owners=owners)[0]
            if shared is None
            else {path: shared[each.prefix + path] for path in paths}
        )
        own = [group.removeprefix(each.prefix) for group in column(rows, paths, "group")]
        named = group_slices(
            own, [pixels[i] for i in at], clusters(data.thumbnails[at]), *ties_of(owners, own)[0]
        )
        for i, group, source in zip(at, named, column(rows, paths, "source"), strict=True):
            groups[i], sources[i] = group, source
    return replace(data, own_groups=tuple(groups), own_sources=tuple(sources))


def says_groups(
    collections: Sequence[Collection], groups_csv: str | os.PathLike[str] | None
) -> bool:
    """Whether anything but names and looks says which slices belong together, or where they come
    from."""
    return groups_csv is not None or any(each.groups_csv or each.source for each in collections)


def _with_boxes(
    data: Dataset, collections: Sequence[Collection], boxes_csv: str | os.PathLike[str] | None
) -> Dataset:
    """The data with the tumours' boxes of tables, which are those of whole pictures there."""
    boxes = read_box_tables(collections, data.paths, boxes_csv, data.owners)
    if boxes is None:
        return data
    rows = ((path, *map(repr, box.tolist())) for path, box in zip(data.paths, boxes, strict=True))
    tables = {**data.tables, "boxes": _digest(rows)}
    return replace(data, boxes=into_input(boxes, data.crop_boxes), tables=tables)


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
    wanted = [data.paths[row] for row in rows]
    try:
        again = dict(read_again(open_data(data.origin), wanted))
    except (DataError, OSError):
        return [None] * len(rows)
    found = [again.get(path) for path in wanted]
    return [
        gray if gray is not None and np.array_equal(thumbnail(gray), data.thumbnails[row]) else None
        for row, gray in zip(rows, found, strict=True)
    ]


class _Slice(NamedTuple):
    """What is kept of a `Picture`, and the model's input."""

    path: str
    label: str
    split: str
    digest: str  # of the file, and its number there
    pixels: str
    image: npt.NDArray[np.uint8]
    thumbnail: npt.NDArray[np.uint8]
    file_statistics: npt.NDArray[np.float32]
    crop_box: tuple[float, float, float, float]
    owner: Owner
    format: str


def _preprocessed(picture: Picture, options: Preprocess) -> _Slice:
    return _Slice(
        picture.path,
        picture.label,
        picture.split,
        picture.sha256.hex(),
        picture.pixels,
        preprocess(picture.gray, options),
        picture.thumbnail,
        picture.file_statistics,
        crop_box(picture.gray, options),
        picture.owner,
        picture.header.format,
    )


def _classes(found: set[str], wanted: Sequence[str] | None, least: int) -> tuple[str, ...]:
    known = tuple(wanted) if wanted is not None else tuple(sorted(found))
    if unknown := sorted(found - set(known)):
        raise DataError(f"classes {unknown} are not among the model's {list(known)}")
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


def _lost_classes(known: Sequence[str], unread: Sequence[str], several: bool) -> list[str]:
    """A sentence on each class that is none since none of its pictures could be read."""
    names = (name.removeprefix(first_folder(name) if several else "") for name in unread)
    spots = [spot for name in names if (spot := class_spot(name)) is not None]
    lost = Counter(label for label, _ in spots if label not in known)
    return [
        f"no picture of {label} could be read ({count:,} tried), so it is no class"
        for label, count in sorted(lost.items())
    ]


def _tumour_free(
    known: Sequence[str], wanted: Sequence[str] | None, several: bool
) -> tuple[str, ...]:
    default = {NO_TUMOR} & set(known)
    if wanted is None:
        return tuple(default)
    named = {normalise_label(name) for name in wanted}
    if several:  # the card that names others knows nothing of what another DATA calls so
        named |= default
    if unknown := sorted(named - set(known)):
        near = did_you_mean(unknown[0], known)
        raise UsageError(
            f"tumour-free classes {unknown} are not in the data; it has {list(known)}{near}"
        )
    if named >= set(known):
        raise DataError("every class is named tumour-free: nothing is left to be found")
    return tuple(name for name in known if name in named)


def check_boxes(data: Dataset) -> None:
    """Refuse data whose table of boxes says that a class without tumours shows some.

    Raises:
        DataError: a box in a slice of a tumour-free class.
    """
    tumour_free = np.isin(data.labels, [data.class_names.index(name) for name in data.tumour_free])
    wrong = np.flatnonzero(tumour_free & ~np.isnan(data.boxes).any(axis=1))
    if wrong.size:
        label = data.class_names[data.labels[wrong[0]]]
        raise DataError(
            f"{data.paths[wrong[0]]} has a tumour's box, but {label} is a class without tumours "
            f"({wrong.size} such slices): correct the table, or name other classes with "
            "--tumour-free"
        )


def given_away_by_source(data: Dataset) -> tuple[str, ...]:
    """A sentence on the classes that share no source with any other: a model may tell them by
    their source, and no figure on these data would show it."""
    classes: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}
    for label, source in zip(data.labels.tolist(), data.sources, strict=True):
        name = data.class_names[label]
        classes.setdefault(source, set()).add(name)
        sources.setdefault(name, set()).add(source)
    alone = [
        name
        for name in data.class_names
        if name in sources and all(len(classes[source]) == 1 for source in sources[name])
    ]
    if not alone:
        return ()
    return (
        f"{', '.join(alone)}: from no source that another class comes from; a model may learn the "
        "source in place of the class, and no figure on these data would show it",
    )


def _each_digest(collections: Sequence[Collection], slices: Sequence[_Slice]) -> tuple[str, ...]:
    found = []
    for each in collections if are_several(collections) else ():
        members = each.members([s.path for s in slices])
        own = ((path, slices[i]) for path, i in members.items())
        found.append(_digest((path, s.label, s.split, s.digest) for path, s in own))
    return tuple(found)


def _digest(rows: Iterable[Sequence[str]]) -> str:
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
