"""All feature sets, and how a data set's features are computed: in parallel, and once."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import lru_cache, partial
from importlib import metadata

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ModelError, UsageError, did_you_mean
from edge_runtime.imaging.handcrafted import DEVICE_SETS, FeatureSet
from trainer.features.cache import FeatureCache
from trainer.features.gabor import GABOR
from trainer.features.region import REGION

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Those that a device computes too, then the workstation's own: a new one is a row here.
SETS: dict[str, FeatureSet] = {
    each.name: each
    for each in (
        *DEVICE_SETS.values(),
        GABOR,
        REGION,
    )
}
DEEP = "deep"  # the features of a network, which each extractor is given
DEEP_VERSION = 1  # as `FeatureSet.version`

FEW = 64  # slices; fewer are done before other processes have started
BATCH = 32  # slices that a process gets at once
BATCH_BYTES = 2**19  # of them at most: joblib writes larger arrays to files
DEEP_BATCH = 256  # slices between two writes to the cache


def check_sets(sets: Sequence[str]) -> None:
    """Refuse what is not one or more of SETS and `deep`, each at most once.

    Raises:
        UsageError: no set, an unknown one, or one twice.
    """
    unknown = [name for name in sets if name not in SETS and name != DEEP]
    if unknown or not sets:
        what = f"unknown features {unknown[0]!r}" if unknown else "no features"
        near = did_you_mean(unknown[0], [*SETS, DEEP]) if unknown else ""
        raise UsageError(f"{what}; there are {', '.join([*SETS, DEEP])}{near}")
    if len(set(sets)) < len(sets):
        twice = next(name for name in sets if list(sets).count(name) > 1)
        raise UsageError(f"features {twice!r} given twice")


class Extractor:
    """Slices -> features, in parallel, cached by content.

    What a slice gives does not depend on the slices beside it, the number of processes or the
    cache, to the bit (as far as that is so of `deep`).

    Attributes:
        sets: the feature sets, in order.
        names: of the values, `set:part:detail`.
    """

    def __init__(
        self,
        sets: Sequence[str],
        size: int,
        *,
        cache: FeatureCache | None = None,
        deep: Callable[[Pixels], Floats] | None = None,
        deep_key: str = "",
        deep_length: int = 0,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Args:
            sets: names out of SETS, and `deep`; each at most once.
            size: side of the slices in pixels.
            cache: where values are looked up and stored; None computes all of them.
            deep: a network's features, from uint8 N×S×S to float32 N×D.
            deep_key: the network's digest: its features are stored under it.
            deep_length: D.
            workers: processes; None takes one for each core.
            progress: called with (done, total), first with what the cache knew. Slices count
                twice if the sets are `deep` and others.

        Raises:
            UsageError: no set, an unknown one, one twice, or `deep` without a network.
        """
        check_sets(sets)
        if DEEP in sets and (deep is None or not deep_key or deep_length < 1):
            raise UsageError(f"features {DEEP!r} need a network")
        self.sets = tuple(sets)
        self._size = size
        self._cache = cache
        self._deep, self._deep_key, self._deep_length = deep, deep_key, deep_length
        self._workers = workers
        self._progress = progress or (lambda done, total: None)
        names: list[str] = []
        self._columns: dict[str, slice] = {}
        for name in self.sets:
            own = self._names(name)
            self._columns[name] = slice(len(names), len(names) + len(own))
            names += own
        self.names: tuple[str, ...] = tuple(names)

    def __call__(self, images: Pixels) -> Floats:
        """The features of slices.

        Each batch's values are stored when they are there: what an interruption (Ctrl-C) leaves
        is used the next time.

        Args:
            images: uint8 N×S×S as `preprocess` gives them.

        Returns:
            float32 N×F, finite; F is the number of names.

        Raises:
            ValueError: images of another shape or type.
            ModelError: the network's features are not as announced, or not finite.
        """
        shape = (self._size, self._size)
        if images.ndim != 3 or images.shape[1:] != shape or images.dtype != np.uint8:
            raise ValueError(f"{images.dtype} {images.shape} are no slices of {shape}")
        table = np.empty((len(images), len(self.names)), np.float32)
        keys = self._keys(images) if self._cache else {}
        missing = {name: self._recall(name, table, keys.get(name)) for name in self.sets}
        deep = missing.pop(DEEP, None)
        lacking: dict[int, list[str]] = {}
        for name, rows in missing.items():
            for row in rows:
                lacking.setdefault(row, []).append(name)

        total = len(images) * ((deep is not None) + bool(missing))
        done = total - len(lacking) - len(deep or ())
        self._progress(done, total)
        rows = sorted(lacking)
        with closing(self._measured(images, rows, lacking)) as batches:
            for start, batch in batches:
                found = {}
                for row, values in zip(rows[start : start + len(batch)], batch, strict=True):
                    for name, each in zip(lacking[row], values, strict=True):
                        table[row, self._columns[name]] = each
                        if self._cache:
                            found[keys[name][row]] = each
                if self._cache:
                    self._cache.put(found)
                done += len(batch)
                self._progress(done, total)
        for start in range(0, len(deep or ()), DEEP_BATCH):
            some = (deep or [])[start : start + DEEP_BATCH]
            features = self._deep_features(images[some])
            table[some, self._columns[DEEP]] = features
            if self._cache:
                own = [keys[DEEP][row] for row in some]
                self._cache.put(dict(zip(own, features, strict=True)))
            done += len(some)
            self._progress(done, total)
        return table

    def _names(self, name: str) -> tuple[str, ...]:
        if name == DEEP:
            return tuple(f"deep:feature {i}:value" for i in range(self._deep_length))
        return SETS[name].names(self._size)

    def _keys(self, images: Pixels) -> dict[str, list[bytes]]:
        """For each set, the slices' keys in the cache."""
        marks = {}
        for name in self.sets:
            version = DEEP_VERSION if name == DEEP else SETS[name].version
            made_by = self._deep_key if name == DEEP else _libraries()
            marks[name] = f"{name} {version} {made_by}".encode()
        keys: dict[str, list[bytes]] = {name: [] for name in self.sets}
        for image in images:
            content = hashlib.sha256(f"{image.shape} ".encode())
            content.update(image.tobytes())
            for name, mark in marks.items():
                whole = content.copy()
                whole.update(mark)
                keys[name].append(whole.digest())
        return keys

    def _recall(self, name: str, table: Floats, keys: list[bytes] | None) -> list[int]:
        """Fill in what the cache knows of a set; the rows that it lacks."""
        if self._cache is None or keys is None:
            return list(range(len(table)))
        columns = self._columns[name]
        known = self._cache.get(keys, columns.stop - columns.start)
        for row, key in enumerate(keys):
            if key in known:
                table[row, columns] = known[key]
        return [row for row, key in enumerate(keys) if key not in known]

    def _measured(
        self, images: Pixels, rows: list[int], lacking: dict[int, list[str]]
    ) -> Generator[tuple[int, list[list[Floats]]], None, None]:
        """Batches of the rows' features in order, each with where in `rows` it starts."""
        step = max(1, min(BATCH, BATCH_BYTES // self._size**2))
        starts = range(0, len(rows), step)
        jobs = (
            partial(_compute_sets, images[some], [lacking[row] for row in some])
            for some in (rows[start : start + step] for start in starts)
        )
        if len(rows) < FEW or self._workers == 1:
            yield from zip(starts, (job() for job in jobs), strict=True)
            return
        import joblib

        pool = joblib.Parallel(
            n_jobs=self._workers or joblib.cpu_count(), batch_size=1, return_as="generator"
        )
        # joblib takes functions with their arguments as tuples.
        results = pool((job.func, job.args, {}) for job in jobs)
        try:
            yield from zip(starts, results, strict=True)
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that an interruption wastes work is no news
                results.close()

    def _deep_features(self, images: Pixels) -> Floats:
        """The network's features of slices, checked."""
        assert self._deep is not None
        features = np.asarray(self._deep(images), np.float32)
        if features.shape != (len(images), self._deep_length):
            raise ModelError(
                f"the network gave features of shape {features.shape} instead of "
                f"{(len(images), self._deep_length)}"
            )
        if not np.isfinite(features).all():
            raise ModelError("the network gave features that are not finite")
        return features


def _compute_sets(images: Pixels, wanted: Sequence[Sequence[str]]) -> list[list[Floats]]:
    """For each slice the values of the sets wanted of it; what a worker process does."""
    return [
        [SETS[name].compute(image) for name in names]
        for image, names in zip(images, wanted, strict=True)
    ]


@lru_cache(maxsize=1)
def _libraries() -> str:
    """The libraries that image sets are computed with: another version may round otherwise."""
    import cv2  # its distribution has several names

    def minor(version: str) -> str:
        return ".".join(version.split(".")[:2])

    versions = {"opencv": minor(cv2.__version__)}
    for name in ("numpy", "scipy", "scikit-image"):
        try:
            versions[name] = minor(metadata.version(name))
        except metadata.PackageNotFoundError:  # the device's sets do without
            versions[name] = "none"
    return " ".join(f"{name} {version}" for name, version in versions.items())
