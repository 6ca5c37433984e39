"""Connections to a real uvicorn that ask too much, or take nothing."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from maskfer.config import Settings
from services.scoring.connections import MAX_HEAD_BYTES, Guarded, Together

_WAIT_S = 30
_LARGE = b"x" * 50_000_000


class _Transport:
    """Keeps what reaches it."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("closed")

    def abort(self) -> None:
        self.calls.append("aborted")

    def is_closing(self) -> bool:
        return "closed" in self.calls


def _after(*turns: list[bytes], close: bool = False) -> list[bytes | str]:
    below = _Transport()

    async def write() -> None:
        transport: Any = Together(cast(asyncio.Transport, below), asyncio.get_running_loop(), linger_s=0.01)
        for turn in turns:
            for data in turn:
                transport.write(data)
            if close:
                transport.close()
                transport.close()
                transport.write(b"too late")
            await asyncio.sleep(0)
        while close and below.calls[-1] != "aborted":
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(write(), _WAIT_S))
    return below.calls


def test_head_and_body_leave_as_one_and_the_next_answer_after_them() -> None:
    assert _after([b"head", b"body"], [b"next"]) == [b"headbody", b"next"]


def test_what_is_held_leaves_before_the_connection_closes_and_is_not_waited_for_without_end() -> None:
    assert _after([b"head", b"body"], close=True) == [b"headbody", "closed", "aborted"]


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await _echo_lengths(receive, send)
        return
    body = _LARGE if scope["path"] == "/large" else b"small"
    if scope["path"] == "/told":
        body = await _told(scope, receive)
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    if body is _LARGE:
        await send({"type": "http.response.body", "body": body[:-1], "more_body": True})
        await asyncio.sleep(0.01)
        body = body[-1:]  # this one waits until there is room for it
    await send({"type": "http.response.body", "body": body})


async def _told(scope: Scope, receive: Receive) -> bytes:
    """How long the body was, and the names of the headers once it is there."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    return b"%d %b" % (length, b" ".join(name for name, _ in scope["headers"]))


async def _echo_lengths(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(len(message["bytes"]))})


@contextmanager
def _listening(monkeypatch: pytest.MonkeyPatch, *, loop: str, timeout_s: float) -> Iterator[int]:
    monkeypatch.setattr(Guarded, "settings", Settings(request_timeout_s=timeout_s), raising=False)
    config = uvicorn.Config(_app, port=0, http=Guarded, lifespan="off", log_config=None, loop=cast(Any, loop))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(_WAIT_S)
        assert not thread.is_alive()


@pytest.fixture(params=["asyncio", "uvloop"])
def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with _listening(monkeypatch, loop=request.param, timeout_s=_WAIT_S) as port:
        yield port


@pytest.fixture(params=["asyncio", "uvloop"])
def hasty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """As `port`, but a request has a tenth of a second."""
    with _listening(monkeypatch, loop=request.param, timeout_s=0.1) as port:
        yield port


def _ask(path: str, header: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), header)


def test_a_head_over_the_limit_is_answered_431(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _WAIT_S) as connection:
        connection.sendall(_ask("/small"))
        assert connection.recv(65_536).endswith(b"small")
        connection.sendall(b"GET /small HTTP/1.1\r\nX-Long: ")
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"x" * MAX_HEAD_BYTES)
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"request head: over the limit" in answer


def test_heads_within_the_limit_are_answered_each_for_itself(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _WAIT_S) as connection:
        for _ in range(5):
            connection.sendall(_ask("/small", b"X-Long: %b\r\n" % (b"x" * (MAX_HEAD_BYTES // 2))))
            assert connection.recv(65_536).endswith(b"small")


_CHUNKED = b"POST /told HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_trailers_are_headers_neither_of_their_request_nor_of_the_next(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _WAIT_S) as connection:
        for _ in range(2):
            connection.sendall(_CHUNKED + b"3\r\nabc\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n")
            assert connection.recv(65_536).endswith(b"\r\n\r\n3 host transfer-encoding")


@pytest.mark.parametrize("chunks", [b"3\r\nabc\r\n0\r\nX-Long: ", b"3\r\nabc\r\n0\r\n", b"3;"])
@pytest.mark.parametrize("path", [b"/told", b"/small"])
def test_who_sends_trailers_or_framing_without_end_is_cut_off(port: int, chunks: bytes, path: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), _WAIT_S) as connection:
        connection.sendall(_CHUNKED.replace(b"/told", path) + chunks)
        many = b"x" * 1_000 if chunks[-1:] in b" ;" else b"X-Short: y\r\n" * 80
        with pytest.raises(ConnectionError):  # noqa: PT012 - at whichever attempt
            for _ in range(20_000):
                connection.sendall(many)


def test_a_body_in_small_chunks_is_taken_though_their_framing_is_over_the_limit(port: int) -> None:
    count = MAX_HEAD_BYTES // 2
    with socket.create_connection(("127.0.0.1", port), _WAIT_S) as connection:
        connection.sendall(_CHUNKED)
        for _ in range(8):
            connection.sendall(b"1\r\nx\r\n" * (count // 8))
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(65_536).endswith(b"\r\n\r\n%d host transfer-encoding" % count)


def test_what_was_asked_in_one_go_is_answered_before_the_connection_closes(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _WAIT_S) as connection:
        connection.sendall(_ask("/small") + _ask("/small", b"Connection: close\r\n"))
        received = b""
        while part := connection.recv(65_536):
            received += part
    assert received.count(b"HTTP/1.1 200 ") == received.count(b"small") == 2


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
def test_who_does_not_read_its_answer_is_cut_off(hasty: int, header: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hasty), _WAIT_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(_ask("/large", header))
        # It is reset: sending meets that without reading anything.
        deadline_s = time.monotonic() + _WAIT_S
        with pytest.raises(ConnectionError):  # noqa: PT012 - at whichever attempt
            while time.monotonic() < deadline_s:
                connection.send(b"\r\n")
                time.sleep(0.02)


def test_a_client_that_offers_compression_is_not_taken_up_on_it(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/", compression="deflate") as socket:
        assert socket.request is not None
        assert "permessage-deflate" in socket.request.headers["Sec-WebSocket-Extensions"]
        assert socket.protocol.extensions == []
        socket.send(b"x" * 1000)
        assert socket.recv(_WAIT_S) == "1000"


def test_a_live_message_far_over_the_limit_is_refused_by_its_header(port: int) -> None:
    limit = Settings().live_max_message_bytes
    with connect(f"ws://127.0.0.1:{port}/") as socket:
        # One a little over it arrives, so that the service can say what was wrong.
        socket.send(b"x" * (limit + 1))
        assert socket.recv(_WAIT_S) == str(limit + 1)
        socket.socket.sendall(b"\x82\xff" + struct.pack("!Q", limit + 2**17) + b"mask")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(_WAIT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
