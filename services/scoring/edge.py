"""The outermost layer: whatever the service is asked comes in and goes out here.

BentoML's own middleware lies below it, so that its answers (and its faults) get the same headers, the same
id and the same line in the log as ours, and so that nobody reaches a route that we did not mean to open.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers, MutableHeaders, State
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
_PATH: Final = "maskfer.path"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET: Final = BENTOML_ROUTES
"""Asked every few seconds by machines: logged at DEBUG."""
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""For every answer that does not say otherwise, as the page does of the policy."""

_log: Final = logging.getLogger("maskfer.scoring")


def surround(app: ASGIApp, *, routes: Iterable[BaseRoute], state: State, settings: Settings) -> ASGIApp:
    """Return `app`, BentoML's, behind everything that every request passes.

    `routes` are our own; besides them only `BENTOML_ROUTES` are reachable.
    """
    app = Gate(app, settings)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Model-Version", "Retry-After"],
        )
    return Observed(AnswerHeaders(app, state), RouteNames(routes))


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
    """ASGI middleware: a request gets its id, and once it is answered its line in the log and its counts."""

    def __init__(self, app: ASGIApp, names: RouteNames) -> None:
        self.app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request whatever happens below."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        record = RequestRecord(
            request_id(Headers(scope=scope).get("x-request-id")), route=self._names.of(scope)
        )
        begin_request(record)
        scope[_RECORD] = record
        status, model = 0, None

        async def noting(message: Message) -> None:
            nonlocal status, model
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                status, model = message["status"], headers.get("x-model-version")
                headers["X-Request-ID"] = record.id
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


class AnswerHeaders:
    """ASGI middleware: what every answer says, errors included."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self._state = state
        self._announced: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add what its answer lacks."""
        scorer = getattr(self._state, "scorer", None)
        if scorer is not None and scorer is not self._announced:
            self._announced = scorer  # the model was loaded, or swapped
            scorer.watch.begin()

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                scorer = getattr(self._state, "scorer", None)
                if scorer is not None:
                    headers.setdefault("X-Model-Version", scorer.model.version)
                for name in ("Server", "X-BentoML-Request-ID"):
                    if name in headers:
                        del headers[name]
            await send(message)

        await self.app(scope, receive, adding if scope["type"] == "http" else send)


class Gate:
    """ASGI middleware: lets through what the service has and the client may ask."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        route = scope[_RECORD].route
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            # Its token comes with the first message, a page cannot set the header of a WebSocket; which pages
            # may open one, the endpoint decides.
            if route is None:
                await send({"type": "websocket.close", "code": 1008})
                return
        elif (refusal := self._refusal(scope, route, headers)) is not None:
            await refusal(scope, receive, send)
            return
        # BentoML labels its metrics and traces with the path: with every path that anybody tries, and every
        # session's, they would grow for ever. It gets the route's template; `Floor` turns it back.
        await self.app({**scope, "path": route, _PATH: scope["path"]}, receive, send)

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
    """ASGI middleware below BentoML's: gives the request its path back, and answers faults.

    BentoML's timer does not see that what it waits for has failed: it would wait on, and lose the fault.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under the path it came with."""
        if _PATH in scope:
            scope = {**scope, "path": scope[_PATH]}
        await answering_faults(self.app, scope, receive, send)
