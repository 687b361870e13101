"""What btc-edge serve bounds: time, work at once, bodies in memory, connections; and how it ends.

Most run in this process, where work waits for an event of the test and no clock decides.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import click
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.classifier import Classifier
from edge_runtime.errors import ModelError
from edge_runtime.services import api
from edge_runtime.services.pool import Bodies, Body, Full, Slots, TooLarge
from edge_runtime.services.server import LINES, Ending, Log, make_server, open_socket, serve
from edge_runtime.services.settings import Settings
from edge_runtime.services.upload import Reply
from tests.services.serving import PATIENCE, SLICE, parse, pieces, refused, served

POST = (
    b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
)
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier()


class Work:
    """Stands for `answer_body`: says what has begun, and ends when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.threads: set[int] = set()
        self.may_end = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, classifier: Classifier, data: bytes, study: bool, shown: bool) -> Reply:
        with self._changed:
            self.begun.append(data)
            self.threads.add(threading.get_ident())
            self._changed.notify_all()
        assert self.may_end.wait(PATIENCE)
        return Reply(b"[]", Counter(), [])

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, PATIENCE)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    monkeypatch.setattr(api, "answer_body", work)
    yield work
    work.may_end.set()


class Asked:
    """A request to an application in this event loop, whose body the test sends piece by piece."""

    def __init__(self, app: Any, path: str = "/v1/classify", **headers: str) -> None:
        sent = {"host": "localhost", "content-type": "application/octet-stream", **headers}
        scope = {
            "type": "http", "http_version": "1.1", "scheme": "http", "query_string": b"",
            "method": "POST" if path == "/v1/classify" else "GET", "path": path,
            "raw_path": path.encode(), "server": ("127.0.0.1", 80),
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in sent.items()],
        }  # fmt: skip
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self._task = asyncio.ensure_future(app(scope, self._inbox.get, self._keep))
        if scope["method"] == "GET":
            self.send(b"", more=False)

    async def _keep(self, message: Any) -> None:
        self.sent.append(message)

    def send(self, piece: bytes, more: bool = True) -> Asked:
        self._inbox.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        return self

    def leave(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def status(self) -> int:
        """Of the answer, once it is whole; 0 where there is none."""
        await asyncio.wait_for(self._task, PATIENCE)
        return self.sent[0]["status"] if self.sent else 0

    def header(self, name: str) -> str:
        return dict(self.sent[0]["headers"]).get(name.encode(), b"").decode()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), PATIENCE)

    asyncio.run(bounded())


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it holds; the test's own limit ends it where it never does."""
    while not holds():
        await asyncio.sleep(0.001)


async def in_thread(call: Callable[..., None], *words: Any) -> None:
    await asyncio.get_running_loop().run_in_executor(None, call, *words)


async def metric(app: Any, name: str) -> float:
    asked = Asked(app, "/metrics")
    assert await asked.status() == 200
    text = b"".join(m.get("body", b"") for m in asked.sent).decode()
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(name)))


def test_few_are_worked_on_few_wait_and_the_rest_is_refused(
    classifier: Classifier, work: Work
) -> None:
    app, slots = api.make_app(classifier, Settings(workers=2, queue=1), print)

    async def test() -> None:
        reading = Asked(app, content_length="9").send(b"slow")  # there was room when it came
        asked = [Asked(app).send(b"%d" % n, more=False) for n in range(3)]
        await in_thread(work.wait_for, 2)
        await eventually(lambda: slots.full)
        late = Asked(app).send(b"late", more=False)
        assert await late.status() == 503
        assert int(late.header("retry-after")) >= 1
        assert await reading.send(b"er", more=False).status() == 503
        # Health and metrics answer while all workers work: the event loop waits for none.
        assert await Asked(app, "/healthz").status() == 200
        assert await metric(app, "btc_edge_slots_taken") == 3
        work.may_end.set()
        assert [await each.status() for each in asked] == [200] * 3
        assert len(work.threads) <= 2
        await eventually(lambda: slots.taken == 0)
        assert await Asked(app).send(b"again", more=False).status() == 200
        assert not {b"late", b"slower"} & set(work.begun)
        assert await metric(app, "btc_edge_bodies_held_bytes") == 0

    run(test)


def test_work_beyond_the_limit_is_504_and_its_slot_stays_taken(
    classifier: Classifier, work: Work
) -> None:
    app, slots = api.make_app(classifier, Settings(workers=1, queue=0, work_seconds=0.01), print)

    async def test() -> None:
        assert await Asked(app).send(b"long", more=False).status() == 504
        await in_thread(work.wait_for, 1)
        assert slots.full
        assert await metric(app, "btc_edge_bodies_held_bytes") == 4
        assert await Asked(app).send(b"next", more=False).status() == 503
        work.may_end.set()
        await eventually(lambda: slots.taken == 0)
        assert await metric(app, "btc_edge_bodies_held_bytes") == 0

    run(test)


def test_what_waited_too_long_is_never_begun(classifier: Classifier, work: Work) -> None:
    app, slots = api.make_app(classifier, Settings(workers=1, queue=3, work_seconds=0.2), print)

    async def test() -> None:
        first = Asked(app).send(b"first", more=False)
        await in_thread(work.wait_for, 1)
        waiting, leaving = (Asked(app).send(b"waits", more=False) for _ in range(2))
        await eventually(lambda: slots.taken == 3)
        leaving.leave()
        assert await leaving.status() == 0  # nobody to answer
        assert await waiting.status() == await first.status() == 504
        await eventually(lambda: slots.taken == 1)
        assert await metric(app, "btc_edge_bodies_held_bytes") == len(b"first")
        work.may_end.set()
        await eventually(lambda: slots.taken == 0)
        assert work.begun == [b"first"]

    run(test)


def test_bodies_that_come_too_slowly_are_408(classifier: Classifier, work: Work) -> None:
    app, _ = api.make_app(classifier, Settings(body_seconds=0.01), print)

    async def test() -> None:
        slow = Asked(app, content_length="10").send(b"x")
        assert await slow.status() == 408
        assert slow.header("connection") == "close"
        assert await metric(app, "btc_edge_bodies_held_bytes") == 0
        assert work.begun == []

    run(test)


def test_bodies_together_are_bounded_by_what_came_not_by_what_is_claimed(
    classifier: Classifier, work: Work
) -> None:
    settings = Settings(max_bytes=60, max_bytes_in_flight=100)
    app, _ = api.make_app(classifier, settings, print)

    async def test() -> None:
        claims = [Asked(app, content_length="60") for _ in range(5)]  # and sends nothing
        held = Asked(app, content_length="60").send(bytes(55))
        while await metric(app, "btc_edge_bodies_held_bytes") < 55:
            await asyncio.sleep(0)
        full = Asked(app, transfer_encoding="chunked").send(bytes(46), more=False)
        assert await full.status() == 503
        assert full.header("retry-after")
        work.may_end.set()
        assert await Asked(app).send(bytes(45), more=False).status() == 200
        assert await held.send(bytes(5), more=False).status() == 200
        for each in claims:
            each.leave()
            assert await each.status() == 0
        assert await metric(app, "btc_edge_bodies_held_bytes") == 0

    run(test)


def test_bytes_that_are_read_count_whatever_the_header_says(
    classifier: Classifier, work: Work
) -> None:
    app, _ = api.make_app(classifier, Settings(max_bytes=60), print)

    async def test() -> None:
        for headers in ({"content_length": "5"}, {"transfer_encoding": "chunked"}, {}):
            asked = Asked(app, **headers)
            for _ in range(7):
                asked.send(bytes(9))
            assert await asked.send(b"", more=False).status() == 413
        assert await Asked(app, content_length="61", expect="100-continue").status() == 413
        assert await Asked(app).send(b"", more=False).status() == 400  # nothing at all
        assert work.begun == []

    run(test)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans())))
def test_bodies_never_hold_more_than_they_may(steps: list[tuple[int, int, bool]]) -> None:
    bodies = Bodies(60, 100)
    each, sizes = [Body(bodies) for _ in range(4)], [0] * 4
    for number, size, release in steps:
        with suppress(Full, TooLarge):
            each[number].add(bytes(size))
            sizes[number] += size
        if release:
            each[number].release()
            sizes[number] = 0
        assert [len(body.take()) for body in each if not body.size] == [0] * sizes.count(0)
        assert bodies.held == sum(sizes) <= 100
        assert max(sizes) <= 60


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("/home/jane/doe.dcm"), 500), (ModelError("Jane"), 500), (MemoryError(), 503)],
)
def test_what_nobody_expected_is_an_answer_without_its_words(
    error: Exception, status: int, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Reply:
        raise error

    lines: list[str] = []
    monkeypatch.setattr(api, "answer_body", fail)
    monkeypatch.delenv("BTC_DEBUG", raising=False)
    app, _ = api.make_app(classifier, Settings(), lines.append)

    async def test() -> None:
        asked = Asked(app).send(b"x", more=False)
        assert await asked.status() == status
        said = json.loads(asked.sent[1]["body"])["error"] + "\n".join(lines)
        assert "ane" not in said
        assert "Traceback" not in said
        assert (asked.header("x-request-id") in said) or status == 503

    run(test)


def test_what_is_left_out_of_a_body_is_a_few_lines_in_the_log(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    many = Reply(b"[]", Counter(), ["something"] * 5000)
    monkeypatch.setattr(api, "answer_body", lambda *_: many)
    app, _ = api.make_app(classifier, Settings(), lines.append)

    async def test() -> None:
        asked = Asked(app).send(b"x", more=False)
        assert await asked.status() == 200
        assert lines[0] == f"something in {asked.header('x-request-id')}"
        assert lines[10].startswith("4990 more such lines in ")

    run(test)
    assert len(lines) == 12


# Connections: a server in a thread of this process, with limits too short for a person


@contextmanager
def running(classifier: Classifier, settings: Settings) -> Iterator[tuple[int, Any]]:
    """Its port and itself."""
    listener = open_socket(socket.AF_INET, "127.0.0.1", 0)
    server, _ = make_server(classifier, settings, lambda _: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()


def said(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(data)
        return b"".join(pieces(connection))


def test_heads_that_come_too_slowly_are_closed(classifier: Classifier) -> None:
    with running(classifier, Settings(head_seconds=0.2)) as (port, _):
        assert said(port, b"") == b""
        assert parse(said(port, b"GET / HTTP/1.1\r\nX: ")).status == 408
        # The next head on a connection has no more time than the first.
        for sent in (GET + b"GET / HT", GET + POST):
            statuses = re.findall(rb"HTTP/1.1 (\d+)", said(port, sent))
            assert statuses == [b"200", b"408"]
        assert said(port, GET + GET).count(b"HTTP/1.1 200") == 2


def test_connections_are_bounded(classifier: Classifier) -> None:
    with running(classifier, Settings(connections=3)) as (port, server):
        held = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(3)]
        for connection in held:
            connection.sendall(GET)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        refusal = parse(said(port, b""))
        assert refusal.status == 503
        assert refusal.headers["retry-after"] == "1"
        for connection in held:
            connection.close()
        while server.server_state.connections:
            pass
        assert said(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


def test_answers_that_nobody_reads_are_given_up(classifier: Classifier) -> None:
    settings = Settings(send_seconds=0.2, head_seconds=PATIENCE)
    with running(classifier, settings) as (port, server):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        asked = GET.replace(b"/healthz", b"/v1/info")
        with suppress(OSError):  # once it was given up
            connection.settimeout(PATIENCE)
            for _ in range(2000):
                connection.sendall(asked)
        waited = threading.Event()
        for _ in range(int(PATIENCE / 0.05)):
            if not server.server_state.connections:
                break
            waited.wait(0.05)
        assert not server.server_state.connections
        connection.close()


def test_bodies_of_answers_do_not_wait_for_acknowledgements(classifier: Classifier) -> None:
    with (
        running(classifier, Settings()) as (port, server),
        socket.create_connection(("127.0.0.1", port), PATIENCE) as connection,
    ):
        connection.sendall(GET)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        (there,) = server.server_state.connections
        accepted = there.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# How it starts and ends


def test_it_ends_in_peace_on_sigterm_and_with_130_on_ctrl_c() -> None:
    with served() as server:
        with server.connect() as idle:  # an open connection keeps nothing from ending
            idle.sendall(GET)
            assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert server.end() == 0
        assert server.lines[-1] == "btc-edge: ended\n"
    with served() as server:
        assert server.end(signal.SIGINT) == 130
        assert server.lines[-1] == "btc-edge: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_loop_runs_ends_it_too(number: signal.Signals) -> None:
    class Early:
        should_exit = False

        def run(self, sockets: list[socket.socket]) -> None:
            signal.raise_signal(number)  # uvicorn has not yet put its own handlers there
            assert self.should_exit

    with socket.socket() as listener:
        ending = serve(Early(), Slots(1, 1), listener)  # type: ignore[arg-type]
    assert ending == Ending(number == signal.SIGINT, False)


def test_requests_in_flight_are_finished_on_sigterm() -> None:
    with served() as server, server.connect() as connection:
        head = POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(SLICE)
        connection.sendall(head)
        assert b" 100 " in connection.recv(1 << 16)  # its body is waited for
        server.process.send_signal(signal.SIGTERM)
        connection.sendall(SLICE)
        assert parse(b"".join(pieces(connection))).json()[0]["status"] == "unfamiliar"
        assert server.process.wait(PATIENCE) == 0


def test_requests_that_never_end_do_not_keep_it_from_ending() -> None:
    with served("--grace-seconds", 1) as server, server.connect() as connection:
        connection.sendall(POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert b" 100 " in connection.recv(1 << 16)
        assert server.end() == 0
        answer = b"".join(pieces(connection))
        assert answer == b"" or parse(answer).status == 503


def test_work_that_never_ends_does_not_keep_it_from_ending(
    classifier: Classifier, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command leaves threads behind that Python would wait for."""
    from edge_runtime.commands.serve import serve
    from edge_runtime.services import server

    class Left(BaseException):
        pass

    def leave(code: int) -> None:
        assert code == 0
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(server, "serve", lambda *_: server.Ending(False, True))
    monkeypatch.delenv("BTC_EDGE_TOKEN", raising=False)
    with pytest.raises(Left):
        serve.main(["--port", "0"], standalone_mode=False)
    monkeypatch.setattr(server, "serve", lambda *_: server.Ending(False, False))
    with pytest.raises(SystemExit) as ended:
        serve.main(["--port", "0"], standalone_mode=False)
    assert ended.value.code == 0
    assert isinstance(serve, click.Command)


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, line = refused("--port", other.getsockname()[1])
    assert code == 1
    assert line.count("\n") == 1
    assert "cannot listen" in line


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--host", "no.such.host.invalid"), 2, "--host"),
        (("--allow-host", "http://x/"), 2, "--allow-host"),
        (("--allow-host", "x:80"), 2, "--allow-host"),
        (("--tls-cert", __file__), 2, "go together"),
        (("--tls-cert", __file__, "--tls-key", __file__), 2, f"no TLS with {__file__}"),
        (("--tls-cert", __file__, "--tls-key", "none.pem"), 2, "File 'none.pem' does not exist"),
        (("--model", "none.tflite"), 3, "none.tflite"),
        (("--workers", "0"), 2, "--workers"),
    ],
)
def test_what_cannot_start_says_why(options: tuple[str, ...], code: int, words: str) -> None:
    got, line = refused("--port", 0, *options)
    assert got == code
    assert words in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_a_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from edge_runtime.commands.serve import serve
    from edge_runtime.errors import ExitCode, UsageError

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda word, *a: None if word == name else real(word, *a)
    )
    with pytest.raises(
        UsageError, match=rf"{name} is missing: pip install 'btc-edge\[serve\]'"
    ) as e:
        serve.main(["--port", "0"], standalone_mode=False)
    assert e.value.exit_code == ExitCode.USAGE


class Stalled(io.StringIO):
    """A stream that nobody reads until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()  # type: ignore[assignment]

    def write(self, text: str) -> int:
        assert self.read.wait(PATIENCE)
        return super().write(text)


def test_the_log_waits_for_nobody() -> None:
    stream = Stalled()
    log = Log(stream)
    for number in range(LINES + 10):  # the last are lost
        log.say(str(number))
    stream.read.set()
    log.close()
    assert stream.getvalue().startswith("0\n1\n2\n")


def certificate(folder: Path, password: bytes = b"") -> tuple[Path, Path]:
    """PEM files of a certificate of localhost and its key."""
    from datetime import datetime, timedelta, timezone

    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    cert = built.sign(key, hashes.SHA256())
    hidden = (
        serialization.BestAvailableEncryption(password) if password
        else serialization.NoEncryption()
    )  # fmt: skip
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    )
    return files


def test_a_key_with_a_password_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, b"secret")
    got, line = refused("--port", 0, "--tls-cert", cert, "--tls-key", key)
    assert got == 2
    assert line.endswith(f"{key}: no PEM of a certificate and its key, without a password\n")


def test_https(tmp_path: Path) -> None:
    import ssl

    files = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(files[0]))
    with served("--tls-cert", files[0], "--tls-key", files[1]) as server:
        assert "https://" in "".join(server.lines)
        plain = server.connect()
        with trust.wrap_socket(plain, server_hostname="localhost") as connection:
            own = b"Origin: https://localhost\r\nContent-Length: %d\r\n" % len(SLICE)
            connection.sendall(POST + own + b"Connection: close\r\n\r\n" + SLICE)
            assert parse(b"".join(pieces(connection))).status == 200
        assert server.raw(GET) == b""  # no http
        assert server.end() == 0
