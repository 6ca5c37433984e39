"""Requests that meet in the batcher; the network is a function of which we know the answer."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfer.errors import ServiceUnavailable
from maskfer.inference import GreyCrops, Predictions
from services.scoring.batching import Batcher

_POISON = 255
_WAIT_S = 30


def _faces(*marks: int) -> GreyCrops:
    """Faces of 2 x 2 pixels that carry their mark."""
    return np.repeat(np.array(marks, np.uint8), 4).reshape(-1, 2, 2)


class _Network:
    """Answers each face with its mark; keeps the size of every run and waits where it is told to."""

    def __init__(self, *, open_: bool = True) -> None:
        self.sizes: list[int] = []
        self.most_at_once = 0
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self._now = 0
        self._lock = threading.Lock()
        if open_:
            self.gate.set()

    def __call__(self, faces: GreyCrops) -> Predictions:
        with self._lock:
            self.sizes.append(len(faces))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        self.entered.release()
        assert self.gate.wait(_WAIT_S)
        with self._lock:
            self._now -= 1
        marks = faces[:, 0, 0].astype(np.float32)
        if (marks == _POISON).any():
            raise FloatingPointError("poisoned")
        return Predictions(marks[:, None], marks, marks[:, None], marks[:, None, None])


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _marks(answer: Awaitable[Predictions]) -> list[int]:
    judged = await asyncio.wait_for(answer, _WAIT_S)
    for part in (judged.expression, judged.orientation, judged.heatmap):
        assert part.reshape(-1).tolist() == judged.masked.tolist()
    return [int(mark) for mark in judged.masked]


@settings(max_examples=60)
@given(
    requests=st.lists(st.lists(st.integers(0, _POISON), min_size=1, max_size=20), min_size=1, max_size=12),
    runs=st.integers(1, 3),
    max_batch=st.integers(1, 8),
)
def test_each_request_has_the_answers_to_its_faces_in_order_and_only_its_own_failure(
    requests: list[list[int]], runs: int, max_batch: int
) -> None:
    network = _Network()

    async def ask() -> list[Predictions | BaseException]:
        batcher = Batcher(network, runs=runs, max_batch=max_batch)
        answers = [batcher.submit(_faces(*marks)) for marks in requests]
        return await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), _WAIT_S)

    for marks, answer in zip(requests, asyncio.run(ask()), strict=True):
        if _POISON in marks:
            assert isinstance(answer, FloatingPointError)
        else:
            assert isinstance(answer, Predictions)
            assert answer.masked.tolist() == marks
    assert max(network.sizes) <= max_batch
    assert network.most_at_once <= runs


async def test_what_comes_while_the_network_runs_goes_into_it_together() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1, max_batch=16)
    first = batcher.submit(_faces(0))
    assert network.entered.acquire(timeout=_WAIT_S)
    others = [batcher.submit(_faces(mark, mark + 100)) for mark in range(1, 9)]
    network.gate.set()

    assert await _marks(first) == [0]
    assert [await _marks(answer) for answer in others] == [[mark, mark + 100] for mark in range(1, 9)]
    assert network.sizes == [1, 16]


async def test_a_request_of_a_thousand_faces_does_not_hold_up_single_ones() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1, max_batch=16)
    large = batcher.submit(_faces(*[1] * 1000))
    assert network.entered.acquire(timeout=_WAIT_S)
    singles = [batcher.submit(_faces(mark)) for mark in range(10)]
    order = []
    for answer in (large, *singles):
        answer.add_done_callback(order.append)
    network.gate.set()

    assert [await _marks(answer) for answer in singles] == [[mark] for mark in range(10)]
    assert await _marks(large) == [1] * 1000
    assert order == [*singles, large]
    # The first run took 16 of the large one alone; the second an equal share of it and every single one.
    assert network.sizes[:3] == [16, 16, 16]
    assert sum(network.sizes) == 1010


async def test_a_request_that_nobody_waits_for_any_more_is_not_run() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1, max_batch=16, max_waiting=4)
    first = batcher.submit(_faces(0))
    assert network.entered.acquire(timeout=_WAIT_S)
    given_up, kept = batcher.submit(_faces(1, 1, 1)), batcher.submit(_faces(2))
    assert given_up.cancel()
    network.gate.set()

    assert (await _marks(first), await _marks(kept)) == ([0], [2])
    assert network.sizes == [1, 1]
    # Its faces do not count as waiting any more.
    assert network.entered.acquire(timeout=_WAIT_S)
    network.gate.clear()
    at_work = batcher.submit(_faces(3))
    assert network.entered.acquire(timeout=_WAIT_S)
    waiting = [batcher.submit(_faces(mark)) for mark in range(4, 8)]
    network.gate.set()
    assert [await _marks(answer) for answer in (at_work, *waiting)] == [[mark] for mark in range(3, 8)]


async def test_a_request_given_up_while_it_runs_disturbs_no_other() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1, max_batch=2)
    given_up = batcher.submit(_faces(1, 1, 1, 1))
    assert network.entered.acquire(timeout=_WAIT_S)
    assert given_up.cancel()
    kept = batcher.submit(_faces(2))
    network.gate.set()

    assert await _marks(kept) == [2]
    assert network.sizes == [2, 1]


async def test_its_threads_end_when_nobody_refers_to_it_and_all_is_answered() -> None:
    before = set(threading.enumerate())
    network = _Network(open_=False)
    batcher = Batcher(network, runs=2, max_batch=2)
    answers = [batcher.submit(_faces(mark, mark)) for mark in range(6)]
    gone = weakref.ref(batcher)
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    del batcher
    network.gate.set()

    assert [await _marks(answer) for answer in answers] == [[mark, mark] for mark in range(6)]
    gc.disable()  # it has to go without the collector, which the service has calmed
    try:
        for thread in started:
            thread.join(_WAIT_S)
        assert not any(thread.is_alive() for thread in started)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_request_that_finds_a_free_place_does_not_wait_for_others() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=2, max_batch=16)
    answers = []
    for mark in range(2):
        answers.append(batcher.submit(_faces(mark)))
        assert network.entered.acquire(timeout=_WAIT_S)
    network.gate.set()

    assert [await _marks(answer) for answer in answers] == [[0], [1]]
    assert network.sizes == [1, 1]


async def test_a_request_of_many_faces_takes_every_free_place_and_no_place_takes_all() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=2, max_batch=16)
    answer = batcher.submit(_faces(*range(16)))
    for _ in range(2):
        assert network.entered.acquire(timeout=_WAIT_S)
    assert sorted(network.sizes) == [4, 8]  # half of what waits, then half of the rest
    network.gate.set()

    assert await _marks(answer) == list(range(16))
    assert network.most_at_once == 2


async def test_a_broken_network_fails_every_request_and_the_next_is_tried_again() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1, max_batch=4)
    broken = [batcher.submit(_faces(_POISON)), batcher.submit(_faces(_POISON, _POISON))]
    network.gate.set()

    for answer in broken:
        with pytest.raises(FloatingPointError, match="poisoned"):
            await _marks(answer)
    assert await _marks(batcher.submit(_faces(3))) == [3]


async def test_more_than_can_be_answered_in_time_is_refused_and_what_was_accepted_is_answered() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1, max_waiting=4)
    at_work = batcher.submit(_faces(1))
    assert network.entered.acquire(timeout=_WAIT_S)
    waiting = batcher.submit(_faces(2, 3, 4, 5))
    with pytest.raises(ServiceUnavailable, match="4 faces"):
        batcher.submit(_faces(6))
    network.gate.set()

    assert await _marks(at_work) == [1]
    assert await _marks(waiting) == [2, 3, 4, 5]
    assert await _marks(batcher.submit(_faces(7))) == [7]


def test_a_loop_that_is_gone_leaves_the_batcher_serving_the_next() -> None:
    network = _Network(open_=False)
    batcher = Batcher(network, runs=1)

    async def leave() -> None:
        batcher.submit(_faces(1))
        assert network.entered.acquire(timeout=_WAIT_S)

    async def stay() -> list[int]:
        return await _marks(batcher.submit(_faces(2)))

    asyncio.run(leave())
    network.gate.set()
    assert asyncio.run(stay()) == [2]
