"""`btc-edge listen` from end to end: the console script, other people's senders and receivers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import click
import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from edge_runtime.commands.listen import Archive, Title
from edge_runtime.commands.main import command
from edge_runtime.errors import BtcError, ExitCode, UsageError
from edge_runtime.services.spool import digest
from tests.services.dicom_peers import NAME, NUMBER, STUDY, connect, drawn_file, drawn_study, send

SCRIPT = Path(sys.executable).parent / "btc-edge"
PATIENT = (NAME, NUMBER, "19700101", "Doe")


class Service:
    """A running `btc-edge listen`, and what it said."""

    def __init__(self, home: Path, *words: str, **environment: str) -> None:
        self.home, self.lines = home, list[str]()
        self.changed = threading.Condition()
        line = [str(SCRIPT), "listen", "--spool", str(home / "spool"), "--out", str(home / "out"),
                "--port", "0", "--min-free", "0", *words]  # fmt: skip
        self.process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        threading.Thread(target=self._hear, daemon=True).start()
        told = self.said("listens at")
        self.port = int(told.split(" listens at ")[1].split(";")[0].rpartition(":")[2])

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()

    def said(self, words: str, seconds: float = 60) -> str:
        """A line with these words, which may come soon."""

        def found() -> str | None:
            return next((line for line in self.lines if words in line), None)

        with self.changed:
            assert self.changed.wait_for(found, seconds), self.lines
            return str(found())

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def answers(self) -> list[Any]:
        found = sorted((self.home / "out").rglob("*.btc.json"))
        return [json.loads(path.read_text())[0] for path in found]

    def received(self) -> list[Path]:
        return sorted((self.home / "spool").glob("*/*.dcm"))


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Service] = []

    def run(*words: str, **environment: str) -> Service:
        started.append(Service(tmp_path, *words, **environment))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.wait()


def wait(what: Callable[[], Any], seconds: float = 60) -> bool:
    """Whether something is so, or soon will be."""
    end = monotonic() + seconds
    while not what() and monotonic() < end:
        sleep(0.02)
    return bool(what())


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_a_study_goes_in_and_its_results_come_back(start: Start, tmp_path: Path) -> None:
    """dcmtk's storescu sends twelve slices, its storescp is the archive that gets the results."""
    sender, receiver, checker = tool("storescu"), tool("storescp"), tool("dciodvfy")
    archive, port = tmp_path / "archive", free_port()
    archive.mkdir()
    scp = subprocess.Popen([receiver, "-aet", "ARCHIVE", "-od", str(archive), str(port)])
    try:
        service = start("--quiet", "0.5", "--results-to", f"127.0.0.1:{port}/ARCHIVE",
                        "--allow", "MODALITY")  # fmt: skip
        paths = drawn_study(tmp_path / "in", 12)
        done = subprocess.run(
            [sender, "-aet", "MODALITY", "-aec", "BTC_EDGE", "127.0.0.1", str(service.port),
             *map(str, paths)], timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert wait(lambda: len(list(archive.iterdir())) == 2)
        assert wait(lambda: not service.received())
    finally:
        scp.kill()
        scp.wait()
    [answer] = service.answers()
    assert answer["input"] == STUDY
    assert len(answer["slices"]) == 12
    results = {pydicom.dcmread(path).Modality: path for path in archive.iterdir()}
    assert set(results) == {"OT", "SR"}
    for path in results.values():
        assert pydicom.dcmread(path).StudyInstanceUID == STUDY
        assert pydicom.dcmread(path).PatientID == NUMBER
        told = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in told.stderr
    assert service.end() == 0
    text = "".join(service.lines)
    assert not [word for word in PATIENT if word in text]
    assert not list((tmp_path / "spool").glob("*/*"))


@pytest.mark.slow
def test_an_answer_survives_a_kill_between_receiving_and_answering(start: Start) -> None:
    """Nothing is lost, and nothing is answered twice."""
    service = start("--quiet", "3600")
    association = connect(service.address)
    assert [send(association, drawn_file(n)) for n in range(3)] == [0, 0, 0]
    service.process.kill()
    service.process.wait()
    assert len(service.received()) == 3
    again = start("--quiet", "0")
    again.said("answered")
    assert wait(lambda: not again.received())
    [answer] = again.answers()
    assert len(answer["slices"]) == 3
    assert again.end() == 0
    third = start("--quiet", "0")
    assert third.end() == 0
    assert len(third.answers()) == 1


@pytest.mark.slow
def test_results_survive_a_kill_while_the_archive_is_away(start: Start, tmp_path: Path) -> None:
    port = free_port()
    words = ("--quiet", "0", "--results-to", f"127.0.0.1:{port}/ARCHIVE")
    service = start(*words)
    association = connect(service.address)
    assert send(association, drawn_file()) == 0
    service.said("cannot be delivered")
    service.process.kill()
    service.process.wait()
    assert len(service.received()) == 1
    got: list[str] = []
    scp = archive_at(port, got)
    try:
        again = start(*words)
        assert wait(lambda: not again.received())
    finally:
        scp.shutdown()
    assert sorted(got) == ["OT", "SR"]
    assert len(again.answers()) == 1


def archive_at(port: int, got: list[str]) -> Any:
    """A Storage SCP that notes what it gets."""
    from pynetdicom import AllStoragePresentationContexts, evt

    def store(event: Any) -> int:
        got.append(event.dataset.Modality)
        return 0

    entity = AE("ARCHIVE")
    entity.supported_contexts = AllStoragePresentationContexts
    return entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )


@pytest.mark.slow
def test_own_results_that_come_back_are_not_taken(start: Start, tmp_path: Path) -> None:
    results = tmp_path / "results"
    service = start("--quiet", "0", "--results-folder", str(results))
    association = connect(service.address)
    assert send(association, drawn_file()) == 0
    assert wait(lambda: len(list(results.rglob("*.dcm"))) == 2)
    association.release()
    assert wait(lambda: not service.received())
    for path in results.rglob("*.dcm"):
        back = pydicom.dcmread(path)
        peer = AE("ARCHIVE")
        peer.add_requested_context(back.SOPClassUID)
        association = peer.associate(*service.address, ae_title="BTC_EDGE")
        assert not association.accepted_contexts
        association.abort()
        # Nor in the guise of an MR image.
        peer.add_requested_context(MRImageStorage)
        association = peer.associate(*service.address, ae_title="BTC_EDGE")
        with pytest.raises(ValueError, match="presentation context"):
            association.send_c_store(back)
        association.release()
    assert service.received() == []
    assert len(service.answers()) == 1


@pytest.mark.slow
def test_a_study_that_is_sent_once_more_does_not_pile_up(start: Start) -> None:
    service = start("--quiet", "0.2")
    for _ in range(2):
        association = connect(service.address)
        assert [send(association, drawn_file(n)) for n in range(3)] == [0, 0, 0]
        association.release()
        assert wait(lambda: not service.received())
    service.said("answered before")
    assert len(service.answers()) == 1


def test_files_are_kept_where_that_is_asked_for(start: Start) -> None:
    service = start("--quiet", "0", "--keep")
    association = connect(service.address)
    assert send(association, drawn_file()) == 0
    service.said("answered")
    assert service.end() == 0
    [path] = service.received()
    assert path.parent.name == digest(STUDY)


def invoked(*words: str) -> Any:
    """`btc-edge listen` in this process."""
    return command.main(["listen", *words], standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--host", "0.0.0.0"], "needs --allow"),
        (["--host", "::"], "needs --allow"),
        (["--host", "example.org"], "needs --allow"),
        (["--results-to", "h:1/A", "--results-folder", "x"], "not both"),
        (["--tls-cert", __file__], "go together"),
        (["--tls-ca", __file__], "needs --tls-cert"),
        (["--results-tls-ca", __file__], "needs --results-to"),
        (["--tls-cert", __file__, "--tls-key", __file__], "no TLS with"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        invoked("--spool", str(tmp_path / "s"), "--out", str(tmp_path / "o"), *words)


@pytest.mark.parametrize("name", ["--out", "--results-folder"])
def test_nothing_is_written_into_the_spool(tmp_path: Path, name: str) -> None:
    places = {"--spool": str(tmp_path), "--out": str(tmp_path.parent), name: str(tmp_path / "x")}
    with pytest.raises(UsageError, match="lies in the spool"):
        invoked(*[word for pair in places.items() for word in pair])


@pytest.mark.parametrize("title", ["", "x" * 17, "a\\b", "é", " A", "A "])
def test_titles_that_are_none(title: str) -> None:
    with pytest.raises(click.BadParameter):
        Title().convert(title, None, None)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("pacs:104/MAIN PACS", ("pacs", 104, "MAIN PACS")),
        ("[::1]:11112/X", ("::1", 11112, "X")),
        ("pacs:104", None),
        ("pacs:0/X", None),
        ("pacs:70000/X", None),
        (":104/X", None),
        ("a b:104/X", None),
    ],
)
def test_where_results_may_go(text: str, means: tuple[str, int, str] | None) -> None:
    if means is not None:
        assert Archive().convert(text, None, None) == means
        return
    with pytest.raises(click.BadParameter):
        Archive().convert(text, None, None)


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("pynetdicom", (), "btc-edge[dimse]"),
        ("highdicom", ("--results-folder", "r"), "btc-edge[dicom-out]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    words: tuple[str, ...],
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as caught:
        invoked("--spool", str(tmp_path / "s"), "--out", str(tmp_path / "o"), *words)
    assert str(caught.value) == f"the package {package} is missing: pip install '{extra}'"


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.1", "..", "no.such.host.invalid"])
def test_an_address_that_cannot_be_had_is_named(tmp_path: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("--host", host, "--port", port, "--allow", "PEER")
        with pytest.raises(BtcError) as caught:
            invoked("--spool", str(tmp_path / "s"), "--out", str(tmp_path / "o"), *words)
    assert str(caught.value).startswith(f"cannot listen at {host} port {port}: ")
    assert caught.value.exit_code == ExitCode.FAILED


def test_a_folder_for_results_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = {name: str(tmp_path / name) for name in ("spool", "out", "file/results")}
    with pytest.raises(NotADirectoryError, match="results"):
        invoked("--spool", places["spool"], "--out", places["out"],
                "--results-folder", places["file/results"])  # fmt: skip


def test_help_is_light() -> None:
    code = (
        "import sys, edge_runtime.commands.listen; "
        "print([m for m in ('numpy', 'cv2', 'pydicom', 'pynetdicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_two_listeners_do_not_share_a_spool(start: Start, tmp_path: Path) -> None:
    service = start()
    with pytest.raises(UsageError, match="another btc-edge listen"):
        invoked("--spool", str(tmp_path / "spool"), "--out", str(tmp_path / "other"))
    with suppress(OSError):
        assert service.end(signal.SIGINT) == 130


def test_the_unit_in_the_guide_is_one(tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "services.md").read_text("utf-8")
    [unit] = [part for part in guide.split("```") if part.startswith("ini") and "listen" in part]
    path = tmp_path / "btc-edge-listen.service"
    path.write_text(unit[4:].replace("/opt/btc-edge/bin/btc-edge", sys.executable))
    words = [tool("systemd-analyze"), "verify", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
