"""The service's log: one line an event, JSON or text, each with the id of the request it belongs to."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from maskfer.config import Settings

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_OURS: Final = "fields"
"""Attribute of a record for what belongs beside the message: `extra={"fields": {...}}`."""


@dataclass(slots=True)
class RequestRecord:
    """What is known of the request that is being answered; shared by all its threads."""

    id: str
    route: str | None
    """The route's template; None for a path that the service does not have."""
    faces: int = 0


_CURRENT: Final[ContextVar[RequestRecord | None]] = ContextVar("maskfer_request", default=None)


def begin_request(record: RequestRecord) -> None:
    """Make `record` that of the running task and of what it starts."""
    _CURRENT.set(record)


def count_faces(count: int) -> None:
    """Add to the faces of the request that is being answered, where there is one."""
    record = _CURRENT.get()
    if record is not None:
        record.faces += count


def request_id(given: str | None) -> str:
    """Return the id that a client gave, where it is one that a log can bear, or a new one."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def configure(settings: Settings) -> None:
    """Send everything that this process logs to stderr, in the settings' form and from their level on."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_name_request)
    handler.setFormatter(_TextLines() if as_text else _JsonLines())
    # No line of ours says these, and they are asked for at every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("bentoml", "uvicorn.error", "circus"):  # BentoML gave them handlers of their own
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("maskfer", "bentoml"):
        logging.getLogger(name).setLevel(settings.log_level)
    # A form that does not parse is its sender's fault, and any sender could fill the log with it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)


def _name_request(record: logging.LogRecord) -> bool:
    current = _CURRENT.get()
    record.request_id = None if current is None else current.id
    return True


class _JsonLines(logging.Formatter):
    """One JSON object a line; whatever a client sent stays inside its string."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request
        line |= getattr(record, _OURS, {})
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            text = orjson.dumps(line, default=str)
        except TypeError:  # half a character, which a client's text may hold
            text = b""
        # Other characters are escaped: some of them end a line for those who read it.
        return text.decode() if text and text.isascii() else json.dumps(line, default=str)


class _TextLines(logging.Formatter):
    """A line for a person; what a client sent cannot break it."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = getattr(record, _OURS, {})
        details = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        request = getattr(record, "request_id", None)
        named = f"[{request}]" if request else ""
        parts = [time, f"{record.levelname:7}", record.getMessage(), details, named]
        line = " ".join(part for part in parts if part)
        line = "".join(char if char.isprintable() else "?" for char in line)
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line
