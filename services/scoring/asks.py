"""The requests that a measurement sends, drawn by the project."""

from __future__ import annotations

import http.client
import io
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import cv2
import numpy as np

from maskfer.data.synthetic import clip_frames
from maskfer.errors import ServiceUnavailable
from services.scoring.drive import Target
from services.scoring.plain import Kind

_WIDTH_PX, _HEIGHT_PX, _FACE_PX = 640, 360, 320
_VARIANTS: Final = 4
"""Different bodies of one kind, so that not all of the input stays in a cache."""
_ANSWER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One kind of request."""

    name: str
    kind: Kind
    faces: int
    """In one request."""
    path: str
    bodies: tuple[bytes, ...]

    def to(self, target: Target) -> list[bytes]:
        """Return the requests as a target takes them."""
        return [target.post(self.path, body) for body in self.bodies]


def crops_ask(faces: int, *, crop_size: int) -> Ask:
    """Return requests of `faces` crops of noise each."""
    rng = np.random.default_rng(faces)
    bodies = []
    for _ in range(_VARIANTS):
        file = io.BytesIO()
        np.save(file, rng.integers(0, 256, (faces, crop_size, crop_size), np.uint8))
        bodies.append(file.getvalue())
    return Ask(f"{faces} crop{'s' if faces > 1 else ''}", "crops", faces, "/predict", tuple(bodies))


def picture_ask() -> Ask:
    """Return a request of one drawn face in a JPEG of 640 x 360."""
    face = next(clip_frames(frames=1, fps=1.0, size=_FACE_PX, seed=7))[0]
    picture = np.full((_HEIGHT_PX, _WIDTH_PX, 3), 96, np.uint8)
    top, left = (_HEIGHT_PX - _FACE_PX) // 2, (_WIDTH_PX - _FACE_PX) // 2
    picture[top : top + _FACE_PX, left : left + _FACE_PX] = face
    return Ask("image", "image", 1, "/analyze", (cv2.imencode(".jpg", picture)[1].tobytes(),))


def check(target: Target, ask: Ask) -> None:
    """Send one request; raises `ServiceUnavailable` where it is not answered as a measurement needs it."""
    where = f"{target}{ask.path}"
    status, content = _post(target, ask, where)
    if status != HTTPStatus.OK:
        said = " ".join(content.decode("utf-8", "replace").split())[:200]
        raise ServiceUnavailable(f"{where}: answers a request of {ask.name} with {status}: {said}")
    try:
        found = len(json.loads(content)["faces" if ask.kind == "image" else "predictions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServiceUnavailable(f"{where}: its answer is not one of the scoring service") from error
    if found != ask.faces:
        raise ServiceUnavailable(f"{where}: answers a request of {ask.name} with {found} faces")


def _post(target: Target, ask: Ask, where: str) -> tuple[int, bytes]:
    kind = http.client.HTTPSConnection if target.secure else http.client.HTTPConnection
    connection = kind(target.host, target.port, timeout=_ANSWER_S)
    try:
        connection.request("POST", target.path + ask.path, ask.bodies[0])
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceUnavailable(f"{where}: no answer ({error}); is `maskfer serve` running?") from error
    finally:
        connection.close()
