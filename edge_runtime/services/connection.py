"""uvicorn's HTTP/1.1 connection with the limits that it lacks: on their number, on the time that a
head may take and that an answer may stay unread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_runtime.services.guard import HEADERS
from edge_runtime.services.settings import Settings


class Connection(H11Protocol):
    """A connection that is closed unless the next head is whole in time, and unless what was sent
    is read in time.

    Attributes:
        limits: of all connections of a server.
    """

    limits: ClassVar[Settings]
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    @staticmethod
    def refused(status: int) -> None:
        """What is no request was answered with this status."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one too many."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections", "retry-after: 1")

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A head that is whole begins a cycle."""
        if self.transport.is_closing():  # refused: what still comes is not looked at
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self._head_timer is not None:
            self._head_timer.cancel()

    def on_response_complete(self) -> None:
        """The next head may be there already."""
        self._await_head()
        before = self.cycle
        super().on_response_complete()
        if self.cycle is not before and self._head_timer is not None:
            self._head_timer.cancel()

    def pause_writing(self) -> None:
        """Much is unread."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Little is unread."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while. Closing would wait for who reads nothing."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an answer as others do, unless it comes amidst another's."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._refuse(400, "no valid HTTP request")
        else:
            self.transport.abort()

    def _await_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        begun, _ = self.conn.trailing_data
        if begun and not self.transport.is_closing():
            self._refuse(408, "the head of this request came too slowly")
        else:
            self.transport.abort()

    def _refuse(self, status: int, reason: str, *headers: str) -> None:
        """Say why, and close; whoever does not read it is not waited for."""
        self.transport.write(refusal(status, reason, *headers))
        self.transport.close()
        self._cancel_timers()
        self._send_timer = self.loop.call_later(1, self.transport.abort)
        self.refused(status)

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()


def refusal(status: int, reason: str, *headers: str) -> bytes:
    """An answer to what is no request, in bytes."""
    body = json.dumps({"error": reason}).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def uvicorn_options(settings: Settings, refused: Callable[[int], None]) -> dict[str, Any]:
    """Settings of `uvicorn.Config` that keep connections within the limits, and uvicorn silent.

    Args:
        refused: called with the status of each answer to what is no request.
    """
    members = {"limits": settings, "refused": staticmethod(refused)}
    return {
        "http": type("BoundedConnection", (Connection,), members),
        "loop": "asyncio",
        "ws": "none",
        "lifespan": "off",
        "interface": "asgi3",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,  # no header of a request says who asks
        "server_header": False,
        "h11_max_incomplete_event_size": settings.max_head_bytes,
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": max(1, round(settings.grace_seconds)),
        "backlog": settings.connections,
    }
