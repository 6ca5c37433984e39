"""Crops of all clients go through the network together.

Nobody waits for a batch to fill: a request that finds a free place runs at once and alone. What arrives while
all places are taken is one batch when the next is free, so batches grow with the load and only with it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from maskfer.errors import ServiceUnavailable
from maskfer.inference import GreyCrops, Predictions

BATCH_FACES: Final = 16
"""Most faces in one run: more gains little throughput, and every waiting request waits for the whole run."""


MAX_WAITING_FACES: Final = 8192
"""Most faces that wait: two cores need about ten seconds for them, and a request has no more."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Batcher:
    """Joins what several threads ask of `run`; the answers are as if each had asked alone.

    At most `runs` are going on at a time, each with at most `max_batch` faces; what waits gets an equal share
    of the next one, so that many crops of one request do not hold up single ones. Its threads end by
    themselves when nobody refers to it any more and everything asked is answered.
    """

    def __init__(
        self,
        run: Callable[[GreyCrops], Predictions],
        *,
        runs: int,
        max_batch: int = BATCH_FACES,
        max_waiting: int = MAX_WAITING_FACES,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._free = runs
        self._waiting: deque[_Asked] = deque()
        self._lock = threading.Lock()
        # An executor ends its threads when it is collected, and no thread of it refers to us between runs.
        self._threads = ThreadPoolExecutor(runs, thread_name_prefix="network")

    def submit(self, faces: GreyCrops) -> Future[Predictions]:
        """Return the coming answer to one or more faces; it raises what `run` raises on them.

        Cancelling it before its first run takes it out of the queue. Raises `ServiceUnavailable` where too
        many faces wait already.
        """
        asked = _Asked(faces)
        with self._lock:
            waiting = sum(before.left for before in self._waiting)
            if waiting >= self._max_waiting:
                raise ServiceUnavailable(
                    f"the network has {waiting:,} faces to judge already; ask again later"
                )
            self._waiting.append(asked)
            starts = self._free > 0
            self._free -= starts
        if starts:
            self._threads.submit(self._work)
        return asked.answer

    def _work(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Part]:
        with self._lock:
            batch = self._take()
            if not batch:
                self._free += 1
            return batch

    def _take(self) -> list[_Part]:
        room = self._max_batch
        batch: list[_Part] = []
        # An equal share to each first; then what that left, to whoever has more, in the order they came.
        for share in (max(1, room // max(1, len(self._waiting))), room):
            for _ in range(len(self._waiting)):
                if room == 0:
                    return batch
                asked = self._waiting.popleft()
                if not asked.begins():
                    continue
                part = asked.take(min(share, room))
                batch.append(part)
                room -= len(part.faces)
                if asked.left:
                    self._waiting.append(asked)
        return batch

    def _answer(self, batch: list[_Part]) -> None:
        try:
            judged = self._run(_joined([part.faces for part in batch]))
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            if len(batch) == 1:
                batch[0].asked.fail(error)
                return
            for part in batch:  # each alone, so that only the one at fault meets it
                self._answer([part])
            return
        start = 0
        for part in batch:
            stop = start + len(part.faces)
            part.asked.deliver(part.start, judged[start:stop])
            start = stop


@dataclass(frozen=True, slots=True)
class _Part:
    """Faces of one request that go into one run."""

    asked: _Asked
    start: int
    """Index of the first one in the request."""
    faces: GreyCrops


class _Asked:
    """One request: which of its faces still have to run, and what is known of the others."""

    def __init__(self, faces: GreyCrops) -> None:
        self.answer: Future[Predictions] = Future()
        self._faces = faces
        self._taken = 0
        self._known: dict[int, Predictions] = {}
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Faces that are in no run yet."""
        return len(self._faces) - self._taken

    def begins(self) -> bool:
        """Whether the answer is still wanted; from the first time on it cannot be cancelled any more."""
        if self._taken:
            return not self.answer.done()
        return self.answer.set_running_or_notify_cancel()

    def take(self, most: int) -> _Part:
        """Return the next faces, `most` or as many as are left."""
        start, self._taken = self._taken, min(self._taken + most, len(self._faces))
        return _Part(self, start, self._faces[start : self._taken])

    def deliver(self, start: int, judged: Predictions) -> None:
        """Note the answer on some faces; parts of one request may come from several threads."""
        with self._lock:
            self._known[start] = judged
            complete = sum(map(len, self._known.values())) == len(self._faces)
        if complete:
            parts = [self._known[first] for first in sorted(self._known)]
            self.answer.set_result(Predictions.concatenate(parts) if len(parts) > 1 else judged)

    def fail(self, error: Exception) -> None:
        """End the request with an error, unless it has ended with one already."""
        with self._lock:
            if not self.answer.done():
                self.answer.set_exception(error)


def _joined(faces: list[GreyCrops]) -> GreyCrops:
    return np.concatenate(faces) if len(faces) > 1 else faces[0]
