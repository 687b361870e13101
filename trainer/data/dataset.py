"""From a zip or folder of labelled slices to arrays in memory."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DataError, InputError, one_line
from edge_runtime.images import decode
from edge_runtime.labels import fold_label
from edge_runtime.preprocess import Preprocess, preprocess
from trainer.data.archive import open_source

SPLITS = {"training": "training", "train": "training", "testing": "testing", "test": "testing"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Dataset:
    """Preprocessed slices and what is known of each.

    Attributes:
        images: uint8 array of N×size×size.
        labels: int64 array of N, indices into `class_names`.
        paths: name of each file within the data set.
        splits: `training`, `testing` or empty (no such folders).
        groups: slices of one group never stand on two sides of a split.
        sources: where a slice comes from; empty where nobody knows.
        patients: the patient of a slice; empty where nobody knows.
        problems: (path, reason) of files that could not be read.
        sha256: digest over paths, labels and file contents.
        grouped: whether `groups` came from a table rather than from equal pictures only.
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
    grouped: bool = False

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
        )


def read_dataset(
    path: str | os.PathLike[str],
    options: Preprocess,
    *,
    class_names: Sequence[str] | None = None,
    groups_csv: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read each image of a zip or folder once, decode and preprocess it.

    The class is the name of the folder that holds the file; a folder called Training or Testing
    anywhere above it is the split. Common spellings of the four classes are folded.

    Args:
        class_names: the classes and their order; default: those found, sorted.
        groups_csv: table with the columns path and group, optionally label, source, patient.
        progress: called with (done, total).

    Raises:
        DataError: no readable image, an unknown class, a hostile archive, an unusable table.
    """
    source = open_source(path)
    names = source.names()
    images: list[npt.NDArray[np.uint8]] = []
    rows: list[tuple[str, str, str, str]] = []  # path, label, split, digest
    problems: list[tuple[str, str]] = []
    for done, name in enumerate(names, 1):
        try:
            label, split = _place(name)
            data = source.read(name)
            images.append(preprocess(decode(data), options))
            rows.append((name, label, split, hashlib.sha256(data).hexdigest()))
        except InputError as error:
            problems.append((name, one_line(error)))
        if progress is not None:
            progress(done, len(names))
    if not rows:
        raise DataError(
            f"{Path(path).name}: no readable image in class folders "
            f"({len(problems)} unreadable); need CLASS/image.jpg or Training/CLASS/image.jpg"
        )
    found = sorted({row[1] for row in rows})
    known = tuple(class_names) if class_names is not None else tuple(found)
    if strange := sorted(set(found) - set(known)):
        raise DataError(f"classes {strange} are not among the model's {list(known)}")
    if len(known) < 2:
        raise DataError(f"only one class ({known[0]}); need at least two")
    pixels = np.stack(images)
    table = _read_groups(groups_csv, {row[0] for row in rows}) if groups_csv else {}
    same = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]
    total = hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
    extra = [table.get(row[0], {}) for row in rows]
    return Dataset(
        images=pixels,
        labels=np.array([known.index(row[1]) for row in rows], dtype=np.int64),
        class_names=known,
        paths=tuple(row[0] for row in rows),
        splits=tuple(row[2] for row in rows),
        groups=tuple(e.get("group") or f"same-{s}" for e, s in zip(extra, same, strict=True)),
        sources=tuple(e.get("source", "") for e in extra),
        patients=tuple(e.get("patient", "") for e in extra),
        problems=tuple(problems),
        sha256=total,
        grouped=bool(table),
    )


def _place(name: str) -> tuple[str, str]:
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise InputError("lies in no class folder")
    split = next((SPLITS[p.lower()] for p in parts[:-2] if p.lower() in SPLITS), "")
    if parts[-2].lower() in SPLITS:
        raise InputError("lies in no class folder")
    return fold_label(parts[-2]), split


def _read_groups(path: str | os.PathLike[str], wanted: set[str]) -> dict[str, dict[str, str]]:
    table = Path(path)
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            if not {"path", "group"} <= columns:
                raise DataError(f"{table.name}: need the columns path and group")
            rows = {row["path"]: {k: v or "" for k, v in row.items() if k} for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table.name}: cannot be read as CSV: {one_line(error)}") from None
    # A zip may wrap everything in one more folder than the table knows.
    matched = {name: rows[key] for name in wanted if (key := _key(name, rows)) is not None}
    if len(matched) < len(wanted):
        missing = min(wanted - set(matched))
        raise DataError(
            f"{table.name}: no row for {len(wanted) - len(matched)} of {len(wanted)} images, "
            f"such as {missing}"
        )
    return matched


def _key(name: str, rows: dict[str, dict[str, str]]) -> str | None:
    while name not in rows:
        if "/" not in name:
            return None
        name = name.partition("/")[2]
    return name
