"""What uvicorn alone does not do for a connection: end it when it asks nothing, send an answer as one, bound
what a live message may cost before anybody has seen a token.

Without the first it waits for the head of a request for ever; the second spares a write and a client's read.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from maskfer.config import Settings
from services.scoring import metrics

MAX_HEAD_BYTES: Final = 64 * 2**10
"""Most bytes of a request's head, give or take what arrives at once; uvicorn would keep any number.

As many, but not of its body, may come after it in a row: what chunks are framed in, and trailers.
"""
_MESSAGE_ROOM_BYTES: Final = 64 * 2**10
"""How far a live message may be over its limit and still be told so; room for the longest text as well."""
_REFUSAL: Final = (
    b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
_FULL: Final = b"503 Service Unavailable\r\nRetry-After: 1"
_FULL_BODY: Final = b'{"error":"ServiceUnavailable","message":"too many connections; ask again in 1 s"}'
_LONG: Final = b"431 Request Header Fields Too Large"
_LONG_BODY: Final = (
    b'{"error":"RequestTooLarge","message":"request head: over the limit of 65,536 bytes; send less"}'
)


_Base: Any = AutoHTTPProtocol
"""uvicorn's with httptools where that is installed; its type is only known then."""


class Together:
    """A transport that sends what is written in one turn of the event loop, head and body, as one.

    What the other side has not read `linger_s` after `close` is let go.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *, linger_s: float
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._linger_s = linger_s
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send with whatever else is written in this turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, then close."""
        if self._transport.is_closing():
            return
        self._flush()
        self._transport.close()
        self._loop.call_later(self._linger_s, self._transport.abort)

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Guarded(_Base):  # type: ignore[misc]
    """A connection that ends where it asks nothing, sends a head without end, or reads no answer."""

    settings: ClassVar[Settings]

    _watch: asyncio.TimerHandle | None = None
    _seen: object = None
    """The request that was answered already at the last look."""
    _stuck: tuple[object, int] = (None, 0)
    """The request that was not, and how many looks before it was not either."""
    _head_bytes: int | None = None
    """Of the head that is arriving; None between heads."""
    _loose_bytes: int | None = None
    """What arrived since the head, or the last of its body; None between requests and within a head."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connection, or refuse it where there are too many."""
        super().connection_made(Together(transport, self.loop, linger_s=self.settings.request_timeout_s))
        if len(self.connections) > self.settings.max_connections:
            metrics.refused("connections")
            self._refuse(_FULL, _FULL_BODY)
            return
        self._watch = self.loop.call_later(self.settings.request_timeout_s, self._look)

    def on_message_begin(self) -> None:
        """Count the head that begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head; a trailer, which nobody reads and uvicorn would add to them, is let go."""
        if self._head_bytes is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Count what is no body from here on."""
        self._head_bytes, self._loose_bytes = None, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count anew: how much a body may be is not decided here."""
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count no more."""
        self._loose_bytes = None
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Refuse a head over the limit, whose end may never come; cut off trailers like it."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                metrics.refused("head")
                self._refuse(_LONG, _LONG_BODY)
                return
        if self._loose_bytes is not None:
            self._loose_bytes += len(data)
        super().data_received(data)  # which counts anew where there was a body in it
        if (self._loose_bytes or 0) > MAX_HEAD_BYTES and not self.transport.is_closing():
            # No answer: this request's own may have begun.
            metrics.refused("head")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._unwatch()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Look no more: from here on the live protocol's own timeouts count."""
        self._unwatch()
        # Inflating comes before hello and token, and 16 kB may become 16 MiB.
        self.config.ws_per_message_deflate = False
        self.config.ws_max_size = self.settings.live_max_message_bytes + _MESSAGE_ROOM_BYTES
        super().handle_websocket_upgrade(*event)

    def _look(self) -> None:
        # A timer for each connection and not for each request: most end before it is due.
        idle = self.cycle is None or self.cycle.response_complete
        late, looks = self._stuck
        self._stuck = (None, 0) if idle else (self.cycle, looks + 1 if self.cycle is late else 0)
        # Its deadline is one look long: at the third nobody reads its answer.
        if self._stuck[1] >= 2 or (idle and (self.cycle is None or self.cycle is self._seen)):
            metrics.refused("idle")
            self.transport.abort()
            return
        self._seen = self.cycle if idle else None
        self._watch = self.loop.call_later(self.settings.request_timeout_s, self._look)

    def _refuse(self, status: bytes, body: bytes) -> None:
        self.transport.write(_REFUSAL % (status, len(body), body))
        self.transport.close()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


def guard(settings: Settings) -> None:
    """Have this process's uvicorn use `Guarded` connections.

    BentoML makes uvicorn's configuration and passes no protocol, so the entry for its default is replaced.
    """
    Guarded.settings = settings
    uvicorn.config.HTTP_PROTOCOLS["auto"] = Guarded  # type: ignore[assignment]
