"""The live endpoint: a WebSocket on which a client sends frames and gets readings (docs/live.md).

A connection works on one frame at a time and keeps only the newest that waits: it lets go, it does not lag.
Frames are neither stored nor logged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from starlette.datastructures import State
from starlette.websockets import WebSocket, WebSocketDisconnect

from maskfer.config import Settings
from maskfer.errors import MaskferError, ServiceUnavailable
from services.scoring import metrics
from services.scoring.access import allowed
from services.scoring.problems import problem
from services.scoring.protocol import (
    MAX_TEXT,
    Answer,
    CropsFrame,
    Dropped,
    Failure,
    Hello,
    LiveFace,
    PictureFrame,
    ProtocolError,
    Reading,
    Ready,
    encode_answer,
    encode_ready,
    parse_frame,
    parse_hello,
    parse_options,
)
from services.scoring.scorer import Scorer
from services.scoring.session import Found, Limits, LiveSession

WINDOW: Final = 2
"""Frames a client may have unanswered: one at work, one on its way."""
HELLO_S: Final = 5.0
"""A client that does not say hello within this is sent away."""
_RETRY_AFTER_S: Final = 1.0
_MAX_LET_GO: Final = 64
"""Frames let go whose answers wait for the one at work; with more, the server stops reading."""

GOING_AWAY, UNSUPPORTED, POLICY, TOO_BIG, RESTART, TRY_LATER, TOKEN = 1001, 1003, 1008, 1009, 1012, 1013, 4401
"""Close codes: RFC 6455 §7.4.1 and IANA's registry; 4401 is ours, so that a page can ask for the token."""


class LiveStatistics(Protocol):
    """Keeps what is shown, for clients who agree."""

    def record(self, session: str, faces: Sequence[LiveFace], at: datetime) -> None:
        """Count the faces of one frame; called on the event loop, waits for nothing, raises nothing."""
        ...


@dataclass(slots=True)
class LiveClients:
    """How many are connected to this process."""

    count: int = 0

    @contextmanager
    def admit(self, *, limit: int) -> Iterator[None]:
        """Count a client for the length of a block; raises where there are too many."""
        if self.count >= limit:
            full = ServiceUnavailable(f"live: {self.count} clients are connected already; come again later")
            raise _SentAwayError.because(full, TRY_LATER)
        self.count += 1
        metrics.live_opened()
        try:
            yield
        finally:
            self.count -= 1
            metrics.live_closed()


async def live(websocket: WebSocket) -> None:
    """Serve one client until it leaves or is sent away."""
    state = websocket.app.state
    settings: Settings = state.settings
    if not _same_origin(websocket, settings):
        metrics.refused("origin")
        await websocket.close()  # before it is accepted: 403, and a page could not read a body anyway
        return
    await websocket.accept()
    try:
        await _serve(websocket, state, settings)
    except WebSocketDisconnect:
        return


async def _serve(websocket: WebSocket, state: State, settings: Settings) -> None:
    try:
        with state.live_clients.admit(limit=settings.live_max_clients):
            hello = await _hello(websocket, settings)
            await _Connection(websocket, state, hello).run()
    except _SentAwayError as away:
        with _closing_is_leaving():
            if away.failure is not None:
                await websocket.send_text(encode_answer(away.failure))
            await websocket.close(away.code, away.reason)


@contextmanager
def _closing_is_leaving() -> Iterator[None]:
    """Take what uvicorn raises once it has sent a close frame of its own for what it is: the end."""
    try:
        yield
    except RuntimeError as error:
        raise WebSocketDisconnect(1006) from error


class _SentAwayError(Exception):
    """The connection is to be closed: with a code, a reason of a few words, and what is said before."""

    def __init__(self, code: int, reason: str, failure: Failure | None = None) -> None:
        super().__init__(reason)
        self.code, self.reason, self.failure = code, reason, failure

    @classmethod
    def because(cls, error: MaskferError, code: int) -> _SentAwayError:
        return cls(code, type(error).__name__, _failure(error))


def _failure(error: MaskferError, frame: int | None = None) -> Failure:
    _, body = problem(error)
    return Failure(body["error"], body["message"], frame)


async def _hello(websocket: WebSocket, settings: Settings) -> Hello:
    try:
        async with asyncio.timeout(HELLO_S):
            message = await _receive(websocket, settings)
    except TimeoutError as error:
        late = ProtocolError(f"hello: none within {HELLO_S:.0f} s of the connection")
        raise _SentAwayError.because(late, POLICY) from error
    try:
        if isinstance(message, bytes):
            raise ProtocolError("hello: the first message is binary, expected the text of a hello")
        hello = parse_hello(message)
    except ProtocolError as error:
        raise _SentAwayError.because(error, POLICY) from error
    if not allowed(hello.token, settings):
        metrics.refused("token")
        wanted = Failure("Unauthorized", "hello: the token is missing or none of this service's")
        raise _SentAwayError(TOKEN, "token", wanted)
    return hello


async def _receive(websocket: WebSocket, settings: Settings) -> str | bytes:
    """Return the next message; raises `WebSocketDisconnect`, `_SentAwayError` for one that is too large."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"], message.get("reason"))
    content: str | bytes | None = message.get("bytes")
    if content is None:
        content = str(message["text"])
    limit = MAX_TEXT if isinstance(content, str) else settings.live_max_message_bytes
    if len(content) > limit:
        unit = "characters" if isinstance(content, str) else "bytes (MASKFER_LIVE_MAX_MESSAGE_BYTES)"
        failure = Failure("MessageTooLarge", f"live: a message of {len(content):,}, limit {limit:,} {unit}")
        raise _SentAwayError(TOO_BIG, "message too large", failure)
    return content


@dataclass(slots=True)
class _Waiting:
    """A frame that has arrived, and the numbers of those before it that were let go for it."""

    frame: PictureFrame | CropsFrame
    at_s: float
    asked: Hello
    """The client's options when it arrived; later ones count from the next frame on."""
    let_go: list[int] = field(default_factory=list)


class _Connection:
    """One client after its hello: a reader that keeps the newest frame, a worker that answers."""

    def __init__(self, websocket: WebSocket, state: State, hello: Hello) -> None:
        self._websocket = websocket
        self._state = state
        self._settings: Settings = state.settings
        self._hello = hello
        self._ready = _ready(state.scorer, self._settings)
        self._session = LiveSession(
            Limits(max_pixels=self._settings.live_max_pixels, max_faces=self._settings.live_max_faces)
        )
        self._handed: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._busy = False
        """Whether the worker has a frame, or has been handed one that it has not yet seen."""
        self._waiting: _Waiting | None = None
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Say ready and answer until one side ends it; raises `_SentAwayError` or `WebSocketDisconnect`."""
        await self._websocket.send_text(encode_ready(self._ready))
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._work())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # raises why it ended
        raise AssertionError(f"reader and worker end by an exception, got {results}")

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.live_idle_s):
                    message = await _receive(self._websocket, self._settings)
            except TimeoutError as error:
                reason = f"no message for {self._settings.live_idle_s:g} s"
                raise _SentAwayError(GOING_AWAY, reason) from error
            try:
                if isinstance(message, str):
                    self._change_options(message)
                else:
                    await self._keep(message)
            except ProtocolError as error:
                raise _SentAwayError.because(error, UNSUPPORTED) from error

    def _change_options(self, message: str) -> None:
        options = parse_options(message)
        if options.consent is not None:
            self._hello = replace(self._hello, consent=options.consent)
        if options.heatmap is not None:
            self._hello = replace(self._hello, heatmap=options.heatmap)

    async def _keep(self, message: bytes) -> None:
        """Keep the newest frame; a client whose answers cannot be sent is not read from either."""
        frame = parse_frame(message, crop_size=self._ready.crop_size, max_faces=self._ready.max_faces)
        arrived = _Waiting(frame, time.monotonic(), self._hello)
        if not self._busy:
            # The next one may be read before the worker runs, and must not push this one out.
            self._busy = True
            self._handed.put_nowait(arrived)
            return
        before = self._waiting
        if before is not None:
            arrived.let_go = [*before.let_go, before.frame.frame]
        self._waiting = arrived
        if len(arrived.let_go) >= _MAX_LET_GO:
            self._room.clear()
            await self._room.wait()

    def _take(self) -> _Waiting | None:
        waiting, self._waiting = self._waiting, None
        self._busy = waiting is not None
        self._room.set()
        return waiting

    async def _work(self) -> None:
        waiting: _Waiting | None = None
        while True:
            if waiting is None:
                waiting = await self._handed.get()
            for frame in waiting.let_go:
                metrics.frame_dropped("superseded")
                await self._send(Dropped(frame))
            answer = await self._answer(waiting)
            # Taken before the answer leaves: a client that sends its next frame at once, within the window,
            # must not push this one out.
            waiting = self._take()
            await self._send(answer)

    async def _answer(self, waiting: _Waiting) -> Answer:
        scorer: Scorer = self._state.scorer
        if _layout(_ready(scorer, self._settings)) != _layout(self._ready):
            raise _SentAwayError(RESTART, "the model's classes or crops changed")
        number = waiting.frame.frame
        try:
            found = await self._find(waiting, scorer)
            judged = await scorer.judged(found.crops)
        except ServiceUnavailable:
            metrics.frame_dropped("overload")
            return Dropped(number, _RETRY_AFTER_S)
        except MaskferError as error:
            return _failure(error, number)
        faces = self._session.read(
            found, judged, scorer.model.release, at_s=waiting.at_s, heatmap=waiting.asked.heatmap
        )
        statistics: LiveStatistics | None = self._state.statistics
        # Read once more after the work: consent that was withdrawn meanwhile counts, one given meanwhile not.
        if statistics is not None and waiting.asked.consent and self._hello.consent:
            statistics.record(self._hello.session, faces, datetime.now(UTC))
        metrics.frame_answered()
        server_ms = 1000.0 * (time.monotonic() - waiting.at_s)
        return Reading(number, scorer.model.version, server_ms, faces)

    async def _find(self, waiting: _Waiting, scorer: Scorer) -> Found:
        if isinstance(waiting.frame, CropsFrame):
            return self._session.find(waiting.frame, scorer)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._state.pool, self._session.find, waiting.frame, scorer)

    async def _send(self, answer: Answer) -> None:
        with _closing_is_leaving():
            await self._websocket.send_text(encode_answer(answer))


def _ready(scorer: Scorer, settings: Settings) -> Ready:
    release = scorer.model.release
    return Ready(
        model=scorer.identity(),
        classes=release.classes,
        orientations=tuple(str(name) for name in release.orientations),
        crop_size=release.crop_size,
        crop_context=release.crop_context,
        window=WINDOW,
        max_message_bytes=settings.live_max_message_bytes,
        max_faces=settings.live_max_faces,
    )


def _layout(ready: Ready) -> tuple[object, ...]:
    """What a client relies on until it says hello again."""
    return ready.classes, ready.orientations, ready.crop_size, ready.crop_context


def _same_origin(websocket: WebSocket, settings: Settings) -> bool:
    """Whether no browser asks, or a page of this service or of an origin that is allowed.

    The scheme is not compared: where a proxy ends TLS the service does not see it.
    """
    origin = websocket.headers.get("origin")
    if origin is None or origin in settings.cors_origins:
        return True
    return origin.partition("://")[2].lower() == websocket.headers.get("host", "").lower()
