"""Starts the scoring service: as this process, or beside it for the length of a block."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, NoReturn

from maskfer.config import Settings
from maskfer.errors import ServiceUnavailable
from maskfer.golden import checked_analyzer
from services.model import load_model
from services.scoring.batching import cores
from services.scoring.statistics_database import open_engine

_START_S: Final = 120.0
_END_S: Final = 30.0
_PORT_S: Final = 3.0


def serve(settings: Settings, *, model: str | None, host: str, port: int, workers: int) -> NoReturn:
    """Become the BentoML server once it is sure that it can answer; never returns.

    This process is replaced, so that signals reach the server itself and no process is left in between.
    Raises `ServiceUnavailable` where the port is taken, `ParamsError` where the statistics have no address,
    and what `load_model` and `checked_analyzer` raise.
    """
    # Not connected: a database that is away at the start is no reason not to score.
    open_engine(settings.statistics_address).dispose()
    check_port(host, port)
    reference = model or settings.scoring_model
    checked_analyzer(load_model(reference, settings).release)
    environment = os.environ | {
        "BENTOML_CONFIG_OPTIONS": f"services.scoring.workers={workers}",
        "BENTOML_DO_NOT_TRACK": "True",
        # By port: the processes' metrics lie there, and a second service would sweep out the first one's.
        "BENTOML_HOME": str(settings.home.absolute() / "bentoml" / str(port)),
        "MASKFER_HOME": str(settings.home.absolute()),
        # A second fence behind our own, for a header that OpenCV reads otherwise than we do.
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(settings.max_pixels),
        # It would write a line for every broken picture; the answer says so already.
        "OPENCV_LOG_LEVEL": "SILENT",
        "MASKFER_NETWORK_RUNS": str(settings.network_runs or max(1, cores() // workers)),
    }
    if reference is not None:
        environment["MASKFER_SCORING_MODEL"] = reference
    command = [sys.executable, "-m", "bentoml", "serve", "services.scoring.service:Scoring"]
    os.execve(sys.executable, [*command, "--host", host, "--port", str(port)], environment)  # noqa: S606


def check_port(host: str, port: int) -> None:
    """Raise `ServiceUnavailable` where the service could not listen.

    Waits a little for a port that is taken: the processes of a server that was killed end a moment after it.
    """
    deadline_s = time.monotonic() + _PORT_S
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return
        except (OSError, UnicodeError) as error:  # the second where a name's parts are too long or empty
            if getattr(error, "errno", None) == errno.EADDRINUSE and time.monotonic() < deadline_s:
                time.sleep(0.1)
                continue
            reason = getattr(error, "strerror", None) or str(error)
            raise ServiceUnavailable(
                f"serve: cannot listen on {host} port {port}: {reason}; give another --host or --port"
            ) from error


@contextmanager
def serving(*, model: Path, log: Path) -> Iterator[tuple[int, int]]:
    """Run `maskfer serve` on a release folder and a free port; yields process id and port once it is ready.

    Raises `ServiceUnavailable` with the log's last line where it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # Not the console script, which need not be where this interpreter is.
    code = "from maskfer.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", str(model), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1"], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_until_ready(process, port, log)
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its workers see that and end
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    raise ServiceUnavailable(f"the service did not become ready within {_START_S:.0f} s: {last}")
