"""The HTTP API: its routes, and the way of a body from the network to its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from edge_runtime.services.guard import ClientLeft, Guard
from edge_runtime.services.metrics import CONTENT_TYPE, Metrics
from edge_runtime.services.pool import Bodies, Body, Full, Slots, TooLarge
from edge_runtime.services.settings import Settings
from edge_runtime.services.upload import Reply, answer_body
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from starlette.types import Receive

    from edge_runtime.classifier import Classifier

BODY = "application/octet-stream"  # what no form and no simple request of another page can send
PAGE = Path(__file__).with_name("page")
SCRIPTS = ("app.js", "cards.js", "exchange.js", "files.js", "server.js", "study.js", "viewer.js",
           "zip.js")  # fmt: skip
# The page's files: nothing else of the folder is ever sent.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"/page/{name}": (name, "text/javascript; charset=utf-8") for name in SCRIPTS},
}
SWITCHES = {"0": False, "1": True}
MOST_NOTES = 10  # lines in the log on one body
AGAIN = {"retry-after": "1"}  # seconds


def make_app(
    classifier: Classifier, settings: Settings, say: Callable[[str], None]
) -> tuple[Guard, Slots]:
    """The application, and the slots that tell whether it still works.

    Args:
        say: takes a line for the log.
    """
    info, file = classifier.info, classifier.model
    metrics = Metrics(
        {"name": info.name, "version": info.version, "scheme": info.scheme, "sha256": file.sha256}
    )
    service = _Service(classifier, settings, metrics, say)
    pages = [
        Route(path, partial(_page, (PAGE / name).read_bytes(), kind), methods=["GET"])
        for path, (name, kind) in FILES.items()
        if (PAGE / name).is_file()
    ]
    healthz = Route("/healthz", _healthz, methods=["GET"])
    routes = [
        *pages,
        healthz,
        Route("/v1/classify", service.classify, methods=["POST"]),
        Route("/v1/info", service.info, methods=["GET"]),
        Route("/metrics", service.metrics, methods=["GET"]),
    ]
    guard = Guard(
        Router(routes, redirect_slashes=False),
        settings,
        routes=frozenset(route.path for route in routes),
        open_routes=frozenset(route.path for route in (*pages, healthz)),
        pages=frozenset({"/"}),
        metrics=metrics,
        say=say,
    )
    return guard, service.slots


async def _page(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, media_type=kind)


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


class _Service:
    """What answers with the model."""

    def __init__(
        self,
        classifier: Classifier,
        settings: Settings,
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self._classifier, self._settings, self._metrics = classifier, settings, metrics
        self._say = say
        self._bodies = Bodies(settings.max_bytes, settings.max_bytes_in_flight)
        self.slots = Slots(settings.workers, settings.queue)
        self._info = {
            "version": __version__,
            "intended_use": classifier.info.intended_use,
            "model": json.loads(classifier.info.to_json()),
            "model_file": {"sha256": classifier.model.sha256, "bytes": classifier.model.bytes},
            "limits": {
                "body_bytes": settings.max_bytes,
                "body_seconds": settings.body_seconds,
                "work_seconds": settings.work_seconds,
                "workers": settings.workers,
                "queue": settings.queue,
            },
        }

    async def info(self, request: Request) -> Response:
        """What the model says of itself, and the limits."""
        return JSONResponse(self._info)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        text = self._metrics.text(self.slots.taken, self._bodies.held)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def classify(self, request: Request) -> Response:
        """The answers for a body."""
        study, pictures = _switches(request.url.query)
        self._check_body(request)
        body = Body(self._bodies)
        try:
            await self._read(request, body)
            job = self.slots.start(
                partial(_work, body, self._classifier, study, pictures), body.release
            )
        except BaseException as error:
            body.release()
            if isinstance(error, Full):
                raise HTTPException(503, "busy: ask again later", AGAIN) from None
            raise
        reply = await self._wait(job, request.receive)
        self._metrics.answers(reply.statuses)
        self._log(reply.notes, request.state.id)
        return Response(reply.text, media_type="application/json")

    def _log(self, notes: list[str], identity: str) -> None:
        """Say what was left out or guessed, whatever a body holds in a few lines."""
        for note in notes[:MOST_NOTES]:
            self._say(f"{note} in {identity}")
        if len(notes) > MOST_NOTES:
            self._say(f"{len(notes) - MOST_NOTES} more such lines in {identity}")

    def _check_body(self, request: Request) -> None:
        """Refuse what need not be read.

        Raises:
            HTTPException: with the reason.
        """
        kinds = request.headers.getlist("content-type")
        if kinds != [BODY]:
            raise HTTPException(415, f"send the bytes of one file as {BODY}")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "send the bytes of one file without Content-Encoding")
        if int(request.headers.get("content-length", 0)) > self._settings.max_bytes:
            raise self._too_large()
        if self.slots.full:
            raise HTTPException(503, "busy: ask again later", AGAIN)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"larger than the limit of {self._settings.max_bytes} bytes")

    async def _read(self, request: Request, body: Body) -> None:
        try:
            await asyncio.wait_for(self._read_pieces(request, body), self._settings.body_seconds)
        except asyncio.TimeoutError:
            limit = self._settings.body_seconds
            raise HTTPException(408, f"the body took longer than {limit:g} seconds") from None
        except TooLarge:
            raise self._too_large() from None
        except ClientDisconnect:
            raise ClientLeft from None
        if not body.size:
            raise HTTPException(400, "the body is empty: a file without a byte, or none")

    async def _read_pieces(self, request: Request, body: Body) -> None:
        async for piece in request.stream():
            self._metrics.body_bytes += len(piece)
            body.add(piece)

    async def _wait(self, job: Future[Reply], receive: Receive) -> Reply:
        """What the job gives, unless it takes too long or nobody waits any more; then it is not
        begun, and if it was, its slot stays taken until it ends."""
        answer = asyncio.wrap_future(job)
        left = asyncio.ensure_future(_disconnected(receive))
        try:
            ends: set[asyncio.Future[Any]] = {answer, left}
            await asyncio.wait(
                ends,
                timeout=self._settings.work_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answer.done():
                return answer.result()
            if left.done():
                raise ClientLeft
            limit = self._settings.work_seconds
            raise HTTPException(504, f"not answered within {limit:g} seconds")
        finally:
            left.cancel()
            if not answer.done():
                answer.add_done_callback(_heard)
                answer.cancel()


def _work(body: Body, classifier: Classifier, study: bool, pictures: bool) -> Reply:
    return answer_body(classifier, body.take(), study, pictures)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _heard(answer: asyncio.Future[Reply]) -> None:
    """An error that nobody waits for is no line of asyncio's log."""
    if not answer.cancelled():
        answer.exception()


def _switches(query: str) -> tuple[bool, bool]:
    """`study` and `pictures` of a query.

    Raises:
        HTTPException: something else.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    values = dict(pairs)
    known = values.keys() <= {"study", "pictures"} and set(values.values()) <= SWITCHES.keys()
    if not known or len(values) != len(pairs):
        raise HTTPException(400, "a query has study=1, pictures=1, both or neither")
    return SWITCHES[values.get("study", "0")], SWITCHES[values.get("pictures", "0")]
