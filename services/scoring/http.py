"""The service's HTTP face: routes, limits, errors.

The routes are a Starlette application beside BentoML's (`services.scoring.edge`), not `bentoml.api` methods:
those parse bodies before our code sees them, follow addresses they find in them, and answer a non-image
with 500.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from maskfer.config import Settings
from maskfer.errors import MaskferError
from services.scoring import openapi
from services.scoring.batching import cores
from services.scoring.limits import Admission, BodyLimit, Deadline
from services.scoring.live import LiveClients, live
from services.scoring.page_files import page_routes
from services.scoring.pictures import NPY
from services.scoring.problems import EmptyRequest, UnsupportedMedia, answer
from services.scoring.scorer import Scorer
from services.scoring.statistics_routes import statistics_routes

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
            *openapi.routes(),
            WebSocketRoute("/live", live),
            *page_routes(),
            *statistics_routes(),
        ],
        middleware=[Middleware(BodyLimit), Middleware(Admission), Middleware(Deadline)],
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
    app.state.live_clients = LiveClients()
    app.state.statistics = None
    # For decoding and finding faces, which keep a core busy each; the network runs in threads of its own.
    app.state.pool = ThreadPoolExecutor(cores(), thread_name_prefix="score")


async def _predict(request: Request) -> Response:
    scorer = _scorer_of(request)
    parts = await _parts(request, limit=request.app.state.settings.max_crops)
    small = parts[0].startswith(NPY) and len(parts[0]) <= _SMALL_BYTES
    crops = scorer.crops(parts) if small else await _aside(request, scorer.crops, parts)
    judged = await scorer.judged(crops)
    return _json(scorer.predictions(judged) if small else await _aside(request, scorer.predictions, judged))


async def _analyze(request: Request) -> Response:
    scorer = _scorer_of(request)
    parts = await _parts(request, limit=1)
    found = await _aside(request, scorer.scan, parts[0])
    judged = await scorer.judged(found.crops)
    return _json(scorer.analysis(found, judged))


def _scorer_of(request: Request) -> Scorer:
    """Return the scorer of now, once per request: whatever is swapped meanwhile, this one answers."""
    scorer: Scorer = request.app.state.scorer
    request.state.scorer = scorer
    return scorer


async def _aside(request: Request, work: Callable[[_In], _Out], value: _In) -> _Out:
    """Work in another thread: nothing that takes a millisecond may hold up the other requests."""
    return await asyncio.get_running_loop().run_in_executor(request.app.state.pool, work, value)


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


async def _parts(request: Request, *, limit: int) -> list[bytes]:
    """The files of a form, or the body as the only one; one or more, up to `limit`."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMedia("request body: Content-Encoding is not read; send it uncompressed")
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
    return answer(error)  # a fault of ours is logged by services.scoring.edge, where it arrives as well


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    body = {"error": "HTTPError", "message": str(error.detail)}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # the client hung up; nginx's number for the access log
