"""What the server sends: ready, and one answer a frame."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from services.scoring.protocol.checks import Fields, ProtocolError, UnsupportedProtocol, dump, show
from services.scoring.protocol.requests import VERSION

_MAX_COORDINATE: Final = 1e6
_MAX_FRAME: Final = 2**32 - 1
_MAX_HEATMAP: Final = 1024
"""Largest side of a heatmap that a client takes."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The server's answer to a hello."""

    model: Mapping[str, str]
    """`name`, `version`, `sha256`."""
    classes: tuple[str, ...]
    orientations: tuple[str, ...]
    crop_size: int
    crop_context: float
    window: int
    """Most unanswered frames that a client keeps."""
    max_message_bytes: int
    max_faces: int


@dataclass(frozen=True, slots=True)
class LiveFace:
    """One face of a frame: who it is within this connection, and what is said of it."""

    track: int
    box: tuple[float, float, float, float]
    """left, top, width, height in pixels of the frame."""
    confidence: float | None
    """The detector's, in [0, 1]; None where the client found the face."""
    probabilities: Mapping[str, float]
    """Per class, smoothed over time; sums to 1."""
    raw: Mapping[str, float]
    """Per class, of this frame alone."""
    expression: str
    """What to show: changes only where another class leads clearly and for a while."""
    masked: bool
    masked_probability: float
    """Smoothed over time."""
    orientation: str
    heatmap: UInt8[np.ndarray, "g g"] | None = None
    """How much the place speaks for a mask, 0 to 255; only on request."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer to a frame."""

    frame: int
    model: str
    """The version that judged this frame."""
    server_ms: float
    """From the frame's arrival to its answer."""
    faces: tuple[LiveFace, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that the server let go for a newer one, or because it is overloaded."""

    frame: int
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a frame, or with the connection where `frame` is None."""

    error: str
    message: str
    frame: int | None = None


Answer = Reading | Dropped | Failure


def encode_ready(ready: Ready) -> str:
    """Return the text that answers a hello."""
    return dump(
        {
            "type": "ready",
            "protocol": VERSION,
            "model": dict(ready.model),
            "classes": list(ready.classes),
            "orientations": list(ready.orientations),
            "crop_size": ready.crop_size,
            "crop_context": ready.crop_context,
            "window": ready.window,
            "max_message_bytes": ready.max_message_bytes,
            "max_faces": ready.max_faces,
        }
    )


def parse_ready(message: str) -> Ready | Failure:
    """Read the answer to a hello; keys of later versions are passed over."""
    fields = Fields.parse(message, where="server")
    if fields.value("type") == "error":
        return _failure(fields)
    if fields.value("type") != "ready":
        raise ProtocolError(f"server: answered the hello with type {show(fields.value('type'))}, no 'ready'")
    if fields.value("protocol") != VERSION:
        raise UnsupportedProtocol(
            f"server: speaks protocol {show(fields.value('protocol'))}, this client {VERSION}; "
            "update the older side"
        )
    model = fields.inner("model")
    return Ready(
        model={name: model.text(name) for name in ("name", "version", "sha256")},
        classes=fields.names("classes"),
        orientations=fields.names("orientations"),
        crop_size=fields.integer("crop_size", low=1, high=4096),
        crop_context=fields.number("crop_context", low=0.1, high=10.0),
        window=fields.integer("window", low=1, high=1000),
        max_message_bytes=fields.integer("max_message_bytes", low=1, high=2**40),
        max_faces=fields.integer("max_faces", low=1, high=65535),
    )


def encode_answer(answer: Answer) -> str:
    """Return the text of an answer to a frame."""
    match answer:
        case Reading():
            return dump(
                {
                    "type": "reading",
                    "frame": answer.frame,
                    "model": answer.model,
                    "server_ms": round(answer.server_ms, 2),
                    "faces": [face_fields(face) for face in answer.faces],
                }
            )
        case Dropped():
            retry = {} if answer.retry_after_s is None else {"retry_after_s": answer.retry_after_s}
            return dump({"type": "dropped", "frame": answer.frame} | retry)
        case Failure():
            frame = {} if answer.frame is None else {"frame": answer.frame}
            return dump({"type": "error", **frame, "error": answer.error, "message": answer.message})


def parse_answer(message: str) -> Answer:
    """Read an answer to a frame; keys of later versions are passed over."""
    fields = Fields.parse(message, where="server")
    match fields.value("type"):
        case "reading":
            return Reading(
                frame=fields.integer("frame", low=0, high=_MAX_FRAME),
                model=fields.text("model"),
                server_ms=fields.number("server_ms", low=0.0, high=1e9),
                faces=tuple(_face(face) for face in fields.objects("faces")),
            )
        case "dropped":
            retry = None
            if fields.value("retry_after_s") is not None:
                retry = fields.number("retry_after_s", low=0.0, high=1e6)
            return Dropped(fields.integer("frame", low=0, high=_MAX_FRAME), retry)
        case "error":
            return _failure(fields)
        case other:
            raise ProtocolError(f"server: type is {show(other)}, expected 'reading', 'dropped' or 'error'")


def face_fields(face: LiveFace) -> dict[str, Any]:
    """Return a face as it stands in a reading."""
    left, top, width, height = face.box
    heatmap: dict[str, Any] = {"heatmap": None}
    if face.heatmap is not None:
        encoded = base64.b64encode(np.ascontiguousarray(face.heatmap).tobytes()).decode("ascii")
        heatmap = {"heatmap": encoded, "heatmap_side": len(face.heatmap)}
    return {
        "track": face.track,
        "box": {"left": left, "top": top, "width": width, "height": height},
        "confidence": face.confidence,
        "probabilities": dict(face.probabilities),
        "raw": dict(face.raw),
        "expression": face.expression,
        "masked": face.masked,
        "masked_probability": face.masked_probability,
        "orientation": face.orientation,
        **heatmap,
    }


def _face(fields: Fields) -> LiveFace:
    box = fields.inner("box")
    left, top, width, height = (
        box.number(name, low=-_MAX_COORDINATE, high=_MAX_COORDINATE)
        for name in ("left", "top", "width", "height")
    )
    found_by_server = fields.value("confidence") is not None
    return LiveFace(
        track=fields.integer("track", low=0, high=2**31 - 1),
        box=(left, top, width, height),
        confidence=fields.number("confidence", low=0.0, high=1.0) if found_by_server else None,
        probabilities=fields.shares("probabilities"),
        raw=fields.shares("raw"),
        expression=fields.text("expression"),
        masked=fields.flag("masked") or False,
        masked_probability=fields.number("masked_probability", low=0.0, high=1.0),
        orientation=fields.text("orientation"),
        heatmap=_heatmap(fields),
    )


def _heatmap(fields: Fields) -> UInt8[np.ndarray, "g g"] | None:
    if fields.value("heatmap") is None:
        return None
    side = fields.integer("heatmap_side", low=1, high=_MAX_HEATMAP)
    try:
        content = base64.b64decode(fields.text("heatmap"), validate=True)
    except ValueError as error:
        raise ProtocolError("server: a heatmap is not base64") from error
    if len(content) != side * side:
        raise ProtocolError(f"server: a heatmap has {len(content)} bytes, expected {side} x {side}")
    return np.frombuffer(content, np.uint8).reshape(side, side)


def _failure(fields: Fields) -> Failure:
    framed = fields.value("frame") is not None
    frame = fields.integer("frame", low=0, high=_MAX_FRAME) if framed else None
    return Failure(fields.text("error"), fields.text("message"), frame)
