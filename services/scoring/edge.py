"""The outermost layer: whatever the service is asked comes in and goes out here.

BentoML's application lies below it beside ours, so that its answers (and its faults) get the same headers,
the same id and the same line in the log, and so that nobody reaches a route of its that we did not open.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers, State
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskfer.config import Settings
from services.scoring import access, metrics
from services.scoring.logs import RequestRecord, begin_request, request_id
from services.scoring.problems import BadRequest, NotAllowed, NotFound, answer

BENTOML_ROUTES: Final = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})
"""What is open of BentoML's own; its page and its schema describe a service without routes."""
_RECORD: Final = "maskfer.record"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET: Final = BENTOML_ROUTES
"""Asked every few seconds by machines: logged at DEBUG."""
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_Header = tuple[bytes, bytes]
_HEADERS: Final = tuple(
    (name.lower().encode(), value.encode())
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Cache-Control": "no-store",
    }.items()
)
"""For every answer that does not say otherwise, as the page does of the policy."""

_log: Final = logging.getLogger("maskfer.scoring")


def surround(bentoml: ASGIApp, app: Starlette, settings: Settings) -> ASGIApp:
    """Return `app`, ours, and what is open of BentoML's behind everything that every request passes.

    A request for `app` does not pass through BentoML's: its layers count and time each request a second time.
    """
    gate: ASGIApp = Gate(bentoml, app, settings)
    if settings.cors_origins:
        gate = CORSMiddleware(
            gate,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Model-Version", "Retry-After"],
        )
    return Observed(gate, RouteNames(app.routes), app.state)


class RouteNames:
    """From a path to its route's template: what metrics and the log call it, so that names stay few."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed = {("http", path): path for path in BENTOML_ROUTES}
        self._others: list[tuple[BaseRoute, str]] = []
        for route in routes:
            match route:
                case Route(path=path) if "{" not in path:
                    self._fixed["http", path] = path
                case WebSocketRoute(path=path) if "{" not in path:
                    self._fixed["websocket", path] = path
                case Route(path=path) | WebSocketRoute(path=path) | Mount(path=path):
                    self._others.append((route, path))

    def of(self, scope: Scope) -> str | None:
        """Return the template; None where the service has no such path."""
        name = self._fixed.get((scope["type"], scope["path"]))
        if name is not None:
            return name
        for route, path in self._others:
            if route.matches(scope)[0] is not Match.NONE:
                return path
        return None


class Observed:
    """ASGI middleware: gives a request its id, its answer the common headers, and notes it when it ends.

    Every answer names the model that gave it; one that needed none, the present model.
    """

    def __init__(self, app: ASGIApp, names: RouteNames, state: State) -> None:
        self.app = app
        self._names = names
        self._state = state
        self._announced: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request whatever happens below."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        self._announce()
        record = RequestRecord(
            request_id(Headers(scope=scope).get("x-request-id")), route=self._names.of(scope)
        )
        begin_request(record)
        scope[_RECORD] = record
        of_request: dict[str, Any] = scope.setdefault("state", {})
        status, model = 0, None

        async def noting(message: Message) -> None:
            nonlocal status, model
            if message["type"] == "http.response.start":
                status = message["status"]
                scorer = of_request.get("scorer") or getattr(self._state, "scorer", None)
                model = None if scorer is None else scorer.model.version
                message["headers"] = _completed(message.get("headers", ()), record.id, model)
            elif message["type"] == "websocket.accept":
                status = HTTPStatus.SWITCHING_PROTOCOLS.value
            elif message["type"] == "websocket.close" and not status:
                status = HTTPStatus.FORBIDDEN.value
            try:
                await send(message)
            except Exception as error:
                # The client is gone, or sent what is no HTTP behind its request: a fault of its own.
                raise ClientDisconnect from error

        started_s = time.perf_counter()
        if scope["type"] == "http":
            metrics.begun()
        try:
            await answering_faults(self.app, scope, receive, noting)
        finally:
            # Nothing sent and no fault: the client hung up; 499 is nginx's number for that.
            _finish(scope, status or 499, model, seconds=time.perf_counter() - started_s)

    def _announce(self) -> None:
        scorer = getattr(self._state, "scorer", None)
        if scorer is not None and scorer is not self._announced:
            self._announced = scorer  # the model was loaded, or swapped
            scorer.watch.begin()


def _completed(given: Iterable[_Header], request: str, model: str | None) -> list[_Header]:
    headers = list(given)
    names = {name.lower() for name, _ in headers}
    headers += [pair for pair in _HEADERS if pair[0] not in names]
    headers.append((b"x-request-id", request.encode("latin-1")))
    if model is not None:
        headers.append((b"x-model-version", model.encode("latin-1")))
    return headers


async def answering_faults(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`; log what it raises under the request's id, and answer it where nothing was answered yet."""
    started = False

    async def noting(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await app(scope, receive, noting)
    except ClientDisconnect:
        pass  # nobody is left to be answered
    except Exception as error:  # noqa: BLE001 - the last one who can log it with its id and answer
        _log.error("request failed", exc_info=error)
        if not started and scope["type"] == "http":
            await answer(error)(scope, receive, noting)


def _finish(scope: Scope, status: int, model: str | None, *, seconds: float) -> None:
    record: RequestRecord = scope[_RECORD]
    method = scope.get("method", "WEBSOCKET")
    known = method if method in _METHODS or scope["type"] == "websocket" else "other"
    # How long a live connection was open says nothing about how fast the service is.
    metrics.answered(
        record.route or "other", known, status, seconds=seconds if scope["type"] == "http" else None
    )
    level = logging.DEBUG if record.route in _QUIET and status < 400 else logging.INFO
    if _log.isEnabledFor(level):
        fields = {
            "method": known,
            "path": record.route or _UUID.sub("{id}", scope["path"])[:200],
            "status": status,
            "ms": round(1e3 * seconds, 2),
            "faces": record.faces,
            "model": model,
        }
        _log.log(level, "answered", extra={"fields": fields})


class Gate:
    """ASGI middleware: lets through what the service has and the client may ask, to BentoML's or to ours."""

    def __init__(self, bentoml: ASGIApp, app: ASGIApp, settings: Settings) -> None:
        self._bentoml = bentoml
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] == "lifespan":
            await self._bentoml(scope, receive, send)
            return
        route = scope[_RECORD].route
        if scope["type"] == "websocket":
            # Its token comes with the first message, a page cannot set the header of a WebSocket; which pages
            # may open one, the endpoint decides.
            if route is None:
                await send({"type": "websocket.close", "code": 1008})
                return
        elif (refusal := self._refusal(scope, route, Headers(scope=scope))) is not None:
            await refusal(scope, receive, send)
            return
        # BentoML labels its metrics with the path: these alone, and never one that anybody made up.
        await (self._bentoml if route in BENTOML_ROUTES else self.app)(scope, receive, send)

    def _refusal(self, scope: Scope, route: str | None, headers: Headers) -> Response | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            return answer(
                BadRequest("request head: states both Content-Length and Transfer-Encoding; send only one")
            )
        if route is None:
            return answer(NotFound("path: not one of this service's; /openapi.json lists them"))
        if route not in access.OPEN and not access.allowed(access.bearer(headers), self._settings):
            metrics.refused("token")
            return answer(NotAllowed("token: missing or not known; send Authorization: Bearer TOKEN"))
        if route in BENTOML_ROUTES and scope["method"] not in ("GET", "HEAD"):
            body = {"error": "HTTPError", "message": "Method Not Allowed"}
            return JSONResponse(body, HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        return None


class Floor:
    """ASGI middleware below BentoML's, so that its own pages fail as ours do.

    BentoML's timer does not see that what it waits for has failed: it would wait on, and lose the fault.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await answering_faults(self.app, scope, receive, send)
