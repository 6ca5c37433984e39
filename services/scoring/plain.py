"""The model without the service: the same release and options in plain loops of a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from maskfer.errors import ServiceUnavailable
from services.scoring.batching import BATCH_FACES, cores

Kind = Literal["crops", "image"]


class PlainLoop:
    """Asks the other process to work for a while; between two calls it sleeps."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def faces_per_s(self, kind: Kind, *, seconds: float) -> float:
        """Return how many faces it judges in a second: crops in full batches, or one picture's."""
        try:
            self._connection.send((kind, seconds))
            return float(self._connection.recv())
        except (EOFError, OSError) as error:
            raise ServiceUnavailable("bench: the plain loop's process ended; its message is above") from error


@contextmanager
def plain_loop(release: Path, *, picture: bytes) -> Iterator[PlainLoop]:
    """Load a release in another process, which works in as many loops at a time as the service."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, release, picture), daemon=True)
    process.start()
    there.close()
    try:
        yield PlainLoop(here)
    finally:
        here.close()
        process.join()


def _work(connection: Connection, folder: Path, picture: bytes) -> None:
    import cv2
    import numpy as np

    from maskfer import release as releases
    from maskfer.faces.detect import default_detector
    from maskfer.inference import Analyzer
    from services.scoring.pictures import decode_picture

    cv2.setNumThreads(1)
    release = releases.read(folder)
    analyzer = Analyzer(release, default_detector(), threads=1)
    shape = (BATCH_FACES, release.crop_size, release.crop_size)
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    work: dict[Kind, Callable[[], int]] = {
        "crops": lambda: len(analyzer.predict(crops)),
        "image": lambda: len(analyzer.analyze(decode_picture(picture, max_pixels=10**9))),
    }
    while True:
        try:
            kind, seconds = connection.recv()
        except EOFError:
            return
        connection.send(_rate(work[kind], threads=cores(), seconds=seconds))


def _rate(work: Callable[[], int], *, threads: int, seconds: float) -> float:
    counts = [0] * threads
    start = time.perf_counter()

    def loop(index: int) -> None:
        while time.perf_counter() - start < seconds:
            counts[index] += work()

    workers = [threading.Thread(target=loop, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)
