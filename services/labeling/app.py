"""The Celery application: how segments travel, and what a worker does with one.

At least once: a segment's message is confirmed only when its result is on disk, and comes back when its
worker is lost. Running twice is harmless, because results are keyed and written whole.
"""

from __future__ import annotations

from typing import Any, Final

from celery import Celery, Task
from celery.utils.log import get_task_logger

from maskfer.config import Settings
from maskfer.errors import MaskferError
from services.labeling.jobs import Job, Segment
from services.labeling.scoring import SegmentScorer

TASK: Final = "maskfer.score_segment"
QUEUE: Final = "maskfer.segments"
_log = get_task_logger(__name__)


def create_app(settings: Settings, *, broker_url: str) -> Celery:
    """Return the application that sends and runs segments over the broker at `broker_url`."""
    app = Celery("maskfer", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # Below the visibility timeout, so that no segment is handed out again while it still runs.
        task_time_limit=0.9 * settings.visibility_timeout_s,
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_s,
            # Without these two a lost worker's segment takes about 100 s longer to come back.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 5,
        },
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
    )
    _add_task(app, settings)
    return app


def _add_task(app: Celery, settings: Settings) -> None:
    jobs = settings.home.absolute() / "jobs"
    scorer = SegmentScorer(settings)

    class Recorded(Task):  # type: ignore[misc]
        """A task whose unexpected end is recorded in its job, so that the client need not guess."""

        def on_failure(self, exc: BaseException, _task_id: str, args: Any, _kwargs: Any, _info: Any) -> None:
            """Give the segment up: its task ended in a way nobody meant, or took too long."""
            job_id, start, stop = args
            try:
                job = Job.open(jobs, job_id)
                reason = f"{job.video.path}: {type(exc).__name__}: {exc}; see the worker's log"
                job.fail(Segment(start, stop), reason)
            except (MaskferError, OSError) as error:
                _log.error("job %s: that its segment failed cannot be recorded: %s", job_id, error)

    @app.task(name=TASK, base=Recorded, shared=False, bind=True)
    def score_segment(task: Task, job_id: str, start: int, stop: int) -> None:
        """Judge one segment of a job, once, whoever asks how often."""
        segment = Segment(start, stop)
        try:
            job = Job.open(jobs, job_id)
        except MaskferError as error:
            _log.error("%s: %s", segment, error)
            return
        if job.is_done(segment) or job.failure() is not None:
            return
        attempt = job.begin(segment, message=str(task.request.id))
        if attempt > settings.max_deliveries:
            job.fail(segment, _gave_up(job, segment, attempts=attempt - 1))
            return
        try:
            job.finish(segment, scorer.score(job, segment))
        except MaskferError as error:
            _log.warning("%s %s: %s", job_id, segment, error)
            job.fail(segment, str(error))


def _gave_up(job: Job, segment: Segment, *, attempts: int) -> str:
    frames = job.frames_of(segment)
    from_s, to_s = job.video.times_s[frames[0]], job.video.times_s[frames[-1]]
    return (
        f"{job.video.path}: the part from {from_s:.1f} s to {to_s:.1f} s ended its worker {attempts} times "
        "and was given up; look for memory or decoder faults in the worker's log"
    )
