"""Measures the scoring service over HTTP, in turns with the model in a plain loop.

Other work on the machine slows both alike, so their ratio stays where the figures themselves do not.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import numpy as np
import psutil

from services.scoring.asks import Ask, crops_ask, picture_ask
from services.scoring.drive import BROKEN, Answer, Target, drive
from services.scoring.plain import PlainLoop

_ROUNDS: Final = 3
_WARM_UP_S: Final = 0.5
_CHECKPOINTS: Final = 20
_SETTLED: Final = 5
"""Checkpoints during which the memory may grow: buffers reach their size."""
_SOAK_MIX: Final = (1, 1, 1, 1, 1, 1, 1, 1, 16, 0)
"""Crops per request, 0 for a picture; over and over."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one kind of request from a number of clients."""

    name: str
    clients: int
    requests: int
    failed: dict[str, int]
    """Answers other than 200 by their status; `broken` is a connection that ended before its answer."""
    requests_per_s: float
    """Answered with 200, as all below."""
    faces_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    plain_faces_per_s: float | None
    """The model in a plain loop, in turns with this; None where no release is given."""
    share: float | None
    """Of the plain loop's throughput; the median of the rounds' ratios."""
    client_ms_per_request: float
    """Processor time of the clients, which share the machine with the service."""
    rss_before_mib: float | None
    """Of the service with all its processes; None where they are not ours."""
    rss_after_mib: float | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The service's memory after a number of requests."""

    requests: int
    failed: int
    rss_mib: float


@dataclass(frozen=True, slots=True)
class _Round:
    answers: list[Answer]
    seconds: float
    client_s: float
    plain_faces_per_s: float | None

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == HTTPStatus.OK]


def measure(
    target: Target,
    ask: Ask,
    *,
    clients: int,
    seconds: float,
    requests: int | None,
    plain: PlainLoop | None,
    pid: int | None,
) -> Row:
    """Drive the service for `seconds`, or with `requests` requests, in rounds in turn with the plain loop."""
    sent = ask.to(target)
    asyncio.run(drive(target, sent, clients=clients, seconds=_WARM_UP_S, count=requests))
    before = rss_mib(pid)
    rounds = []
    for count in _shares(requests):
        other = plain.faces_per_s(ask.kind, seconds=seconds / _ROUNDS) if plain is not None else None
        limit_s = None if count else seconds / _ROUNDS
        start_s, cpu_s = time.perf_counter(), time.process_time()
        answers = asyncio.run(drive(target, sent, clients=clients, seconds=limit_s, count=count))
        spent_s, client_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        rounds.append(_Round(answers, spent_s, client_s, other))
    return _row(ask, rounds, clients=clients, rss_before_mib=before, rss_after_mib=rss_mib(pid))


def soak(target: Target, *, crop_size: int, clients: int, requests: int, pid: int) -> Iterator[Checkpoint]:
    """Send `requests` requests, crops and pictures, and look at the service's memory now and then."""
    asks = {
        faces: crops_ask(faces, crop_size=crop_size) if faces else picture_ask() for faces in set(_SOAK_MIX)
    }
    sent = [asks[faces].to(target)[0] for faces in _SOAK_MIX]
    done = failed = 0
    for checkpoint in range(1, _CHECKPOINTS + 1):
        count = requests * checkpoint // _CHECKPOINTS - done
        answers = asyncio.run(drive(target, sent, clients=clients, count=count))
        done += count
        failed += sum(answer.status != HTTPStatus.OK for answer in answers)
        yield Checkpoint(done, failed, rss_mib(pid) or 0.0)


def slope_mib(checkpoints: Sequence[Checkpoint]) -> float:
    """Return the growth of the memory per 10,000 requests once it has settled."""
    settled = checkpoints[_SETTLED:]
    requests = [checkpoint.requests for checkpoint in settled]
    return float(np.polyfit(requests, [checkpoint.rss_mib for checkpoint in settled], 1)[0] * 10_000)


def rss_mib(pid: int | None) -> float | None:
    """Return the resident memory of a process and of all that it started."""
    if pid is None:
        return None
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return float(sum(member.memory_info().rss for member in family) / 2**20)


def _shares(requests: int | None) -> list[int | None]:
    if requests is None:
        return [None] * _ROUNDS
    shares = [requests * (turn + 1) // _ROUNDS - requests * turn // _ROUNDS for turn in range(_ROUNDS)]
    return [share for share in shares if share]


def _row(
    ask: Ask,
    rounds: Sequence[_Round],
    *,
    clients: int,
    rss_before_mib: float | None,
    rss_after_mib: float | None,
) -> Row:
    answers = [answer for turn in rounds for answer in turn.answers]
    good = [answer for turn in rounds for answer in turn.good]
    spent_s = sum(turn.seconds for turn in rounds)
    taken_ms = [1e3 * (answer.ended_s - answer.sent_s) for answer in good]
    p50, p95, p99 = np.percentile(taken_ms, [50, 95, 99]).tolist() if good else (None, None, None)
    plain = [turn.plain_faces_per_s for turn in rounds if turn.plain_faces_per_s]
    shares = [
        ask.faces * len(turn.good) / turn.seconds / turn.plain_faces_per_s
        for turn in rounds
        if turn.plain_faces_per_s
    ]
    return Row(
        name=ask.name,
        clients=clients,
        requests=len(answers),
        failed=_failures(answers),
        requests_per_s=len(good) / spent_s,
        faces_per_s=ask.faces * len(good) / spent_s,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        plain_faces_per_s=float(np.mean(plain)) if plain else None,
        share=float(np.median(shares)) if shares else None,
        client_ms_per_request=1e3 * sum(turn.client_s for turn in rounds) / max(1, len(answers)),
        rss_before_mib=rss_before_mib,
        rss_after_mib=rss_after_mib,
    )


def _failures(answers: Sequence[Answer]) -> dict[str, int]:
    counts = Counter(answer.status for answer in answers if answer.status != HTTPStatus.OK)
    return {"broken" if status == BROKEN else str(status): count for status, count in sorted(counts.items())}
