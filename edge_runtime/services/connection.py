"""uvicorn's HTTP/1.1 connection with the limits that it lacks: on their number, on the time that a
head may take and that an answer may stay unread."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_runtime.services.guard import HEADERS
from edge_runtime.services.settings import Settings


def bounded_connection(settings: Settings) -> type[H11Protocol]:
    """The class of a connection within the limits of `settings`."""

    class Connection(H11Protocol):
        """One connection. `_timer` closes it unless the next head is whole in time, or what was
        sent is read in time."""

        _head_timer: asyncio.TimerHandle | None = None
        _send_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                transport.write(refusal(503, "too many connections", "retry-after: 1"))
                transport.close()
                self.loop.call_later(1, transport.abort)
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head_timer, self._send_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():  # refused: what still comes is not looked at
                return
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before and self._head_timer is not None:
                self._head_timer.cancel()

        def on_response_complete(self) -> None:
            self._await_head()
            before = self.cycle
            super().on_response_complete()
            if self.cycle is not before and self._head_timer is not None:  # it was pipelined
                self._head_timer.cancel()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._send_timer = self.loop.call_later(settings.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._send_timer is not None:
                self._send_timer.cancel()

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():  # closing would wait for its reader
                self.transport.abort()
            else:
                super().timeout_keep_alive_handler()

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP gets an answer as others do, unless it comes amidst another's."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete or not cycle.response_started:
                self.transport.write(refusal(400, "no valid HTTP request"))
            self.transport.close()
            self.loop.call_later(1, self.transport.abort)

        def _await_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._head_timer = self.loop.call_later(settings.head_seconds, self.transport.abort)

    return Connection


def refusal(status: int, reason: str, *headers: str) -> bytes:
    """An answer to what is no request, in bytes."""
    body = json.dumps({"error": reason}).encode()
    phrase = {400: "Bad Request", 503: "Service Unavailable"}[status]
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Settings of `uvicorn.Config` that keep a connection within the limits, and uvicorn silent."""
    return {
        "http": bounded_connection(settings),
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
