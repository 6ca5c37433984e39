"""How much a request may be, how long it may take, and how many are worked on at a time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskfer.errors import RequestTooLarge, ServiceUnavailable
from services.scoring import metrics
from services.scoring.problems import RETRY_AFTER_S, answer


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
            await answer(_too_large(limit))(scope, receive, send)
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
            metrics.refused("overload")
            refused = ServiceUnavailable(
                f"the service works on {self._working} requests already; ask again in {RETRY_AFTER_S} s"
            )
            await answer(refused)(scope, receive, send)
            return
        self._working += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._working -= 1


class Deadline:
    """ASGI middleware: a request that has not arrived and been answered in time is answered 504."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and wait for its answer only so long."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit_s = scope["app"].state.settings.request_timeout_s
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(limit_s) as deadline:
                await self.app(scope, receive, noting)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            metrics.refused("timeout")
            body = {
                "error": "Timeout",
                "message": f"the request did not arrive and get its answer within {limit_s:g} s; "
                "send less, or ask again",
            }
            await JSONResponse(body, HTTPStatus.GATEWAY_TIMEOUT, _CLOSE)(scope, receive, send)


_CLOSE: Final = {"Connection": "close"}
"""The rest of a body that came too late is not waited for."""


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"request body: over the limit of {limit:,} bytes; send less, or raise MASKFER_MAX_BODY_BYTES"
    )
