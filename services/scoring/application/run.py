"""The live application's loop: take the newest picture, find faces, send crops, show what comes back."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from maskfer.errors import ServiceUnavailable
from maskfer.faces.crop import crop_face
from maskfer.faces.face import FaceDetector, Image
from services.scoring.application.display import Display
from services.scoring.application.link import Link
from services.scoring.application.source import Shot, Source
from services.scoring.application.view import View
from services.scoring.protocol import (
    Answer,
    CropsFrame,
    Dropped,
    Failure,
    LiveFace,
    Reading,
    Ready,
    encode_frame,
    face_fields,
)

_TICK_S: Final = 0.005
_RATE_OVER_S: Final = 2.0
_GIVE_UP_S: Final = 60.0
"""A video whose frames wait does not wait longer than this for a service that is gone."""
_LATENCIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Sent:
    shot: Shot
    at_s: float


class LiveApplication:
    """Runs until the source ends, the display is closed, or Ctrl-C."""

    def __init__(self, source: Source, link: Link, display: Display, detector: FaceDetector) -> None:
        self._source, self._link, self._display, self._detector = source, link, display, detector
        self._unanswered: dict[int, _Sent] = {}
        self._image: Image | None = None
        self._faces: tuple[LiveFace, ...] = ()
        self._again: deque[Shot] = deque()
        self._not_before_s = 0.0
        self._answered_s: deque[float] = deque(maxlen=1000)
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES)
        self.sent = self.answered = self.dropped = 0

    def run(self) -> None:
        """Run; raises what `Link.receive` and the source raise, `ServiceUnavailable` after a long wait."""
        try:
            while not (self._display.closed or self._finished()):
                self._step()
        except KeyboardInterrupt:
            return

    def summary(self) -> str:
        """Return what happened, in one line."""
        dropped = self.dropped + self._source.skipped
        words = f"{self.sent} frames sent, {self.answered} answered, {dropped} dropped"
        again = self._link.reconnections
        if again:
            words += f", {again} reconnection{'s' if again > 1 else ''}"
        if self._latencies_ms:
            middle, slow = np.percentile(list(self._latencies_ms), [50, 95])
            words += f"; latency p50 {middle:.0f} ms, p95 {slow:.0f} ms"
        return words

    def _finished(self) -> bool:
        return self._source.ended and not self._unanswered and not self._again

    def _step(self) -> None:
        hurries = self._source.patient and self._has_room()
        answer = self._link.receive(timeout_s=0.0 if hurries else _TICK_S)
        if answer is not None:
            self._take(answer)
        if not self._link.connected:
            self._forget_lost()
        shot = self._next()
        if shot is not None:
            self._image = shot.image
            if self._has_room():
                self._send(shot)
            else:
                self.dropped += 1
        if shot is not None or answer is not None:
            self._display.show(View(self._image, self._faces, self._status()))

    def _next(self) -> Shot | None:
        if self._source.patient and not self._has_room():
            return None
        return self._again.popleft() if self._again else self._source.newest()

    def _has_room(self) -> bool:
        return (
            self._link.connected
            and len(self._unanswered) < self._link.ready.window
            and time.monotonic() >= self._not_before_s
        )

    def _send(self, shot: Shot) -> None:
        started_s = time.monotonic()
        message = encode_frame(cut(shot, self._detector, self._link.ready))
        self._unanswered[shot.index] = _Sent(shot, started_s)
        self.sent += 1
        self._link.send(message)

    def _take(self, answer: Answer) -> None:
        sent = self._unanswered.pop(answer.frame, None) if answer.frame is not None else None
        if sent is None:
            return
        now_s = time.monotonic()
        match answer:
            case Reading():
                latency_ms = 1000.0 * (now_s - sent.at_s)
                self.answered += 1
                self._faces = answer.faces
                self._answered_s.append(now_s)
                self._latencies_ms.append(latency_ms)
                self._display.frame(_line(sent.shot, answer, latency_ms))
            case Dropped():
                self._let_go(sent.shot)
                if answer.retry_after_s is not None:
                    self._not_before_s = now_s + answer.retry_after_s
            case Failure():
                self._drop(sent.shot, {"error": answer.error, "message": answer.message})

    def _forget_lost(self) -> None:
        """The answers of a broken connection will not come."""
        for sent in self._unanswered.values():
            self._let_go(sent.shot)
        self._unanswered.clear()
        self._faces = ()
        if self._source.patient and self._link.lost_for_s > _GIVE_UP_S:
            raise ServiceUnavailable(
                f"live: {self._link.server} has been away for {_GIVE_UP_S:.0f} s; start it and run again"
            )

    def _let_go(self, shot: Shot) -> None:
        """What was sent and not judged: a video's frame that can wait is sent again."""
        if self._source.patient:
            self._again.append(shot)
        else:
            self._drop(shot, {"dropped": True})

    def _drop(self, shot: Shot, why: dict[str, Any]) -> None:
        self.dropped += 1
        self._display.frame({"frame": shot.index, "time_s": round(shot.time_s, 4), **why})

    def _status(self) -> str:
        if not self._link.connected:
            return "connection lost, coming back"
        now_s = time.monotonic()
        recent = sum(1 for at_s in self._answered_s if now_s - at_s <= _RATE_OVER_S)
        latency = f"{self._latencies_ms[-1]:.0f} ms" if self._latencies_ms else "-"
        model = self._link.ready.model
        return f"{model['name']} {model['version']}  {latency}  {recent / _RATE_OVER_S:.0f} frames/s"


def cut(shot: Shot, detector: FaceDetector, ready: Ready) -> CropsFrame:
    """Find the faces of a picture and cut their crops as the service does, grey; the most confident count."""
    found = detector.detect(shot.image)[: ready.max_faces]
    crops = np.empty((len(found), ready.crop_size, ready.crop_size), np.uint8)
    for row, face in enumerate(found):
        crop, _ = crop_face(shot.image, face.box, size=ready.crop_size, context=ready.crop_context)
        cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY, dst=crops[row])
    boxes = [(face.box.left, face.box.top, face.box.width, face.box.height) for face in found]
    return CropsFrame(shot.index, np.array(boxes, np.float32).reshape(-1, 4), crops)


def _line(shot: Shot, reading: Reading, latency_ms: float) -> dict[str, Any]:
    return {
        "frame": shot.index,
        "time_s": round(shot.time_s, 4),
        "model": reading.model,
        "latency_ms": round(latency_ms, 2),
        "server_ms": reading.server_ms,
        "faces": [face_fields(face) for face in reading.faces],
    }
