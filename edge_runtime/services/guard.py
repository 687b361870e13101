"""What stands before every request: who may ask, what each answer's headers are, and one line in
the log that names no file and nobody."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge_runtime.services.metrics import Metrics
from edge_runtime.services.settings import Settings, as_host, host_name

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Every answer has these; what the page needs of them stands first.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
METHODS = ("GET", "HEAD", "POST")  # others are one in the log
OWN = ("none", "same-origin")  # of Sec-Fetch-Site: typed by a person, or from the page itself
WORDS = {404: "there is no such page or route", 405: "not with this method"}  # of the router's
LEFT = 499  # in the log: the client went before its answer
DRAINED = 8 << 20  # bytes of a refused body that are read, so that its sender reads the refusal
DRAIN_SECONDS = 2


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Guard:
    """Checks each request before `app` sees it, and answers for what it raises.

    Args:
        app: raises HTTPException for a refusal, in one line; and ClientLeft.
        settings: names, token, limits.
        routes: the paths that there are; others are one in the log and in the metrics.
        open_routes: those that need no token.
        pages: those of them that a link from elsewhere may lead to.
        metrics: counts each request.
        say: takes a line for the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        routes: frozenset[str],
        open_routes: frozenset[str],
        pages: frozenset[str],
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self._app, self._settings, self._metrics, self._say = app, settings, metrics, say
        self._routes, self._open, self._pages = routes, open_routes, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, see ASGI's specification."""
        exchange = _Exchange(scope, receive, send)
        scope.setdefault("state", {})["id"] = exchange.id
        route = scope["path"] if scope["path"] in self._routes else "other"
        self._metrics.in_flight += 1
        try:
            await self._answer(scope, exchange)
        finally:
            self._metrics.in_flight -= 1
            seconds = time.monotonic() - exchange.began
            self._ended(
                scope["method"], route, exchange.status, exchange.sent, seconds, exchange.id
            )

    def refused(self, status: int) -> None:
        """What was no request has got this status."""
        self._ended("other", "other", status, 0, 0.0, secrets.token_hex(4))

    def _ended(
        self, method: str, route: str, status: int, sent: int, seconds: float, identity: str
    ) -> None:
        self._metrics.request(route, str(status), seconds)
        self._say(
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} "
            f"{method if method in METHODS else 'other'} {route} {status} {sent} B "
            f"{1000 * seconds:.0f} ms {identity}"
        )

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            self._check(scope)
            scope["app"] = self  # so that Starlette's router raises what it refuses
            await self._app(scope, exchange.receive, exchange.send)
        except HTTPException as refusal:
            reason = WORDS.get(refusal.status_code, refusal.detail)
            await exchange.refuse(refusal.status_code, reason, dict(refusal.headers or {}))
        except ClientLeft:
            exchange.status = LEFT
        except asyncio.CancelledError:  # the server ends and has waited long enough
            await exchange.refuse(503, "the server is ending", {"retry-after": "5"})
        except MemoryError:
            words = "not enough memory for this just now"
            await exchange.refuse(503, words, {"retry-after": "5"})
        except Exception as error:
            self._say(f"unexpected {type(error).__name__} in {exchange.id}")
            if os.environ.get("BTC_DEBUG"):
                self._say(traceback.format_exc())
            await exchange.refuse(500, f"unexpected error; the log has it as {exchange.id}")

    def _check(self, scope: Scope) -> None:
        """Refuse who may not ask.

        Raises:
            HTTPException: with the reason.
        """
        headers = Headers(scope=scope)
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._settings.max_head_bytes:
            raise HTTPException(400, "the head of this request is too large")
        if scope["http_version"] not in ("1.0", "1.1"):
            raise HTTPException(400, "this server speaks HTTP/1.1")
        if not scope["raw_path"].startswith(b"/"):
            raise HTTPException(400, "the target of a request begins with /")
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy before this server may take the other of them for the body's end.
            raise HTTPException(400, "a body has a length or comes in chunks")
        self._check_host(scope, headers)
        self._check_origin(scope, headers)
        if self._settings.token is not None and scope["path"] not in self._open:
            self._check_token(headers, self._settings.token)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        """A page of somebody whose own name now leads here (DNS rebinding) still sends that name.
        An address cannot be made to lead elsewhere, so the one that was reached is a name too."""
        hosts = headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        reached = as_host(scope["server"][0]) if scope.get("server") else None
        if name is None or (name not in self._settings.hosts and name != reached):
            raise HTTPException(421, "this server does not answer to that name: see --allow-host")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """A browser says from which page a request is; other programs say nothing."""
        host = headers["host"].lower()
        own = (f"{scope['scheme']}://{host}", f"https://{host}")  # a proxy may end TLS
        if any(origin.lower() not in own for origin in headers.getlist("origin")):
            raise HTTPException(403, "a page of another server may not ask")
        linked = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if any(site not in OWN for site in headers.getlist("sec-fetch-site")) and not (
            linked and scope["path"] in self._pages
        ):
            raise HTTPException(403, "a page of another server may not ask")

    @staticmethod
    def _check_token(headers: Headers, token: bytes) -> None:
        given = headers.getlist("authorization")
        scheme, _, word = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        same = hmac.compare_digest(word.strip().encode("latin-1"), token)
        if scheme.lower() != "bearer" or not same:
            raise HTTPException(
                401, "send the header Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"}
            )


class _Exchange:
    """A request and its answer, as far as they have come."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._headers = Headers(scope=scope)
        self._scope = scope
        self._whole = not _has_body(self._headers)  # the request's body was read
        self.id = secrets.token_hex(4)
        self.began = time.monotonic()
        self.status, self.sent = 0, 0  # of the answer; bytes of its body

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._whole = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers["x-request-id"] = self.id
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        if status != 408:
            await self._drain()
        headers = dict(headers or {})
        # What follows on this connection would be the body's rest, or is not to be trusted.
        if not self._whole or status == 400:
            headers["connection"] = "close"
        body = json.dumps({"error": reason}).encode()
        response = Response(body, status, headers, "application/json")
        await response(self._scope, self.receive, self.send)

    async def _drain(self) -> None:
        """Read what a client still sends, for a while: closing the connection under its hands
        could lose the answer. One that asks before it sends (Expect) needs none of it."""
        if self._whole or "expect" in self._headers:
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._read_rest(), DRAIN_SECONDS)

    async def _read_rest(self) -> None:
        size = 0
        while not self._whole and size < DRAINED:
            message = await self.receive()
            if message["type"] != "http.request":
                return
            size += len(message.get("body", b""))


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
