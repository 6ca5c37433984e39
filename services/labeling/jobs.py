"""The state of a scoring job, on disk: what is asked, what is done, what failed.

    <home>/jobs/<job id>/
        job.json                       what is asked; the same question has the same job id
        frame_times.npy                when each frame is shown, seconds
        segments/<from>-<to>.parquet   a finished segment: written whole, so where it exists it is done;
                                   one that a failing disk has damaged is scored again at the next start
        failures/<from>-<to>.txt       why a segment was given up
        deliveries/<from>-<to>.<hash>  one byte per delivery of one message that asks for the segment

Every file has one meaning and is written once or atomically, so any number of workers, restarts and repeated
deliveries leave the same state behind.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from maskfer import atomic
from maskfer.errors import InputError, ServiceUnavailable
from maskfer.footage.decode import FrameIndices, FrameTimes, Video
from maskfer.footage.timeline import Header, ScoringModel

FORMAT_VERSION: Final = 1
_JOB_ID: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A stretch of a video: the sampled frames numbered from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.start:08d}-{self.stop:08d}"


class Question(BaseModel):
    """What a job asks; its hash is the job's id. Where the files lie is not part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    source_sha256: str
    model_sha256: str
    classes: tuple[str, ...]
    sample_fps: float | None
    segment_seconds: float
    format_version: int = FORMAT_VERSION

    @property
    def job_id(self) -> str:
        """Sixteen hex digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class JobRecord(BaseModel):
    """What `job.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    question: Question
    video: Path
    size_bytes: int
    mtime_ns: int
    """The file when its sha256 was taken: a worker that sees the same need not read it whole."""
    width: int
    height: int
    model_folder: Path
    """Where the client found the release; a worker that sees the same folder needs no registry."""
    model_reference: str | None
    """NAME@VERSION for a worker that does not; None for a release outside the registry."""
    model_name: str
    model_version: str


class Job:
    """One video under one model: a folder that client and workers share."""

    def __init__(self, folder: Path, record: JobRecord, times_s: FrameTimes) -> None:
        self.folder = folder
        self.record = record
        self.video = Video(record.video, times_s, record.width, record.height)

    @classmethod
    def create(cls, jobs: Path, record: JobRecord, video: Video) -> Self:
        """Begin a job, or take up the one that asks the same: failures are forgotten, whole results kept."""
        folder = jobs / record.question.job_id
        for part in ("segments", "failures", "deliveries"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        with atomic.new_file(folder / "frame_times.npy") as work:
            np.save(work, video.times_s, allow_pickle=False)
        atomic.write_text(folder / "job.json", record.model_dump_json(indent=2) + "\n")
        for stale in [*(folder / "failures").iterdir(), *(folder / "deliveries").iterdir()]:
            if stale.is_dir():  # a worker was killed while it wrote a failure
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
        for result in (folder / "segments").glob("*.parquet"):
            if not _is_table(result):
                result.unlink(missing_ok=True)
        return cls(folder, record, video.times_s)

    @classmethod
    def open(cls, jobs: Path, job_id: str) -> Self:
        """Read a job as a worker meets it; raises `InputError` where there is none of this id."""
        if not _JOB_ID.fullmatch(job_id):
            raise InputError(f"job {job_id!r}: not a job id, expected sixteen hex digits")
        folder = jobs / job_id
        try:
            record = JobRecord.model_validate_json((folder / "job.json").read_bytes())
            return cls(folder, record, np.load(folder / "frame_times.npy", allow_pickle=False))
        except (OSError, ValueError, ValidationError) as error:
            raise ServiceUnavailable(
                f"job {job_id}: cannot be read under {jobs}; workers and `maskfer score` must share "
                "MASKFER_HOME"
            ) from error

    @property
    def id(self) -> str:
        """Sixteen hex digits."""
        return self.folder.name

    def sampled(self) -> FrameIndices:
        """The frames that are judged."""
        return self.video.sample(self.record.question.sample_fps)

    def segments(self) -> list[Segment]:
        """The whole video, cut; together they hold every sampled frame exactly once."""
        sampled = self.sampled()
        since_start = self.video.times_s[sampled] - self.video.times_s[0]
        number = np.floor(since_start / self.record.question.segment_seconds).astype(np.int64)
        cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sampled)]
        return [Segment(start, stop) for start, stop in itertools.pairwise(cuts)]

    def frames_of(self, segment: Segment) -> FrameIndices:
        """The frames that a segment judges."""
        return self.sampled()[segment.start : segment.stop]

    def done(self) -> set[str]:
        """Names of the finished segments."""
        return {file.stem for file in (self.folder / "segments").glob("*.parquet")}

    def is_done(self, segment: Segment) -> bool:
        """Whether a segment's result is there."""
        return self._result(segment).exists()

    def failure(self) -> str | None:
        """Why the job cannot be finished: the reason of the earliest failed segment; None where none has.

        A segment whose result is there has not failed: another copy of its message has got through.
        """
        for file in sorted((self.folder / "failures").glob("*.txt")):
            if not (self.folder / "segments" / f"{file.stem}.parquet").exists():
                return file.read_text(encoding="utf-8")
        return None

    def begin(self, segment: Segment, *, message: str) -> int:
        """Count a delivery of a message that asks for the segment and return its number, from 1.

        A message comes back only where the attempt before has ended without a word. Copies of it do not count
        each other: several may run at a time, and nothing is lost.
        """
        mark = f"{segment}.{hashlib.sha256(message.encode()).hexdigest()[:16]}"
        file = os.open(self.folder / "deliveries" / mark, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, b".")
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def finish(self, segment: Segment, observed: pa.Table) -> None:
        """Keep a segment's result."""
        with atomic.new_file(self._result(segment)) as work:
            pq.write_table(observed, work, compression="zstd")

    def fail(self, segment: Segment, reason: str) -> None:
        """Give a segment up, and with it the job."""
        atomic.write_text(self.folder / "failures" / f"{segment}.txt", reason)

    def results(self) -> list[pa.Table]:
        """The segments' tables in the order of the video; all must be done."""
        return [pq.read_table(self._result(segment)) for segment in self.segments()]

    def header(self) -> Header:
        """What the merged timeline says about itself."""
        question, video = self.record.question, self.video
        return Header(
            source=self.record.video.name,
            source_sha256=question.source_sha256,
            fps=video.fps,
            frames=video.frames,
            duration_s=float(video.times_s[-1] - video.times_s[0]),
            width=video.width,
            height=video.height,
            sample_fps=question.sample_fps,
            sampled_frames=len(self.sampled()),
            classes=question.classes,
            model=ScoringModel(self.record.model_name, self.record.model_version, question.model_sha256),
        )

    def _result(self, segment: Segment) -> Path:
        return self.folder / "segments" / f"{segment}.parquet"


def _is_table(file: Path) -> bool:
    try:
        pq.read_table(file)
    except (OSError, pa.ArrowException):
        return False
    return True
