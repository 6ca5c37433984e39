"""A worker: `maskfer worker`, or the processes that `maskfer score` starts for its own length."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from maskfer.config import Settings
from maskfer.errors import ServiceUnavailable
from services.labeling.app import QUEUE, create_app
from services.labeling.broker import check_address

_GRACE_S = 3.0


def run_worker(settings: Settings, *, concurrency: int, tied: bool = False) -> None:
    """Score segments until a signal ends it; SIGTERM lets the running ones finish.

    A `tied` worker lives as long as its standard input is open: it dies with the command that started it,
    however that one dies. Raises `ServiceUnavailable` where no broker is named, `ParamsError` where its name
    is no address.
    """
    if settings.broker_url is None:
        raise ServiceUnavailable(
            "worker: no broker is named; set MASKFER_BROKER_URL to one, e.g. redis://broker:6379/0 "
            "(`maskfer score` alone brings its own)"
        )
    check_address(settings.broker_url)
    app = create_app(settings, broker_url=settings.broker_url)
    if tied:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    app.worker_main(
        [
            "worker",
            "--pool=prefork",
            f"--concurrency={concurrency}",
            f"--queues={QUEUE}",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
        ]
    )


def _end_with_stdin() -> None:
    # The bare descriptor: a lock of `sys.stdin` held here at a fork would block the pool's children for ever.
    while os.read(0, 4096):
        pass
    # Not the patient SIGTERM: nobody waits for the results, and what is done is on disk.
    os.kill(os.getpid(), signal.SIGQUIT)
    time.sleep(_GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    run_worker(Settings.load(), concurrency=int(sys.argv[1]), tied=True)
