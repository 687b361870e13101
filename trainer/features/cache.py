"""Features that were computed before, in one file for all data sets and runs.

Not joblib.Memory, which was measured: a slice is what folds, runs and data sets share, and as a
Memory entry it takes two files and a folder, three times as long to find again as here, and ten
times where each feature set is an entry. It unpickles what lies in the folder, which may be one
that several people share; here a value is bytes of float32 and nothing else. And it shows a
traceback for each damaged entry.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import one_line

Floats = npt.NDArray[np.float32]

NAME = "features.sqlite"
ASKED = 500  # keys a query; SQLite knows at least 999 variables
TABLES = {
    "features": "(key BLOB PRIMARY KEY, value BLOB NOT NULL)",
    # A table of its own, so that older versions can go on writing into theirs.
    "uses": "(key BLOB PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID",
}
LIMIT = 2 << 30  # bytes
CUT = 0.9  # of the limit that is left where it was passed, so that not every write has to cut
FRESH = 3600  # seconds in which a value counts as just used, so that not every read has to write
PATIENCE = 10.0  # seconds to wait for another process to finish writing


def default_folder() -> Path:
    """Where caches lie by the XDG base directory specification: `$XDG_CACHE_HOME/btc-edge`, or
    `~/.cache/btc-edge` (the specification has relative paths ignored)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "btc-edge"


def _say_nothing(line: str) -> None:
    """In place of `warn`; no lambda, since a cache travels to other processes."""


class FeatureCache:
    """A table from keys to values in `features.sqlite` in a folder.

    Several processes and threads can use one file at once: each call opens it, and writes are
    transactions. No trouble with it ends a job: a damaged file is replaced by an empty one; where
    it cannot be opened, read or written, or stays locked, this object forgets it for good. Either
    gives one line of warning. Stopping the process at any time leaves a usable file.

    The file does not grow beyond a limit: a write that passes it drops the values that were used
    longest ago, in the same transaction. A value counts as used when it is stored or found, to the
    hour; those that an older version stored, which did not count, go first. (A file that such a
    version made keeps its size, and is filled up anew.)

    Attributes:
        path: the file.
        works: False once the cache was given up.
    """

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str], None] | None = None,
        patience: float = PATIENCE,
        limit: int = LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            folder: is created when needed.
            warn: called with each warning.
            patience: seconds to wait for a locked file.
            limit: bytes that the file may have.
            clock: the time in seconds.
        """
        self.path = folder / NAME
        self.works = True
        self._warn = warn or _say_nothing
        self._patience, self._limit, self._clock = patience, limit, clock

    def get(self, keys: Sequence[bytes], length: int) -> dict[bytes, Floats]:
        """The stored values: float32 of `length`, finite. What is anything else is missing."""
        found: dict[bytes, Floats] = {}
        stale: list[bytes] = []
        now = int(self._clock())

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), ASKED):
                asked = keys[start : start + ASKED]
                marks = ",".join("?" * len(asked))
                query = (
                    "SELECT f.key, f.value, u.used FROM features f LEFT JOIN uses u "
                    f"ON u.key = f.key WHERE f.key IN ({marks})"
                )
                for key, stored, used in database.execute(query, list(asked)):
                    if isinstance(stored, bytes) and len(stored) == 4 * length:
                        values = np.frombuffer(stored, "<f4").astype(np.float32)
                        if np.isfinite(values).all():
                            found[key] = values
                            if used is None or used < now - FRESH:
                                stale.append(key)

        if keys:
            self._attempt(read)
        if stale and self.works:
            # What was found is of use even where it may not be written down, or not now.
            with suppress(sqlite3.Error, OSError), self._opened() as database:
                _remember_use(database, stale, now)
        return found

    def put(self, values: Mapping[bytes, Floats]) -> None:
        """Store values in one transaction; a key's earlier value is replaced, and what was used
        longest ago makes room."""
        rows = [(key, each.astype("<f4").tobytes()) for key, each in values.items()]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
            _remember_use(database, list(values), int(self._clock()))
            _make_room(database, self._limit)

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
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if not tables:
                database.execute("PRAGMA auto_vacuum = FULL")  # the file shrinks with its content
            for table, columns in TABLES.items():
                if table not in tables:
                    database.execute(f"CREATE TABLE IF NOT EXISTS {table} {columns}")
            yield database


def _remember_use(database: sqlite3.Connection, keys: Sequence[bytes], now: int) -> None:
    database.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?)", [(k, now) for k in keys])


def _make_room(database: sqlite3.Connection, limit: int) -> None:
    """Drop the values that were used longest ago where the file's content passes the limit."""
    while (size := _bytes_of(database)) > limit:
        surplus, dropped = size - CUT * limit, []
        oldest = database.execute(
            "SELECT f.key, length(f.value) FROM features f LEFT JOIN uses u ON u.key = f.key "
            "ORDER BY coalesce(u.used, 0), f.rowid"
        )
        for key, length in oldest:
            if surplus <= 0:
                break
            dropped.append((key,))
            surplus -= length
        if not dropped:
            break
        for table in TABLES:
            database.executemany(f"DELETE FROM {table} WHERE key = ?", dropped)


def _bytes_of(database: sqlite3.Connection) -> int:
    """Of the pages that hold something."""
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
