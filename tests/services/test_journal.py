"""The journal of a watched folder."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from edge_runtime.errors import DataError, UsageError
from edge_runtime.services.journal import ANSWERED, REPLACED, WORKING, Journal, Record, Seen, Stamp

STAMP = Stamp(1, 2, 3)


def names() -> Iterator[str]:
    return (f"{number}.json" for number in count(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "journal"


def begun(journal: Journal, content: str = "c", model: str = "m", again: bool = False) -> Record:
    record = journal.begin("file:a", content, model, names(), again)
    assert record is not None
    return record


def test_a_promise_is_on_the_disk(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    assert journal._one("PRAGMA synchronous") == (2,)  # FULL
    assert journal._one("PRAGMA journal_mode") == ("wal",)
    assert journal._one("PRAGMA locking_mode") == ("exclusive",)


def test_it_is_its_users_alone(path: Path, folder: Path) -> None:
    path.parent.mkdir()
    path.touch(0o666)
    path.chmod(0o666)
    journal = Journal(path, folder)
    begun(journal)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert modes == {"journal": 0o600, "journal-wal": 0o600}


def test_it_is_no_link(path: Path, folder: Path) -> None:
    path.parent.mkdir()
    (path.parent / "other").write_bytes(b"keep")
    path.symlink_to(path.parent / "other")
    with pytest.raises(UsageError, match="no regular file"):
        Journal(path, folder)
    assert (path.parent / "other").read_bytes() == b"keep"


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away"
)
@pytest.mark.parametrize("which", ["", "-wal", "-journal"])
def test_a_strangers_is_refused(which: str, path: Path, folder: Path) -> None:
    """It could name any file as that of an answer; so could what SQLite takes into it."""
    Journal(path, folder).close()
    other = Path(f"{path}{which}")
    other.touch()
    os.chown(other, 65534, 65534)
    with pytest.raises(UsageError, match="another user's"):
        Journal(path, folder)


@pytest.mark.parametrize("which", ["-wal", "-journal"])
def test_nothing_beside_it_is_a_link(which: str, path: Path, folder: Path) -> None:
    Journal(path, folder).close()
    Path(f"{path}{which}").symlink_to(path)
    with pytest.raises(UsageError, match="no regular file"):
        Journal(path, folder)


def test_two_at_once_are_refused(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    with pytest.raises(UsageError, match="in use by another btc-edge"):
        Journal(path, folder)
    journal.close()
    Journal(path, folder).close()


def test_it_is_about_one_folder(path: Path, folder: Path, tmp_path: Path) -> None:
    Journal(path, folder).close()
    (tmp_path / "link").symlink_to(folder)
    Journal(path, tmp_path / "link").close()
    with pytest.raises(UsageError, match="of another folder"):
        Journal(path, tmp_path)
    Journal(path, folder).close()


def test_another_version_is_refused(path: Path, folder: Path) -> None:
    Journal(path, folder).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(UsageError, match="another version"):
        Journal(path, folder)


def test_a_damaged_one_is_refused(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    for number in range(500):
        journal.pass_over(f"a file of some name {number}", STAMP)
    journal.close()
    whole = path.read_bytes()
    for damaged in (b"no journal " * 100, whole[: len(whole) // 2], whole[:4096] + bytes(40960)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="move it away"):
            Journal(path, folder)


def test_what_was_begun_goes_on_under_its_number_and_name(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    first = begun(journal)
    assert begun(journal) == first, "of this process: nothing has ended"
    assert not journal.was_interrupted("file:a")
    for tries in (2, 3):
        journal.close()
        journal = Journal(path, folder)
        assert journal.was_interrupted("file:a")
        assert begun(journal) == first._replace(tries=tries)
        assert not journal.was_interrupted("file:a")
    journal.finish([(first, "ok", [Seen("a", STAMP, "c")])])
    assert journal.begin("file:a", "c", "m", names()) is None
    assert journal.records() == [(first._replace(tries=3), ANSWERED, "ok")]


def test_another_content_has_another_number_and_name(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    begun(journal, "one")
    second = begun(journal, "two")
    assert (second.number, second.name) == (2, "2.json")
    assert [state for _, state, _ in journal.records()] == [REPLACED, WORKING]
    journal.abandon(second)
    assert begun(journal, "three").number == 2


def test_another_model_answers_anew_where_it_is_asked_to(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    journal.finish([(begun(journal), "ok", [Seen("a", STAMP, "c")])])
    assert journal.begin("file:a", "c", "other", names()) is None
    assert journal.begin("file:a", "c", "m", names(), again=True) is None
    assert journal.knows("a", STAMP)
    assert journal.knows("a", STAMP, "m")
    assert not journal.knows("a", STAMP, "other")
    assert begun(journal, model="other", again=True).number == 2


def test_it_knows_files_as_they_were(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    name = os.fsdecode(b"a\xff")
    journal.pass_over(name, STAMP)
    assert journal.knows(name, STAMP, "any model")
    for changed in (Stamp(9, 2, 3), Stamp(1, 9, 3), Stamp(1, 2, 9)):
        assert not journal.knows(name, changed)
    assert not journal.knows("a", STAMP)


def two_and_an_error(journal: Journal) -> None:
    with journal.at_once():
        begun(journal)
        journal.pass_over("b", STAMP)
        _ = 1 / 0


def test_all_at_once_is_all_or_nothing(path: Path, folder: Path) -> None:
    journal = Journal(path, folder)
    with pytest.raises(ZeroDivisionError):
        two_and_an_error(journal)
    assert journal.records() == []
    assert not journal.knows("b", STAMP)
