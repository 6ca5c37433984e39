"""The statistics over HTTP: read as JSON, taken away as CSV, deleted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from maskfer.errors import InputError
from maskfer.labels import EXPRESSIONS, ORIENTATIONS
from services.scoring.statistics import Minute, Statistics

_UNSTORED: Final = {"Cache-Control": "no-store"}
_MAX_MINUTES: Final = 60 * 24 * 366


def statistics_routes() -> list[Route]:
    """Return the routes; they answer from `app.state.statistics`."""
    return [
        Route("/statistics/{session}.csv", _download, methods=["GET"]),
        Route("/statistics/{session}", _read, methods=["GET"]),
        Route("/statistics/{session}", _delete, methods=["DELETE"]),
    ]


async def _read(request: Request) -> Response:
    session, minutes = await _kept(request)
    statistics: Statistics = request.app.state.statistics
    body = {
        "session": session,
        "days_kept": statistics.days,
        "now": _time(datetime.now(UTC)),
        "minutes": [_figures(minute) for minute in minutes],
    }
    return JSONResponse(body, headers=_UNSTORED)


async def _download(request: Request) -> Response:
    _, minutes = await _kept(request)
    headers = _UNSTORED | {"Content-Disposition": 'attachment; filename="maskfer-statistics.csv"'}
    return Response(_table(minutes), media_type="text/csv", headers=headers)


async def _delete(request: Request) -> Response:
    session = _session(request)
    deleted = await run_in_threadpool(request.app.state.statistics.delete, session)
    return JSONResponse({"session": session, "deleted_minutes": deleted}, headers=_UNSTORED)


async def _kept(request: Request) -> tuple[str, list[Minute]]:
    session, since = _session(request), _since(request)
    # Not the pool that scores: a database that hangs must not hold up a picture.
    minutes = await run_in_threadpool(request.app.state.statistics.read, session, since=since)
    return session, minutes


def _session(request: Request) -> str:
    text = request.path_params["session"]
    try:
        return str(UUID(text))
    except ValueError as error:
        raise InputError(f"session: got {text[:50]!r}, expected the UUID that the page made") from error


def _since(request: Request) -> datetime | None:
    text = request.query_params.get("minutes")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MAX_MINUTES):
        raise InputError(f"minutes: got {text[:50]!r}, expected a whole number from 1 to {_MAX_MINUTES}")
    # The running minute is one of them.
    return datetime.now(UTC) - timedelta(minutes=int(text) - 1)


def _figures(minute: Minute) -> dict[str, Any]:
    return {
        "minute": _time(minute.start),
        "frames": minute.frames,
        "faces": minute.faces,
        "masked": minute.masked,
        "masked_share": minute.masked / minute.faces if minute.faces else None,
        "probabilities": {name: _mean(minute, name) for name in _in_order(minute.probabilities)},
        "expressions": {name: minute.expressions.get(name, 0) for name in _in_order(minute.probabilities)},
        "orientations": {name: minute.orientations.get(name, 0) for name in ORIENTATIONS},
    }


def _table(minutes: Sequence[Minute]) -> str:
    classes = _in_order(name for minute in minutes for name in minute.probabilities)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("minute", "frames", "faces", "masked"),
            *(f"mean_{name}" for name in classes),
            *(f"shown_{name}" for name in classes),
            *(f"looks_{name}" for name in ORIENTATIONS),
        ]
    )
    for minute in minutes:
        writer.writerow(
            [
                *(_time(minute.start), minute.frames, minute.faces, minute.masked),
                *(_mean(minute, name) for name in classes),
                *(minute.expressions.get(name, 0) for name in classes),
                *(minute.orientations.get(name, 0) for name in ORIENTATIONS),
            ]
        )
    return out.getvalue()


def _mean(minute: Minute, name: str) -> float | None:
    count, total = minute.probabilities.get(name, (0, 0.0))
    return total / count if count else None


def _in_order(names: Iterable[str]) -> list[str]:
    """Each name once: the paper's classes in its order, others after them by name."""
    places = {name: place for place, name in enumerate(EXPRESSIONS)}
    return sorted(set(names), key=lambda name: (places.get(name, len(places)), name))


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%MZ")
