"""What the live application shows of a moment, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from maskfer.faces.face import Image
from services.scoring.protocol import LiveFace

MAX_WIDTH: Final = 960
"""Width to which a picture is reduced before it is drawn on, pixels."""
_INK: Final = (250, 250, 250)
_SHADE: Final = (40, 40, 40)
_FRAME: Final = (120, 200, 120)
_BARS: Final = ((110, 190, 90), (200, 170, 90), (90, 110, 220))
"""Colours of the bars in the order of the classes, BGR; further classes begin again."""
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class View:
    """A moment of the live application."""

    image: Image | None
    """The camera's newest picture."""
    faces: tuple[LiveFace, ...]
    """The newest reading."""
    status: str
    """One line: server, model, latency, rate; or what is wrong."""


def draw(view: View) -> Image:
    """Return the picture with each face framed, its bars, mask and direction, and the status below."""
    image = view.image if view.image is not None else np.full((240, 320, 3), 60, np.uint8)
    scale = min(1.0, MAX_WIDTH / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1.0 else image.copy()
    for face in view.faces:
        _draw_face(canvas, face, scale=scale)
    strip = np.full((26, canvas.shape[1], 3), _SHADE, np.uint8)
    _write(strip, view.status, 6, 18)
    return np.ascontiguousarray(np.vstack([canvas, strip]), np.uint8)


def _draw_face(canvas: Image, face: LiveFace, *, scale: float) -> None:
    left, top, width, height = (round(value * scale) for value in face.box)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), _FRAME, 2)
    # Beside the face where there is room, else inside its frame.
    places = [(left + width + 6, left + width + 156 <= canvas.shape[1]), (left - 156, left >= 156)]
    x = next((place for place, free in places if free), left + 4)
    for row, (name, share) in enumerate(face.probabilities.items()):
        y = top + 18 * row
        bold = name == face.expression
        cv2.rectangle(canvas, (x, y), (x + 150, y + 15), _SHADE, -1)
        cv2.rectangle(canvas, (x, y), (x + round(150 * share), y + 15), _BARS[row % len(_BARS)], -1)
        _write(canvas, f"{'> ' if bold else ''}{name} {share:.0%}", x + 3, y + 12)
    _write(canvas, describe(face), left, max(12, top - 6))


def describe(face: LiveFace) -> str:
    """Return a face's mask and direction in words."""
    mask = f"masked {face.masked_probability:.0%}" if face.masked else "no mask"
    return f"{face.track}: {mask}, looks {face.orientation}"


def _write(canvas: Image, words: str, x: int, y: int) -> None:
    cv2.putText(canvas, words, (x, y), _FONT, 0.42, _SHADE, 3, cv2.LINE_AA)
    cv2.putText(canvas, words, (x, y), _FONT, 0.42, _INK, 1, cv2.LINE_AA)
