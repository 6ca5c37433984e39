"""`maskfer bench serving` as a user types it, on services that are really started."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from maskfer.release import Release
from services.scoring.benchmark import Checkpoint, slope_mib
from tests.cli.conftest import Maskfer
from tests.integration.conftest import MASKFER, environment, free_port, serving


@pytest.fixture
def narrow_service(tiny_release: Release, tmp_path: Path) -> Iterator[str]:
    """The address of a service that works on one request at a time and refuses the others."""
    port = free_port()
    command = [MASKFER, "serve", "--model", str(tiny_release.path), "--port", str(port)]
    env = environment(tmp_path, MASKFER_MAX_REQUESTS="1")
    with serving(command, port, log=tmp_path / "log", env=env):
        yield f"http://127.0.0.1:{port}"


def test_a_service_of_its_own_is_measured_beside_the_plain_model_and_is_gone_afterwards(
    maskfer: Maskfer, tiny_release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(tmp_path / "home"))
    out = tmp_path / "serving.json"
    before = set(psutil.Process().children(recursive=True))  # services that other tests share

    shown = maskfer(
        *("bench", "serving", "--model", tiny_release.path, "--clients", "1,4", "--crops", "1, 3"),
        *("--requests", 9, "--seconds", 0.3, "--soak", 200, "--json", out),
    )

    figures = json.loads(out.read_text())
    assert figures["release_sha256"] == tiny_release.sha256
    assert figures["cores"] == len(os.sched_getaffinity(0))
    rows = figures["rows"]
    assert [(row["name"], row["clients"]) for row in rows] == [
        (name, clients) for name in ("1 crop", "3 crops", "image") for clients in (1, 4)
    ]
    for row in rows:
        assert row["requests"] == 9
        assert row["failed"] == {}
        faces = {"1 crop": 1, "3 crops": 3, "image": 1}[row["name"]]
        assert row["faces_per_s"] == pytest.approx(faces * row["requests_per_s"])
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["share"] > 0
        assert row["plain_faces_per_s"] > 0
        assert row["rss_before_mib"] > 50
        assert row["rss_after_mib"] > 50
        assert f"{row['name']:<10}{row['clients']:>8}" in shown
    checkpoints = figures["soak"]["checkpoints"]
    assert [point["requests"] for point in checkpoints] == list(range(10, 201, 10))
    assert checkpoints[-1]["failed"] == 0
    assert "MiB per 10,000 requests once settled" in shown
    started = set(psutil.Process().children(recursive=True)) - before
    left = [" ".join(child.cmdline()) for child in started]
    assert not [command for command in left if "serve" in command or "spawn_main" in command]


def test_a_running_service_is_driven_and_what_it_refuses_is_shown(
    maskfer: Maskfer, narrow_service: str, tmp_path: Path
) -> None:
    out = tmp_path / "serving.json"

    shown = maskfer(
        *("bench", "serving", "--server", narrow_service, "--clients", 8, "--crops", 1),
        *("--seconds", 1, "--json", out),
    )

    crops, _ = json.loads(out.read_text())["rows"]
    assert crops["failed"].keys() == {"503"}
    assert 0 < crops["failed"]["503"] < crops["requests"]
    assert f"{crops['failed']['503']} x 503" in shown
    # Whose release and whose memory it is was not said.
    assert crops["share"] is crops["plain_faces_per_s"] is crops["rss_before_mib"] is None


def test_a_service_that_hangs_up_is_counted_as_broken_and_asked_again(maskfer: Maskfer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The two checks before the measurement are answered well.
        _EverySecondHalf(listener, well=2).start()
        shown = maskfer(
            *("bench", "serving", "--server", f"http://127.0.0.1:{listener.getsockname()[1]}"),
            *("--clients", 1, "--crops", 1, "--requests", 6, "--seconds", 0.3),
        )
    assert shown.count("3 x broken") == 2


class _EverySecondHalf(threading.Thread):
    """Answers every second request with half an answer, and hangs up."""

    def __init__(self, listener: socket.socket, *, well: int) -> None:
        super().__init__(daemon=True)
        self._listener, self._well, self._number = listener, well, 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as requests:
                while self._answered(connection, requests):
                    pass

    def _answered(self, connection: socket.socket, requests: BinaryIO) -> bool:
        length = 0
        while (line := requests.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if not line:
            return False
        requests.read(length)
        self._number += 1
        body = b'{"predictions": [{}], "faces": [{}]}'
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        half = self._number > self._well and self._number % 2 == 0
        connection.sendall(answer[: len(answer) // 2] if half else answer)
        return not half


def test_the_slope_is_that_of_the_memory_once_it_has_settled() -> None:
    rising = [Checkpoint(1000 * n, 0, 200.0 + (50 if n > 2 else 0) + 0.5 * n) for n in range(1, 21)]
    assert slope_mib(rising) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clients", "0"), "--clients: got '0', expected whole numbers from 1 to 1000"),
        (("--clients", "8,x"), "--clients: got '8,x'"),
        (("--clients", ""), "--clients: got ''"),
        (("--crops", "1,-4"), "--crops: got '1,-4'"),
        (("--server", "localhost:3000"), "expected an address like http://127.0.0.1:3000"),
        (("--server", "http://host:port"), "expected an address like http://127.0.0.1:3000"),
        (("--server", "http://127.0.0.1:9", "--soak", "500"), "leave --server out"),
        (("--server", "http://127.0.0.1:9"), "http://127.0.0.1:9/predict: no answer"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_misuse_is_one_line(
    maskfer: Maskfer,
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(tmp_path))
    assert said in maskfer("bench", "serving", *arguments, code=2)


def test_a_service_that_refuses_such_requests_at_all_is_one_line(
    maskfer: Maskfer, narrow_service: str
) -> None:
    line = maskfer("bench", "serving", "--server", narrow_service, "--crops", 2000, code=2)
    assert "answers a request of 2000 crops with 413" in line
    assert "MASKFER_MAX_CROPS" in line or "the limit is 1024" in line


def test_without_a_champion_it_is_one_line(
    maskfer: Maskfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(tmp_path))
    assert "registry" in maskfer("bench", "serving", code=2)


def test_help_shows_examples(maskfer: Maskfer) -> None:
    shown = maskfer("bench", "serving", "--help")
    assert "maskfer bench serving --model runs/release --soak 50000" in " ".join(shown.split())
