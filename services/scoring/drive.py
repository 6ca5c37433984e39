"""Many HTTP clients in one process, each with one connection and one request at a time.

They share the cores with the service that is measured, so they do little: requests are bytes made before, of
an answer only status and length are read.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from maskfer.errors import InputError, ServiceUnavailable

BROKEN: Final = 0
"""In place of a status: the connection ended before the answer did."""
_PAUSE_S: Final = 0.05
_PATIENCE_S: Final = 60.0
"""An answer that takes longer does not come; its connection is given up, which counts as broken."""
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service listens."""

    host: str
    port: int
    secure: bool
    """Whether it speaks TLS."""
    path: str
    """Before the service's own paths; empty or `/...`."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read `http://HOST:PORT` or `https://...`; raises `InputError` for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"--server: got {url!r}, expected an address like http://127.0.0.1:3000")
        return cls(parts.hostname, port, parts.scheme == "https", parts.path.rstrip("/"))

    def __str__(self) -> str:
        return f"http{'s' if self.secure else ''}://{self.host}:{self.port}{self.path}"

    def post(self, path: str, body: bytes) -> bytes:
        """Return the bytes of a request."""
        head = (
            f"POST {self.path}{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent and answered whole, by `time.perf_counter`."""

    sent_s: float
    ended_s: float
    status: int
    """Of HTTP, or `BROKEN`."""


async def drive(
    target: Target,
    requests: list[bytes],
    *,
    clients: int,
    seconds: float | None = None,
    count: int | None = None,
) -> list[Answer]:
    """Send `requests` over and over until the time or the number is over; every sent one is waited for.

    Raises `ServiceUnavailable` where nobody listens.
    """
    end_s = time.perf_counter() + seconds if seconds is not None else float("inf")
    left = count if count is not None else -1

    def next_one() -> bool:
        nonlocal left
        if left == 0 or time.perf_counter() >= end_s:
            return False
        left -= 1
        return True

    answers: list[Answer] = []
    turns = [number % len(requests) for number in range(clients)]  # they do not all send the same at once
    starts = [requests[turn:] + requests[:turn] for turn in turns]
    open_: set[_Connection] = set()
    watch = asyncio.create_task(_give_up_late_ones(open_))
    try:
        await asyncio.gather(*(_client(target, start, answers, next_one, open_) for start in starts))
    finally:
        watch.cancel()
    return answers


async def _give_up_late_ones(connections: set[_Connection]) -> None:
    # One look a second at all of them: a timer per request would be paid for at every request.
    while True:
        await asyncio.sleep(1.0)
        for connection in connections:
            connection.give_up(sent_before_s=time.perf_counter() - _PATIENCE_S)


async def _client(
    target: Target,
    requests: list[bytes],
    answers: list[Answer],
    next_one: Callable[[], bool],
    open_: set[_Connection],
) -> None:
    context = ssl.create_default_context() if target.secure else None
    loop = asyncio.get_running_loop()
    turn = 0
    while True:
        make = functools.partial(_Connection, requests, turn, answers, next_one)
        try:
            _, connection = await loop.create_connection(make, target.host, target.port, ssl=context)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServiceUnavailable(
                f"{target}: nobody listens ({reason}); is `maskfer serve` running?"
            ) from error
        open_.add(connection)
        turn, over = await connection.ended
        open_.discard(connection)
        if over:
            return
        await asyncio.sleep(_PAUSE_S)  # a service that hangs up is not stormed


class _Connection(asyncio.Protocol):
    """Sends one request after the other; `ended` is the next one's number and whether there is none."""

    def __init__(
        self, requests: list[bytes], turn: int, answers: list[Answer], next_one: Callable[[], bool]
    ) -> None:
        self.ended: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._turn = turn
        self._answers = answers
        self._next_one = next_one
        self._received = bytearray()
        self._wanted: int | None = None
        self._sent_s = 0.0
        self._waits = False
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._wanted is None:
            head_end = self._received.find(_HEAD_END)
            if head_end < 0:
                return
            length = _body_length(self._received[:head_end])
            if length is None:
                self._transport.abort()
                return
            self._wanted = head_end + len(_HEAD_END) + length
        if len(self._received) >= self._wanted:
            self._note(int(self._received[9:12]))
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._waits:
            self._note(BROKEN)
        self.ended.set_result((self._turn, self._over))

    def give_up(self, *, sent_before_s: float) -> None:
        """Hang up where the request of now was sent before that."""
        if self._waits and self._sent_s < sent_before_s:
            self._transport.abort()

    def _send(self) -> None:
        if not self._next_one():
            self._over = True
            self._transport.close()
            return
        self._sent_s, self._waits = time.perf_counter(), True
        self._transport.write(self._requests[self._turn % len(self._requests)])
        self._turn += 1

    def _note(self, status: int) -> None:
        self._answers.append(Answer(self._sent_s, time.perf_counter(), status))
        self._waits = False
        self._wanted = None
        self._received.clear()


def _body_length(head: bytearray) -> int | None:
    """Bytes after the head; None where it does not say, as with a proxy's chunks, which counts as broken."""
    _, found, rest = head.lower().partition(_LENGTH)
    return int(rest.partition(b"\r\n")[0]) if found else None
