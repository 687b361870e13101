"""Results on their way, and received files until they have arrived."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from benchmarks.hostile.files import dicom_bytes
from benchmarks.hostile.pictures import draw_slice
from edge_runtime.services import delivery
from edge_runtime.services.delivery import NotNow, NotWanted, Outbox, ToArchive, ToFolder
from edge_runtime.services.spool import Spool, digest
from tests.services.dicom_peers import STUDY

RESULTS = ("2.25.1", "2.25.2")


def capture(instance: str) -> bytes:
    """A drawn Secondary Capture."""
    return dicom_bytes(
        draw_slice(0, 32), SOPClassUID=SecondaryCaptureImageStorage, SOPInstanceUID=instance,
        StudyInstanceUID=STUDY,
    )  # fmt: skip


class Archive:
    """A sender that does as it is told."""

    def __init__(self, *does: Exception | None) -> None:
        self.does = list(does)
        self.got: list[str] = []

    def send(self, paths: Sequence[Path], arrived: Callable[..., None]) -> None:
        for path in paths:
            next_ = self.does.pop(0) if self.does else None
            if next_ is not None and not isinstance(next_, NotWanted):
                raise next_
            if next_ is None:
                self.got.append(path.stem)
            arrived(path, next_)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def spool_in(folder: Path) -> Spool:
    return Spool(folder, max_bytes=1 << 20, max_files=9, min_free=0)


def received(folder: Path, count: int = 2) -> list[Path]:
    place = folder / digest(STUDY)
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{number}.dcm" for number in range(count)]
    for path in paths:
        path.write_bytes(b"x")
    return paths


def results() -> list[tuple[str, bytes]]:
    return [(instance, capture(instance)) for instance in RESULTS]


def test_files_go_once_their_results_have_arrived(folder: Path) -> None:
    archive, lines = Archive(), []
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    files = received(folder)
    outbox.put("key", results(), files)
    assert outbox.has("key")
    assert all(path.exists() for path in files)
    assert outbox.deliver()
    assert archive.got == list(RESULTS)
    assert not files[0].parent.exists()
    assert not outbox.has("key")
    assert lines == []


def test_files_stay_while_the_archive_is_away(folder: Path) -> None:
    archive, lines = Archive(NotNow("away"), None, NotNow("away")), []
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    files = received(folder)
    outbox.put("key", results(), files)
    for got in ([], ["2.25.1"]):
        assert not outbox.deliver()
        assert archive.got == got
        assert all(path.exists() for path in files)
    assert outbox.deliver()
    assert archive.got == list(RESULTS)  # none twice
    assert not files[0].exists()
    assert lines == [
        "results cannot be delivered: away: tried again until they are",
        "results are delivered again",
    ]


def test_what_is_not_wanted_is_told_and_stays_with_its_files(folder: Path) -> None:
    archive, lines = Archive(NotWanted("status 0xC000")), []
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    files = received(folder)
    outbox.put("key", results(), files)
    assert outbox.deliver()
    assert archive.got == ["2.25.2"]
    assert "not wanted: status 0xC000" in lines[0]
    assert all(path.exists() for path in files)
    assert outbox.deliver()
    assert archive.got == ["2.25.2"]  # and is not sent again
    assert outbox.has("key")


def test_an_archive_that_is_away_is_told_once_behind_what_is_not_wanted(folder: Path) -> None:
    archive, lines = Archive(NotWanted("x"), None, NotNow("away"), NotNow("away"), None), []
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    outbox.put("key", results(), received(folder))
    os.utime(folder / ".results" / "key" / "files.json", (0, 0))  # its turn comes first
    assert outbox.deliver()
    outbox.put("next", results(), ())
    assert [outbox.deliver() for _ in range(3)] == [False, False, True]
    assert lines[1:] == [
        "results cannot be delivered: away: tried again until they are",
        "results are delivered again",
    ]


def test_one_odd_result_keeps_no_other_from_going(folder: Path) -> None:
    archive, lines = Archive(ValueError("Sample^Person"), None, None, KeyError()), []  # type: ignore[arg-type]
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    files = received(folder)
    outbox.put("key", results(), files)
    os.utime(folder / ".results" / "key" / "files.json", (0, 0))  # its turn comes first
    outbox.put("next", results(), ())
    assert not outbox.deliver()
    assert archive.got == list(RESULTS)
    assert not outbox.has("next")
    assert not outbox.deliver()
    assert all(path.exists() for path in files)
    assert outbox.deliver()
    assert lines == [
        "results cannot be delivered: unexpected ValueError: tried again until they are",
        "results are delivered again",
    ]


def test_files_are_kept_where_that_is_asked_for(folder: Path) -> None:
    outbox = Outbox(spool_in(folder), Archive(), keep=True, tell=print)
    files = received(folder)
    outbox.put("key", results(), files)
    assert outbox.deliver()
    assert all(path.exists() for path in files)
    assert not outbox.has("key")


def test_without_results_files_go_at_once(folder: Path) -> None:
    outbox = Outbox(spool_in(folder), None, keep=False, tell=print)
    files = received(folder)
    outbox.put("key", (), files)
    assert outbox.deliver()
    assert not files[0].parent.exists()


def test_files_without_the_results_that_were_asked_for_stay(folder: Path) -> None:
    outbox = Outbox(spool_in(folder), Archive(), keep=False, tell=print)
    files = received(folder)
    outbox.put("key", (), files, held=True)
    assert outbox.deliver()
    assert files[0].exists()


def test_a_study_that_has_grown_since_stays_for_its_next_answer(folder: Path) -> None:
    outbox = Outbox(spool_in(folder), None, keep=False, tell=print)
    files = received(folder, 2)
    outbox.put("key", (), files)
    more = received(folder, 3)
    assert outbox.deliver()
    assert all(path.exists() for path in more)
    outbox.put("next", (), more)
    assert outbox.deliver()
    assert not files[0].parent.exists()


def test_a_restart_goes_on_where_the_process_was_killed(folder: Path) -> None:
    spool = spool_in(folder)
    Outbox(spool, Archive(), keep=False, tell=print).put("whole", results(), received(folder))
    half = folder / ".results" / "half"
    half.mkdir()
    (half / "2.25.9.dcm").write_bytes(capture("2.25.9"))  # its list of files never came
    archive = Archive()
    outbox = Outbox(spool, archive, keep=False, tell=print)
    assert not half.exists()
    assert outbox.deliver()
    assert archive.got == list(RESULTS)


def test_files_of_which_some_were_deleted_go_before_anything_is_answered(folder: Path) -> None:
    """Else the rest would be answered as a study of its own."""
    spool = spool_in(folder)
    outbox = Outbox(spool, Archive(), keep=False, tell=print)
    files = received(folder, 3)
    outbox.put("key", (), files)
    files[0].unlink()  # as far as the process came
    Outbox(spool, Archive(), keep=False, tell=print)
    assert not files[2].exists()


def test_the_queue_names_no_file_outside_the_spool(folder: Path) -> None:
    outbox = Outbox(spool_in(folder), Archive(), keep=False, tell=print)
    outbox.put("key", (), received(folder))
    names = json.loads((folder / ".results" / "key" / "files.json").read_text())
    assert names == [f"{digest(STUDY)}/0.dcm", f"{digest(STUDY)}/1.dcm"]


def test_results_in_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outbox = Outbox(spool_in(folder), ToFolder(out), keep=False, tell=print)
    outbox.put("key", results(), received(folder))
    assert outbox.deliver()
    found = sorted(path.relative_to(out) for path in out.rglob("*.dcm"))
    assert found == [Path(STUDY) / f"{instance}.dcm" for instance in RESULTS]


def test_a_folder_that_takes_nothing_is_tried_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"a file")
    lines: list[str] = []
    outbox = Outbox(spool_in(folder), ToFolder(out), keep=False, tell=lines.append)
    files = received(folder)
    outbox.put("key", results(), files)
    assert not outbox.deliver()
    assert "cannot be delivered" in lines[0]
    out.unlink()
    assert outbox.deliver()
    assert not files[0].exists()


class Scp:
    """A Storage SCP whose answers are given."""

    def __init__(self, *statuses: int, classes: Sequence[str] = ()) -> None:
        self.statuses, self.got = list(statuses), []
        entity = AE("ARCHIVE")
        entity.require_called_aet = True
        for sop_class in classes or (SecondaryCaptureImageStorage, ComprehensiveSRStorage):
            entity.add_supported_context(sop_class)
        self.server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self.server.server_address[1]

    def _store(self, event: Any) -> int:
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0:
            self.got.append((event.dataset, event.assoc.requestor.ae_title))
        return status


@pytest.fixture
def scp() -> Iterator[Callable[..., Scp]]:
    started: list[Scp] = []

    def start(*statuses: int, **more: Any) -> Scp:
        started.append(Scp(*statuses, **more))
        return started[-1]

    yield start
    for each in started:
        each.server.shutdown()


def put_for(port: int, folder: Path, called: str = "ARCHIVE") -> tuple[Outbox, list[str]]:
    lines: list[str] = []
    archive = ToArchive("127.0.0.1", port, called, "BTC_EDGE", patience=10)
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    outbox.put("key", results(), received(folder))
    return outbox, lines


def test_results_arrive_at_an_archive(scp: Callable[..., Scp], folder: Path) -> None:
    peer = scp()
    outbox, lines = put_for(peer.port, folder)
    assert outbox.deliver()
    assert [(str(got.SOPInstanceUID), by) for got, by in peer.got] == [
        (instance, "BTC_EDGE") for instance in RESULTS
    ]
    assert peer.got[0][0].PixelData == pydicom.dcmread(BytesIO(capture(RESULTS[0]))).PixelData
    assert lines == []


@pytest.mark.parametrize(
    ("statuses", "done", "said"),
    [
        ((0xA700,), False, "out of resources"),
        ((0xB000,), True, ""),  # taken, with a warning
        ((0x0111,), True, ""),  # it was taken before: the answer to that was lost
        ((0xC000,), True, "not wanted: status 0xC000"),
        ((0x0122,), True, "not wanted: status 0x0122"),
    ],
)
def test_what_an_archive_may_answer(
    scp: Callable[..., Scp], folder: Path, statuses: tuple[int, ...], done: bool, said: str
) -> None:
    outbox, lines = put_for(scp(*statuses).port, folder)
    assert outbox.deliver() is done
    assert any(said in line for line in lines) if said else lines == []


def test_an_archive_that_takes_no_captures(scp: Callable[..., Scp], folder: Path) -> None:
    outbox, lines = put_for(scp(classes=[ComprehensiveSRStorage]).port, folder)
    assert outbox.deliver()
    assert "takes no such objects" in lines[0]


def test_an_archive_by_another_name_is_tried_again(scp: Callable[..., Scp], folder: Path) -> None:
    outbox, lines = put_for(scp().port, folder, called="OTHER")
    assert not outbox.deliver()
    assert "refused the association" in lines[0]


def test_nobody_there_is_tried_again(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    outbox, lines = put_for(port, folder)
    assert not outbox.deliver()
    assert "no association" in lines[0]


def test_it_runs_until_it_is_told_to_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.01)
    archive, lines, stop = Archive(NotNow("away"), ValueError("odd")), [], threading.Event()  # type: ignore[arg-type]
    outbox = Outbox(spool_in(folder), archive, keep=False, tell=lines.append)
    thread = threading.Thread(target=outbox.run, args=(stop,))
    thread.start()
    outbox.put("key", results(), received(folder))
    end = monotonic() + 10
    while outbox.has("key") and monotonic() < end:
        sleep(0.005)
    stop.set()
    outbox.wake()
    thread.join(10)
    assert not thread.is_alive()
    assert "2.25.2" in archive.got
