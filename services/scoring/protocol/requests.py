"""What a client sends: hello, options, frames."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, UInt8

from services.scoring.protocol.checks import Fields, ProtocolError, UnsupportedProtocol, dump, show

VERSION: Final = 1
MAX_TEXT: Final = 4096
"""Longest text a client sends, characters."""
HEADER: Final = struct.Struct("<BBHI")
"""Kind, flags (0), number of faces (0 for a picture), the frame's number; little-endian."""

_MAX_COORDINATE: Final = 1e6
_MAX_TOKEN: Final = 1024


class Kind(IntEnum):
    """What a client's binary message holds."""

    PICTURE = 1
    CROPS = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's first message."""

    session: str
    """Random UUID4 made by the client: what statistics are kept under."""
    consent: bool = False
    """Whether statistics may be kept."""
    heatmap: bool = False
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Options:
    """What a client changes later; None leaves it as it is."""

    consent: bool | None = None
    heatmap: bool | None = None


@dataclass(frozen=True, slots=True)
class PictureFrame:
    """A frame as an encoded picture; the server finds the faces."""

    frame: int
    picture: bytes


@dataclass(frozen=True, slots=True)
class CropsFrame:
    """A frame whose faces the client has found and cut."""

    frame: int
    boxes: Float32[np.ndarray, "n 4"]
    """left, top, width, height in pixels of the client's frame."""
    crops: UInt8[np.ndarray, "n s s"]


def encode_hello(hello: Hello) -> str:
    """Return the text of a hello."""
    return dump(
        {
            "type": "hello",
            "protocol": VERSION,
            "session": hello.session,
            "consent": hello.consent,
            "heatmap": hello.heatmap,
            "token": hello.token,
        }
    )


def parse_hello(message: str) -> Hello:
    """Read a client's first message; raises `UnsupportedProtocol` for another version than ours."""
    fields = _fields(message, "hello", known=("protocol", "session", "consent", "heatmap", "token"))
    version = fields.value("protocol")
    if version != VERSION or isinstance(version, bool):
        raise UnsupportedProtocol(
            f"hello: protocol is {show(version)}, this server speaks {VERSION}; update the older side"
        )
    token = fields.value("token")
    if token is not None and not (isinstance(token, str) and len(token) <= _MAX_TOKEN):
        raise ProtocolError(f"hello: token is not null or a text of at most {_MAX_TOKEN} characters")
    return Hello(
        session=_session(fields.value("session")),
        consent=fields.flag("consent") or False,
        heatmap=fields.flag("heatmap") or False,
        token=token,
    )


def encode_options(options: Options) -> str:
    """Return the text that changes options."""
    changes = {"consent": options.consent, "heatmap": options.heatmap}
    return dump({"type": "options"} | {name: value for name, value in changes.items() if value is not None})


def parse_options(message: str) -> Options:
    """Read a client's later text message."""
    fields = _fields(message, "options", known=("consent", "heatmap"))
    return Options(consent=fields.flag("consent"), heatmap=fields.flag("heatmap"))


def encode_frame(frame: PictureFrame | CropsFrame) -> bytes:
    """Return the binary message of a frame."""
    if isinstance(frame, PictureFrame):
        return HEADER.pack(Kind.PICTURE, 0, 0, frame.frame) + frame.picture
    header = HEADER.pack(Kind.CROPS, 0, len(frame.crops), frame.frame)
    return header + frame.boxes.astype("<f4").tobytes() + np.ascontiguousarray(frame.crops).tobytes()


def parse_frame(message: bytes, *, crop_size: int, max_faces: int) -> PictureFrame | CropsFrame:
    """Read a client's binary message; the picture itself is not looked at."""
    if len(message) < HEADER.size:
        raise ProtocolError(f"frame: {len(message)} bytes, the header alone has {HEADER.size}")
    kind, flags, count, number = HEADER.unpack_from(message)
    if flags != 0:
        raise ProtocolError(f"frame {number}: flags are {flags}, expected 0")
    if kind == Kind.PICTURE:
        if count != 0:
            raise ProtocolError(f"frame {number}: a picture's header states {count} faces, expected 0")
        return PictureFrame(number, message[HEADER.size :])
    if kind == Kind.CROPS:
        return _parse_crops(message, number, count, crop_size=crop_size, max_faces=max_faces)
    raise ProtocolError(f"frame {number}: kind is {kind}, expected 1 (picture) or 2 (crops)")


def _parse_crops(message: bytes, number: int, count: int, *, crop_size: int, max_faces: int) -> CropsFrame:
    if count > max_faces:
        raise ProtocolError(
            f"frame {number}: {count} faces, the limit is {max_faces}; send the largest {max_faces}"
        )
    boxes_end = HEADER.size + 16 * count
    expected = boxes_end + count * crop_size * crop_size
    if len(message) != expected:
        raise ProtocolError(
            f"frame {number}: {len(message)} bytes, expected {expected} for {count} faces of "
            f"{crop_size} x {crop_size}"
        )
    boxes = np.frombuffer(message, "<f4", 4 * count, HEADER.size).reshape(count, 4).astype(np.float32)
    # Written so that NaN fails too.
    if not (np.abs(boxes) <= _MAX_COORDINATE).all() or not (boxes[:, 2:] > 0).all():
        raise ProtocolError(
            f"frame {number}: a box is not left, top, width, height in pixels with a width and height above 0"
        )
    crops = np.frombuffer(message, np.uint8, offset=boxes_end).reshape(count, crop_size, crop_size)
    return CropsFrame(number, boxes, crops)


def _fields(message: str, kind: str, *, known: tuple[str, ...]) -> Fields:
    if len(message) > MAX_TEXT:
        raise ProtocolError(f"{kind}: {len(message)} characters, the limit is {MAX_TEXT}")
    fields = Fields.parse(message, where=kind)
    if fields.value("type") != kind:
        raise ProtocolError(f"{kind}: type is {show(fields.value('type'))}, expected {kind!r}")
    fields.only(("type", *known))
    return fields


def _session(value: Any) -> str:
    try:
        session = uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        session = None
    if session is None or session.version != 4 or str(session) != value:
        raise ProtocolError(
            "hello: session is not a random UUID (version 4, lower case with dashes); make one per session"
        )
    return str(session)
