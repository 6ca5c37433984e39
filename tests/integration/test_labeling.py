"""`maskfer score` with a real broker and real worker processes, some of which are killed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from maskfer.config import Settings
from maskfer.footage import timeline
from maskfer.release import Release
from services.labeling import client
from services.labeling.app import QUEUE, create_app
from services.labeling.embedded import embedded_broker
from tests.films import film_nobody, truncated
from tests.integration.archive import command_of, score
from tests.integration.conftest import MASKFER, environment, gone

_POLL_S = 0.002


@contextmanager
def _scoring(command: list[str], home: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=environment(home, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _lasting_worker(url: str, home: Path, *, log: Path) -> Iterator[None]:
    """A worker that outlives the commands it works for; enters once it listens."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [MASKFER, "worker", "--concurrency", "1"],
            env=environment(home, MASKFER_BROKER_URL=url),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while " ready." not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _calls(server: Any, command: str) -> int:
    """How often a broker was given a command."""
    return int(server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def _attempts(home: Path) -> dict[str, int]:
    """How often each segment was begun."""
    begun: Counter[str] = Counter()
    for file in home.glob("jobs/*/deliveries/*"):
        begun[file.stem] += file.stat().st_size
    return begun


def _running(home: Path) -> set[str]:
    """Segments that were begun and are not finished."""
    return _attempts(home).keys() - {file.stem for file in home.glob("jobs/*/segments/*.parquet")}


def _worker(process: subprocess.Popen[str]) -> tuple[psutil.Process, list[psutil.Process]]:
    """The worker that a command started, and its pool."""
    for child in psutil.Process(process.pid).children():
        if "services.labeling.worker" in child.cmdline():
            return child, child.children()
    raise LookupError


def _kill_mid_segment(
    process: subprocess.Popen[str], home: Path, *, whole_worker: bool, attempt: int = 1
) -> None:
    """Wait until a segment is begun for the `attempt`-th time and kill the process that works on it."""
    while process.poll() is None:
        running = _running(home)
        if any(count >= attempt for name, count in _attempts(home).items() if name in running):
            worker, pool = _worker(process)
            for victim in [worker] if whole_worker else pool:
                victim.kill()
            return
        time.sleep(_POLL_S)
    pytest.fail("the command ended before a segment was begun")


def _assert_same(table: pa.Table, other: pa.Table) -> None:
    exact = ["frame", "time_s", "track", "box", "confidence", "expression", "orientation"]
    assert table.select(exact) == other.select(exact)
    np.testing.assert_allclose(
        table["masked_probability"].to_numpy(), other["masked_probability"].to_numpy(), atol=1e-5
    )


@pytest.fixture(scope="module")
def finished(clip: Path, tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a command that has scored the clip, where nothing went wrong."""
    home = tmp_path_factory.mktemp("undisturbed")
    answer = score(command_of(tiny_release, home / "out", clip), home)
    assert answer.returncode == 0, answer.stderr
    assert "240 of 240 frames" in answer.stdout
    assert set(_attempts(home).values()) == {1}
    _, header = timeline.read(home / "out" / "clip.parquet")
    assert (header.frames, header.sampled_frames, header.source) == (240, 240, "clip.mp4")
    assert header.model.sha256 == tiny_release.sha256
    return home


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> pa.Table:
    """What scoring the clip gives where nothing goes wrong."""
    return timeline.read(finished / "out" / "clip.parquet")[0]


def test_one_person_filmed_is_one_track_over_all_segments(undisturbed: pa.Table) -> None:
    assert len(undisturbed) >= 200
    assert set(undisturbed["track"].to_pylist()) == {0}


@pytest.mark.parametrize("whole_worker", [False, True], ids=["its process", "the whole worker"])
def test_a_worker_killed_mid_segment_loses_no_frame(
    clip: Path, tiny_release: Release, undisturbed: pa.Table, tmp_path: Path, *, whole_worker: bool
) -> None:
    with _scoring(command_of(tiny_release, tmp_path / "out", clip), tmp_path) as process:
        _kill_mid_segment(process, tmp_path, whole_worker=whole_worker)
        output = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert max(_attempts(tmp_path).values()) >= 2
    table, _ = timeline.read(tmp_path / "out" / "clip.parquet")
    _assert_same(table, undisturbed)


def test_a_killed_command_leaves_no_process_and_its_work_is_taken_up(
    clip: Path, tiny_release: Release, undisturbed: pa.Table, tmp_path: Path
) -> None:
    # Small segments: when the first one is seen here, much is left to do.
    command = [*command_of(tiny_release, tmp_path / "out", clip), "--segment-seconds", "1"]
    with _scoring(command, tmp_path) as process:
        while not list(tmp_path.glob("jobs/*/segments/*.parquet")):
            assert process.poll() is None, process.communicate()
            time.sleep(_POLL_S)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert len(family) >= 3  # broker, its server, worker and pool
        assert gone(family)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    finished = {file: file.stat().st_mtime_ns for file in tmp_path.glob("jobs/*/segments/*.parquet")}
    assert finished
    assert score(command, tmp_path).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    table, _ = timeline.read(tmp_path / "out" / "clip.parquet")
    _assert_same(table, undisturbed)


def test_a_finished_segment_that_a_power_cut_emptied_is_scored_again(
    clip: Path, tiny_release: Release, finished: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    shutil.copytree(finished / "jobs", tmp_path / "jobs")
    emptied, *others = sorted(tmp_path.glob("jobs/*/segments/*.parquet"))
    emptied.write_bytes(b"")
    answer = score(command_of(tiny_release, tmp_path / "out", clip), tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert _attempts(tmp_path).keys() == {emptied.stem}
    assert others
    table, _ = timeline.read(tmp_path / "out" / "clip.parquet")
    _assert_same(table, undisturbed)


def test_a_table_that_cannot_be_written_costs_no_other(
    clip: Path, tiny_release: Release, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "jobs", tmp_path / "jobs")
    (tmp_path / "file").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clip.parquet").symlink_to(tmp_path / "file" / "clip.parquet")
    # Both are scored already, so that no worker starts.
    answer = score(command_of(tiny_release, tmp_path / "out", clip, clip), tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"maskfer: error: {clip}: is scored, but {tmp_path / 'out'}")
    assert "run the same command again" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert len(timeline.read(tmp_path / "out" / "clip.mp4.parquet")[0]) > 0


def test_a_segment_that_always_ends_its_worker_is_given_up(
    clip: Path, tiny_release: Release, tmp_path: Path
) -> None:
    command = [*command_of(tiny_release, tmp_path / "out", clip), "--segment-seconds", "60"]
    with _scoring(command, tmp_path, MASKFER_MAX_DELIVERIES="2") as process:
        for attempt in (1, 2):
            _kill_mid_segment(process, tmp_path, whole_worker=False, attempt=attempt)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "ended its worker 2 times and was given up" in errors
    assert not list((tmp_path / "out").iterdir())


def test_a_broken_video_does_not_cost_the_others(clip: Path, tiny_release: Release, tmp_path: Path) -> None:
    broken = truncated(clip, tmp_path / "broken.mp4")
    nobody = film_nobody(tmp_path / "elsewhere" / "clip.mp4")
    command = command_of(tiny_release, tmp_path / "out", broken, clip, tmp_path / "missing.mp4", nobody)
    answer = score(command, tmp_path)
    assert answer.returncode == 2
    errors = answer.stderr.strip().splitlines()
    assert [line.split(": ")[:2] for line in errors] == [["maskfer", "error"]] * 2
    assert "broken.mp4: breaks off at" in errors[0]
    assert "missing.mp4: no such file" in errors[1]
    tables = {file.name: timeline.read(file)[0] for file in (tmp_path / "out").iterdir()}
    assert tables.keys() == {"clip.parquet", "clip.mp4.parquet"}
    assert len(tables["clip.parquet"]) > 0
    assert len(tables["clip.mp4.parquet"]) == 0
    assert tables["clip.parquet"].schema.names == tables["clip.mp4.parquet"].schema.names


def test_a_broker_that_does_not_answer_is_one_line(clip: Path, tiny_release: Release, tmp_path: Path) -> None:
    url = "redis://:secret@127.0.0.1:9/0"
    answer = score(command_of(tiny_release, tmp_path / "out", clip), tmp_path, MASKFER_BROKER_URL=url)
    assert answer.returncode == 2
    assert answer.stderr.startswith("maskfer: error: broker redis://127.0.0.1:9/0: no answer")
    assert "secret" not in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_segments_that_wait_behind_another_archive_are_not_queued_again(
    clip: Path, tiny_release: Release, undisturbed: pa.Table, tmp_path: Path
) -> None:
    command = command_of(tiny_release, tmp_path / "out", clip, workers=0)
    with embedded_broker() as url, _lasting_worker(url, tmp_path, log=tmp_path / "log"):
        app = create_app(Settings(home=tmp_path), broker_url=url)
        # It answers, but has no time for this queue.
        app.control.cancel_consumer(QUEUE, reply=True, timeout=30.0, limit=1)
        settings = {"MASKFER_BROKER_URL": url, "MASKFER_VISIBILITY_TIMEOUT_S": "2"}
        with (
            app.connection_for_read() as connection,
            _scoring(command, tmp_path, **settings) as process,
        ):
            server = connection.default_channel.client
            # Until the command has looked twice after a silence of two visibility timeouts.
            while _calls(server, "lrange") < 2 and server.llen(QUEUE) <= 4:
                assert process.poll() is None, process.communicate()
                time.sleep(0.1)
            assert server.llen(QUEUE) == 4
            app.control.add_consumer(QUEUE, reply=True, timeout=30.0, limit=1)
            output = process.communicate(timeout=120)
        app.close()
    assert process.returncode == 0, output
    table, _ = timeline.read(tmp_path / "out" / "clip.parquet")
    _assert_same(table, undisturbed)


def test_workers_that_do_not_share_the_home_end_the_command_with_one_line(
    clip: Path, tiny_release: Release, tmp_path: Path
) -> None:
    home, elsewhere, log = tmp_path / "home", tmp_path / "elsewhere", tmp_path / "log"
    command = command_of(tiny_release, tmp_path / "out", clip, workers=0)
    with embedded_broker() as url, _lasting_worker(url, elsewhere, log=log):
        answer = score(command, home, MASKFER_BROKER_URL=url, MASKFER_VISIBILITY_TIMEOUT_S="2")
    assert answer.returncode == 2
    assert "none gets finished; workers must have this command's MASKFER_HOME" in answer.stderr
    assert str(home) in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert f"cannot be read under {elsewhere / 'jobs'}" in log.read_text()


class _OneByOne(tuple[Path, ...]):
    """Videos of which the second is only there once a part of the first is scored."""

    jobs: Path

    def __iter__(self) -> Iterator[Path]:
        first, *others = super().__iter__()
        yield first
        until = time.monotonic() + 120.0
        while not list(self.jobs.glob("*/segments/*.parquet")):
            assert time.monotonic() < until, "the first video waits for the second"
            time.sleep(0.1)
        yield from others


def test_the_first_video_is_scored_while_the_next_is_not_read_yet(
    tiny_release: Release, tmp_path: Path
) -> None:
    videos = _OneByOne((film_nobody(tmp_path / "a.mp4"), tmp_path / "missing.mp4"))
    videos.jobs = tmp_path / "jobs"
    first, second = client.score_videos(
        videos, tmp_path, settings=Settings(home=tmp_path), model=str(tiny_release.path), workers=1
    )
    assert (first.video, first.error) == (videos[0], None)
    assert "missing.mp4: no such file" in str(second.error)


def test_a_job_that_cannot_be_begun_costs_no_other(tiny_release: Release, tmp_path: Path) -> None:
    video = film_nobody(tmp_path / "a.mp4")
    (tmp_path / "jobs").write_text("in the way")
    first, second = client.score_videos(
        [video, tmp_path / "missing.mp4"],
        tmp_path,
        settings=Settings(home=tmp_path),
        model=str(tiny_release.path),
    )
    assert str(first.error).startswith(f"{video}: its job cannot be begun")
    assert "missing.mp4: no such file" in str(second.error)


def test_a_worker_without_a_broker_says_what_to_set(tmp_path: Path) -> None:
    answer = score([MASKFER, "worker"], tmp_path)
    assert answer.returncode == 2
    assert "MASKFER_BROKER_URL" in answer.stderr


@pytest.mark.shared
def test_real_footage_of_two_people_and_of_nobody(
    shared_dir: Path, tiny_release: Release, tmp_path: Path
) -> None:
    footage = shared_dir / "footage"
    command = [
        *(MASKFER, "score", str(footage / "two-people.mp4"), str(footage / "no-face.mp4")),
        *("--model", str(tiny_release.path), "--out", str(tmp_path / "out"), "--fps", "2"),
    ]
    answer = score(command, tmp_path)
    assert answer.returncode == 0, answer.stderr
    people, header = timeline.read(tmp_path / "out" / "two-people.parquet")
    assert len(set(people["track"].to_pylist())) >= 2
    assert header.frames == 275
    nobody, header = timeline.read(tmp_path / "out" / "no-face.parquet")
    assert (len(nobody), header.frames) == (0, 95)
