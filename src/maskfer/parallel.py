"""Work on many small items with every core, in order, with a bar."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskfer.errors import StageFailed

Item = TypeVar("Item")
Result = TypeVar("Result")

_PER_WORKER = 64
"""Fewer items than this are not worth another process, which needs two seconds to load."""


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    title: str,
    workers: int | None = None,
    batch: int = 16,
) -> Iterator[Result]:
    """Yield `function(item)` for every item, in the items' order whatever the number of workers.

    `function` has to be picklable; None for `workers` means one per core. Raises `StageFailed` when a worker
    process dies, and whatever `function` raises.
    """
    wanted = workers or min(_cores(), -(-len(items) // _PER_WORKER))
    if wanted <= 1:
        yield from _shown(map(function, items), total=len(items), title=title)
        return
    # spawn: a forked child would inherit the threads of OpenCV and OpenMP in an unknown state.
    pool = ProcessPoolExecutor(wanted, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield from _shown(pool.map(function, items, chunksize=batch), total=len(items), title=title)
    except BrokenProcessPool as error:
        raise StageFailed(
            f"{title}: a worker process died, perhaps for want of memory; run again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # one process per core already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C and ends the pool


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _shown(results: Iterable[Result], *, total: int, title: str) -> Iterator[Result]:
    """Pass the results on; a bar on a terminal's stderr, elsewhere a line on stdout for every fifth."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        for done, result in enumerate(results, start=1):
            yield result
            bar.advance(task)
            if bar.disable and (done == total or 5 * done // total > 5 * (done - 1) // total):
                sys.stdout.write(f"{title}: {done} of {total}\n")
                sys.stdout.flush()
