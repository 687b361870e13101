"""Slices whose class is known only to be one of several, such as tumours of unknown type."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError
from edge_runtime.imaging.preprocess import Preprocess
from edge_runtime.labels import NO_TUMOR, normalise_label
from trainer.data.collection import Data, title_of
from trainer.data.dataset import Dataset, read_dataset
from trainer.data.near_duplicates import find_pairs
from trainer.data.owners import patients_of
from trainer.data.reading import Progress
from trainer.data.split import SOURCE, Split, leaders
from trainer.data.tables import first_folder

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PartialLabels:
    """Partially labelled slices, in a `Dataset` whose classes are the sets.

    Attributes:
        slices: the slices; `labels` are indices into `sets`, `class_names` the folders' names.
        sets: bool array of S×C: which of the C classes each set allows.
        touches: for each slice, the groups of the typed data that its own group shares a
            picture, a patient or a near-duplicate with.
    """

    slices: Dataset
    sets: npt.NDArray[np.bool_]
    touches: tuple[frozenset[str], ...]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def targets(self) -> npt.NDArray[np.float32]:
        """N×C: 1 for each class that a slice may be of."""
        return self.sets[self.slices.labels].astype(np.float32)

    def take(self, chosen: Indices) -> PartialLabels:
        """The slices at `chosen`, in that order."""
        return PartialLabels(
            self.slices.take(chosen), self.sets, tuple(self.touches[i] for i in chosen)
        )

    def to_json(self) -> dict[str, Any]:
        """What run.json says of them."""
        return {
            "sha256": self.slices.sha256,
            "images": len(self),
            "groups": len(set(self.slices.groups)),
            "unreadable": len(self.slices.problems),
            "passed_over": sum(len(each.paths) for each in self.slices.passed_over),
            "sets": list(self.slices.class_names),
        }


def is_partial(label: str, labels: Iterable[str]) -> bool:
    """Whether a label only says that a slice is of one of several classes.

    Args:
        labels: all that there are: `tumor` is a class of its own where no tumour has a type.
    """
    if "+" in label:
        return True
    typed = (each for each in labels if not (_is_any_tumour(each) or each == NO_TUMOR))
    return _is_any_tumour(label) and any("+" not in each for each in typed)


def partial_classes(data: Dataset) -> list[str]:
    """A sentence on each class of which the slices may be of other classes."""
    known = data.class_names
    return [
        f"{label}: learned as a class of its own, though its slices may be of another; they are "
        "for --partial, and btc-data join puts them there"
        for label in known
        if is_partial(label, known)
    ]


def _is_any_tumour(label: str) -> bool:
    return label.lower() in ("tumor", "tumour", "yes")  # yes: of yes and no, as some sets have it


def allowed_classes(
    folder: str, classes: Sequence[str], tumour_free: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """The classes that a folder's name allows: `A+B` names them; `tumor` is all that are not
    tumour-free.

    Raises:
        DataError: an unknown class, or a name that tells nothing.
    """
    if _is_any_tumour(folder) and tumour_free:
        return np.array([name not in tumour_free for name in classes])
    named = {normalise_label(part) for part in re.split(r"\s*\+\s*", folder)}
    if unknown := sorted(named - set(classes)):
        without = ", ".join(tumour_free) or "those of --tumour-free, which are not given"
        raise DataError(
            f"partial labels: folder {folder!r} names {unknown}; name classes of "
            f"{list(classes)} joined by +, or tumor for all but {without}"
        )
    return np.array([name in named for name in classes])


def read_partial_labels(
    origin: Data,
    options: Preprocess,
    data: Dataset,
    *,
    groups_csv: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> PartialLabels:
    """Read partially labelled slices that stand beside `data`.

    Args:
        origin: zip or folder, or collections, which are called as those of `data` that they belong
            to; the folder that holds a file names the set, see `allowed_classes`.
        options: preprocessing, as for `data`.
        data: the typed slices.
        groups_csv: table as for `data`. It, or a collection's own, may name groups of `data`.
        progress: called with (done, total).

    Raises:
        DataError: as `read_dataset`, and a set that is all of the classes.
    """
    slices = read_dataset(
        origin, options, least_classes=1, groups_csv=groups_csv, progress=progress
    )
    sets = np.stack(
        [allowed_classes(name, data.class_names, data.tumour_free) for name in slices.class_names]
    )
    if sets.all(axis=1).any():
        raise DataError(f"{title_of(origin)}: a folder that allows every class teaches nothing")
    touches = _touched(slices, data)
    return PartialLabels(slices, sets, touches)


def _touched(slices: Dataset, data: Dataset) -> tuple[frozenset[str], ...]:
    by_group: dict[str, set[str]] = {g: set() for g in slices.groups}
    of_tie: dict[object, set[str]] = defaultdict(set)
    for ties, group in zip(_ties(data), data.groups, strict=True):
        for tie in ties:
            of_tie[tie].add(group)
    for ties, group in zip(_ties(slices), slices.groups, strict=True):
        for tie in ties & of_tie.keys():
            by_group[group] |= of_tie[tie]
    for pairs in find_pairs(slices.thumbnails, data.thumbnails):
        for mine, theirs in zip(pairs.first, pairs.second, strict=True):
            by_group[slices.groups[mine]].add(data.groups[theirs])
    patients = patients_of((*slices.owners, *data.owners))[0]
    known: dict[bytes, set[str]] = {}
    for patient, group in zip(patients[len(slices.owners) :], data.groups, strict=False):
        known.setdefault(patient, set()).add(group)
    for patient, group in zip(patients[: len(slices.owners)], slices.groups, strict=False):
        if patient:
            by_group[group] |= known.get(patient, set())
    return tuple(frozenset(by_group[g]) for g in slices.groups)


def _ties(slices: Dataset) -> Iterator[set[object]]:
    """What ties each slice to others: its group, also as its table called it before groups were
    joined, and its patient, where the source is known too.

    A patient may begin with the source's name, which the tables of several collections put there.
    """
    known = (slices.groups, slices.given_groups, slices.sources, slices.patients)
    for group, given, source, patient in zip(*known, strict=True):
        person = {(source, patient.removeprefix(f"{source}/"))} if source and patient else set()
        yield {group, *({given} - {""}), *person}


def divide(
    partial: PartialLabels, data: Dataset, split: Split, seed: int
) -> tuple[Indices, Indices]:
    """The partially labelled slices that a training on `split` may learn from, and those that
    measure it afterwards.

    A slice that touches a group on the test side is tested, one that touches a group of the
    validation side is on neither side, one that touches only training groups is learned from. All
    others are divided by their own groups into `split.parts` parts, of which `split.part` is
    tested. Where the protocol tests on a source, every slice of that source is tested.

    Returns:
        Indices into `partial.slices`.
    """
    groups = np.asarray(data.groups)
    validation, tested = set(groups[split.validation]), set(groups[split.test])
    drawn = _drawn(partial, data, seed) % split.parts
    source = split.protocol.removeprefix(SOURCE) if split.protocol.startswith(SOURCE) else None
    train, test = [], []
    for i, touched in enumerate(partial.touches):
        new = not touched and drawn[i] == split.part
        if touched & tested or partial.slices.sources[i] == source or new:
            test.append(i)
        elif not touched & validation:
            train.append(i)
    return np.array(train, dtype=np.int64), np.array(test, dtype=np.int64)


def _drawn(partial: PartialLabels, data: Dataset, seed: int) -> Indices:
    """A number for each slice that touches nothing; slices of one group have the same.

    Each of several collections draws by itself, as it would alone, see `trainer.data.split`: so it
    counts what touches only others' slices too.
    """
    slices = partial.slices
    own = slices.own_groups or slices.groups
    homes = [first_folder(path) for path in slices.paths] if slices.own_groups else [""] * len(own)
    typed: dict[str, set[str]] = defaultdict(set)
    for path, group in zip(data.paths, data.groups, strict=True):
        typed[first_folder(path) if data.own_groups else ""].add(group)
    everything = set(data.groups)
    free: dict[str, set[str]] = defaultdict(set)
    for home, group, touched in zip(homes, own, partial.touches, strict=True):
        if not touched & typed.get(home, everything):
            free[home].add(group)
    number: dict[tuple[str, str], int] = {}
    for home, names in free.items():
        drawn = np.random.default_rng([seed, 4]).permutation(len(names)).tolist()
        number |= {(home, group): n for group, n in zip(sorted(names), drawn, strict=True)}
    each = [number.get(key, -1) for key in zip(homes, own, strict=True)]
    return np.array(each, dtype=np.int64)[leaders(slices, np.arange(len(slices)))]
