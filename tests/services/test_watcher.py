"""The watcher behind btc-edge watch, step by step, by a clock of the tests' own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from edge_runtime.decision.prediction import failure
from edge_runtime.errors import DataError, InputError, ModelError, UsageError
from edge_runtime.files import Note
from edge_runtime.services import arrivals
from edge_runtime.services import watcher as watcher_module
from edge_runtime.services.journal import ANSWERED, GONE, REPLACED
from edge_runtime.services.watcher import MOST_TRIES, Answered, Watcher, check_places
from tests.services.watched import (
    QUIET,
    SETTLE,
    Killed,
    Ward,
    classify_bytes,
    ok,
    picture,
    scan_file,
)

Make = Callable[..., Ward]


@pytest.fixture(autouse=True)
def _bytes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "classify_drop", classify_bytes)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **settings: Ward(tmp_path, **settings)


def digests(answers: dict[str, list[dict[str, Any]]]) -> list[str]:
    return sorted(answer[0]["sha256"] for answer in answers.values())


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_a_file_is_answered_once_it_has_not_changed_for_a_while(make: Make) -> None:
    ward = make()
    path = ward.put("a.png", picture(1))
    ward.wait()
    ward.wait(SETTLE - 0.1)
    assert ward.answers() == {}
    path.write_bytes(picture("1, and more"))  # nobody tells of it
    ward.wait(0.2)
    ward.wait(SETTLE - 0.1)
    assert ward.answers() == {}, "it is still growing"
    ward.wait(0.2)
    assert digests(ward.answers()) == [digest(picture("1, and more"))]
    assert ward.states() == {"file:a.png": [(1, ANSWERED, "ok")]}
    ward.pass_time()
    assert len(ward.answers()) == 1


def test_what_the_system_does_not_tell_is_found_by_looking(make: Make) -> None:
    ward = make()
    ward.wait()
    (ward.folder / "below").mkdir()
    (ward.folder / "below" / "a.png").write_bytes(picture(1))
    ward.pass_time()
    assert digests(ward.answers()) == [digest(picture(1))]


def test_a_folder_that_is_moved_in_is_looked_through(make: Make, tmp_path: Path) -> None:
    ward = make(rescan=1e9)
    ward.wait()
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "a.png").write_bytes(picture(1))
    (tmp_path / "from").rename(ward.folder / "from")
    ward.watcher.notify(ward.folder / "from")
    ward.wait()
    ward.wait(SETTLE)
    assert len(ward.answers()) == 1


def test_the_folders_own_path_has_all_of_it_looked_at(make: Make) -> None:
    ward = make(rescan=1e9)
    ward.wait()
    (ward.folder / "a.png").write_bytes(picture(1))
    ward.wait(SETTLE)
    ward.watcher.notify(ward.folder)
    ward.wait()
    ward.wait(SETTLE)
    assert len(ward.answers()) == 1


@pytest.mark.parametrize("name", [
    ".hidden.png", ".folder/a.png", "@eaDir/a.png", "a.png.part", "a.png.filepart", "a.png~",
    "a.tmp", "a.png.btc.json", ".part-0123456789ab.png",
])  # fmt: skip
def test_hidden_unfinished_and_answers_are_no_input(name: str, make: Make) -> None:
    ward = make()
    ward.put(name, picture(1))
    ward.pass_time()
    assert (ward.answers(), ward.lines, ward.states()) == ({}, [], {})
    assert ward.journal.files_of(f"file:{name}") == []


def test_an_upload_that_gets_its_name_at_the_end_is_answered_then(make: Make) -> None:
    ward = make()
    part = ward.put("a.png.part", picture(1))
    ward.pass_time(5)
    ward.watcher.notify(part.rename(ward.folder / "a.png"))
    ward.pass_time(5)
    assert digests(ward.answers()) == [digest(picture(1))]


def test_links_are_not_followed(make: Make, tmp_path: Path) -> None:
    ward = make()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(picture(1))
    (ward.folder / "file.png").symlink_to(tmp_path / "other" / "a.png")
    (ward.folder / "folder").symlink_to(tmp_path / "other")
    (ward.folder / "round").symlink_to(ward.folder)
    for name in ("file.png", "folder", "folder/a.png", "round/file.png"):
        ward.watcher.notify(ward.folder / name)  # as a system would that follows links
    ward.pass_time()
    assert (ward.answers(), ward.states()) == ({}, {})
    assert sorted(line.partition(": ")[2] for line in ward.lines) == ["a link: not followed"] * 3


def test_a_folder_that_becomes_a_link_is_not_followed(make: Make, tmp_path: Path) -> None:
    """Neither to read a foreign file nor to write an answer beside it."""
    ward = make(out=None, names=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.png").write_bytes(picture("foreign"))
    ward.put("below/a.png", picture("own"))
    ward.wait()
    shutil.rmtree(ward.folder / "below")
    (ward.folder / "below").symlink_to(tmp_path / "foreign")
    ward.pass_time()
    assert (ward.answers(), ward.answers(tmp_path / "foreign"), ward.states()) == ({}, {}, {})
    assert sorted(ward.lines) == [
        "below/a.png: cannot be read: a folder above it is a link", "below: a link: not followed",
    ]  # fmt: skip


def test_a_folder_that_becomes_a_link_while_a_file_is_worked_on_gets_no_answer(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"

    def swap(_: object, files: list[Any], **how: Any) -> Any:
        answers = list(classify_bytes(_, files, **how))
        (ward.folder / "below").rename(foreign)
        (ward.folder / "below").symlink_to(foreign)
        return iter(answers)

    monkeypatch.setattr(watcher_module, "classify_drop", swap)
    ward = make(out=None)
    ward.put("below/a.png", picture("own"))
    ward.pass_time()
    assert (ward.answers(), ward.answers(foreign), ward.states()) == ({}, {}, {})


@pytest.mark.parametrize("half", ["v.hdr", "v.img"])
@pytest.mark.parametrize("late", [False, True])
def test_a_pair_of_which_one_half_is_a_link_is_not_read(
    half: str, late: bool, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "foreign").write_bytes(b"foreign")
    ward = make(names=True)
    for name in ("v.hdr", "v.img"):
        if name != half or late:
            ward.put(name, b"own")
    ward.wait()
    if late:
        ward.wait(SETTLE)
        (ward.folder / half).unlink()
    (ward.folder / half).symlink_to(tmp_path / "foreign")
    ward.pass_time()
    ward.pass_time()
    assert (ward.answers(), ward.states()) == ({}, {})
    other = {"v.hdr": "v.img", "v.img": "v.hdr"}[half]
    assert ward.lines.count(f"{other}: its other half is a link: not followed") == 1


def test_what_is_no_file_is_never_opened(make: Make) -> None:
    ward = make(names=True)
    os.mkfifo(ward.folder / "a.png")
    ward.pass_time()
    assert ward.lines == ["a.png: not a regular file"]
    assert ward.states() == {}


def test_what_is_no_image_is_passed_over_with_a_line_for_ever(make: Make) -> None:
    ward = make(names=True)
    ward.put("notes.txt", b"something")
    ward.put("DICOMDIR", scan_file("1.2"))
    ward.put("disc/dicomdir", scan_file(None))
    ward.pass_time()
    ward.reopen()
    ward.pass_time()
    assert sorted(ward.lines) == [
        f"{name}: no image: passed over" for name in ("DICOMDIR", "disc/dicomdir", "notes.txt")
    ]
    ward.put("notes.txt", picture("a picture after all"))
    ward.pass_time()
    assert len(ward.answers()) == 1


def test_what_cannot_be_used_is_an_answer_and_not_tried_again_until_it_changes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(_: object, files: list[Any], **__: Any) -> Any:
        asked.append(files[0].name)
        raise InputError("damaged")

    monkeypatch.setattr(watcher_module, "classify_drop", refuse)
    ward = make(names=True)
    ward.put("a.png", picture(1))
    ward.pass_time()
    ward.reopen()
    ward.pass_time()
    assert asked == ["a.png"]
    (answer,) = ward.answers()["a.png.btc.json"]
    assert (answer["status"], answer["error"]) == ("error", "damaged")
    assert ward.states() == {"file:a.png": [(1, ANSWERED, "error")]}
    ward.put("a.png", picture(2))
    ward.pass_time()
    assert asked == ["a.png"] * 2


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (MemoryError(), "not enough memory"),
        (ZeroDivisionError("by zero"), "unexpected ZeroDivisionError"),
    ],
)
def test_one_bad_file_ends_nothing(
    problem: Exception, told: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, files: list[Any], **how: Any) -> Any:
        if files[0].name == "bad.png":
            raise problem
        return classify_bytes(_, files, **how)

    monkeypatch.setattr(watcher_module, "classify_drop", fail)
    ward = make(names=True)
    for name in ("a.png", "bad.png", "c.png"):
        ward.put(name, picture(name))
    ward.pass_time(10)
    assert {name: answer[0]["status"] for name, answer in ward.answers().items()} == {
        "a.png.btc.json": "ok", "bad.png.btc.json": "error", "c.png.btc.json": "ok",
    }  # fmt: skip
    assert told in ward.answers()["bad.png.btc.json"][0]["error"]
    assert ward.watcher.failed


@pytest.mark.parametrize("raised", [True, False])
def test_what_only_lacks_a_package_is_tried_again_after_a_restart(
    raised: bool, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the file, so no answer says that it cannot be used."""
    line = "DICOM files need the package pydicom: pip install 'btc-edge[dicom]'"

    def lack(_: object, files: list[Any], **how: Any) -> Any:
        if files[0].name == "a.png":
            return classify_bytes(_, files, **how)
        if raised:
            raise ModuleNotFoundError("no", name="pydicom")
        return iter([failure(file.name, "m", line) for file in files])

    with monkeypatch.context() as before:
        before.setattr(watcher_module, "classify_drop", lack)
        ward = make(names=True)
        for name in ("a.png", "b.png"):
            ward.put(name, picture(name))
        for number in range(2):
            ward.put(f"s{number}", scan_file("1.2", number))
        ward.pass_time()
        ward.pass_time()
        assert ward.watcher.failed
    assert list(ward.answers()) == ["a.png.btc.json"]
    told = [each for each in ward.lines if "package pydicom" in each]
    assert {each.partition(": ")[0] for each in told} == {"b.png", "1.2"}
    assert len(told) == 2, "it is told once"
    assert all(each.endswith("tried again after a restart") for each in told)
    ward.reopen()
    ward.pass_time()
    assert list(ward.answers()) == ["1.2.btc.json", "a.png.btc.json", "b.png.btc.json"]


def test_a_study_of_which_something_is_answered_waits_for_no_package(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(_: object, files: list[Any], **__: Any) -> Any:
        lacks = failure(files[0].name, "m", "needs the package pylibjpeg: pip install pylibjpeg")
        yield ok("1.2", slices=(ok(files[0].name), lacks))

    monkeypatch.setattr(watcher_module, "classify_drop", some)
    ward = make()
    ward.put("s", scan_file("1.2"))
    ward.pass_time()
    assert list(ward.answers()) == ["1.2.btc.json"]


@pytest.mark.parametrize("names", [False, True])
def test_what_is_left_out_of_a_drop_is_told(
    names: bool, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_out(_: object, files: list[Any], tell: Any, **how: Any) -> Any:
        tell(Note(files[0].name, "passed over 1 file that is no image", ": 1 .doe, such as x.doe"))
        return classify_bytes(_, files, tell=tell, **how)

    monkeypatch.setattr(watcher_module, "classify_drop", leave_out)
    ward = make(names=names)
    ward.put("doe.zip", b"PK\x03\x04")
    ward.pass_time(10)
    first, second = ward.lines
    assert "passed over 1 file that is no image" in first
    assert ("doe" in first, "doe" in second) == (names, names)
    assert first.partition(":")[0] == second.partition(":")[0]


def test_a_drop_without_an_image_is_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "classify_drop", lambda *_, **__: iter(()))
    ward = make()
    ward.put("a.zip", b"PK\x03\x04")
    ward.pass_time(10)
    ((answer,),) = ward.answers().values()
    assert answer["error"] == "no image in it"


def test_a_file_replaced_by_another_of_its_name_is_answered_anew(make: Make) -> None:
    ward = make(out=None)
    for content in (1, 2, 1, 2):
        ward.put("a.png", picture(content))
        ward.pass_time(5)
    assert list(ward.answers()) == ["a.png.2.btc.json", "a.png.btc.json"]
    assert ward.states()["file:a.png"] == [(1, ANSWERED, "ok"), (2, ANSWERED, "ok")]
    assert sum(line.endswith("answered before") for line in ward.lines) == 2


def test_a_file_that_is_touched_is_not_answered_again(make: Make) -> None:
    ward = make()
    path = ward.put("a.png", picture(1))
    ward.pass_time(5)
    for time in (0, 10**9, 4 * 10**9):  # as of a clock that was set
        os.utime(path, (time, time))
        ward.pass_time()
        ward.reopen()
    assert len(ward.answers()) == 1
    assert ward.states() == {"file:a.png": [(1, ANSWERED, "ok")]}


def test_what_is_gone_before_its_turn_is_told(make: Make) -> None:
    ward = make(names=True)
    ward.put("a.png", picture(1))
    renamed = ward.put("b.png", picture(2))
    ward.wait()
    (ward.folder / "a.png").unlink()
    renamed.rename(ward.folder / "c.png")
    ward.pass_time()
    assert [line for line in ward.lines if "gone" in line] == [
        f"{name}: gone before its turn" for name in ("a.png", "b.png")
    ]
    assert list(ward.answers()) == ["c.png.btc.json"]


def test_a_file_that_changes_while_it_is_worked_on_comes_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: object, files: list[Any], **how: Any) -> Any:
        if not ward.lines:
            files[0].source.write_bytes(picture("another"))
        return classify_bytes(_, files, **how)

    monkeypatch.setattr(watcher_module, "classify_drop", change)
    ward = make(names=True)
    ward.put("a.png", picture("one"))
    ward.pass_time(10)
    assert ward.lines[0] == "a.png: changed while it was worked on: it comes again"
    assert digests(ward.answers()) == [digest(picture("another"))]
    assert ward.states() == {"file:a.png": [(1, ANSWERED, "ok")]}


def test_a_file_that_changes_while_it_waits_for_its_turn_settles_anew(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow(_: object, files: list[Any], **how: Any) -> Any:
        if files[0].name == "000.png":
            last.write_bytes(picture("more"))
        return classify_bytes(_, files, **how)

    monkeypatch.setattr(watcher_module, "classify_drop", grow)
    ward = make(names=True)
    for number in range(40):  # more than go together
        last = ward.put(f"{number:03d}.png", picture(number))
    ward.wait()
    ward.wait(SETTLE)
    assert len(ward.answers()) == 39
    ward.pass_time(5)
    assert ward.answers()["039.png.btc.json"][0]["sha256"] == digest(picture("more"))
    assert ward.states()["file:039.png"] == [(1, ANSWERED, "ok")]


def test_a_file_that_may_not_be_read_is_told_once_and_tried_when_it_changes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = True
    really = arrivals.first_bytes

    def first_bytes(path: Path) -> bytes:
        if closed:
            raise InputError("cannot be read: Permission denied")
        return really(path)

    monkeypatch.setattr(arrivals, "first_bytes", first_bytes)
    ward = make(names=True)
    path = ward.put("a.png", picture(1))
    ward.pass_time()
    closed = False
    ward.pass_time()
    assert ward.lines == ["a.png: cannot be read: Permission denied"]
    path.chmod(0o640)  # which changes no more than the file's ctime
    ward.pass_time()
    assert len(ward.answers()) == 1
    closed = True
    path.write_bytes(picture(2))
    ward.reopen(settle=0)
    ward.watcher.run_once(threading.Event())
    assert ward.watcher.failed, "an input without an answer"


@pytest.mark.skipif(os.name != "posix", reason="permissions as of Unix")
def test_a_subfolder_that_may_not_be_read_is_told_once_and_read_when_it_may_be() -> None:
    with TemporaryDirectory() as place:  # below a folder that anybody may pass
        Path(place).chmod(0o777)
        ward = Ward(Path(place), names=True)
        ward.out.mkdir()
        for folder in (ward.folder, ward.out):
            folder.chmod(0o777)
        ward.put("closed/a.png", picture(1))
        ward.put("b.png", picture(2))
        (ward.folder / "closed").chmod(0)
        with as_nobody():
            ward.pass_time()
            ward.pass_time()
        assert list(ward.answers()) == ["b.png.btc.json"]
        told = [line for line in ward.lines if line.startswith("closed")]
        assert told == ["closed: a folder that cannot be read: Permission denied"]
        (ward.folder / "closed").chmod(0o755)
        with as_nobody():
            ward.pass_time()
        assert list(ward.answers()) == ["b.png.btc.json", "closed/a.png.btc.json"]
        ward.journal.close()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Within, as a user whom permissions bind, which those of root do not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_files_of_a_study_are_answered_together_once_no_further_one_came(make: Make) -> None:
    ward = make()
    for number in range(3):
        ward.put(f"s{number}", scan_file("1.2.3", number))
        ward.pass_time(QUIET - 1)
    assert ward.answers() == {}
    ward.put("other", scan_file("1.2.4"))
    ward.pass_time(SETTLE + 2)
    assert list(ward.answers()) == ["1.2.3.btc.json"]
    (answer,) = ward.answers()["1.2.3.btc.json"]
    assert [part["sha256"] for part in answer["slices"]] == [
        digest(scan_file("1.2.3", number)) for number in range(3)
    ]
    ward.pass_time()
    assert list(ward.answers()) == ["1.2.3.btc.json", "1.2.4.btc.json"]


def test_what_comes_late_for_a_study_is_answered_anew_with_all_of_it(make: Make) -> None:
    ward = make(names=True)
    ward.put("a/0", scan_file("1.2.3", 0))
    ward.pass_time(2 * QUIET)
    ward.reopen()
    ward.put("a/1", scan_file("1.2.3", 1))
    ward.pass_time(2 * QUIET)
    ward.put("a/copy of 1", scan_file("1.2.3", 1))
    ward.pass_time(2 * QUIET)
    assert list(ward.answers()) == ["a/1.2.3.2.btc.json", "a/1.2.3.btc.json"]
    assert len(ward.answers()["a/1.2.3.2.btc.json"][0]["slices"]) == 2
    assert ward.states() == {"study:1.2.3": [(1, ANSWERED, "ok"), (2, ANSWERED, "ok")]}
    assert ward.lines == [
        "1.2.3: answered: ok", "1.2.3: answered anew, as answer 2: ok", "1.2.3: answered before",
    ]  # fmt: skip


def test_what_has_taken_the_place_of_a_studys_file_is_none_of_it(make: Make) -> None:
    """Scanners give the files of every patient the same names."""
    ward = make(names=True)
    for number in range(4):
        ward.put(f"IM{number}", scan_file("1.2.3", number))
    ward.pass_time()
    for number in range(2):
        (ward.folder / f"IM{number}").unlink()
    ward.put("IM4", scan_file("1.2.3", 4))
    ward.put("IM2", scan_file("1.2.4", 2))
    ward.pass_time()
    (late,) = ward.answers()["1.2.3.2.btc.json"]
    assert [part["input"] for part in late["slices"]] == ["IM3", "IM4"]
    (other,) = ward.answers()["1.2.4.btc.json"]
    assert other["input"] == "IM2"
    assert ward.lines.count("1.2.3: 3 files of former answers are gone") == 1
    assert len(ward.lines) == 4


@pytest.mark.parametrize("uid", ["../../x", "a/b", "..", "x" * 65, ".", "1" * 65])
def test_a_uid_that_is_none_names_no_file(uid: str, make: Make, tmp_path: Path) -> None:
    ward = make()
    ward.put("a", scan_file(uid))
    ward.pass_time()
    ((name, (answer,)),) = ward.answers().items()
    assert len(name) == 32 + len(".btc.json")
    assert "/" not in name
    assert answer["status"] == "ok"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".json"] == []


def test_both_halves_of_a_pair_are_one_input(make: Make) -> None:
    ward = make(names=True)
    ward.put("v.hdr", b"header")
    ward.pass_time(QUIET)
    ward.put("v.img", b"voxels")
    ward.pass_time(2 * QUIET)
    assert list(ward.answers()) == ["v.img.btc.json"]
    ward.put("v.hdr", b"another header")
    ward.pass_time()
    assert list(ward.answers()) == ["v.img.2.btc.json", "v.img.btc.json"]
    assert set(ward.states()) == {"file:v.img"}


@pytest.mark.parametrize("name", ["a.png", "a.zip"])
def test_an_empty_file_may_yet_be_written_to(name: str, make: Make) -> None:
    ward = make()
    ward.put(name, b"")
    ward.pass_time(QUIET - 1)
    ward.put(name, picture(1))
    ward.pass_time()
    assert digests(ward.answers()) == [digest(picture(1))]


def test_no_name_of_a_file_leaks_unless_it_is_asked_for(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def members(_: object, files: list[Any], **__: Any) -> Any:
        name = files[0].name
        yield ok(f"{name}/Mustermann.png", "0" * 64)
        names = "'Mustermann.png' and header b'Muster\\'mann\\xff', a file's \"Muster'mann\" differ"
        yield failure(f"{name}/x", "m", f"damaged in the archive (File name in directory {names})")
        study = {
            "uid": None,
            "series": [{"name": f"{name}/Mustermann"}],
            "passed_over": [{"input": f"{name}/Mustermann.png", "reason": "a localiser"}],
        }
        yield ok(f"{files[0].source}", slices=(ok(f"{files[0].source}/Mustermann"),), study=study)

    monkeypatch.setattr(watcher_module, "classify_drop", members)
    ward = make()
    names = (
        "Mustermann.zip",
        "Mustermann/x.png",
        "Mustermann.txt",
        "Mustermann.dcm",
        "Mustermann~",
    )
    for name in names:
        ward.put(name, scan_file("1.2") if name.endswith("dcm") else picture(name))
    (ward.folder / "Mustermann link").symlink_to("x")
    ward.put("Mustermann gone.png", picture(1))
    ward.wait()
    (ward.folder / "Mustermann gone.png").unlink()
    ward.pass_time()
    told = json.dumps(ward.answers()) + "\n".join(ward.lines)
    assert len(ward.answers()) == 4
    assert "Mustermann" not in told
    assert str(ward.folder) not in told
    for name, answers in ward.answers().items():
        if name != "1.2.btc.json":
            assert {answer["input"].partition("/")[0] for answer in answers} == {name[:32]}
            assert any(line.startswith(name[:12]) for line in ward.lines)
    ward.settings["names"] = True
    ward.reopen("model 2", again=True)
    ward.pass_time()
    assert any(line.startswith("Mustermann/x.png") for line in ward.lines)
    assert ward.answers()["Mustermann/x.png.btc.json"][0]["input"].startswith("Mustermann/x.png/")


def test_lines_of_files_without_an_id_cannot_be_found_by_trying_paths(
    make: Make, tmp_path: Path
) -> None:
    told = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        ward = Ward(tmp_path / place)
        ward.put("Mustermann.txt", b"x")
        ward.pass_time(5)
        told += ward.lines
    assert len(set(told)) == 2


@pytest.mark.parametrize("other", ["a.png.2", "1.2.3"])
def test_no_two_answers_have_one_name(other: str, make: Make) -> None:
    ward = make(out=None)
    ward.put(other, picture("other"))
    ward.put("a.png", picture(1))
    ward.pass_time(5)
    ward.put("a.png", picture(2))
    ward.put("d", scan_file("1.2.3"))
    ward.pass_time()
    records = [record for record, _, _ in ward.journal.records()]
    assert len({record.name for record in records}) == len(records) == 4
    assert set(ward.answers()) == {record.name for record in records}


def test_a_long_name_is_shortened_to_its_id(make: Make) -> None:
    ward = make(out=None)
    ward.put("ä" * 120 + ".png", picture(1))
    ward.pass_time(5)
    (name,) = ward.answers()
    assert len(name) == 32 + len(".btc.json")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there")
def test_a_name_that_is_no_text_is_a_name(make: Make) -> None:
    ward = make(out=None)
    ward.put(os.fsdecode(b"a\xff.png"), picture(1))
    ward.pass_time(5)
    ward.reopen()
    ward.pass_time()
    assert [os.fsencode(name) for name in ward.answers()] == [b"a\xff.png.btc.json"]


def test_another_model_answers_anew_only_where_it_is_asked_to(make: Make) -> None:
    ward = make()
    ward.put("a.png", picture(1))
    ward.put("d", scan_file("1.2.3"))
    ward.pass_time()
    ward.reopen("model 2")
    ward.pass_time()
    assert len(ward.answers()) == 2
    for _ in range(2):
        ward.reopen("model 2", again=True)
        ward.pass_time()
    assert len(ward.answers()) == 4
    assert {subject: len(rows) for subject, rows in ward.states().items()} == {
        "file:a.png": 2, "study:1.2.3": 2,
    }  # fmt: skip
    models = {record.model for record, _, _ in ward.journal.records()}
    assert models == {"model 1", "model 2"}


@pytest.mark.parametrize("place", ["out", "heatmaps"])
def test_nothing_is_written_into_the_watched_folder(place: str, make: Make, tmp_path: Path) -> None:
    ward = make()
    (tmp_path / "link").symlink_to(ward.folder)
    for inside in (ward.folder, ward.folder / "x", tmp_path / "link" / "x"):
        ward.journal.close()
        with pytest.raises(UsageError, match="lies in the watched folder"):
            ward.open(**{place: inside})


def test_a_folder_that_is_a_link_is_the_one_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for places in ((tmp_path / "in" / "x", None), (None, tmp_path / "in" / "x")):
        with pytest.raises(UsageError, match="lies in the watched folder"):
            check_places(tmp_path / "link", *places, tmp_path / "journal")
    with pytest.raises(UsageError, match="lies in the watched folder"):
        check_places(tmp_path / "link", None, None, tmp_path / "in" / "journal")
    check_places(tmp_path / "link", tmp_path / "out", None, tmp_path / "in" / ".journal")


def test_heatmaps_appear_with_their_answer_and_without_names(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(_: object, files: list[Any], *, heatmaps: Path, **__: Any) -> Any:
        heatmaps.mkdir(parents=True)
        (heatmaps / "Mustermann-12345678.png").write_bytes(b"drawn")
        yield ok(files[0].name, "12345678", heatmap=str(heatmaps / "Mustermann-12345678.png"))

    monkeypatch.setattr(watcher_module, "classify_drop", draw)
    ward = make(heatmaps=tmp_path / "heat")
    ward.put("Mustermann.png", picture(1))
    ward.pass_time(5)
    ((name, (answer,)),) = ward.answers().items()
    (drawn,) = (tmp_path / "heat").iterdir()
    assert (drawn.name, answer["heatmap"]) == (f"{name[:12]}-12345678.png", str(drawn))


def test_heatmaps_of_a_volume_in_several_planes_are_several(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = ("axial", "coronal", "sagittal")

    def draw(_: object, files: list[Any], *, heatmaps: Path, **__: Any) -> Any:
        heatmaps.mkdir(parents=True)
        parts = []
        for plane in planes:
            path = heatmaps / f"Mustermann-{plane}-0003-12345678.png"
            path.write_text(plane)
            parts.append(ok(files[0].name, "12345678", heatmap=str(path), slice=3))
        yield ok(files[0].name, slices=tuple(parts))

    monkeypatch.setattr(watcher_module, "classify_drop", draw)
    ward = make(heatmaps=tmp_path / "heat")
    ward.put("Mustermann.nii", picture(1))
    ward.pass_time(5)
    ((answer,),) = ward.answers().values()
    assert tuple(Path(part["heatmap"]).read_text() for part in answer["slices"]) == planes


@pytest.mark.parametrize("names", [False, True])
def test_pictures_of_one_name_and_content_share_a_heatmap(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: bool
) -> None:
    """As of two folders of a zip: the second picture's is written in the place of the first's."""

    def draw(_: object, files: list[Any], *, heatmaps: Path, **__: Any) -> Any:
        heatmaps.mkdir(parents=True)
        path = heatmaps / "1-12345678.png"
        path.write_bytes(b"drawn")
        for folder in "ab":
            yield ok(f"{files[0].name}/{folder}/1.png", "12345678", heatmap=str(path))

    monkeypatch.setattr(watcher_module, "classify_drop", draw)
    ward = make(heatmaps=tmp_path / "heat", names=names)
    ward.put("a.zip", b"PK\3\4")
    ward.pass_time()
    ((one, two),) = ward.answers().values()
    assert one["heatmap"] == two["heatmap"]
    assert Path(one["heatmap"]).read_bytes() == b"drawn"


@pytest.mark.parametrize("names", [False, True])
def test_heatmaps_of_a_former_answer_stay_its_own(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: bool
) -> None:
    """Slices that a study's volume is cut into are of no file, and others once more files came."""

    def draw(_: object, files: list[Any], *, heatmaps: Path, **__: Any) -> Any:
        heatmaps.mkdir(parents=True)
        path = heatmaps / "1-coronal-0003-12345678.png"
        path.write_text(f"{len(files)} files")
        yield ok("1.2.3", slices=(ok("1.2.3.1", heatmap=str(path), slice=3),))

    monkeypatch.setattr(watcher_module, "classify_drop", draw)
    ward = make(heatmaps=tmp_path / "heat", names=names)
    for number in range(2):
        ward.put(f"s{number}", scan_file("1.2.3", number))
        ward.pass_time()
    drawn = [answer["slices"][0]["heatmap"] for (answer,) in ward.answers().values()]
    assert sorted(Path(path).read_text() for path in drawn) == ["1 files", "2 files"]


def test_a_full_disk_loses_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ward = make(names=True)
    ward.put("a.png", picture(1))
    with monkeypatch.context() as patch:
        patch.setattr(watcher_module, "write_text", full)
        ward.pass_time()
    assert ward.answers() == {}
    assert "a.png: the answer cannot be written: No space left on device: tried again later" in (
        ward.lines
    )
    ward.pass_time()
    assert len(ward.answers()) == 1
    assert ward.states() == {"file:a.png": [(1, ANSWERED, "ok")]}


def test_a_journal_on_a_full_disk_loses_nothing(make: Make) -> None:
    ward = make()
    (pages,) = ward.journal._one("PRAGMA page_count")
    ward.journal._one(f"PRAGMA max_page_count = {pages}")
    for number in range(300):
        ward.put(f"{number:03d}.png", picture(number))
    ward.pass_time(10)
    assert any("the journal cannot be written: database or disk is full" in s for s in ward.lines)
    assert len(ward.answers()) < 300
    ward.journal._one("PRAGMA max_page_count = 100000")
    ward.pass_time()
    assert len(ward.answers()) == len(ward.states()) == 300


def test_a_damaged_journal_ends_it_with_a_line(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    def damaged(*_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    ward = make()
    ward.put("a.png", picture(1))
    monkeypatch.setattr(ward.journal, "knows", damaged)
    with pytest.raises(DataError, match="the journal is damaged"):
        ward.pass_time()


def test_a_folder_that_vanishes_is_waited_for(make: Make, tmp_path: Path) -> None:
    ward = make(names=True)
    ward.put("a.png", picture(1))
    ward.pass_time(10)
    ward.put("b.png", picture(2))
    ward.wait()
    ward.folder.rename(tmp_path / "away")
    ward.pass_time()
    ward.put("x/y", b"")  # somebody makes it anew, and empty
    shutil.rmtree(ward.folder)
    ward.pass_time()
    assert len(ward.answers()) == 1
    (tmp_path / "away").rename(ward.folder)
    ward.pass_time()
    assert [line for line in ward.lines if "folder" in line] == [
        "the folder cannot be read: No such file or directory: waiting for it",
        "the folder is there again",
    ]
    assert len(ward.answers()) == 2


def test_what_fails_to_be_handed_over_is_handed_over_again(make: Make) -> None:
    tries: list[Answered] = []

    def take(answered: Answered) -> None:
        tries.append(answered)
        assert ward.answers(), "the file is written first"
        assert ward.states()["file:a.png"][0][1] != ANSWERED
        if len(tries) == 1:
            raise OSError("nobody is listening")

    ward = make(on_answer=take)
    path = ward.put("a.png", picture(1))
    ward.pass_time(2 * 60)
    assert len(tries) == 2
    assert [file.source for file in tries[1].files] == [path]
    assert tries[0].record[:5] == tries[1].record[:5]
    assert ward.states() == {"file:a.png": [(1, ANSWERED, "ok")]}
    assert any("nobody is listening: tried again later" in line for line in ward.lines)


@pytest.mark.parametrize("patients", [0, 1, 2])
def test_a_file_of_a_study_that_cannot_be_used_is_not_handed_over_by_itself(
    make: Make, monkeypatch: pytest.MonkeyPatch, patients: int
) -> None:
    """Who takes the first answer lets the files go that the next one is for."""

    def answer(_: object, files: list[Any], **__: Any) -> Any:
        yield from (failure(file.name, "m", "damaged") for file in files)
        yield from (ok("1.2.3", study={"uid": "1.2.3"}) for _ in range(patients))

    taken: list[Answered] = []
    monkeypatch.setattr(watcher_module, "classify_drop", answer)
    ward = make(on_answer=taken.append)
    for number in range(2):
        ward.put(f"s{number}", scan_file("1.2.3", number))
    ward.pass_time()
    handed_over = [each.prediction.status.value for each in taken]
    assert handed_over == (["ok"] * patients or ["error"])
    assert len(ward.answers()["1.2.3.btc.json"]) == 2 + patients


STEPS = ("_begin", "_classify", "_write", "_write_answers", "_hand_over", "_finish")


def dies(step: str, before: bool) -> type[Watcher]:
    """A watcher whose process ends before or behind a step."""

    def end(self: Watcher, *words: Any) -> Any:
        if not before:
            getattr(Watcher, step)(self, *words)
        raise Killed

    return type("Dies", (Watcher,), {step: end})


@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("late", [False, True], ids=["", "and a file comes"])
def test_a_process_that_ends_anywhere_loses_nothing_and_repeats_nothing(
    step: str, before: bool, late: bool, make: Make
) -> None:
    ward = make()
    ward.reopen(watcher=dies(step, before))
    for number in range(3):
        ward.put(f"{number}.png", picture(number))
        ward.put(f"{number}", scan_file("1.2.3", number))
    for _ in range(2):
        with pytest.raises(Killed):
            ward.pass_time()
        ward.reopen(watcher=dies(step, before))
    if late:
        ward.put("late", scan_file("1.2.3", 7))
    ward.reopen()
    ward.pass_time()
    study = ward.answers().keys() - {r.name for r, _, _ in ward.journal.records()}
    assert study == set(), "each answer's file is in the journal"
    answered = [r for r, state, _ in ward.journal.records() if state == ANSWERED]
    assert {state for _, state, _ in ward.journal.records()} <= {ANSWERED, REPLACED}
    assert {r.name for r in answered} <= ward.answers().keys()
    assert len({(r.subject, r.content) for r in answered}) == len(answered)
    assert len([r for r in answered if r.subject.startswith("file:")]) == 3
    files = sum(len(ward.journal.files_of(subject)) for subject in ward.states())
    assert files == 6 + late
    content = {answer[0]["sha256"] for answer in ward.answers().values()} - {None}
    assert content == {digest(picture(number)) for number in range(3)}


def test_what_went_while_no_process_ran_is_told(make: Make) -> None:
    ward = make(names=True)
    ward.reopen(watcher=dies("_write", before=True))
    paths = [ward.put(f"{number}.png", picture(number)) for number in range(2)]
    with pytest.raises(Killed):
        ward.pass_time()
    paths[0].unlink()
    ward.reopen()
    ward.pass_time()
    assert ward.lines == ["1.png: answered: ok", "0.png: gone before its turn"]
    ward.reopen()
    ward.pass_time()
    assert len(ward.lines) == 2, "it is told once"


@pytest.mark.parametrize("names", [False, True])
def test_a_study_that_went_while_no_process_ran_is_told_and_answered_if_it_comes_back(
    names: bool, make: Make
) -> None:
    ward = make(names=names)
    ward.reopen(watcher=dies("_write", before=True))
    path = ward.put("s", scan_file("1.2.3"))
    with pytest.raises(Killed):
        ward.pass_time()
    path.unlink()
    ward.reopen()
    ward.put("other.png", picture(1))
    ward.pass_time()
    shown = "1.2.3" if names else digest(b"1.2.3")[:12]
    gone = f"{shown}: its files are gone, or cannot be read, before its turn"
    assert ward.lines.count(gone) == 1
    assert ward.states()["study:1.2.3"] == [(1, GONE, None)]
    ward.put("s", scan_file("1.2.3"))
    ward.pass_time()
    assert ward.states()["study:1.2.3"] == [(1, ANSWERED, "ok")]
    assert ward.lines.count(gone) == 1


def test_once_ends_when_all_that_was_promised_is_gone(make: Make) -> None:
    ward = make(names=True, settle=0, quiet=0)
    ward.reopen(watcher=dies("_write", before=True))
    path = ward.put("s", scan_file("1.2.3"))
    with pytest.raises(Killed):
        ward.pass_time()
    path.unlink()
    ward.reopen()
    ward.watcher.run_once(threading.Event())
    assert ward.states()["study:1.2.3"] == [(1, GONE, None)]


def test_a_file_that_ends_the_process_each_time_is_an_error_at_last(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(_: object, files: list[Any], **how: Any) -> Any:
        if files[0].name == "1.png":
            raise Killed
        return classify_bytes(_, files, **how)

    monkeypatch.setattr(watcher_module, "classify_drop", poison)
    ward = make(names=True)
    for number in range(4):
        ward.put(f"{number}.png", picture(number))
    for _ in range(MOST_TRIES):
        with pytest.raises(Killed):
            ward.pass_time()
        ward.reopen()
    ward.pass_time()
    found = {name[0]: answer[0] for name, answer in ward.answers().items()}
    assert {name: answer["status"] for name, answer in found.items()} == {
        "0": "ok", "1": "error", "2": "ok", "3": "ok",
    }  # fmt: skip
    assert found["1"]["error"] == "the program ended 5 times over it"


def test_what_an_ended_process_was_writing_is_cleared_away(make: Make) -> None:
    ward = make()
    ward.reopen(watcher=dies("_write", before=True))
    ward.put("a.png", picture(1))
    with pytest.raises(Killed):
        ward.pass_time()
    ward.out.mkdir(exist_ok=True)
    part, other = ward.out / ".part-0123456789ab.json", ward.out / ".part-of another.json"
    part.touch()
    other.touch()
    ward.reopen()
    ward.pass_time()
    assert (part.exists(), other.exists()) == (False, True)


def test_a_model_that_fails_ends_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("it has no class maps")

    monkeypatch.setattr(watcher_module, "classify_drop", fail)
    ward = make()
    ward.put("a.png", picture(1))
    with pytest.raises(ModelError):
        ward.pass_time()
