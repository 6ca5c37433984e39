from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from maskfer.release import Release
from tests.films import film
from tests.known import KnownFaces

if TYPE_CHECKING:
    from tests.integration.watched import Served

MASKFER = str(Path(sys.executable).with_name("maskfer"))
_START_S = 180.0
_END_S = 60.0
# A service binds its port seconds after it was found free. So each pytest process counts through ports of its
# own, below those that the system gives out (Linux: from 32768), and two runs do not begin at the same one.
_ports = itertools.count(
    12_000 + 5_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4) + os.getpid() % 4_000
)


def environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a `maskfer` command that keeps everything under `home`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MASKFER_")}
    return clean | {"MASKFER_HOME": str(home), "OMP_NUM_THREADS": "1"} | settings


def free_port() -> int:
    """A port that nobody listens on, and that this process is not told again."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a count has no end")


def gone(processes: list[psutil.Process], *, within_s: float = 30.0) -> bool:
    """Whether all processes end within the time."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not alive


@contextmanager
def serving(
    command: list[str], port: int, *, log: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service until the block ends; enters once it is ready."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/readyz", process, log)
        yield process
    finally:
        children = _family(process.pid)
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what stays behind would disturb the tests that follow
            process.wait()
            raise
        assert gone(children), f"left behind: {children}"


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the service did not become ready:\n{log.read_text()}")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of one synthetic person, 240 frames."""
    return film(tmp_path_factory.mktemp("film") / "clip.mp4", frames=240)


@pytest.fixture(scope="session")
def watched(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two server processes on one port, with a release that carries reference statistics."""
    from tests.integration.watched import served, with_reference

    home = tmp_path_factory.mktemp("watched")
    release = with_reference(tiny_release, home / "release")
    # One run of the network at a time: on a machine with more cores a request would be cut into several.
    settings = {"MASKFER_MAX_BODY_BYTES": "1000000", "MASKFER_NETWORK_RUNS": "1"}
    with served(home, release, workers=2, **settings) as running:
        yield running


@pytest.fixture(scope="session")
def reads_light(known_faces: KnownFaces) -> Release:
    """A release whose readings the light of a picture decides."""
    return known_faces.release("light", crop_context=1.2)


@pytest.fixture(scope="session")
def plain(reads_light: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server process as it is without settings; whoever uses it makes sessions of his own."""
    from tests.integration.watched import served

    with served(tmp_path_factory.mktemp("plain"), reads_light) as running:
        yield running
