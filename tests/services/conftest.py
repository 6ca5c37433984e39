"""What the tests of the services share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskfer.config import Settings
from maskfer.faces.face import Box, Detection, Image
from maskfer.inference import Crops, Predictions
from maskfer.release import Release
from services.model import ServedModel
from services.scoring.scorer import Scorer
from services.scoring.shadow import Shadow


class BoxAt:
    """A detector that finds one face where the test put it, and may do something at that moment."""

    def __init__(self, *, then: Callable[[], None] = lambda: None) -> None:
        self._then = then

    def detect(self, image: Image) -> list[Detection]:
        assert image.ndim == 3
        self._then()
        return [Detection(Box(8.0, 8.0, 80.0, 80.0), 0.9, np.zeros((5, 2), np.float32))]


def served(release: Release, version: int = 1) -> ServedModel:
    return ServedModel(release, "maskfer", str(version), registered=True)


def scorer_of(
    model: ServedModel, *, shadow: Shadow | None = None, then: Callable[[], None] = lambda: None
) -> Scorer:
    return Scorer(model, BoxAt(then=then), max_pixels=1_000_000, max_crops=64, shadow=shadow)


def judge(scorer: Scorer, crops: Crops) -> Predictions:
    return asyncio.run(scorer.judged(crops))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings of a registry that nobody else uses, looked at often."""
    return settings.model_copy(update={"model_poll_s": 0.01})


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns the lines about models that were logged since it was asked last."""
    caplog.set_level(logging.INFO, logger="maskfer.scoring.models")

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "maskfer.scoring.models"]
        caplog.clear()
        return found

    return lines


def stored_file(source: str, name: str) -> Path:
    """Where the registry keeps a version's file."""
    return Path(source.removeprefix("file://")) / name
