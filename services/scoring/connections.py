"""What uvicorn alone does not do for a connection: end it when it asks nothing, send an answer as one.

Without the first it waits for the head of a request for ever; the second spares a write and a client's read.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from maskfer.config import Settings
from services.scoring import metrics

_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
_FULL_BODY: Final = b'{"error":"ServiceUnavailable","message":"too many connections; ask again in 1 s"}'


class Together:
    """A transport that sends what is written in one turn of the event loop, head and body, as one."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send with whatever else is written in this turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held:
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def guard(settings: Settings) -> None:
    """Have this process's uvicorn use a protocol that limits how many connections wait, and how long.

    BentoML makes uvicorn's configuration and passes no protocol, so the entry for its default is replaced.
    """
    base: Any = AutoHTTPProtocol

    class Guarded(base):  # type: ignore[misc]
        """A connection that is looked at: without a first request, or idle since the last look, it ends."""

        _watch: asyncio.TimerHandle | None = None
        _seen: object = None
        """The request that was answered already at the last look."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(Together(transport, self.loop))
            if len(self.connections) > settings.max_connections:
                metrics.refused("connections")
                transport.write(_FULL % (len(_FULL_BODY), _FULL_BODY))
                transport.close()
                return
            self._watch = self.loop.call_later(settings.request_timeout_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, *event: Any) -> None:
            self._unwatch()  # from here on the live protocol's own timeouts count
            super().handle_websocket_upgrade(*event)

        def _look(self) -> None:
            # A timer for each connection and not for each request: most end before it is due.
            idle = self.cycle is None or self.cycle.response_complete
            if idle and (self.cycle is None or self.cycle is self._seen):
                metrics.refused("idle")
                self.transport.abort()
                return
            self._seen = self.cycle if idle else None
            self._watch = self.loop.call_later(settings.request_timeout_s, self._look)

        def _unwatch(self) -> None:
            if self._watch is not None:
                self._watch.cancel()

    uvicorn.config.HTTP_PROTOCOLS["auto"] = Guarded  # type: ignore[assignment]
