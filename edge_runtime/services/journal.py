"""What a watched folder held and what was answered: a SQLite file that survives any end of the
process, and that one process at a time may have open.

A *subject* is what gets answers: a file by its path, or a study by its UID. Each of its answers has
a number, from 1, and is the answer for one *content*, a digest of all its files. An answer is
`working` from before it is computed until after its file is whole, then `answered`. What is still
`working` when a journal is opened was interrupted: it is begun again under the same number and
name, so that the same file is written again and not a second one. Where its files are gone by then
it is `gone`, and begun again if they come back.

Each method is one transaction, on the disk when it returns (WAL with synchronous=FULL), unless
several are taken `at_once`. The file is
its user's alone, since paths can name patients.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.errors import DataError, UsageError

VERSION = 1
WORKING, ANSWERED, REPLACED, GONE = "working", "answered", "replaced", "gone"
BESIDE = ("", "-wal", "-journal", "-shm")  # the journal, and what SQLite puts beside it
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE answers (
    subject BLOB NOT NULL, number INTEGER NOT NULL,
    content TEXT NOT NULL, model TEXT NOT NULL,
    name BLOB NOT NULL UNIQUE,       -- of the answer's file, below the folder of the answers
    state TEXT NOT NULL,             -- working, answered, or replaced or gone before that
    tries INTEGER NOT NULL,          -- processes that began it
    process BLOB NOT NULL,           -- the one that began it last
    status TEXT,                     -- of the answer: ok, uncertain, unfamiliar, error
    time TEXT NOT NULL,              -- UTC, when the state last changed
    PRIMARY KEY (subject, number)
) WITHOUT ROWID;
CREATE TABLE files (
    path BLOB PRIMARY KEY,           -- below the watched folder
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    sha256 TEXT,                     -- null: passed over, no answer is due
    subject BLOB, number INTEGER
) WITHOUT ROWID;
CREATE INDEX files_of ON files (subject);
"""
_NOW = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"


class Stamp(NamedTuple):
    """What changes when a file does: size in bytes, times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Seen(NamedTuple):
    """A file as it was read.

    Attributes:
        path: below the watched folder.
        stamp: before it was read.
        sha256: digest of its content.
    """

    path: str
    stamp: Stamp
    sha256: str


class Record(NamedTuple):
    """An answer in the journal.

    Attributes:
        subject: whose it is.
        number: of the subject's answers, from 1.
        content: digest of all its files.
        model: what it is answered with.
        name: of the answer's file, below the folder of the answers.
        tries: how many processes have begun it, this one included.
    """

    subject: str
    number: int
    content: str
    model: str
    name: str
    tries: int


class Journal:
    """The journal of one folder.

    Args:
        path: of its file; made where it is not there.
        folder: that it is about.

    Raises:
        UsageError: another process has it open, it is of another folder or a newer version, or
            cannot be opened.
        DataError: damaged.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self._process = os.urandom(8)
        _make_private(path)
        try:
            # One connection, by turns: whoever calls from several threads has a lock.
            self._connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(os.fsencode(folder.resolve()))
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UsageError(f"{path}: in use by another btc-edge on this folder") from None
            raise UsageError(f"{path}: the journal cannot be opened: {error}") from None
        except sqlite3.DatabaseError:
            raise _damaged(path) from None

    def _open(self, folder: bytes) -> None:
        # Exclusive before the first access: the lock is held until the end, and WAL needs no
        # shared memory, which network file systems lack (sqlite.org/wal.html, section 8).
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self.at_once():
            (version,) = self._one("PRAGMA user_version")
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {VERSION}")
                values = (("folder", folder), ("key", os.urandom(16)))
                self._connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
            elif version != VERSION:
                raise UsageError(f"{self.path}: a journal of another version of btc-edge")
        if self._one("PRAGMA quick_check(1)") != ("ok",):
            raise _damaged(self.path)
        (known,) = self._one("SELECT value FROM meta WHERE key = 'folder'")
        if known != folder:
            raise UsageError(
                f"{self.path}: the journal of another folder: name one of its own with --journal"
            )
        (self.key,) = self._one("SELECT value FROM meta WHERE key = 'key'")

    def close(self) -> None:
        """Let others open it."""
        self._connection.close()

    def knows(self, path: str, stamp: Stamp, model: str | None = None) -> bool:
        """Whether a file was answered or passed over as it is now.

        Args:
            model: only an answer with it counts; None for any.
        """
        row = self._one(
            "SELECT answers.model FROM files LEFT JOIN answers USING (subject, number) "
            "WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?",
            os.fsencode(path), *stamp,
        )  # fmt: skip
        return row is not None and (model is None or row[0] is None or row[0] == model)

    def files_of(self, subject: str) -> list[Seen]:
        """The files behind a subject's answers, in the order of their paths."""
        rows = self._all(
            "SELECT path, size, mtime_ns, ctime_ns, sha256 FROM files WHERE subject = ? "
            "ORDER BY path",
            os.fsencode(subject),
        )
        return [Seen(os.fsdecode(row[0]), Stamp(*row[1:4]), row[4]) for row in rows]

    def was_interrupted(self, subject: str) -> bool:
        """Whether an earlier process ended while it worked on the subject."""
        found = self._one(
            "SELECT 1 FROM answers WHERE subject = ? AND state = ? AND process != ?",
            os.fsencode(subject), WORKING, self._process,
        )  # fmt: skip
        return found is not None

    def interrupted(self) -> list[str]:
        """The subjects that an earlier process ended over, in their order."""
        rows = self._all(
            "SELECT DISTINCT subject FROM answers WHERE state = ? AND process != ? "
            "ORDER BY subject",
            WORKING, self._process,
        )  # fmt: skip
        return [os.fsdecode(subject) for (subject,) in rows]

    def begin(
        self, subject: str, content: str, model: str, names: Iterator[str], again: bool = False
    ) -> Record | None:
        """Promise an answer.

        Args:
            names: what its file may be called, the first number's first; the first that no other
                answer has is taken.
            again: whether an answer of another model counts for nothing.

        Returns:
            The answer to be computed: a new one, or what was begun and not finished for the same
            content. None where the content is answered.
        """
        key = os.fsencode(subject)
        with self.at_once():
            rows = self._all(
                "SELECT number, content, model, name, state, tries, process FROM answers "
                "WHERE subject = ? ORDER BY number",
                key,
            )
            for number, known, by, name, state, tries, process in rows:
                if state not in (WORKING, GONE):
                    continue
                if (known, by) == (content, model):
                    tries += process != self._process
                    what = "state = ?, tries = ?, process = ?"
                    self._set(key, number, what, WORKING, tries, self._process)
                    return Record(subject, number, content, model, os.fsdecode(name), tries)
                self._set(key, number, "state = ?", REPLACED)
            if any(
                (state, known) == (ANSWERED, content) and (by == model or not again)
                for _, known, by, _, state, _, _ in rows
            ):
                return None
            number = len(rows) + 1
            taken = "SELECT 1 FROM answers WHERE name = ?"
            name = next(n for n in names if self._one(taken, os.fsencode(n)) is None)
            self._connection.execute(
                f"INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, 1, ?, NULL, {_NOW})",
                (key, number, content, model, os.fsencode(name), WORKING, self._process),
            )
        return Record(subject, number, content, model, name, 1)

    def give_up(self, subject: str) -> None:
        """Keep that the files of an interrupted subject are gone."""
        with self.at_once():
            self._connection.execute(
                f"UPDATE answers SET state = ?, time = {_NOW} WHERE subject = ? AND state = ?",
                (GONE, os.fsencode(subject), WORKING),
            )

    def abandon(self, record: Record) -> None:
        """Take a promise back: the subject changed before its answer was written."""
        with self.at_once():
            self._connection.execute(
                "DELETE FROM answers WHERE subject = ? AND number = ? AND state = ?",
                (os.fsencode(record.subject), record.number, WORKING),
            )

    def finish(self, done: Iterable[tuple[Record, str, Sequence[Seen]]]) -> None:
        """Keep that answers are written, each with its status and the files that it is for."""
        with self.at_once():
            for record, status, files in done:
                key = os.fsencode(record.subject)
                self._set(key, record.number, "state = ?, status = ?", ANSWERED, status)
                self._keep(files, key, record.number)

    def already(self, subject: str, content: str, files: Sequence[Seen]) -> None:
        """Keep that files have the content of a subject that is answered."""
        key = os.fsencode(subject)
        with self.at_once():
            (number,) = self._one(
                "SELECT max(number) FROM answers WHERE subject = ? AND content = ? AND state = ?",
                key, content, ANSWERED,
            )  # fmt: skip
            self._keep(files, key, number)

    def pass_over(self, path: str, stamp: Stamp) -> None:
        """Keep that no answer is due for a file."""
        with self.at_once():
            self._connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, NULL, NULL, NULL)",
                (os.fsencode(path), *stamp),
            )

    def records(self) -> list[tuple[Record, str, str | None]]:
        """Every answer with its state and status, in the order of subjects and numbers."""
        rows = self._all(
            "SELECT subject, number, content, model, name, tries, state, status FROM answers "
            "ORDER BY subject, number"
        )
        return [
            (Record(os.fsdecode(r[0]), r[1], r[2], r[3], os.fsdecode(r[4]), r[5]), r[6], r[7])
            for r in rows
        ]

    def _keep(self, files: Sequence[Seen], key: bytes, number: int) -> None:
        rows = [(os.fsencode(f.path), *f.stamp, f.sha256, key, number) for f in files]
        self._connection.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows
        )

    def _set(self, key: bytes, number: int, what: str, *values: object) -> None:
        self._connection.execute(
            f"UPDATE answers SET {what}, time = {_NOW} WHERE subject = ? AND number = ?",
            (*values, key, number),
        )

    def _one(self, statement: str, *values: object) -> Any:
        return self._connection.execute(statement, values).fetchone()

    def _all(self, statement: str, *values: object) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All within is one transaction: it is kept, or nothing of it."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")  # on a full disk it fails, and is still open
        except BaseException:
            self._connection.rollback()
            raise


def _make_private(path: Path) -> None:
    """An empty file that only its user may read, where there is none; one that is there becomes so.

    SQLite gives the files that it puts beside it the same permissions.

    Raises:
        UsageError: one of them is another user's, who could have any file written as an answer's,
            or no regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        _check_own(Path(f"{path}{name}"))
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.name == "posix":
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _check_own(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: no regular file: move it away")
    if os.name == "posix" and status.st_uid != os.geteuid():
        raise UsageError(f"{path}: another user's: move it away")


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path}: damaged, or no journal: move it away, and all that lies in the folder is "
        "answered anew"
    )
