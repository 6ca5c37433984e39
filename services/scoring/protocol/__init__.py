"""The live protocol, version 1, as text and bytes; server and clients share it (docs/live.md).

NumPy and the standard library only. Whatever does not parse raises `ProtocolError`: nothing of a message is
trusted before it is checked.
"""

from __future__ import annotations

from services.scoring.protocol.answers import (
    Answer,
    Dropped,
    Failure,
    LiveFace,
    Reading,
    Ready,
    encode_answer,
    encode_ready,
    face_fields,
    parse_answer,
    parse_ready,
)
from services.scoring.protocol.checks import ProtocolError, UnsupportedProtocol
from services.scoring.protocol.requests import (
    HEADER,
    MAX_TEXT,
    VERSION,
    CropsFrame,
    Hello,
    Kind,
    Options,
    PictureFrame,
    encode_frame,
    encode_hello,
    encode_options,
    parse_frame,
    parse_hello,
    parse_options,
)

__all__ = [
    "HEADER",
    "MAX_TEXT",
    "VERSION",
    "Answer",
    "CropsFrame",
    "Dropped",
    "Failure",
    "Hello",
    "Kind",
    "LiveFace",
    "Options",
    "PictureFrame",
    "ProtocolError",
    "Reading",
    "Ready",
    "UnsupportedProtocol",
    "encode_answer",
    "encode_frame",
    "encode_hello",
    "encode_options",
    "encode_ready",
    "face_fields",
    "parse_answer",
    "parse_frame",
    "parse_hello",
    "parse_options",
    "parse_ready",
]
