"""`maskfer score`: videos in, one timeline each out, through the queue."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from maskfer.config import Settings
from maskfer.errors import InputError, MaskferError, ServiceUnavailable, VideoError
from maskfer.footage import decode, timeline
from maskfer.release import file_sha256
from services.labeling.broker import SegmentQueue, check_address
from services.labeling.embedded import WorkerProcess, embedded_broker
from services.labeling.jobs import Job, JobRecord, Question, Segment
from services.model import ServedModel, load_model

_POLL_S: Final = 0.1
_MAX_REVIVALS: Final = 3
"""A worker that ends this often while nothing gets done is not started again."""
_SILENCE_S: Final = 15.0
"""After so long without progress the workers are asked whether they are there."""
_MAX_RESENDS: Final = 2
"""What the broker has lost this often while nothing gets done is not sent again."""

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


class _Watch:
    """Follows the folders of jobs that were queued, and sees to it that somebody works on them."""

    def __init__(self, queue: SegmentQueue, worker: WorkerProcess | None, settings: Settings) -> None:
        self._queue = queue
        self._worker = worker
        self._settings = settings
        self._work: list[_Work] = []
        self.settled = 0
        """Frames that are done or given up."""
        self._changed = self._asked = time.monotonic()
        self._revivals = self._resends = 0

    def add(self, item: _Work) -> None:
        """Queue a job's missing segments."""
        self._work.append(item)
        self._queue.send(item.job.id, item.missing.values())

    @property
    def frames(self) -> int:
        """Frames of all jobs."""
        return sum(item.frames for item in self._work)

    @property
    def over(self) -> bool:
        """Whether every job is done or given up."""
        return all(item.outcome is not None for item in self._work)

    def look(self) -> None:
        """Take in what is done or given up since the last look, and do something about a silence.

        Raises `ServiceUnavailable` where waiting longer would be in vain.
        """
        settled = sum(_advance(item) for item in self._work)
        if settled != self.settled:
            self.settled, self._changed, self._asked = settled, time.monotonic(), time.monotonic()
            self._revivals = self._resends = 0
        if self.over:
            return
        self._keep_worker()
        if time.monotonic() - self._changed > 2 * self._settings.visibility_timeout_s:
            self._changed = time.monotonic()
            self._send_what_is_lost()

    def _keep_worker(self) -> None:
        if self._worker is None:
            if time.monotonic() - self._asked > _SILENCE_S:
                self._queue.ask_workers()
                self._asked = time.monotonic()
        elif self._worker.revive():
            self._revivals += 1
            if self._revivals > _MAX_REVIVALS:
                raise ServiceUnavailable(
                    f"worker: ended {self._revivals} times without finishing a segment; {self._worker.log} "
                    f"ends with: {self._worker.last_words()}"
                )
            for item in self._running():
                self._queue.send(item.job.id, item.missing.values())

    def _send_what_is_lost(self) -> None:
        """Queue again what the broker has no more; what it holds is only waiting for its turn."""
        lost = [item for item in self._running() if not self._queue.holds(item.job.id)]
        if lost and self._resends == _MAX_RESENDS:
            self._queue.ask_workers()
            raise ServiceUnavailable(
                f"worker: segments are taken from {self._queue.address}, but none gets finished; workers "
                f"must have this command's MASKFER_HOME ({self._settings.home.absolute()}) and be allowed "
                "to write there; look into a worker's log"
            )
        for item in lost:
            self._queue.send(item.job.id, item.missing.values())
        self._resends += bool(lost)

    def _running(self) -> list[_Work]:
        return [item for item in self._work if item.outcome is None]


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

    A file that is there is replaced only where it is the same video's timeline: else, as where two videos
    have one stem, the later gets its whole name, then a number.

    Without a broker in `settings` a broker and `workers` worker processes (default: 2) live as long as the
    call; with one, only as many workers are started as `workers` asks for (default: none). Finished segments
    of an earlier call with the same video, model and parameters are taken up. Raises what `load_model`
    raises, `ParamsError` where MASKFER_BROKER_URL is no address, and `ServiceUnavailable` where the broker or
    every worker is gone, or workers finish nothing.
    """
    served = load_model(model, settings)
    videos_begun: list[_Work | Scored] = []
    taken: set[str] = set()
    with ExitStack() as stack:
        watch: _Watch | None = None
        for video in videos:
            item = _prepare(
                video,
                served,
                out=out,
                taken=taken,
                settings=settings,
                sample_fps=sample_fps,
                segment_seconds=segment_seconds,
            )
            videos_begun.append(item)
            # At once: reading the next video may take longer than the workers take for this one.
            if isinstance(item, _Work):
                watch = watch or stack.enter_context(_watching(settings, workers=workers))
                watch.add(item)
            if watch is not None:
                watch.look()
        if watch is not None:
            _follow(watch, progress)
    outcomes = [item.outcome if isinstance(item, _Work) else item for item in videos_begun]
    return [outcome for outcome in outcomes if outcome is not None]


def _prepare(
    video: Path,
    served: ServedModel,
    *,
    out: Path,
    taken: set[str],
    settings: Settings,
    sample_fps: float | None,
    segment_seconds: float,
) -> _Work | Scored:
    """Begin a video's job or take it up; returns its outcome where nothing is left to do.

    Its timeline gets a name that is not in `taken`, and is added there.
    """
    try:
        job = _begin(video, served, settings=settings, sample_fps=sample_fps, segment_seconds=segment_seconds)
        done, target = job.done(), _target(job, out, taken)
    except MaskferError as error:
        return Scored(video, None, error=str(error))
    except OSError as error:
        return Scored(
            video,
            None,
            error=f"{video}: its job cannot be begun ({error}); put that right and score it again",
        )
    missing = {str(segment): segment for segment in job.segments() if str(segment) not in done}
    work = _Work(video, target, job, missing, frames=len(job.sampled()))
    return work if missing else _conclude(work)


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


@contextmanager
def _watching(settings: Settings, *, workers: int | None) -> Iterator[_Watch]:
    with ExitStack() as stack:
        broker_url = settings.broker_url
        private = broker_url is None
        if broker_url is None:
            broker_url = stack.enter_context(embedded_broker())
            workers = workers or 2
        else:
            check_address(broker_url)
        queue = SegmentQueue(settings, url=broker_url, private=private)
        stack.callback(queue.close)
        queue.reach()
        worker = None
        if workers:
            log = settings.home.absolute() / "jobs" / "worker.log"
            worker = WorkerProcess(settings, broker_url=broker_url, concurrency=workers, log=log)
            stack.callback(worker.stop)
        yield _Watch(queue, worker, settings)


def _follow(watch: _Watch, progress: Progress) -> None:
    """Watch until every job is done or given up."""
    while True:
        watch.look()
        progress(watch.settled, watch.frames)
        if watch.over:
            return
        time.sleep(_POLL_S)


def _advance(item: _Work) -> int:
    """Update a job's state from its folder; returns how many of its frames are settled."""
    if item.outcome is not None:
        return item.frames
    for name in item.job.done() & item.missing.keys():
        del item.missing[name]
    if not item.missing:
        item.outcome = _conclude(item)
    elif (reason := item.job.failure()) is not None:
        item.outcome = Scored(item.video, None, error=reason)
    waiting = sum(segment.stop - segment.start for segment in item.missing.values())
    return item.frames if item.outcome is not None else item.frames - waiting


def _conclude(item: _Work) -> Scored:
    try:
        if not _is_free(item.out, item.job):  # since it was chosen, which may be hours ago
            return Scored(
                item.video,
                None,
                error=f"{item.video}: is scored, but {item.out} holds something else by now; run the same "
                "command again, which takes up what is finished and gives it another name",
            )
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


def _target(job: Job, out: Path, taken: set[str]) -> Path:
    """Choose where a job's timeline goes: by its video's stem, else by the whole name, else with a number."""
    video = job.video.path
    numbered = (f"{video.name}-{number}" for number in itertools.count(2))
    for name in itertools.chain([video.stem, video.name], numbered):
        target = out / f"{name}.parquet"
        if name.casefold() not in taken and _is_free(target, job):
            taken.add(name.casefold())
            return target
    raise AssertionError("a count has no end")


def _is_free(target: Path, job: Job) -> bool:
    """Whether nothing is lost where a job's timeline takes this name: there is none, or one of its video."""
    if not target.exists():
        return True
    try:
        # Not what else is named so: a pipe would be waited for.
        header = timeline.read_header(target) if target.is_file() else None
    except VideoError:
        return False
    return header is not None and header.source_sha256 == job.record.question.source_sha256


def check_folder(out: Path) -> None:
    """Raise `InputError` where timelines could not be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); give --out another folder") from error
