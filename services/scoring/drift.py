"""The last faces of one model, compared with what its release was made with."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from typing import Final

from maskfer.drift import FEATURES, Reference, answer_features, picture_features, stability_index
from maskfer.inference import Crops, Predictions

WINDOW: Final = 2_000
"""Faces that are compared: enough for the index to be about 0.01 by chance."""
ENOUGH: Final = 200
"""With fewer, chance alone would look like drift."""
_PER_RUN: Final = 4
"""Faces of one run of the network that are looked at: a request of many does not fill the window alone."""
_EVERY_S: Final = 1.0


class DriftWindow:
    """Keeps the bins of the last `WINDOW` faces; may be filled from several threads."""

    def __init__(self, reference: Reference) -> None:
        self._names = tuple(name for name in FEATURES if name in reference.features)
        self._known = [reference.features[name] for name in self._names]
        self._columns = [FEATURES.index(name) for name in self._names]
        self._counts = [[0] * len(known.counts) for known in self._known]
        self._faces: deque[list[int]] = deque()
        """The bin of every feature, for each face of the window."""
        self._due_s = 0.0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._faces)

    def add(self, crops: Crops, answers: Predictions) -> None:
        """Take faces of one run, a few of many, into the window in place of the oldest."""
        chosen = slice(0, None, -(-len(crops) // _PER_RUN))
        pictures = picture_features(crops[chosen]).tolist()
        said = answer_features(answers[chosen]).tolist()
        # Lists and bisection: for few faces NumPy would cost five times as much.
        for picture, answer in zip(pictures, said, strict=True):
            values = picture + answer
            bins = [
                bisect_right(known.edges, values[column])
                for known, column in zip(self._known, self._columns, strict=True)
            ]
            with self._lock:
                gone = self._faces.popleft() if len(self._faces) == WINDOW else None
                self._faces.append(bins)
                for index, counts in enumerate(self._counts):
                    counts[bins[index]] += 1
                    if gone is not None:
                        counts[gone[index]] -= 1

    def indices(self) -> dict[str, float]:
        """Return the stability index of every feature; nothing before there are `ENOUGH` faces."""
        with self._lock:
            if len(self) < ENOUGH:
                return {}
            return {
                name: stability_index(known.counts, counts)
                for name, known, counts in zip(self._names, self._known, self._counts, strict=True)
            }

    def due(self) -> bool:
        """Whether it is time to publish again: at most once a second."""
        now = time.monotonic()
        with self._lock:
            if now < self._due_s:
                return False
            self._due_s = now + _EVERY_S
            return True
