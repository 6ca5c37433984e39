from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a `maskfer` command that keeps everything under `home`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MASKFER_")}
    return clean | {"MASKFER_HOME": str(home), "OMP_NUM_THREADS": "1"} | settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
        process.wait(30)
        assert gone(children), f"left behind: {children}"


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
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
    with served(home, release, workers=2, MASKFER_MAX_BODY_BYTES="1000000") as running:
        yield running


@pytest.fixture(scope="session")
def reads_light(known_faces: KnownFaces) -> Release:
    """A release whose readings the light of a picture decides."""
    return known_faces.release("light")


@pytest.fixture(scope="session")
def plain(reads_light: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server process as it is without settings; whoever uses it makes sessions of his own."""
    from tests.integration.watched import served

    with served(tmp_path_factory.mktemp("plain"), reads_light) as running:
        yield running
