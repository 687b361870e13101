"""The real `btc-edge serve` on a free port of loopback, and talks with it down to raw bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.hostile.pictures import draw_slice, encode

BTC_EDGE = Path(sys.executable).with_name("btc-edge")
OCTETS = {"Content-Type": "application/octet-stream"}
PATIENCE = 60  # seconds: a test that waits so long has failed
SLICE = encode(draw_slice(1))


class Answer(NamedTuple):
    """An HTTP answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A server in a process of its own.

    Args:
        options: of the command.
        environment: variables beside this process's.
        prepare: called in its process before it begins.
    """

    def __init__(
        self,
        *options: object,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        words = [str(BTC_EDGE), "serve", "--port", "0", *map(str, options)]
        inherited = {k: v for k, v in os.environ.items() if k != "BTC_EDGE_TOKEN"}
        self.process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, preexec_fn=prepare,
            env={**inherited, **(environment or {})},
        )  # fmt: skip
        assert self.process.stderr is not None
        self.lines: list[str] = []
        self.address = ""
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening at https?://(\S+)/", line):
                self.address = found[1]
                break
        self.port = int(self.address.rpartition(":")[2] or 0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def raw(self, data: bytes) -> bytes:
        """All that the server says to these bytes until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return b"".join(pieces(connection))

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """An answer; `content_type="…"` is the header Content-Type."""
        sent = {"Host": self.address, "Connection": "close"}
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        sent |= {"Content-Length": str(len(body))} if body or method == "POST" else {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items()), "", ""]
        return parse(self.raw("\r\n".join(lines).encode("latin-1") + body))

    def classify(self, body: bytes, query: str = "", **headers: str) -> Answer:
        headers = {"content_type": "application/octet-stream", **headers}
        return self.ask("POST", f"/v1/classify{query}", body, **headers)

    def alive(self) -> bool:
        return self.ask("GET", "/healthz").status == 200

    def end(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal; `lines` are whole then."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@contextmanager
def served(*options: object, **how: Any) -> Iterator[Served]:
    """A server, killed at the end; `how` as of `Served`."""
    server = Served(*options, **how)
    try:
        assert server.port, server.lines
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def pieces(connection: socket.socket) -> Iterator[bytes]:
    """What comes until the other side closes, or resets, the connection."""
    try:
        while piece := connection.recv(1 << 16):
            yield piece
    except ConnectionResetError:
        return


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


def refused(*options: object, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and stderr of a server that does not start."""
    inherited = {k: v for k, v in os.environ.items() if k != "BTC_EDGE_TOKEN"}
    done = subprocess.run(
        [str(BTC_EDGE), "serve", *map(str, options)], capture_output=True, text=True,
        timeout=PATIENCE, env={**inherited, **(environment or {})},
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr
