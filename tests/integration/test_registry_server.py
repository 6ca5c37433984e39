"""The registry through a real MLflow server, as on a cluster: files go through the server, not a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from maskfer.config import Settings
from maskfer.errors import ModelNotFound, RegistryUnavailable, ReleaseCorrupted
from maskfer.registry import Registry
from tests.integration.conftest import free_port
from tests.known import KnownFaces

_START_S = 120.0


@dataclass(frozen=True)
class Server:
    """A started tracking server."""

    uri: str
    artifacts: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it with every worker it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the settings of mlflow/server.env, but SQLite and a folder behind it."""
    pytest.importorskip("mlflow", reason="the registry extra is not installed")
    home = tmp_path_factory.mktemp("server")
    port = free_port()
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(home / "artifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdout=output, stderr=output, start_new_session=True
        )
    started = Server(f"http://127.0.0.1:{port}", home / "artifacts", process)
    try:
        _wait(started, log)
        yield started
    finally:
        started.stop()


def _wait(server: Server, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.uri}/health", timeout=2):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def remote(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Registry:
    """A registry of its own on the server, with an empty cache."""
    name = f"model-{abs(hash(request.node.name)):x}"
    return Registry(Settings(home=tmp_path / "home", tracking_uri=server.uri, model_name=name))


def test_a_release_goes_to_the_server_and_comes_back_whole(
    remote: Registry, known_faces: KnownFaces, server: Server
) -> None:
    release = known_faces.release("served")
    version = remote.register(release)
    remote.promote(version, reason="the first", forced=True)
    champion = remote.resolve(f"{remote.settings.model_name}@champion")
    downloaded = remote.download(champion)
    assert downloaded.sha256 == release.sha256
    assert downloaded.path.is_relative_to(remote.settings.home)
    assert list(server.artifacts.rglob("model.onnx"))
    assert not (remote.settings.home / "artifacts").exists()


def test_champions_change_and_go_back_with_their_story(remote: Registry, known_faces: KnownFaces) -> None:
    for number in (1, 2):
        version = remote.register(known_faces.release(f"served-{number}"))
        remote.promote(version, reason=f"reason {number}", forced=True)
    assert remote.rollback(reason="back").version == 1
    history = Registry(remote.settings).history()
    assert [(event.version, event.previous) for event in history.events] == [(1, None), (2, 1), (1, 2)]
    assert history.discrepancy is None
    with pytest.raises(ModelNotFound):
        remote.resolve("v7")
    with pytest.raises(ModelNotFound):
        remote.resolve("challenger")


def test_a_file_changed_in_the_store_is_found(
    remote: Registry, known_faces: KnownFaces, server: Server
) -> None:
    version = remote.register(known_faces.release("served-3"))
    (stored,) = server.artifacts.rglob(f"{version.run_id}/artifacts/release/model.onnx")
    stored.write_bytes(b"changed")
    with pytest.raises(ReleaseCorrupted, match=r"model\.onnx"):
        remote.download(version)
    assert not list((remote.settings.home / "cache" / "releases").iterdir())


def test_a_server_that_goes_away_is_one_line_and_the_cache_stays(
    remote: Registry, known_faces: KnownFaces, server: Server
) -> None:
    release = known_faces.release("served-4")
    version = remote.register(release)
    remote.download(version)
    server.stop()
    with pytest.raises(RegistryUnavailable, match="does not answer") as caught:
        remote.resolve("v1")
    assert "\n" not in str(caught.value)
    with pytest.raises(RegistryUnavailable):
        Registry(remote.settings).history()
    assert remote.download(version).sha256 == release.sha256
