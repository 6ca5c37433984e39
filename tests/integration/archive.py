"""`maskfer score` as a user types it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from maskfer.release import Release
from tests.integration.conftest import MASKFER, environment


def command_of(release: Release, out: Path, *videos: Path, workers: int = 1) -> list[str]:
    """`maskfer score` of every frame, in segments of five seconds."""
    options = ("--model", str(release.path), "--out", str(out), "--workers", str(workers))
    return [MASKFER, "score", *map(str, videos), *options, "--fps", "0", "--segment-seconds", "5"]


def score(command: list[str], home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run such a command to its end."""
    return subprocess.run(
        command, env=environment(home, **settings), capture_output=True, text=True, timeout=200, check=False
    )
