"""Features that were computed before, in one file for all data sets and runs."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import one_line

Floats = npt.NDArray[np.float32]

NAME = "features.sqlite"
ASKED = 500  # keys a query; SQLite knows at least 999 variables
PATIENCE = 10.0  # seconds to wait for another process to finish writing


def default_folder() -> Path:
    """Where caches lie by the XDG base directory specification: `$XDG_CACHE_HOME/btc-edge`, or
    `~/.cache/btc-edge` (the specification has relative paths ignored)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "btc-edge"


class FeatureCache:
    """A table from keys to values in `features.sqlite` in a folder.

    Several processes and threads can use one file at once: each call opens it, and writes are
    transactions. No trouble with it ends a job: a damaged file is replaced by an empty one; where
    it cannot be opened, read or written, or stays locked, this object forgets it for good. Either
    gives one line of warning. Stopping the process at any time leaves a usable file.

    Attributes:
        path: the file.
        works: False once the cache was given up.
    """

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str], None] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """
        Args:
            folder: is created when needed.
            warn: called with each warning.
            patience: seconds to wait for a locked file.
        """
        self.path = folder / NAME
        self.works = True
        self._warn = warn or (lambda line: None)
        self._patience = patience

    def get(self, keys: Sequence[bytes], length: int) -> dict[bytes, Floats]:
        """The stored values: float32 of `length`, finite. What is anything else is missing."""
        found: dict[bytes, Floats] = {}

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), ASKED):
                asked = keys[start : start + ASKED]
                marks = ",".join("?" * len(asked))
                query = f"SELECT key, value FROM features WHERE key IN ({marks})"
                for key, stored in database.execute(query, list(asked)):
                    if isinstance(stored, bytes) and len(stored) == 4 * length:
                        values = np.frombuffer(stored, "<f4").astype(np.float32)
                        if np.isfinite(values).all():
                            found[key] = values

        if keys:
            self._attempt(read)
        return found

    def put(self, values: Mapping[bytes, Floats]) -> None:
        """Store values in one transaction; a key's earlier value is replaced."""
        rows = [(key, each.astype("<f4").tobytes()) for key, each in values.items()]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)

        if rows:
            self._attempt(write)

    def _attempt(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do the work, once more with an empty file if this one is damaged, or not at all."""
        if not self.works:
            return
        try:
            try:
                with self._opened() as database:
                    work(database)
            except sqlite3.DatabaseError as error:
                # Subclasses are for locks, full disks and the like; this one is for files that
                # are no database or a broken one.
                if type(error) is not sqlite3.DatabaseError:
                    raise
                self._warn(f"{self.path}: damaged ({one_line(error)}); starting an empty one")
                for suffix in ("", "-journal", "-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                with self._opened() as database:
                    work(database)
        except (sqlite3.Error, OSError) as error:
            self.works = False
            self._warn(f"{self.path}: going on without stored features ({one_line(error)})")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database in a transaction that ends, or is undone, with the body.

        With SQLite's ordinary journal: its faster one (WAL) fails in home folders that lie on a
        file server.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=self._patience)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
            )
            yield database
