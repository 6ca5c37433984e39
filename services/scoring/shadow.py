"""Lets a challenger answer what the served model answered, beside the requests, and counts how they agree.

A run of the network only puts its crops into a bounded queue; what does not fit is counted and forgotten. One
thread asks the challenger and adds the sums to `ShadowRecords` about once a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from maskfer.errors import ServiceUnavailable
from maskfer.inference import Analyzer, Crops, Predictions
from services.model import ServedModel
from services.scoring import metrics
from services.scoring.shadow_records import SLICES, Agreement, Named, Pair, ShadowRecords, Tally

_log: Final = logging.getLogger("maskfer.scoring.models")
MAX_WAITING_FACES: Final = 1024
"""Faces in the queue: 9 MB of crops."""
_TIMED_EVERY: Final = 8
"""Of so many runs, the served model is asked once more about the faces of one, for a fair time."""
_WRITE_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Challenger:
    """A model that is asked and only compared."""

    model: ServedModel
    analyzer: Analyzer


@dataclass(frozen=True, slots=True)
class _Job:
    pair: Pair
    champion: Analyzer
    challenger: Analyzer
    crops: Crops
    judged: Predictions


class Shadow:
    """Compares `challenger`, where there is one, with what is served; any thread may offer answers."""

    challenger: Challenger | None = None
    """Replaced as a whole when its alias moves; None compares nothing."""

    def __init__(self, records: ShadowRecords, *, max_waiting_faces: int = MAX_WAITING_FACES) -> None:
        self._records = records
        self._max_waiting = max_waiting_faces
        self._jobs: deque[_Job] = deque()
        self._waiting_faces = 0
        self._unwritten: defaultdict[Pair, Tally] = defaultdict(Tally)
        self._changed = threading.Condition()
        self._failed: Pair | None = None
        self._recording = True
        self._asked = 0

    def start(self) -> None:
        """Compare in a thread of its own until the process ends."""
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def offer(self, model: ServedModel, analyzer: Analyzer, crops: Crops, judged: Predictions) -> None:
        """Take note of an answer: the model that gave it, faces and verdicts. Returns at once."""
        challenger = self.challenger
        if challenger is None or challenger.model.sha256 == model.sha256 or len(crops) == 0:
            return
        pair = Pair(_named(model), _named(challenger.model))
        with self._changed:
            # More than the whole queue holds is taken where nothing waits.
            if self._jobs and self._waiting_faces + len(crops) > self._max_waiting:
                self._unwritten[pair].work.dropped += len(crops)
                metrics.shadowed("dropped", len(crops))
                return
            # Copied: a part of a large request would keep the whole of it.
            self._jobs.append(_Job(pair, analyzer, challenger.analyzer, crops.copy(), judged))
            self._waiting_faces += len(crops)
            self._changed.notify()

    def _run(self) -> None:
        written_at = time.monotonic()
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                job = self._jobs.popleft()
                self._waiting_faces -= len(job.crops)
            tally = self._compared(job)
            with self._changed:
                self._unwritten[job.pair].add(tally)
                idle = not self._jobs
            del job, tally  # no model may be held while this thread waits
            if idle or time.monotonic() - written_at >= _WRITE_EVERY_S:
                self._write()
                written_at = time.monotonic()

    def _compared(self, job: _Job) -> Tally:
        tally = Tally()
        self._asked += 1
        try:
            started = time.perf_counter()
            answers = job.challenger.predict(job.crops)
            challenger_s = time.perf_counter() - started
            if self._asked % _TIMED_EVERY == 1:
                # In this thread and right after it: on the request's path it waits for other things as well.
                started = time.perf_counter()
                job.champion.predict(job.crops)
                tally.work.champion_s = time.perf_counter() - started
                tally.work.challenger_s = challenger_s
                tally.work.timed_faces = len(job.crops)
            tally.agreement.update(compared(job.judged, answers))
            metrics.shadowed("compared", len(job.crops))
        except Exception as error:  # noqa: BLE001 - a challenger may fail in any way, the service must not
            tally.work.failed = len(job.crops)
            metrics.shadowed("failed", len(job.crops))
            if self._failed != job.pair:
                self._failed = job.pair
                _log.error("shadow: %s fails on faces: %s", job.pair.challenger, error, exc_info=error)
        return tally

    def _write(self) -> None:
        with self._changed:
            tallies, self._unwritten = self._unwritten, defaultdict(Tally)
        try:
            self._records.add(tallies)
        except (ServiceUnavailable, OSError) as error:
            with self._changed:
                for pair, tally in tallies.items():
                    self._unwritten[pair].add(tally)
            if self._recording:
                _log.error("shadow: cannot be recorded, the counts wait in memory: %s", error)
            self._recording = False
        else:
            self._recording = True


def compared(served: Predictions, other: Predictions) -> dict[str, Agreement]:
    """Return how two models agree on the same faces, by slice; the slice is what `served` says."""
    masked = served.masked >= 0.5
    same_expression = served.expression.argmax(axis=1) == other.expression.argmax(axis=1)
    same_masked = masked == (other.masked >= 0.5)
    same_orientation = served.orientation.argmax(axis=1) == other.orientation.argmax(axis=1)
    expression_apart = np.abs(served.expression - other.expression).mean(axis=1)
    masked_apart = np.abs(served.masked - other.masked)
    orientation_apart = np.abs(served.orientation - other.orientation).mean(axis=1)
    return {
        name: Agreement(
            faces=int(of.sum()),
            same_expression=int(same_expression[of].sum()),
            same_masked=int(same_masked[of].sum()),
            same_orientation=int(same_orientation[of].sum()),
            expression_difference=float(expression_apart[of].sum()),
            masked_difference=float(masked_apart[of].sum()),
            orientation_difference=float(orientation_apart[of].sum()),
        )
        for name, of in zip(SLICES, (~masked, masked), strict=True)
    }


def _named(model: ServedModel) -> Named:
    return Named(model.name, model.version, model.sha256)
