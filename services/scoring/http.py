"""The service's HTTP face: routes, limits, errors.

The routes are a Starlette application mounted into the BentoML service rather than `bentoml.api` methods:
those parse bodies before our code sees them, follow addresses they find in them, and answer a non-image
with 500.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, State, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskfer.config import Settings
from maskfer.errors import InputError, MaskferError, RequestTooLarge, ServiceUnavailable
from services.scoring.batching import cores
from services.scoring.pictures import NPY
from services.scoring.problems import EmptyRequest, problem
from services.scoring.scorer import Scorer

_log: Final = logging.getLogger("maskfer.scoring")
_RETRY_AFTER_S: Final = 1
_SMALL_BYTES: Final = 256 * 2**10
"""An array of crops up to this takes less time to read than another thread takes to wake."""
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def create_app() -> Starlette:
    """Return the application; `open_app` gives it its scorer before the first request."""
    return Starlette(
        routes=[
            Route("/predict", _predict, methods=["POST"]),
            Route("/analyze", _analyze, methods=["POST"]),
        ],
        middleware=[Middleware(BodyLimit), Middleware(Admission)],
        exception_handlers={
            MaskferError: _answer_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_error,
        },
    )


def open_app(app: Starlette, scorer: Scorer, settings: Settings) -> None:
    """Give the application what it answers with."""
    app.state.scorer = scorer
    app.state.settings = settings
    # For decoding and finding faces, which keep a core busy each; the network runs in threads of its own.
    app.state.pool = ThreadPoolExecutor(cores(), thread_name_prefix="score")


async def _predict(request: Request) -> Response:
    scorer: Scorer = request.app.state.scorer
    parts = await _parts(request, limit=request.app.state.settings.max_crops)
    small = parts[0].startswith(NPY) and len(parts[0]) <= _SMALL_BYTES
    crops = scorer.crops(parts) if small else await _aside(request, scorer.crops, parts)
    judged = await asyncio.wrap_future(scorer.submit(crops))
    return _json(scorer.predictions(judged) if small else await _aside(request, scorer.predictions, judged))


async def _analyze(request: Request) -> Response:
    scorer: Scorer = request.app.state.scorer
    parts = await _parts(request, limit=1)
    found = await _aside(request, scorer.scan, parts[0])
    judged = await asyncio.wrap_future(scorer.submit(found.crops))
    return _json(scorer.analysis(found, judged))


async def _aside(request: Request, work: Callable[[_In], _Out], value: _In) -> _Out:
    """Work in another thread: nothing that takes a millisecond may hold up the other requests."""
    return await asyncio.get_running_loop().run_in_executor(request.app.state.pool, work, value)


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


async def _parts(request: Request, *, limit: int) -> list[bytes]:
    """The files of a form, or the body as the only one; one or more, up to `limit`."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        content = await request.body()
        if not content:
            raise EmptyRequest("request body: empty; send a picture")
        return [content]
    async with request.form(max_files=limit, max_fields=limit) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise EmptyRequest("request body: the form holds no file; send each picture as a file field")
        return [await file.read() for file in files]


async def _answer_error(_request: Request, error: Exception) -> Response:
    status, body = problem(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, MaskferError):
        _log.error("request failed", exc_info=error)
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if isinstance(error, ServiceUnavailable) else None
    return JSONResponse(body, status_code=status, headers=headers)


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    body = {"error": "HTTPError", "message": str(error.detail)}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # the client hung up; nginx's number for the access log


class BodyLimit:
    """ASGI middleware: a body over the limit is answered 413, whether its length is announced or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a `receive` that counts."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = scope["app"].state.settings.max_body_bytes
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            await (await _answer_error(Request(scope), _too_large(limit)))(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, counting, send)


class Admission:
    """ASGI middleware: what is over the number of requests worked on at a time is answered 503 at once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._working >= scope["app"].state.settings.max_requests:
            refused = ServiceUnavailable(
                f"the service works on {self._working} requests already; ask again in {_RETRY_AFTER_S} s"
            )
            await (await _answer_error(Request(scope), refused))(scope, receive, send)
            return
        self._working += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._working -= 1


class ModelHeaders:
    """ASGI middleware: every answer names the model that gives it."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                scorer: Scorer | None = getattr(self._state, "scorer", None)
                if scorer is not None:
                    headers["X-Model-Version"] = scorer.model.version
            await send(message)

        await self.app(scope, receive, naming)


def _too_large(limit: int) -> InputError:
    return RequestTooLarge(
        f"request body: over the limit of {limit:,} bytes; send less, or raise MASKFER_MAX_BODY_BYTES"
    )
