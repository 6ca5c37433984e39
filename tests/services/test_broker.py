from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from maskfer.config import Settings
from maskfer.errors import ParamsError, ServiceUnavailable
from services.labeling.app import QUEUE, create_app
from services.labeling.broker import SegmentQueue, check_address
from services.labeling.embedded import embedded_broker
from services.labeling.jobs import Segment
from services.labeling.worker import run_worker

_JOB, _OTHER = "ab" * 8, "cd" * 8
_SEGMENTS = [Segment(0, 10), Segment(10, 20)]


@pytest.fixture
def broker() -> Iterator[str]:
    """A broker without workers."""
    with embedded_broker() as url:
        yield url


@contextmanager
def _queue(url: str, *, private: bool = False) -> Iterator[SegmentQueue]:
    queue = SegmentQueue(Settings(), url=url, private=private)
    try:
        yield queue
    finally:
        queue.close()


@contextmanager
def _server(url: str) -> Iterator[Any]:
    app = create_app(Settings(), broker_url=url)
    with app.connection_for_read() as connection:
        yield connection.default_channel.client
    app.close()


def _ids(server: Any) -> list[str]:
    return [json.loads(message)["headers"]["id"] for message in server.lrange(QUEUE, 0, -1)]


def test_a_broker_holds_what_waits_and_what_a_worker_has_until_it_is_confirmed(broker: str) -> None:
    app = create_app(Settings(), broker_url=broker)
    with _queue(broker) as queue, app.connection_for_read() as connection:
        assert not queue.holds(_JOB)
        queue.send(_OTHER, _SEGMENTS)
        queue.send(_JOB, _SEGMENTS[:1])
        assert queue.holds(_JOB)
        taken = [connection.SimpleQueue(QUEUE).get(timeout=10) for _ in range(3)]
        with _server(broker) as server:
            assert server.llen(QUEUE) == 0
        assert queue.holds(_JOB)
        taken[2].ack()
        assert queue.holds(_OTHER)
        assert not queue.holds(_JOB)
    app.close()


def test_a_broker_with_thousands_of_messages_is_searched_to_its_end(broker: str) -> None:
    with _queue(broker) as queue, _server(broker) as server:
        queue.send(_JOB, _SEGMENTS[:1])
        server.lpush(QUEUE, *[b"somebody else's"] * 2500)
        assert queue.holds(_JOB)
        assert not queue.holds(_OTHER)


def test_what_is_sent_twice_is_a_copy_where_other_workers_may_have_the_first(broker: str) -> None:
    with _queue(broker) as queue, _server(broker) as server:
        queue.send(_JOB, _SEGMENTS)
        queue.send(_JOB, _SEGMENTS)
        assert len(set(_ids(server))) == 4


def test_what_is_sent_twice_is_the_same_message_where_its_only_worker_has_ended(broker: str) -> None:
    with _queue(broker, private=True) as queue, _server(broker) as server:
        queue.send(_JOB, _SEGMENTS)
        queue.send(_JOB, _SEGMENTS)
        first, second, *again = reversed(_ids(server))
        assert first != second
        assert again == [first, second]


def test_a_full_broker_is_one_line(broker: str) -> None:
    with _queue(broker) as queue, _server(broker) as server:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("maxmemory", "1")
        with pytest.raises(ServiceUnavailable, match="gone or full while scoring") as caught:
            queue.send(_JOB, _SEGMENTS)
        assert "\n" not in str(caught.value)
        with pytest.raises(ServiceUnavailable, match="gone or full while scoring"):
            queue.ask_workers()


def test_a_broker_that_is_gone_is_one_line() -> None:
    with embedded_broker() as url:
        pass
    with _queue(url) as queue, pytest.raises(ServiceUnavailable, match="gone or full while scoring"):
        queue.send(_JOB, _SEGMENTS)


@pytest.mark.parametrize(
    "url",
    [
        *("http://broker:6379/0", "broker:6379", "", "redis", "amqp://broker", "redis://broker:port/0"),
        *("redis://broker/maskfer", "redis://[::1", "redis://a/0;http://b/0"),
    ],
)
def test_what_is_no_address_of_a_broker_is_one_line(url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, broker_url=url)
    with pytest.raises(ParamsError, match=r"MASKFER_BROKER_URL.*expected one like redis://") as caught:
        run_worker(settings, concurrency=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://:secret@broker/0", "user:secret@broker:6379"])
def test_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(ParamsError) as caught:
        check_address(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("redis://broker:6379/0", "redis://broker", "redis://:secret@broker:6379/2", "redis://[::1]:6379/0"),
        *("rediss://broker/0?ssl_cert_reqs=required", "redis+socket:///run/broker.sock"),
        "redis://a:6379/0;redis://b:6379/0",
    ],
)
def test_addresses_of_a_broker_are_taken(url: str) -> None:
    check_address(url)
