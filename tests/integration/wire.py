"""HTTP by hand: what no well-behaved client would send."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPResponse


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connection that is kept and made anew where the service closed it."""

    def __init__(self, port: int, *, timeout_s: float = 60.0) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def ask(self, raw: bytes, *, method: str = "POST") -> Answer | None:
        """Send the bytes as they are; None where the service closes without an answer."""
        for is_new in (self._socket is None, True):
            if is_new:
                self.close()
                self._socket = socket.create_connection(("127.0.0.1", self._port), self._timeout_s)
            try:
                return self._answer(raw, method)
            except (BadStatusLine, ConnectionError):
                self.close()
                if is_new:
                    return None
        raise AssertionError("a new connection was tried last")

    def _answer(self, raw: bytes, method: str) -> Answer:
        assert self._socket is not None
        self._socket.sendall(raw)
        # RemoteDisconnected is a BadStatusLine: nothing came at all.
        with HTTPResponse(self._socket, method=method) as response:
            response.begin()
            answer = Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
            if response.will_close:
                self.close()
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def head(method: str, path: str, *lines: str, length: int | None = None) -> bytes:
    """The head of a request with these header lines."""
    stated = [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: service", *lines, *stated, "", ""]).encode(
        "latin-1"
    )
