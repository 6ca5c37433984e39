"""The broker as `maskfer score` uses it: what is queued, what is still held, whether a worker listens."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from maskfer.config import Settings
from maskfer.errors import ParamsError, ServiceUnavailable
from services.labeling.app import QUEUE, TASK, create_app
from services.labeling.jobs import Segment

_AT_ONCE: Final = 1000
"""Messages looked at in one question, about a megabyte."""


class SegmentQueue:
    """Sends segments to workers. Raises `ServiceUnavailable` wherever the broker does not answer."""

    def __init__(self, settings: Settings, *, url: str, private: bool) -> None:
        """Speak to the broker at `url`; `private` where the caller's own worker is the only one there."""
        self.address = without_password(url)
        self._private = private
        self._app = create_app(settings, broker_url=url)

    def close(self) -> None:
        """Let the connections go."""
        self._app.close()

    def reach(self) -> None:
        """Return once the broker has answered."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
        except (OperationalError, RedisError, OSError) as error:
            raise ServiceUnavailable(
                f"broker {self.address}: no answer ({error}); check MASKFER_BROKER_URL, or unset it to use "
                "an embedded broker"
            ) from error

    def send(self, job_id: str, segments: Iterable[Segment]) -> None:
        """Queue segments of a job."""
        # A message's id is what attempts are counted by. At a private broker nothing runs once the worker has
        # ended, and what is queued then has come back; elsewhere it is one more copy.
        token = "" if self._private else f"-{secrets.token_hex(4)}"
        with self._speaking():
            for segment in segments:
                self._app.send_task(
                    TASK,
                    args=(job_id, segment.start, segment.stop),
                    task_id=f"{job_id}-{segment}{token}",
                    retry=False,
                )

    def holds(self, job_id: str) -> bool:
        """Whether the broker has a segment of the job, waiting or with a worker."""
        wanted = job_id.encode()
        with self._speaking(), self._app.connection_for_read() as connection:
            channel = connection.default_channel
            handed_out: list[bytes] = channel.client.hvals(channel.unacked_key)
            return any(wanted in message for message in handed_out) or any(
                wanted in message for message in _waiting(channel.client)
            )

    def ask_workers(self) -> None:
        """Raise `ServiceUnavailable` where no worker answers."""
        with self._speaking():
            answers: list[Any] = self._app.control.ping(timeout=3.0)
        if not answers:
            raise ServiceUnavailable(
                f"worker: none answers at {self.address}; start one with `maskfer worker`, or give "
                "--workers N; what is finished is kept"
            )

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, RedisError, OSError) as error:
            raise ServiceUnavailable(
                f"broker {self.address}: gone or full while scoring ({error}); see to it and run the same "
                "command again, which takes up what is finished"
            ) from error


def _waiting(client: Any) -> Iterator[bytes]:
    """The messages that wait, newest first."""
    start = 0
    while messages := client.lrange(QUEUE, start, start + _AT_ONCE - 1):
        yield from messages
        start += _AT_ONCE


def check_address(url: str) -> None:
    """Raise `ParamsError` where MASKFER_BROKER_URL is no address of a Redis or Valkey server."""
    if not all(_usable(alternative) for alternative in url.split(";")):
        raise ParamsError(
            f"environment variable MASKFER_BROKER_URL: {without_password(url)!r} is no address of a Redis or "
            "Valkey server; expected one like redis://broker:6379/0"
        )


def _usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    database = parts.path.strip("/")
    numbered = not database or database.isdecimal()
    return parts.scheme == "redis+socket" or (parts.scheme in ("redis", "rediss") and numbered)


def without_password(url: str) -> str:
    """Return an address as it may be shown."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
