from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from maskfer.config import Settings
from maskfer.errors import InputError, ReleaseError, ServiceUnavailable, VideoError
from maskfer.footage.decode import Video
from maskfer.footage.score import observation_schema
from services.labeling.app import TASK, create_app
from services.labeling.jobs import Job, JobRecord, Question, Segment
from services.labeling.scoring import SegmentScorer

_CLASSES = ("positive", "neutral", "negative")
_FILE = b"no film, but the job says so"
_MTIME_NS = 1_700_000_000_123_456_789


def _job(
    jobs: Path, *, sample_fps: float | None = 5.0, segment_seconds: float = 2.0, path: str = "a.mp4"
) -> Job:
    times_s = 0.84 + np.arange(300) / 29.97
    record = JobRecord(
        question=Question(
            source_sha256="00",
            model_sha256="11",
            classes=_CLASSES,
            sample_fps=sample_fps,
            segment_seconds=segment_seconds,
        ),
        video=Path(path),
        size_bytes=len(_FILE),
        mtime_ns=_MTIME_NS,
        width=64,
        height=48,
        model_folder=Path("release"),
        model_reference=None,
        model_name="maskfer",
        model_version="1",
    )
    return Job.create(jobs, record, Video(Path(path), times_s, 64, 48))


def _deliver(settings: Settings, job: Job, segment: Segment, *, message: str) -> None:
    """Run the task as a worker runs it that a message reaches."""
    task = create_app(settings, broker_url="memory://").tasks[TASK]
    task.apply(args=(job.id, segment.start, segment.stop), task_id=message)


@pytest.mark.parametrize("sample_fps", [None, 5.0, 0.4])
@pytest.mark.parametrize("segment_seconds", [1.0, 3.3, 600.0])
def test_segments_hold_every_sampled_frame_exactly_once(
    tmp_path: Path, sample_fps: float | None, segment_seconds: float
) -> None:
    job = _job(tmp_path, sample_fps=sample_fps, segment_seconds=segment_seconds)
    parts = [job.frames_of(segment) for segment in job.segments()]
    assert all(len(part) for part in parts)
    assert np.concatenate(parts).tolist() == job.sampled().tolist()
    spans = [np.ptp(job.video.times_s[part]) for part in parts]
    assert max(spans) < segment_seconds


def test_the_same_question_is_the_same_job_wherever_the_file_lies(tmp_path: Path) -> None:
    assert _job(tmp_path).id == _job(tmp_path, path="/elsewhere/b.mp4").id
    assert _job(tmp_path).id != _job(tmp_path, sample_fps=None).id


def test_taking_a_job_up_keeps_results_and_forgets_failures(tmp_path: Path) -> None:
    job = _job(tmp_path)
    done, failed = job.segments()[:2]
    job.finish(done, observation_schema(_CLASSES).empty_table())
    job.begin(failed, message="a")
    job.fail(failed, "broken")
    assert (job.failure(), job.begin(failed, message="a")) == ("broken", 2)
    again = _job(tmp_path)
    assert again.done() == {str(done)}
    assert (again.failure(), again.begin(failed, message="a")) == (None, 1)


@pytest.mark.parametrize("left", [0, 200])
@pytest.mark.parametrize("padded", [False, True])
def test_taking_a_job_up_scores_a_damaged_result_again(tmp_path: Path, left: int, padded: bool) -> None:
    job = _job(tmp_path)
    whole, damaged = job.segments()[:2]
    for segment in (whole, damaged):
        job.finish(segment, observation_schema(_CLASSES).empty_table())
    file = job.folder / "segments" / f"{damaged}.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:left] + bytes(len(content) - left if padded else 0))
    assert _job(tmp_path).done() == {str(whole)}


def test_what_a_killed_worker_left_among_the_failures_is_cleared_away(tmp_path: Path) -> None:
    job = _job(tmp_path)
    left = job.folder / "failures" / ".00000000-00000010.txt.k3u9x2"
    left.mkdir()
    (left / "00000000-00000010.txt").write_text("half")
    _job(tmp_path)
    assert not list((job.folder / "failures").iterdir())


def test_a_worker_opens_what_the_client_wrote(tmp_path: Path) -> None:
    job = _job(tmp_path)
    opened = Job.open(tmp_path, job.id)
    assert opened.record == job.record
    assert opened.video.times_s.tolist() == job.video.times_s.tolist()


@pytest.mark.parametrize("job_id", ["../../etc", "0123456789abcdeg", "", "0123456789abcdef\n"])
def test_a_job_id_cannot_lead_elsewhere(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(InputError, match="not a job id"):
        Job.open(tmp_path, job_id)


def test_an_unknown_job_says_what_must_be_shared(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="share MASKFER_HOME"):
        Job.open(tmp_path, "0123456789abcdef")


def test_a_segment_that_keeps_ending_its_worker_is_given_up_with_a_reason(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, max_deliveries=2)
    job = _job(tmp_path / "jobs")
    segment = job.segments()[1]
    for _ in range(2):
        job.begin(segment, message="a")  # and then its process was killed
    _deliver(settings, job, segment, message="a")
    assert "from 2.8 s to 4.6 s ended its worker 2 times and was given up" in str(job.failure())


def test_copies_of_a_segment_s_message_that_run_at_a_time_do_not_give_it_up(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, max_deliveries=2)
    job = _job(tmp_path / "jobs")
    segment = job.segments()[1]
    for copy in ("a", "b", "c"):
        job.begin(segment, message=copy)  # and its process works on it
    _deliver(settings, job, segment, message="d")
    assert "a.mp4: not there for the worker" in str(job.failure())  # it was tried


def test_a_result_that_arrives_wins_over_a_failure(tmp_path: Path) -> None:
    job = _job(tmp_path)
    first, second = job.segments()[:2]
    job.fail(first, "lost")
    job.fail(second, "broken")
    job.finish(first, observation_schema(_CLASSES).empty_table())
    assert job.failure() == "broken"
    job.finish(second, observation_schema(_CLASSES).empty_table())
    assert job.failure() is None


def test_a_worker_reads_a_video_whole_only_where_its_size_or_time_differs(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(_FILE)  # its sha256 is not the one that the job asks for
    os.utime(video, ns=(_MTIME_NS, _MTIME_NS))
    job = _job(tmp_path / "jobs", path=str(video))
    scorer = SegmentScorer(Settings(home=tmp_path))
    with pytest.raises(ReleaseError, match="release"):  # what comes after the video
        scorer.score(job, job.segments()[0])
    os.utime(video, ns=(_MTIME_NS, _MTIME_NS + 1))
    with pytest.raises(VideoError, match="changed since it was queued"):
        scorer.score(job, job.segments()[0])


def test_a_worker_that_does_not_see_a_job_logs_where_it_looked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = _job(tmp_path / "jobs")
    _deliver(Settings(home=tmp_path / "elsewhere"), job, job.segments()[0], message="a")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"cannot be read under {tmp_path / 'elsewhere' / 'jobs'}" in line
    assert "share MASKFER_HOME" in line


def test_a_worker_that_cannot_write_a_job_logs_what_it_could_not_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = _job(tmp_path / "jobs")
    for part in ("deliveries", "failures"):
        (job.folder / part).rmdir()
        (job.folder / part).write_text("no folder")
    _deliver(Settings(home=tmp_path), job, job.segments()[0], message="a")
    assert f"job {job.id}: that its segment failed cannot be recorded" in caplog.text


def test_a_finished_segment_is_not_scored_again(tmp_path: Path) -> None:
    job = _job(tmp_path / "jobs")
    segment = Segment(0, 10)
    job.finish(segment, observation_schema(_CLASSES).empty_table())
    _deliver(Settings(home=tmp_path), job, segment, message="a")
    assert job.begin(segment, message="a") == 1
