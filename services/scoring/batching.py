"""Crops of all clients go through the network together.

Nobody waits for a batch to fill: a request that finds free places runs at once, spread over them. What comes
while all are taken is shared out as they become free, so batches grow with the load and only with it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
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
    """Joins what is asked of `run` on an event loop; the answers are as if each had asked alone.

    At most `runs` are going on at a time, each in a thread with its share of the faces that wait, at most
    `max_batch`. Every request gets an equal part of it, so that many crops of one do not hold up single ones.
    Its threads end by themselves when nobody refers to it any more and everything asked is answered.
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
        self._runs = runs
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._free = runs
        self._waiting: deque[_Asked] = deque()
        self._waiting_faces = 0
        self._lock = threading.Lock()
        # An executor ends its threads when it is collected, and no thread of it refers to us between runs.
        self._threads = ThreadPoolExecutor(runs, thread_name_prefix="network")

    def submit(self, faces: GreyCrops) -> asyncio.Future[Predictions]:
        """Return the coming answer to one or more faces; it raises what `run` raises on them.

        Called on the event loop that waits for it. Cancelling it before its first run takes it out of the
        queue. Raises `ServiceUnavailable` where too many faces wait already.
        """
        asked = _Asked(faces, asyncio.get_running_loop())
        with self._lock:
            if self._waiting_faces >= self._max_waiting:
                raise ServiceUnavailable(
                    f"the network has {self._waiting_faces:,} faces to judge already; ask again later"
                )
            self._waiting.append(asked)
            self._waiting_faces += asked.left
            starts = min(self._free, len(faces))
            self._free -= starts
        for _ in range(starts):
            self._threads.submit(self._work)
        return asked.answer

    def _work(self) -> None:
        while batch := self._next_batch():
            _deliver(self._answered(batch))

    def _next_batch(self) -> list[_Part]:
        with self._lock:
            batch = self._take()
            if not batch:
                self._free += 1
            return batch

    def _take(self) -> list[_Part]:
        # No more than leaves as much for each other place: one that finds nothing is a core that idles.
        room = min(self._max_batch, -(-self._waiting_faces // self._runs))
        batch: list[_Part] = []
        # An equal share to each first; then what that left, to whoever has more, in the order they came.
        for share in (max(1, room // max(1, len(self._waiting))), room):
            for _ in range(len(self._waiting)):
                if room == 0:
                    return batch
                asked = self._waiting.popleft()
                if asked.answer.done():  # given up, or failed
                    self._waiting_faces -= asked.left
                    continue
                part = asked.take(min(share, room))
                batch.append(part)
                room -= len(part.faces)
                self._waiting_faces -= len(part.faces)
                if asked.left:
                    self._waiting.append(asked)
        return batch

    def _answered(self, batch: list[_Part]) -> list[tuple[_Asked, Predictions | Exception]]:
        """Run the network; return the requests that have their whole answer, or a failure, with it."""
        try:
            judged = self._run(_joined([part.faces for part in batch]))
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            if len(batch) == 1:
                return [(batch[0].asked, error)]
            # Each alone, so that only the one at fault meets it.
            return [ended for part in batch for ended in self._answered([part])]
        ended: list[tuple[_Asked, Predictions | Exception]] = []
        start = 0
        for part in batch:
            stop = start + len(part.faces)
            answer = part.asked.add(part.start, judged[start:stop])
            if answer is not None:
                ended.append((part.asked, answer))
            start = stop
        return ended


def _deliver(ended: list[tuple[_Asked, Predictions | Exception]]) -> None:
    # Once for all that one loop waits for: waking it costs more than a face's share of anything else here.
    for loop, of_loop in groupby(ended, key=lambda one: one[0].answer.get_loop()):
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(_end, list(of_loop))


def _end(ended: list[tuple[_Asked, Predictions | Exception]]) -> None:
    for asked, answer in ended:
        if asked.answer.done():
            continue
        if isinstance(answer, Exception):
            asked.answer.set_exception(answer)
        else:
            asked.answer.set_result(answer)


@dataclass(frozen=True, slots=True)
class _Part:
    """Faces of one request that go into one run."""

    asked: _Asked
    start: int
    """Index of the first one in the request."""
    faces: GreyCrops


class _Asked:
    """One request: which of its faces still have to run, and what is known of the others."""

    def __init__(self, faces: GreyCrops, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Predictions] = loop.create_future()
        self._faces = faces
        self._taken = 0
        self._known: dict[int, Predictions] = {}
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Faces that are in no run yet."""
        return len(self._faces) - self._taken

    def take(self, most: int) -> _Part:
        """Return the next faces, `most` or as many as are left."""
        start, self._taken = self._taken, min(self._taken + most, len(self._faces))
        return _Part(self, start, self._faces[start : self._taken])

    def add(self, start: int, judged: Predictions) -> Predictions | None:
        """Note the answer on some faces, and return that on all once it is whole.

        Parts of one request may come from several threads.
        """
        if len(judged) == len(self._faces):
            return judged
        with self._lock:
            self._known[start] = judged
            if sum(map(len, self._known.values())) < len(self._faces):
                return None
        return Predictions.concatenate([self._known[first] for first in sorted(self._known)])


def _joined(faces: list[GreyCrops]) -> GreyCrops:
    return np.concatenate(faces) if len(faces) > 1 else faces[0]
