"""What `btc-edge serve` is told: where it listens, whom it answers, and its limits."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from edge_runtime.errors import UsageError
from edge_runtime.imaging.limits import MIB

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
TOKEN_VARIABLE = "BTC_EDGE_TOKEN"
SHORTEST_TOKEN = 16
LONGEST_TOKEN = 4096
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        hosts: names that the header Host may have, in lower case, without a port; IPv6 addresses
            in brackets.
        token: what requests must carry; None where none is asked for.
        workers: requests that are worked on at once, each in a thread with an interpreter.
        queue: requests that may wait for a worker; another is refused.
        connections: open connections; another is refused.
        max_bytes: of one body.
        max_bytes_in_flight: of all bodies that are in memory.
        max_head_bytes: of the line of a request with its headers.
        head_seconds: within which the head of a request must be whole, counted from when the
            connection, or the answer before it, is there.
        body_seconds: within which its body must be.
        work_seconds: within which it must be answered, from when its body is whole.
        send_seconds: for which a client may leave an answer unread.
        grace_seconds: for which requests in flight may go on once the server is to end.
    """

    hosts: frozenset[str] = LOCAL_NAMES
    token: bytes | None = None
    workers: int = 2
    queue: int = 16
    connections: int = 64
    max_bytes: int = 256 * MIB
    max_bytes_in_flight: int = 512 * MIB
    max_head_bytes: int = 16 << 10
    head_seconds: float = 10
    body_seconds: float = 120
    work_seconds: float = 300
    send_seconds: float = 60
    grace_seconds: float = 30


def host_name(value: str) -> str | None:
    """The name in a header Host, in lower case without its port; None for what is no name."""
    found = HOST.fullmatch(value.lower())
    return found[1] if found else None


def as_host(address: str) -> str:
    """An address, or a name, as a header Host spells it."""
    return f"[{address.partition('%')[0]}]" if ":" in address else address.lower()


def allowed_hosts(listening: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """The names that a server answers to: this machine's, its own, and those that were given.

    Args:
        listening: the address that it listens at, and the name that this was given by. One that
            stands for all addresses (0.0.0.0) is nobody's name.

    Raises:
        UsageError: a name that no header Host could have.
    """
    hosts = set(LOCAL_NAMES)
    for name in names:
        if host_name(name) != name.lower():
            raise UsageError(f"--allow-host {name!r} is no name of a host, without a port")
        hosts.add(name.lower())
    own = {as_host(address) for address in listening}
    return frozenset(hosts | (own - {"0.0.0.0", "[::]"}))


def is_loopback(address: str) -> bool:
    """Whether only programs on this machine reach an address (IPv4 or IPv6)."""
    return ip_address(address.partition("%")[0]).is_loopback


def read_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The token that requests must carry: of a file that nobody else may read, else of the
    environment; None where neither is there.

    Raises:
        UsageError: a file that cannot be read or that others may read, or a token that is too
            short or no printable ASCII. No message holds the token.
    """
    if path is None:
        if TOKEN_VARIABLE not in environment:
            return None
        source, text = TOKEN_VARIABLE, os.fsencode(environment[TOKEN_VARIABLE])
    else:
        source, text = str(path), _private_bytes(path)
    token = text.strip()
    if not all(33 <= byte <= 126 for byte in token):
        raise UsageError(f"{source}: a token is one word of printable ASCII characters")
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
        raise UsageError(
            f"{source}: a token has at least {SHORTEST_TOKEN} characters "
            f"(openssl rand -hex 32 makes one)"
        )
    return token


def _private_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: not a regular file")
            if os.name == "posix" and status.st_mode & 0o044:
                raise UsageError(f"{path}: others can read this token: chmod 600")
            return file.read(LONGEST_TOKEN + 3)  # a line's end behind the longest is no token's
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
