"""A client's connection to the service, made anew where it breaks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from maskfer.errors import InputError, MaskferError, ServiceUnavailable
from services.scoring.protocol import (
    Answer,
    Failure,
    Hello,
    ProtocolError,
    Ready,
    UnsupportedProtocol,
    encode_hello,
    parse_answer,
    parse_ready,
)

_OPEN_S: Final = 5.0
_BACK_OFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before the first, second, ... attempt to connect again; the last repeats."""
_JITTER: Final = 0.25
"""Share by which a wait varies, so that the clients of a service that restarts do not come all at once."""
_OWN_FAULT: Final = frozenset({1003, 1008, 1009, 4401})
"""Close codes after which coming back with the same would end the same."""


class NotAScoringService(ServiceUnavailable):
    """Something answers at the address, but not with the live protocol."""


class AccessRefused(InputError):
    """The service wants a token, or another one."""


class Link:
    """Sends frames and receives answers; for use by one thread.

    Making it connects. Raises `ServiceUnavailable` where nobody listens or is no scoring service,
    `AccessRefused` for the token, `UnsupportedProtocol`, and `InputError` for an address that is none.
    Later a connection that breaks is made again with growing waits; set `say` to hear of it.
    """

    def __init__(self, server: str, hello: Hello) -> None:
        self.server = server
        self._address = live_address(server)
        self._hello = hello
        self.say: Callable[[str], None] = lambda _message: None
        self._rng = np.random.default_rng(uuid.UUID(hello.session).int)
        self._stack = ExitStack()
        self._socket: ClientConnection | None = None
        self._attempts = 0
        self._lost_at_s = self._attempt_at_s = 0.0
        self.reconnections = 0
        self.ready = self._open()

    @property
    def connected(self) -> bool:
        """Whether a frame can be sent now."""
        return self._socket is not None

    @property
    def lost_for_s(self) -> float:
        """How long there has been no connection."""
        return 0.0 if self.connected else time.monotonic() - self._lost_at_s

    def send(self, message: bytes) -> bool:
        """Send a frame; False where the connection is lost, and the frame with it."""
        if self._socket is None:
            return False
        try:
            self._socket.send(message)
        except ConnectionClosed as closed:
            self._lost(closed)
            return False
        return True

    def receive(self, *, timeout_s: float) -> Answer | None:
        """Return the next answer; None where none comes in this time, or where the connection is lost.

        Raises `ProtocolError` or `AccessRefused` where the server sent this client away for good.
        """
        if self._socket is None:
            self._come_back(timeout_s)
            return None
        try:
            answer = parse_answer(_text(self._socket.recv(timeout=timeout_s)))
        except TimeoutError:
            return None
        except ConnectionClosed as closed:
            self._lost(closed)
            return None
        if isinstance(answer, Failure) and answer.frame is None:
            self.say(answer.message)
            return None
        return answer

    def close(self) -> None:
        """Say goodbye."""
        self._socket = None
        self._stack.close()

    def _open(self) -> Ready:
        with ExitStack() as stack:
            try:
                # Pictures of noise do not shrink, and deflating them costs more than sending them.
                socket = stack.enter_context(
                    connect(self._address, open_timeout=_OPEN_S, close_timeout=1.0, compression=None)
                )
                socket.send(encode_hello(self._hello))
                ready = parse_ready(_text(socket.recv(timeout=2 * _OPEN_S)))
            except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
                raise _refused(self.server, error) from error
            if isinstance(ready, Failure):
                raise _sent_away(self.server, ready)
            self._stack = stack.pop_all()
        self._socket = socket
        return ready

    def _lost(self, closed: ConnectionClosed) -> None:
        self.close()
        code = closed.rcvd.code if closed.rcvd else 1006
        reason = (closed.rcvd.reason if closed.rcvd else "") or "no goodbye"
        if code in _OWN_FAULT:
            raise ProtocolError(f"live: {self.server} closed the connection: {reason} (code {code})")
        self._lost_at_s = time.monotonic()
        self._attempts = 0
        self._wait(f"connection lost ({reason})")

    def _wait(self, why: str) -> None:
        wait_s = _BACK_OFF_S[min(self._attempts, len(_BACK_OFF_S) - 1)]
        wait_s *= 1.0 + _JITTER * float(self._rng.uniform(-1.0, 1.0))
        self._attempts += 1
        self._attempt_at_s = time.monotonic() + wait_s
        self.say(f"{why}; trying again in {wait_s:.1f} s")

    def _come_back(self, timeout_s: float) -> None:
        left_s = self._attempt_at_s - time.monotonic()
        if left_s > 0:
            time.sleep(min(left_s, timeout_s))
            return
        try:
            self.ready = self._open()
        except ServiceUnavailable as error:
            self._wait(str(error).partition(";")[0].removeprefix("live: "))
            return
        self.reconnections += 1
        self.say(f"connected again, model {self.ready.model['version']}")


def live_address(server: str) -> str:
    """Return the WebSocket address of a service's URL; raises `InputError` for what is none."""
    wrong = InputError(f"live: --server {server!r} is no address; expected one like http://127.0.0.1:3000")
    try:
        parts = urlsplit(server)
        # Asked for because it is only checked when it is.
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise wrong from error
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not whole:
        raise wrong
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/live", parts.query, ""))


def _text(message: str | bytes) -> str:
    if isinstance(message, bytes):
        raise ProtocolError("server: sent a binary message, expected text")
    return message


def _refused(server: str, error: Exception) -> ServiceUnavailable:
    match error:
        case TimeoutError():
            return ServiceUnavailable(f"live: {server}: no answer in time; is the service overloaded?")
        case OSError():
            reason = error.strerror or str(error)
            return ServiceUnavailable(
                f"live: {server}: nobody listens ({reason}); start a service with maskfer serve, "
                "or give its address with --server"
            )
        case InvalidStatus():
            reason = f"answers {error.response.status_code} to a WebSocket"
        case _:
            reason = "does not speak WebSocket"
    return NotAScoringService(
        f"live: {server}: {reason}; expected a maskfer scoring service, give its address with --server"
    )


def _sent_away(server: str, failure: Failure) -> MaskferError:
    match failure.error:
        case "Unauthorized":
            return AccessRefused(
                f"live: {server} wants a token, or another one; give --token or MASKFER_TOKEN"
            )
        case "UnsupportedProtocol":
            return UnsupportedProtocol(f"live: {server}: {failure.message}")
        case "ServiceUnavailable":
            return ServiceUnavailable(f"live: {server}: {failure.message}")
    return ProtocolError(f"live: {server}: {failure.message}")
