"""What is noted of every run of a model: counts, latency, confidence, drift."""

from __future__ import annotations

import logging
from typing import Final

from maskfer.drift import read_reference
from maskfer.inference import Crops, Predictions
from services.model import ServedModel
from services.scoring import metrics
from services.scoring.drift import DriftWindow

_log: Final = logging.getLogger("maskfer.scoring")


class Watch:
    """Notes what one model is asked and answers; may be called from several threads.

    Raises `ReleaseError` where the release's reference statistics are of another format.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._classes = model.release.classes
        reference = read_reference(model.release)
        self._window = None if reference is None else DriftWindow(reference)

    def begin(self) -> None:
        """Say that this model answers from now on."""
        has_reference = self._window is not None
        metrics.serving(
            name=self._model.name,
            version=self._model.version,
            sha256=self._model.sha256,
            has_reference=has_reference,
        )
        _log.info(
            "model %s answers%s",
            self._model.version,
            "" if has_reference else "; it carries no reference statistics, so drift is not watched",
        )

    def note(self, crops: Crops, answers: Predictions, *, seconds: float) -> None:
        """Note one run of the network, on faces of one or more requests."""
        metrics.judged(answers, classes=self._classes, seconds=seconds)
        if self._window is None:
            return
        self._window.add(crops, answers)
        if self._window.due():
            metrics.drifted(self._window.indices(), faces=len(self._window), sha256=self._model.sha256)
