"""Who may ask btc-edge serve, and what nobody can make it do: the real server, raw bytes."""

from __future__ import annotations

import io
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import UsageError
from edge_runtime.services.guard import HEADERS
from edge_runtime.services.settings import (
    LOCAL_NAMES,
    allowed_hosts,
    host_name,
    is_loopback,
    read_token,
)
from tests.services.serving import SLICE, Answer, Served, parse, pieces, refused, served

TOKEN = "a-token-of-the-tests-0123456789"
POST = (
    b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--max-mib", 1, "--allow-host", "ward-3.example") as server:
        yield server
        assert server.alive()


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    """A server that asks for a token."""
    with served(environment={"BTC_EDGE_TOKEN": TOKEN}) as server:
        yield server


def is_refusal(answer: Answer, status: int) -> bool:
    """An error in the contract's form, in one line, with every header that answers have."""
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert "\n" not in error
    assert "Traceback" not in error
    has_headers(answer)
    return answer.status == status


def has_headers(answer: Answer) -> None:
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]


# Names: DNS rebinding


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]", "ward-3.example:80"]
)
def test_own_names_are_answered(name: str, server: Served) -> None:
    assert server.ask("GET", "/v1/info", host=name).status == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:80",
     "localhost@evil.example", "[::2]", "127.0.0.2", "localhost:x", "localhost ", "", "a" * 300],
)  # fmt: skip
def test_other_names_are_not(name: str, server: Served) -> None:
    if name != "localhost ":  # blanks around a value are none of it
        assert is_refusal(server.ask("GET", "/healthz", host=name), 421)
        assert is_refusal(server.classify(SLICE, host=name), 421)


def test_a_request_without_a_name_or_with_two_is_refused(server: Served) -> None:
    assert is_refusal(parse(server.raw(b"GET /healthz HTTP/1.0\r\n\r\n")), 421)
    two = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert is_refusal(parse(server.raw(two)), 400)


# Pages of others: CSRF


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://localhost", "http://localhost:1", "file://",
     "http://127.0.0.1.evil.example", ""],
)  # fmt: skip
def test_requests_of_other_pages_are_refused(origin: str, server: Served) -> None:
    assert is_refusal(server.classify(SLICE, origin=origin), 403)
    assert is_refusal(server.ask("GET", "/v1/info", origin=origin), 403)


def test_requests_of_the_own_page_are_answered(server: Served) -> None:
    own = f"http://{server.address}"
    assert server.classify(SLICE, origin=own, sec_fetch_site="same-origin").status == 200
    proxied = {"host": "ward-3.example", "origin": "https://ward-3.example"}
    assert server.classify(SLICE, **proxied).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "other"])
def test_what_a_browser_calls_foreign_is_refused(site: str, server: Served) -> None:
    for path in ("/v1/info", "/metrics", "/healthz"):
        foreign = {"sec_fetch_site": site, "sec_fetch_mode": "navigate"}
        assert is_refusal(server.ask("GET", path, **foreign), 403)
    assert is_refusal(server.ask("GET", "/", sec_fetch_site=site, sec_fetch_mode="no-cors"), 403)
    assert is_refusal(server.classify(SLICE, sec_fetch_site=site, sec_fetch_mode="navigate"), 403)
    # A link to the page may be followed: there is nothing of anybody on it.
    assert server.ask("GET", "/", sec_fetch_site=site, sec_fetch_mode="navigate").status == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "",
     "image/jpeg", "application/octet-stream; charset=x", "text/plain, application/octet-stream"],
)  # fmt: skip
def test_bodies_are_octets(kind: str, server: Served) -> None:
    assert is_refusal(server.classify(SLICE, content_type=kind), 415)


def test_bodies_have_one_type_and_no_coding(server: Served) -> None:
    rest = b"Content-Length: 1\r\nConnection: close\r\n\r\nx"
    assert is_refusal(parse(server.raw(POST + b"Content-Type: text/plain\r\n" + rest)), 415)
    untyped = POST.replace(b"Content-Type: application/octet-stream\r\n", b"")
    assert is_refusal(parse(server.raw(untyped + rest)), 415)
    assert is_refusal(server.classify(SLICE, content_encoding="gzip"), 415)


def test_preflights_get_nothing(server: Served) -> None:
    asked = {"origin": "http://evil.example", "access_control_request_method": "POST"}
    assert is_refusal(server.ask("OPTIONS", "/v1/classify", **asked), 403)
    assert is_refusal(server.ask("OPTIONS", "/v1/classify"), 405)


# The token


def test_all_but_the_page_and_health_ask_for_the_token(locked: Served) -> None:
    for path in ("/", "/healthz"):
        assert locked.ask("GET", path).status == 200
    for path in ("/v1/info", "/metrics", "/nothing", "/page/../v1/info"):
        assert is_refusal(locked.ask("GET", path), 401)
    denied = locked.classify(SLICE)
    assert is_refusal(denied, 401)
    assert denied.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/info", "/metrics"):
        assert locked.ask("GET", path, authorization=f"Bearer {TOKEN}").status == 200
    assert locked.classify(SLICE, authorization=f"bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    "header",
    [TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x",
     f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN} {TOKEN}", "Bearer \xe9" + TOKEN],
)  # fmt: skip
def test_other_tokens_are_refused(header: str, locked: Served) -> None:
    answer = locked.ask("GET", "/v1/info", authorization=header)
    assert is_refusal(answer, 401)
    assert TOKEN.encode() not in answer.body
    head = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nConnection: close"
    good = f"Bearer {TOKEN}"
    for twice in ((header, good), (good, header)):
        lines = [head, *(f"Authorization: {each}" for each in twice), "", ""]
        assert is_refusal(parse(locked.raw("\r\n".join(lines).encode("latin-1"))), 401)


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException

    from edge_runtime.services import guard

    compared = []
    real = guard.hmac.compare_digest
    monkeypatch.setattr(
        guard.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b)
    )
    for word, good in ((TOKEN, True), ("x", False)):
        headers = Headers({"authorization": f"Bearer {word}"})
        if good:
            guard.Guard._check_token(headers, TOKEN.encode())
        else:
            with pytest.raises(HTTPException):
                guard.Guard._check_token(headers, TOKEN.encode())
    assert compared == [(TOKEN.encode(), TOKEN.encode()), (b"x", TOKEN.encode())]


def test_a_network_is_not_served_without_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        code, line = refused("--host", host, "--port", 0)
        assert code == 2
        assert "needs a token" in line
        assert line.count("\n") == 1


def test_tokens_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for content, mode, words in (
        (TOKEN, 0o640, "others can read"),
        (TOKEN, 0o604, "others can read"),
        ("0123456789abcde", 0o600, "at least 16"),
        ("two words of more than sixteen", 0o600, "one word"),
        ("\u00e9" * 20, 0o600, "one word"),
    ):
        file.write_text(content + "\n", "utf-8")
        file.chmod(mode)
        with pytest.raises(UsageError, match=words) as error:
            read_token(file)
        assert content not in str(error.value)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError):
            read_token(path)
    with pytest.raises(UsageError):
        read_token(None, {"BTC_EDGE_TOKEN": "short"})
    code, line = refused("--token-file", file)
    assert (code, line.count("\n")) == (2, 1)
    code, line = refused(environment={"BTC_EDGE_TOKEN": "short"})
    assert code == 2
    assert "short" not in line


def test_a_token_in_a_file_and_a_network_over_plain_http(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    with served("--host", "0.0.0.0", "--token-file", file) as server:
        assert any("plain http" in line for line in server.lines)
        assert server.ask("GET", "/v1/info", host="127.0.0.1").status == 401
        assert server.ask("GET", "/healthz", host="0.0.0.0").status == 421
        answer = server.ask("GET", "/v1/info", host="localhost", authorization=f"Bearer {TOKEN}")
        assert answer.status == 200
        server.end()
        assert TOKEN not in "".join(server.lines)


@pytest.mark.parametrize(
    ("address", "own"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
                         ("0.0.0.0", False), ("10.0.0.1", False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_which_addresses_are_of_this_machine(address: str, own: bool) -> None:
    assert is_loopback(address) == own


def test_names_of_a_server() -> None:
    for address, own in (("10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "[fe80::1]")):
        assert own in allowed_hosts(("Ward-3", address), ())
        assert "ward-3" in allowed_hosts(("Ward-3", address), ())
    for address in ("0.0.0.0", "::"):  # all addresses are nobody's name
        assert allowed_hosts((address, address), ("A",)) == LOCAL_NAMES | {"a"}


@given(st.text(max_size=20))
def test_names_are_names_only(text: str) -> None:
    name = host_name(text)
    assert name is None or re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", name)


# Headers, files of the page, the log


def test_every_answer_has_the_headers(server: Served) -> None:
    for path in ("/", "/healthz", "/v1/info", "/metrics", "/nothing"):
        has_headers(server.ask("GET", path))
    has_headers(server.classify(SLICE))
    has_headers(parse(server.raw(b"no http\r\n\r\n")))
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page", "/page/index.html", "/page/../server.py", "/page/..%2fserver.py",
     "/page/%2e%2e/server.py", "/page//etc/passwd", "/page/app.js%00.html", "/page/%00",
     "/page/..\\server.py", "//page/app.js/", "/page/.", "/%70age/nothing", "/page/app.py"],
)  # fmt: skip
def test_nothing_but_the_pages_files_is_sent(path: str, server: Served) -> None:
    assert is_refusal(server.ask("GET", path), 404)


def test_the_log_names_no_file_and_nobody() -> None:
    with served() as server:
        server.ask("GET", "/Doe%5EJane?name=Doe", user_agent="Doe")
        server.ask("DOE", "/healthz")
        server.classify(b"Doe^Jane is no picture", "?study=1")
        server.classify(b"Doe", "?Doe=1")
        noted = server.classify(zipped()).headers["x-request-id"]
        server.raw(b"Doe / HTTP/1.1\r\nDoe\r\n\r\n")
        identity = server.ask("GET", "/healthz").headers["x-request-id"]
        assert server.end() == 0
        text = "".join(server.lines)
    assert "Doe" not in text.title()
    note, *lines = sorted(text.splitlines()[1:-1], key=lambda line: not line.startswith("passed"))
    assert note == f"passed over 2 files that are no images in {noted}"
    shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (GET|POST|other) \S+ \d{3} \d+ B \d+ ms [0-9a-f]{8}"
    assert len(lines) == 7
    assert all(re.fullmatch(shape, line) for line in lines)
    assert lines[-1].endswith(identity)


def zipped() -> bytes:
    """A zip of a picture and what is none; of such names what looks like a suffix is one's own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {"Doe.png": SLICE, "Jane.Doe": b"text", "Doe.txt": b"text"}.items():
            archive.writestr(name, data)
    return out.getvalue()


# What is no request, or pretends


def test_a_body_over_the_limit_is_refused_by_its_header_and_by_its_bytes(server: Served) -> None:
    claimed = POST + b"Content-Length: 1048577\r\nExpect: 100-continue\r\n\r\n"
    assert is_refusal(parse(server.raw(claimed)), 413)
    assert is_refusal(server.classify(bytes((1 << 20) + 1)), 413)
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    chunked = CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + 17 * chunk
    assert is_refusal(parse(server.raw(chunked + b"0\r\n\r\n")), 413)
    most = server.classify(bytes(1 << 20))
    assert most.status == 200
    assert most.json()[0]["status"] == "error"


def test_chunks_are_a_body(server: Served) -> None:
    half = len(SLICE) // 2
    parts = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (SLICE[:half], SLICE[half:]))
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = parse(server.raw(head + parts + b"0\r\n\r\n"))
    assert whole.body == server.classify(SLICE).body
    with server.connect() as connection:  # the end is missing: nothing was classified
        connection.sendall(head + parts)
        connection.shutdown(socket.SHUT_WR)
        assert b"".join(pieces(connection)) == b""


INSIDE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "both lengths": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    + INSIDE,
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + INSIDE,
    "a list of lengths": POST + b"Content-Length: 5, 6\r\n\r\nhello" + INSIDE,
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello" + INSIDE,
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello" + INSIDE,
    "a huge length": POST + b"Content-Length: " + 30 * b"9" + b"\r\n\r\nhello" + INSIDE,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "a hidden coding": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "two codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "a chunk that lies": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n" + INSIDE,
    "a chunk of no number": CHUNKED + b"xyz\r\n" + INSIDE,
    "a folded first header": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a null in a header": GET + b"X: a\0b\r\n\r\n",
    "a null in the target": b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n\r\n",
    "another version": b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n",
    "an absolute target": b"GET http://localhost/v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n"
    + INSIDE,
    "another's target": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "all of it": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a large header": GET + b"X: " + 20_000 * b"x" + b"\r\n\r\n",
    "many headers": GET + b"" + 5000 * b"X: y\r\n" + b"\r\n",
    "a long target": b"GET /" + 20_000 * b"x" + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("shape", REFUSED)
def test_shapes_that_are_refused(shape: str, server: Served) -> None:
    """One answer with 400, and nothing behind it: what follows is no request of its own."""
    said = server.raw(REFUSED[shape])
    assert is_refusal(parse(said), 400)
    assert said.count(b"HTTP/1.1 ") == 1


def test_a_body_is_no_request(server: Served) -> None:
    head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(INSIDE)
    said = server.raw(head + INSIDE)
    assert said.count(b"HTTP/1.1 ") == 1
    assert parse(said).json()[0]["status"] == "error"
    # A refusal does not take the rest of a body for a request either.
    rest = POST.replace(b"localhost", b"evil.example") + b"Content-Length: 9999\r\n\r\n" + INSIDE
    with server.connect() as connection:
        connection.sendall(rest)
        connection.shutdown(socket.SHUT_WR)
        assert b"".join(pieces(connection)).count(b"HTTP/1.1 ") <= 1


def test_requests_in_a_row_are_answered_in_their_order(server: Served) -> None:
    asked = [b"/healthz", b"/v1/info", b"/nothing", b"/healthz"]
    lines = [b"GET %s HTTP/1.1\r\nHost: localhost\r\n" % path for path in asked]
    said = server.raw(b"\r\n".join(lines[:-1]) + b"\r\n" + lines[-1] + b"Connection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"200", b"404", b"200"]


def test_upgrades_are_not_done(server: Served) -> None:
    keys = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    for kind in (b"websocket", b"h2c"):
        head = (
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: " + kind
        )
        with server.connect() as connection:
            connection.sendall(head + b"\r\n" + keys + b"\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    with server.connect() as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"".join(pieces(connection)).startswith(b"HTTP/1.1 400 ")


def test_old_http_is_answered_and_closed(server: Served) -> None:
    said = server.raw(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert parse(said).json() == {"status": "ok"}


def test_forwarded_headers_change_nothing(server: Served) -> None:
    headers = {"x_forwarded_host": "localhost", "forwarded": "host=localhost"}
    assert server.ask("GET", "/healthz", host="evil.example", **headers).status == 421
    proto = {"x_forwarded_proto": "https", "x_forwarded_for": "1.2.3.4"}
    own = f"http://{server.address}"
    assert server.ask("GET", "/v1/info", origin=own, **proto).status == 200


words = st.sampled_from(
    [b"GET ", b"POST ", b"/", b"/v1/classify", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
     b"Host: localhost", b"\r\n", b"\r\n\r\n", b"\n", b": ", b"Content-Length: 3",
     b"Transfer-Encoding: chunked", b"Content-Type: application/octet-stream", b"%00", b"?a=1",
     b"Expect: 100-continue", b"Connection: keep-alive", b"Upgrade: websocket", b"0\r\n\r\n",
     b"5\r\nhello\r\n", b"Authorization: Bearer x", b"Origin: null", POST, INSIDE]
)  # fmt: skip
noise = st.lists(words | st.binary(max_size=8), max_size=24).map(b"".join)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=noise)
def test_any_bytes_end_in_an_answer_below_500_or_none(data: bytes, server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(pieces(connection))  # which ends: nothing hangs
    statuses = [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3}) ", said)]
    assert all(status < 500 for status in statuses)
    assert server.alive()


def test_connections_that_say_nothing_keep_nobody_out(server: Served) -> None:
    silent = [server.connect() for _ in range(20)]
    try:
        for connection in silent[::2]:
            connection.sendall(POST)  # a head that never ends
        assert server.classify(SLICE).status == 200
    finally:
        for connection in silent:
            connection.close()


def test_clients_that_leave_amidst_a_body_leave_nothing_behind(server: Served) -> None:
    def leave(_: int) -> None:
        with server.connect() as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(1000))

    threads = [threading.Thread(target=leave, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(100):
        text = server.ask("GET", "/metrics").body.decode()
        if "btc_edge_bodies_held_bytes 0\n" in text and "requests_in_flight 1\n" in text:
            return
    raise AssertionError(text)
