"""What a worker process keeps between segments: the model and the videos it has checked."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import pyarrow as pa

from maskfer import release as releases
from maskfer.config import Settings
from maskfer.errors import ReleaseCorrupted, VideoError
from maskfer.faces.face import FaceDetector
from maskfer.footage import score
from maskfer.inference import Analyzer
from maskfer.release import Release, file_sha256
from services.labeling.jobs import Job, Segment
from services.model import load_model


class SegmentScorer:
    """Judges segments; loads a model at its first segment and keeps it, one model at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: tuple[str, Analyzer, FaceDetector] | None = None

    def score(self, job: Job, segment: Segment) -> pa.Table:
        """Return the segment's rows.

        Raises `VideoError` where the video is not the one that was asked about or does not decode, and
        `ReleaseError` or `RegistryError` where the model cannot be had.
        """
        _check_source(job)
        analyzer, detector = self._model(job)
        return score.score_segment(analyzer, detector, job.video, job.frames_of(segment))

    def _model(self, job: Job) -> tuple[Analyzer, FaceDetector]:
        wanted = job.record.question.model_sha256
        if self._loaded is None or self._loaded[0] != wanted:
            # The worker is one of several processes: OpenCV's threads would contend with the others.
            cv2.setNumThreads(1)
            release = self._release(job)
            if release.sha256 != wanted:
                raise ReleaseCorrupted(
                    f"{release.path}: sha256 is {release.sha256[:12]}…, the job asks for {wanted[:12]}…; "
                    "the model changed since it was queued, score again"
                )
            self._loaded = wanted, Analyzer(release), score.footage_detector()
        return self._loaded[1], self._loaded[2]

    def _release(self, job: Job) -> Release:
        record = job.record
        if record.model_folder.is_dir() or record.model_reference is None:
            return releases.read(record.model_folder)
        return load_model(record.model_reference, self._settings).release


def _check_source(job: Job) -> None:
    path = job.video.path
    try:
        status = path.stat()
    except OSError as error:
        raise VideoError(
            f"{path}: not there for the worker ({error.strerror}); it must share the path"
        ) from error
    if (status.st_size, status.st_mtime_ns) == (job.record.size_bytes, job.record.mtime_ns):
        # Reading gigabytes would take longer than a segment may, and every worker process would do it.
        return
    if _sha256(path, status.st_size, status.st_mtime_ns) != job.record.question.source_sha256:
        raise VideoError(f"{path}: changed since it was queued; score it again")


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - they are the key: a changed file is read again
    return file_sha256(path)
