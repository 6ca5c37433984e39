"""Starts the scoring service as this process."""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

from maskfer.config import Settings
from maskfer.errors import ServiceUnavailable
from maskfer.golden import checked_analyzer
from services.model import load_model


def serve(settings: Settings, *, model: str | None, host: str, port: int, workers: int) -> NoReturn:
    """Become the BentoML server once it is sure that it can answer; never returns.

    This process is replaced, so that signals reach the server itself and no process is left in between.
    Raises `ServiceUnavailable` where the port is taken, and what `load_model` and `checked_analyzer` raise.
    """
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
    }
    if reference is not None:
        environment["MASKFER_SCORING_MODEL"] = reference
    command = [sys.executable, "-m", "bentoml", "serve", "services.scoring.service:Scoring"]
    os.execve(sys.executable, [*command, "--host", host, "--port", str(port)], environment)  # noqa: S606


def check_port(host: str, port: int) -> None:
    """Raise `ServiceUnavailable` where the service could not listen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServiceUnavailable(
            f"serve: cannot listen on {host} port {port}: {reason}; give another --host or --port"
        ) from error
