from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.footage.decode import Video, probe
from maskfer.inference import Analyzer
from maskfer.release import Release
from tests.films import film


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of one synthetic person, 72 frames."""
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="session")
def video(clip: Path) -> Video:
    return probe(clip)


@pytest.fixture(scope="session")
def analyzer(tiny_release: Release) -> Analyzer:
    return Analyzer(tiny_release)
