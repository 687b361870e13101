"""Who may send what, and when a file counts as received."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from edge_runtime.errors import UsageError
from edge_runtime.imaging.dicom import Frames
from edge_runtime.imaging.limits import DEFAULT_LIMITS
from edge_runtime.services import listener as under_test
from edge_runtime.services.listener import Bounds, Listener, Peers, transfer_syntaxes
from edge_runtime.services.spool import (
    DUPLICATE,
    NO_ROOM,
    NOT_UNDERSTOOD,
    OTHER_CLASS,
    Spool,
    digest,
)
from edge_runtime.services.tls import for_listening, for_sending
from tests.services.dicom_peers import (
    NAME,
    NUMBER,
    STUDY,
    connect,
    drawn_file,
    entity,
    noise,
    pdv,
    send,
)

MIB = 1 << 20
# A traceback of a thread would be seen by whoever runs the service.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


class Place:
    """A listener, what it took and what it said."""

    def __init__(
        self,
        folder: Path,
        peers: Peers,
        bounds: Bounds,
        tls: ssl.SSLContext | None = None,
        **spool: int,
    ) -> None:
        limits = {"max_bytes": MIB, "max_files": 100, "min_free": 0, **spool}
        self.spool = Spool(folder, **limits)
        self.files: list[Path] = []
        self.lines: list[str] = []
        self.changed = threading.Condition()
        self.listener = Listener(
            self.spool, host="127.0.0.1", port=0, aet="BTC_EDGE", peers=peers, bounds=bounds,
            tls=tls, on_file=self.files.append, tell=self._tell,
        )  # fmt: skip
        self.listener.start()
        self.address = self.listener.address

    def _tell(self, line: str) -> None:
        with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    def said(self, words: str) -> bool:
        """Whether a line with these words is there, or comes soon."""
        with self.changed:
            return self.changed.wait_for(lambda: any(words in line for line in self.lines), 10)

    def stored(self) -> list[Path]:
        return sorted(self.spool.folder.glob("*/*.dcm"))

    def half(self) -> list[Path]:
        return list((self.spool.folder / ".incoming").iterdir())


Start = Callable[..., Place]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    places: list[Place] = []

    def started(peers: Peers = Peers(), bounds: Bounds = Bounds(), **spool: Any) -> Place:  # noqa: B008
        places.append(Place(tmp_path / f"spool-{len(places)}", peers, bounds, **spool))
        return places[-1]

    yield started
    for place in places:
        place.listener.stop()


def test_a_file_is_answered_once_it_stands_whole_in_its_study(start: Start) -> None:
    place = start()
    sent = drawn_file()
    association = connect(place.address)
    assert association.send_c_echo().Status == 0
    assert send(association, sent) == 0
    [path] = place.stored()
    assert place.files == [path]
    assert path.parent.name == digest(STUDY)
    assert pydicom.dcmread(path).PixelData == pydicom.dcmread(BytesIO(sent)).PixelData
    assert path.stat().st_mode & 0o777 == 0o600
    assert place.spool.folder.stat().st_mode & 0o777 == 0o700
    assert place.half() == []
    association.release()
    assert place.said(f"1 files of study {STUDY}")
    told = " ".join(place.lines)
    assert NAME not in told
    assert NUMBER not in told


def test_the_bytes_are_on_the_disk_before_the_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = start()
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert send(connect(place.address), drawn_file()) == 0
    [path] = place.stored()
    assert Path(synced[0]).parent.name == ".incoming"
    assert synced[1:] == [str(path.parent), str(place.spool.folder)]


def test_a_disk_that_fails_at_the_last_moment_is_no_success(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = start()

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    association = connect(place.address)
    assert send(association, drawn_file()) == NO_ROOM
    assert not place.stored()
    assert not place.half()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGBaseline8Bit])
@pytest.mark.parametrize("sop_class", [MRImageStorage, EnhancedMRImageStorage])
def test_a_compressed_file_is_kept_as_it_came(start: Start, syntax: str, sop_class: str) -> None:
    place = start()
    data = drawn_file(TransferSyntaxUID=syntax, SOPClassUID=sop_class)
    association = entity(syntaxes=[syntax]).associate(*place.address, ae_title="BTC_EDGE")
    assert send(association, data) == 0
    association.release()
    [path] = place.stored()
    kept = pydicom.dcmread(path)
    assert kept.file_meta.TransferSyntaxUID == syntax
    assert kept.file_meta.MediaStorageSOPClassUID == sop_class
    assert kept.file_meta.MediaStorageSOPInstanceUID == kept.SOPInstanceUID
    assert kept.PixelData == pydicom.dcmread(BytesIO(data)).PixelData
    assert Frames(path.read_bytes(), DEFAULT_LIMITS).count == 1


def test_only_known_titles_may_call(start: Start) -> None:
    place = start(Peers(("SCANNER",)))
    assert connect(place.address, "STRANGER").is_rejected
    assert place.said("refused an association: STRANGER")
    assert connect(place.address, "SCANNER").is_established


def test_it_must_be_called_by_its_name(start: Start) -> None:
    place = start()
    assert connect(place.address, called="OTHER").is_rejected
    assert place.said("called 'OTHER'")


@pytest.mark.parametrize(
    ("peers", "address", "may"),
    [
        (Peers(), "127.0.0.1", True),
        (Peers(), "::1", True),
        (Peers(), "::ffff:127.0.0.1", True),
        (Peers(), "10.0.0.7", False),
        (Peers(), "fe80::1%eth0", False),
        (Peers(("SCANNER",)), "10.0.0.7", True),
        (Peers(("SCANNER",), (ip_network("10.1.0.0/16"),)), "10.0.0.7", False),
        (Peers(("SCANNER",), (ip_network("10.0.0.0/16"),)), "10.0.0.7", True),
        (Peers((), (ip_network("10.0.0.7/32"),)), "::ffff:10.0.0.7", True),
        (Peers((), (ip_network("10.0.0.7/32"),)), "127.0.0.1", False),
    ],
)
def test_where_peers_may_call_from(peers: Peers, address: str, may: bool) -> None:
    assert peers.may_connect(address) is may


def test_a_connection_from_elsewhere_is_closed_unread(start: Start) -> None:
    place = start(Peers((), (ip_network("10.0.0.7/32"),)))
    with socket.create_connection(place.address, timeout=10) as stranger:
        assert stranger.recv(1) == b""
    assert place.said("refused a connection from 127.0.0.1")


@pytest.mark.parametrize("sop_class", [SecondaryCaptureImageStorage, CTImageStorage])
def test_other_classes_are_not_taken(start: Start, sop_class: str) -> None:
    """Own results that a PACS sends back are Secondary Captures and reports."""
    peer = AE("SCANNER")
    peer.add_requested_context(sop_class)
    peer.add_requested_context(MRImageStorage)
    association = peer.associate(*start().address, ae_title="BTC_EDGE")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [
        MRImageStorage
    ]
    association.release()


def test_a_dataset_of_another_class_than_announced_is_refused(start: Start) -> None:
    place = start()
    association = connect(place.address)
    announced = pydicom.dcmread(BytesIO(drawn_file()))
    sent = pydicom.dcmread(BytesIO(drawn_file(SOPClassUID=SecondaryCaptureImageStorage)))
    assert store_another(association, announced, sent) == OTHER_CLASS
    assert not place.stored()


def store_another(association: Any, announced: Any, sent: Any) -> int:
    """The status of a C-STORE whose dataset is not what its command says."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = announced.SOPClassUID
    request.AffectedSOPInstanceUID = announced.SOPInstanceUID
    request.DataSet = BytesIO(encode(sent, False, True))
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context_of(association))
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


def context_of(association: Any) -> int:
    """The id of the presentation context for MR images."""
    contexts = association.accepted_contexts
    return next(c.context_id for c in contexts if c.abstract_syntax == MRImageStorage)


def test_a_private_transfer_syntax_is_not_taken(start: Start) -> None:
    association = entity(syntaxes=["1.2.840.113619.5.2"]).associate(
        *start().address, ae_title="BTC_EDGE"
    )
    assert MRImageStorage not in [c.abstract_syntax for c in association.accepted_contexts]
    association.abort()


def test_deflated_files_which_may_unpack_to_any_size_are_not_asked_for() -> None:
    assert "1.2.840.10008.1.2.1.99" not in transfer_syntaxes()
    assert "1.2.840.10008.1.2.1" in transfer_syntaxes()


def test_a_dataset_that_is_too_large_is_thrown_away_while_it_comes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = start(max_bytes=64_000)
    largest = 0
    real = under_test.Incoming.write

    def write(incoming: Any, part: bytes) -> None:
        nonlocal largest
        real(incoming, part)
        largest = max(largest, *(path.stat().st_size for path in place.half()), 0, 0)

    monkeypatch.setattr(under_test.Incoming, "write", write)
    association = connect(place.address)
    assert (
        send(association, drawn_file(PixelData=noise(300).tobytes(), Rows=300, Columns=300))
        == NO_ROOM
    )
    assert largest < 70_000
    assert send(association, drawn_file()) == 0
    assert not place.half()
    association.release()
    assert place.said("refused 1 files: larger than 0 MiB")


def test_a_dataset_without_end_is_cut_off(start: Start) -> None:
    place = start(max_bytes=64_000)
    association = connect(place.address)
    data = drawn_file(PixelData=noise(1000).tobytes(), Rows=1000, Columns=1000)
    assert send(association, data) == -1
    assert wait(lambda: not association.is_established)
    assert place.said("cut off")
    assert not place.half()


def test_a_full_disk_is_out_of_resources(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    place = start(min_free=MIB)
    association = connect(place.address)
    with monkeypatch.context() as full:
        full.setattr(
            shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9 * MIB, 9 * MIB, MIB - 1)
        )
        assert send(association, drawn_file()) == NO_ROOM
    assert not place.half()
    assert send(association, drawn_file()) == 0


def test_a_study_has_so_many_files(start: Start) -> None:
    place = start(max_files=2)
    association = connect(place.address)
    assert [send(association, drawn_file(number)) for number in range(3)] == [0, 0, NO_ROOM]
    assert send(association, drawn_file(0, f"{STUDY}.5")) == 0


def test_a_file_that_comes_again_is_the_same_file(start: Start) -> None:
    place = start()
    association = connect(place.address)
    assert [send(association, drawn_file()) for _ in range(3)] == [0, 0, 0]
    assert len(place.files) == 1
    assert send(association, drawn_file(EchoTime="16")) == DUPLICATE
    assert pydicom.dcmread(place.stored()[0]).EchoTime == 15


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2\\1.3", "1." + "2" * 64])
def test_a_study_needs_a_uid(start: Start, uid: str) -> None:
    place = start()
    assert send(connect(place.address), drawn_file(StudyInstanceUID=uid)) == NOT_UNDERSTOOD
    assert not place.stored()


@pytest.mark.parametrize("end", ["abort", "cut"])
def test_nothing_half_stays_of_an_association_that_breaks(start: Start, end: str) -> None:
    place = start()
    association = connect(place.address)
    assert send(association, drawn_file(0)) == 0
    begin_a_store(association)
    assert wait(lambda: bool(place.half()))
    if end == "abort":
        association.abort()
    else:
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    assert place.said("1 files had not come whole")
    assert not place.half()
    assert len(place.stored()) == 1
    association.kill()


def begin_a_store(association: Any, whole: bool = False) -> None:
    """Send a command and its dataset, as a rule without its end."""
    request = C_STORE()
    request.MessageID, request.Priority = 9, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MRImageStorage, "1.2.3"
    request.DataSet = BytesIO(bytes(100_000))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    fragments = list(message.encode_msg(context_of(association), 16382))
    for fragment in fragments if whole else fragments[:-1]:
        association.dul.send_pdu(fragment)


def wait(what: Callable[[], bool]) -> bool:
    """Whether something is so, or soon will be."""
    end = monotonic() + 10
    while not what() and monotonic() < end:
        sleep(0.005)
    return what()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(64),
        b"\x01\x00\x00\x00\x00\x08" + b"\xff" * 8,
        b"\x16\x03\x01\x02\x00\x01",
        pdv(2, b"x"),
    ],
    ids=["http", "zeros", "short", "tls", "data"],
)
def test_garbage_on_the_port_stops_nothing(
    start: Start, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    place = start(bounds=Bounds(patience=2))
    with socket.create_connection(place.address, timeout=10) as peer:
        peer.sendall(data)
        with_end(peer)
    assert send(connect(place.address), drawn_file()) == 0
    assert capfd.readouterr() == ("", "")


def with_end(peer: socket.socket) -> bytes:
    """What a listener answers until it closes the connection."""
    got = b""
    try:
        while part := peer.recv(4096):
            got += part
    except ConnectionError:
        pass
    return got


FRAGMENTS = st.lists(
    st.tuples(st.integers(0, 3), st.binary(max_size=200), st.sampled_from([0, 1, 3, 5, 7, 255])),
    max_size=6,
)


def test_whatever_comes_over_an_association_nothing_half_stays(start: Start) -> None:
    place = start(bounds=Bounds(associations=32, patience=5))

    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @given(FRAGMENTS, st.booleans())
    def check(fragments: list[tuple[int, bytes, int]], with_command: bool) -> None:
        association = connect(place.address)
        if with_command:
            begin_a_store(association)
        raw = association.dul.socket.socket
        with suppress(OSError):
            for control, data, context in fragments:
                raw.sendall(pdv(control, data, context))
            raw.shutdown(socket.SHUT_WR)
        association.kill()

    check()
    assert wait(lambda: not place.listener._server.active_associations)
    assert not place.half()
    assert not place.stored()
    assert send(connect(place.address), drawn_file()) == 0


def test_a_pdu_of_gigabytes_is_not_waited_for(start: Start) -> None:
    """Its length alone ends the connection, long before patience does."""
    place = start(bounds=Bounds(patience=60))
    with socket.create_connection(place.address, timeout=10) as peer:
        peer.sendall(struct.pack(">BBI", 1, 0, 1 << 31))
        with_end(peer)
    assert connect(place.address).is_established


@pytest.mark.parametrize("pause", [0.02, 60], ids=["a byte now and then", "no byte"])
def test_a_peer_that_trickles_is_not_waited_for(start: Start, pause: float) -> None:
    place = start(bounds=Bounds(associations=1, patience=1))
    server = place.listener._server
    with socket.create_connection(place.address, timeout=10) as peer:
        peer.sendall(struct.pack(">BBI", 1, 0, 1000))
        assert wait(lambda: len(server.active_associations) == 1)
        over, end = threading.Event(), monotonic() + 10

        def trickle() -> None:
            with suppress(OSError):
                while not over.wait(pause):
                    peer.send(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        while server.active_associations and monotonic() < end:
            sleep(0.01)
        left = len(server.active_associations)
        over.set()
        thread.join()
    assert left == 0


def test_peers_that_say_nothing_take_no_more_than_so_many_places(start: Start) -> None:
    place = start(bounds=Bounds(associations=1, patience=60))
    server, silent = place.listener._server, []
    try:
        for number in range(1, 10):
            silent.append(socket.create_connection(place.address, timeout=10))
            assert wait(lambda n=number: len(server.active_associations) == n)  # type: ignore[misc]
            assert wait(lambda: server._opening == 0)
        with socket.create_connection(place.address, timeout=10) as one_more:
            assert with_end(one_more) == b""
    finally:
        for peer in silent:
            peer.close()


def test_connections_without_a_thread_take_no_place(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = start(bounds=Bounds(associations=1))
    begin = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if "process_request" in thread.name:
            raise RuntimeError("can't start new thread")
        begin(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(10):
            with socket.create_connection(place.address, timeout=10) as peer:
                assert with_end(peer) == b""
    assert connect(place.address).is_established


def test_so_many_associations_at_once(start: Start) -> None:
    place = start(bounds=Bounds(associations=2))
    first, second = connect(place.address), connect(place.address)
    assert first.is_established
    assert second.is_established
    assert connect(place.address).is_rejected
    first.release()
    assert wait(lambda: len(place.listener._server.active_associations) == 1)
    assert connect(place.address).is_established


def test_four_at_once_lose_nothing(start: Start) -> None:
    place = start()
    answers: list[int] = []

    def work(part: int) -> None:
        association = connect(place.address)
        answers.extend(send(association, drawn_file(6 * part + number)) for number in range(6))
        association.release()

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 24
    assert len(place.stored()) == len(set(place.files)) == 24


def test_a_command_without_end_is_cut_off(start: Start) -> None:
    place = start()
    association = connect(place.address)
    for _ in range(10):
        association.dul.socket.send(pdv(1, bytes(16000), 1))
    assert place.said("cut off")
    association.kill()


def test_a_peer_that_waits_for_no_answer_is_cut_off(start: Start) -> None:
    place = start()
    association = connect(place.address)
    with place.spool._looking:  # answers take their time
        for _ in range(12):
            begin_a_store(association, whole=True)
        assert place.said("cut off")
    assert wait(lambda: not place.half())
    association.kill()


def test_nothing_is_logged_of_what_is_sent(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place = start()
    association = connect(place.address)
    assert send(association, drawn_file()) == 0
    assert send(association, drawn_file(StudyInstanceUID="")) == NOT_UNDERSTOOD
    association.release()
    assert place.said("refused 1 files")
    assert not [record for record in caplog.records if record.name.startswith("pynetdicom")]
    assert under_test._config.LOG_HANDLER_LEVEL == "none"


def test_what_had_half_come_when_the_process_died_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "half").write_bytes(b"x")
    spool = Spool(tmp_path, max_bytes=MIB, max_files=9, min_free=0)
    assert list((tmp_path / ".incoming").iterdir()) == []
    with pytest.raises(UsageError, match="another btc-edge listen"):
        Spool(tmp_path, max_bytes=MIB, max_files=9, min_free=0)
    del spool


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(1))
        .not_valid_after(now + timedelta(1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(forms.Encoding.PEM))
    plain = forms.NoEncryption()
    paths[1].write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, plain))
    return paths


def test_tls_with_certificates_on_both_sides(start: Start, tmp_path: Path) -> None:
    ours, theirs = certificate(tmp_path, "ours"), certificate(tmp_path, "theirs")
    place = start(bounds=Bounds(patience=5), tls=for_listening(*ours, theirs[0]))
    peer = entity()
    secured = {"ae_title": "BTC_EDGE", "tls_args": (for_sending(ours[0], *theirs), "localhost")}
    association = peer.associate(*place.address, **secured)
    assert send(association, drawn_file()) == 0
    association.release()
    assert not connect(place.address).is_established  # in the clear
    assert place.said("no TLS, or a certificate that is not known")
    place.lines.clear()
    unknown = {"ae_title": "BTC_EDGE", "tls_args": (for_sending(ours[0], None, None), "localhost")}
    assert not peer.associate(*place.address, **unknown).is_established
    assert place.said("no TLS, or a certificate that is not known")
    assert len(place.stored()) == 1


def test_a_peer_that_does_not_shake_hands_keeps_nobody_waiting(
    start: Start, tmp_path: Path
) -> None:
    ours = certificate(tmp_path, "ours")
    place = start(tls=for_listening(*ours, None))
    secured = {"tls_args": (for_sending(ours[0], None, None), "localhost")}
    with socket.create_connection(place.address, timeout=10):
        association = entity().associate(*place.address, ae_title="BTC_EDGE", **secured)
        assert association.is_established
        association.release()


def test_a_peer_that_never_shakes_hands_is_sent_away(start: Start, tmp_path: Path) -> None:
    place = start(bounds=Bounds(patience=0.2), tls=for_listening(*certificate(tmp_path, "a"), None))
    with socket.create_connection(place.address, timeout=10) as silent:
        assert with_end(silent) == b""
    assert place.said("no TLS")


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(UsageError, match=r"no TLS with .*x\.pem"):
        for_listening(tmp_path / "x.pem", tmp_path / "x.pem", None)


def test_a_folder_of_other_files_is_no_spool(tmp_path: Path) -> None:
    """Its permissions would change, and files in it would be taken for received ones."""
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        Spool(tmp_path, max_bytes=MIB, max_files=9, min_free=0)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
