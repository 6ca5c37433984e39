"""`maskfer score`: videos in, one timeline each out, through the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from celery import Celery
from kombu.exceptions import OperationalError

from maskfer.config import Settings
from maskfer.errors import InputError, MaskferError, ServiceUnavailable
from maskfer.footage import decode, timeline
from maskfer.release import file_sha256
from services.labeling.app import TASK, create_app
from services.labeling.embedded import WorkerProcess, embedded_broker
from services.labeling.jobs import Job, JobRecord, Question, Segment
from services.model import ServedModel, load_model

_POLL_S: Final = 0.1
_MAX_REVIVALS: Final = 3
"""A worker that ends this often while nothing gets done is not started again."""
_SILENCE_S: Final = 15.0
"""After so long without progress the workers are asked whether they are there."""

Progress = Callable[[int, int], None]
"""Called with the number of frames done and the number of all."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One video's outcome."""

    video: Path
    timeline: Path | None
    faces: int = 0
    tracks: int = 0
    sampled_frames: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Work:
    video: Path
    out: Path
    job: Job
    missing: dict[str, Segment]
    frames: int
    outcome: Scored | None = None


@dataclass(slots=True)
class _Queue:
    """The running work, and whether somebody does it."""

    app: Celery
    worker: WorkerProcess | None
    settings: Settings
    work: list[_Work] = field(default_factory=list)

    def send(self, work: _Work) -> None:
        """Queue a job's missing segments."""
        for segment in work.missing.values():
            self.app.send_task(TASK, args=(work.job.id, segment.start, segment.stop), retry=False)

    def resend(self) -> None:
        """Queue again whatever is missing: a lost broker forgets, and a repeated segment does no harm."""
        for work in self.work:
            if work.outcome is None:
                self.send(work)


def score_videos(
    videos: Sequence[Path],
    out: Path,
    *,
    settings: Settings,
    model: str | None = None,
    sample_fps: float | None = 5.0,
    segment_seconds: float = 20.0,
    workers: int | None = None,
    progress: Progress = lambda _done, _all: None,
) -> list[Scored]:
    """Score videos through a queue and write `out/<stem>.parquet` for each; one's failure costs no other.

    Without a broker in `settings` a broker and `workers` worker processes (default: 2) live as long as the
    call; with one, only as many workers are started as `workers` asks for (default: none). Finished segments
    of an earlier call with the same video, model and parameters are taken up. Raises what `load_model`
    raises, and `ServiceUnavailable` where the broker or every worker is gone.
    """
    served = load_model(model, settings)
    outcomes: list[Scored] = []
    work: list[_Work] = []
    for video, target in _targets(videos, out):
        try:
            job = _begin(
                video,
                served,
                settings=settings,
                sample_fps=sample_fps,
                segment_seconds=segment_seconds,
            )
            work.append(_plan(video, target, job))
        except MaskferError as error:
            outcomes.append(Scored(video, None, error=str(error)))
    if any(item.missing for item in work):
        with _queue(settings, workers=workers) as queue:
            queue.work = work
            queue.resend()
            _wait(queue, progress)
    for item in work:
        outcomes.append(item.outcome or _conclude(item))
    order = {video: number for number, video in enumerate(videos)}
    return sorted(outcomes, key=lambda outcome: order[outcome.video])


def _begin(
    video: Path,
    served: ServedModel,
    *,
    settings: Settings,
    sample_fps: float | None,
    segment_seconds: float,
) -> Job:
    found = decode.probe(video)
    status = video.stat()  # before it is read: what changes meanwhile is noticed by the worker
    record = JobRecord(
        question=Question(
            source_sha256=file_sha256(video),
            model_sha256=served.sha256,
            classes=served.release.classes,
            sample_fps=sample_fps,
            segment_seconds=segment_seconds,
        ),
        video=video.absolute(),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        width=found.width,
        height=found.height,
        model_folder=served.release.path.absolute(),
        model_reference=served.reference,
        model_name=served.name,
        model_version=served.version,
    )
    return Job.create(settings.home.absolute() / "jobs", record, found)


def _plan(video: Path, out: Path, job: Job) -> _Work:
    done = job.done()
    missing = {str(segment): segment for segment in job.segments() if str(segment) not in done}
    return _Work(video, out, job, missing, frames=len(job.sampled()))


@contextmanager
def _queue(settings: Settings, *, workers: int | None) -> Iterator[_Queue]:
    with ExitStack() as stack:
        broker_url = settings.broker_url
        if broker_url is None:
            broker_url = stack.enter_context(embedded_broker())
            workers = workers or 2
        app = create_app(settings, broker_url=broker_url)
        stack.callback(app.close)
        _reach(app, broker_url)
        worker = None
        if workers:
            log = settings.home.absolute() / "jobs" / "worker.log"
            worker = WorkerProcess(settings, broker_url=broker_url, concurrency=workers, log=log)
            stack.callback(worker.stop)
        yield _Queue(app, worker, settings)


def _reach(app: Celery, broker_url: str) -> None:
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
    except (OperationalError, OSError) as error:
        raise ServiceUnavailable(
            f"broker {_without_password(broker_url)}: no answer ({error}); check MASKFER_BROKER_URL, or "
            "unset it to use an embedded broker"
        ) from error


def _wait(queue: _Queue, progress: Progress) -> None:
    """Follow the job folders until every job is done or given up, and see to it that somebody works."""
    everything = sum(item.frames for item in queue.work)
    seen, since, asked, revivals = -1, time.monotonic(), time.monotonic(), 0
    while True:
        done = sum(_advance(item) for item in queue.work)
        progress(done, everything)
        if all(item.outcome is not None for item in queue.work):
            return
        now = time.monotonic()
        if done != seen:
            seen, since, asked, revivals = done, now, now, 0
        if queue.worker is not None and queue.worker.revive():
            revivals += 1
            if revivals > _MAX_REVIVALS:
                raise ServiceUnavailable(
                    f"worker: ended {revivals} times without finishing a segment; {queue.worker.log} ends "
                    f"with: {queue.worker.last_words()}"
                )
            queue.resend()
        elif queue.worker is None and now - asked > _SILENCE_S:
            _ask_workers(queue)
            asked = time.monotonic()
        if now - since > 2 * queue.settings.visibility_timeout_s:
            queue.resend()
            since = now
        time.sleep(_POLL_S)


def _advance(item: _Work) -> int:
    """Update a job's state from its folder; returns how many of its frames are settled."""
    if item.outcome is not None:
        return item.frames
    for name in item.job.done() & item.missing.keys():
        del item.missing[name]
    reason = item.job.failure()
    if reason is not None:
        item.outcome = Scored(item.video, None, error=reason)
    elif not item.missing:
        item.outcome = _conclude(item)
    waiting = sum(segment.stop - segment.start for segment in item.missing.values())
    return item.frames if item.outcome is not None else item.frames - waiting


def _conclude(item: _Work) -> Scored:
    try:
        table = timeline.merge(item.job.results(), item.job.header())
        timeline.write(table, item.out)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        return Scored(
            item.video,
            None,
            error=f"{item.video}: is scored, but {item.out} cannot be made ({reason}); put that right and "
            "run the same command again, which takes up what is finished",
        )
    tracks = len(set(table["track"].to_pylist()))
    return Scored(item.video, item.out, faces=len(table), tracks=tracks, sampled_frames=item.frames)


def _ask_workers(queue: _Queue) -> None:
    try:
        answers: list[Any] = queue.app.control.ping(timeout=3.0)
    except (OperationalError, OSError) as error:
        raise ServiceUnavailable(
            f"broker: gone while scoring ({error}); run the same command again"
        ) from error
    if not answers:
        raise ServiceUnavailable(
            f"worker: none answers at {_without_password(queue.settings.broker_url or '')}; start one with "
            "`maskfer worker`, or give --workers N; what is finished is kept"
        )


def _targets(videos: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Pair each video with its timeline; the later of one stem gets its whole name, then a number."""
    taken: set[str] = set()
    for video in videos:
        names = [video.stem, video.name, *(f"{video.name}-{number}" for number in range(2, len(videos) + 2))]
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        yield video, out / f"{name}.parquet"


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def check_folder(out: Path) -> None:
    """Raise `InputError` where timelines could not be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); give --out another folder") from error
