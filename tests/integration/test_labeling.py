"""`maskfer score` with a real broker and real worker processes, some of which are killed."""

from __future__ import annotations

import os
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
import pyarrow.parquet as pq
import pytest

from maskfer.config import Settings
from maskfer.footage import timeline
from maskfer.release import Release
from services.labeling import client
from services.labeling.app import QUEUE, create_app
from services.labeling.embedded import embedded_broker
from tests.films import film_nobody, truncated
from tests.integration.conftest import MASKFER, environment, gone

_POLL_S = 0.002


def _command(release: Release, out: Path, *videos: Path, workers: int = 1) -> list[str]:
    options = ("--model", str(release.path), "--out", str(out), "--workers", str(workers))
    return [MASKFER, "score", *map(str, videos), *options, "--fps", "0", "--segment-seconds", "5"]


def _score(command: list[str], home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(home, **settings), capture_output=True, text=True, timeout=200, check=False
    )


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
    answer = _score(_command(tiny_release, home / "out", clip), home)
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
    with _scoring(_command(tiny_release, tmp_path / "out", clip), tmp_path) as process:
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
    command = [*_command(tiny_release, tmp_path / "out", clip), "--segment-seconds", "1"]
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
    assert _score(command, tmp_path).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    table, _ = timeline.read(tmp_path / "out" / "clip.parquet")
    _assert_same(table, undisturbed)


def test_a_finished_segment_that_a_power_cut_emptied_is_scored_again(
    clip: Path, tiny_release: Release, finished: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    shutil.copytree(finished / "jobs", tmp_path / "jobs")
    emptied, *others = sorted(tmp_path.glob("jobs/*/segments/*.parquet"))
    emptied.write_bytes(b"")
    answer = _score(_command(tiny_release, tmp_path / "out", clip), tmp_path)
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
    answer = _score(_command(tiny_release, tmp_path / "out", clip, clip), tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"maskfer: error: {clip}: is scored, but {tmp_path / 'out'}")
    assert "run the same command again" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert len(timeline.read(tmp_path / "out" / "clip.mp4.parquet")[0]) > 0


def test_another_video_of_the_same_name_is_scored_beside_the_earlier_one(
    tiny_release: Release, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    monday = film_nobody(tmp_path / "mon" / "cam1.mp4", frames=6)
    tuesday = film_nobody(tmp_path / "tue" / "cam1.mp4", frames=9)
    settings, release = Settings(home=tmp_path), str(tiny_release.path)
    client.score_videos([monday], out, settings=settings, model=release, workers=1)
    first = (out / "cam1.parquet").read_bytes()
    answer = _score(_command(tiny_release, out, tuesday), tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert f"-> {out / 'cam1.mp4.parquet'} (cam1.parquet is taken)" in answer.stdout
    assert (out / "cam1.parquet").read_bytes() == first
    # Both at a time, the other way round: each finds its own.
    done = client.score_videos([tuesday, monday], out, settings=settings, model=release, workers=1)
    assert [one.timeline for one in done] == [out / "cam1.mp4.parquet", out / "cam1.parquet"]
    frames = {file.name: timeline.read_header(file).frames for file in out.iterdir()}
    assert frames == {"cam1.parquet": 6, "cam1.mp4.parquet": 9}


def test_the_same_video_scored_otherwise_replaces_its_table(tiny_release: Release, tmp_path: Path) -> None:
    video = film_nobody(tmp_path / "cam1.mp4", frames=12)
    moved = tmp_path / "moved" / "cam1.mp4"
    moved.parent.mkdir()
    shutil.copy(video, moved)
    settings, release = Settings(home=tmp_path), str(tiny_release.path)
    for at, sample_fps, judged in ((video, None, 12), (moved, 2.0, 2)):
        (done,) = client.score_videos(
            [at], tmp_path / "out", settings=settings, model=release, sample_fps=sample_fps, workers=1
        )
        assert done.timeline == tmp_path / "out" / "cam1.parquet"
        assert timeline.read_header(done.timeline).sampled_frames == judged


@pytest.mark.parametrize("what", ["a Parquet file", "no Parquet file", "a folder", "a pipe"])
def test_what_is_no_timeline_is_never_replaced(
    clip: Path, tiny_release: Release, finished: Path, tmp_path: Path, what: str
) -> None:
    shutil.copytree(finished / "jobs", tmp_path / "jobs")
    foreign = tmp_path / "out" / "clip.parquet"
    foreign.parent.mkdir()
    match what:
        case "a Parquet file":
            pq.write_table(pa.table({"x": [1]}), foreign)
        case "no Parquet file":
            foreign.write_text("mine")
        case "a folder":
            foreign.mkdir()
        case _:
            os.mkfifo(foreign)
    before = foreign.read_bytes() if foreign.is_file() else foreign.stat().st_mode
    # It is scored already, so that no worker starts.
    answer = _score(_command(tiny_release, tmp_path / "out", clip), tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert (foreign.read_bytes() if foreign.is_file() else foreign.stat().st_mode) == before
    assert timeline.read_header(tmp_path / "out" / "clip.mp4.parquet").frames == 240


def test_a_table_of_another_video_that_comes_while_this_one_is_scored_stays(
    tiny_release: Release, tmp_path: Path
) -> None:
    video, table = film_nobody(tmp_path / "cam1.mp4", frames=6), tmp_path / "out" / "cam1.parquet"

    def comes(_done: int, _all: int) -> None:
        if not table.exists():
            table.parent.mkdir()
            table.write_text("of another command")

    (done,) = client.score_videos(
        [video],
        table.parent,
        settings=Settings(home=tmp_path),
        model=str(tiny_release.path),
        workers=1,
        progress=comes,
    )
    assert f"is scored, but {table} holds something else by now; run the same command again" in str(
        done.error
    )
    assert table.read_text() == "of another command"


def test_a_name_that_is_too_long_for_a_table_is_told_before_it_is_scored_and_costs_no_other(
    tiny_release: Release, tmp_path: Path
) -> None:
    client.check_folder(tmp_path / "out")
    video = film_nobody(tmp_path / "n.mp4", frames=6)
    long = Path(shutil.copy(video, tmp_path / f"{'n' * 250}.mp4"))
    first, second = client.score_videos(
        *([long, video], tmp_path / "out"),
        settings=Settings(home=tmp_path),
        model=str(tiny_release.path),
        workers=1,
    )
    assert "its job cannot be begun ([Errno 36] File name too long" in str(first.error)
    assert second.timeline == tmp_path / "out" / "n.parquet"


def test_a_segment_that_always_ends_its_worker_is_given_up(
    clip: Path, tiny_release: Release, tmp_path: Path
) -> None:
    command = [*_command(tiny_release, tmp_path / "out", clip), "--segment-seconds", "60"]
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
    command = _command(tiny_release, tmp_path / "out", broken, clip, tmp_path / "missing.mp4", nobody)
    answer = _score(command, tmp_path)
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
    answer = _score(_command(tiny_release, tmp_path / "out", clip), tmp_path, MASKFER_BROKER_URL=url)
    assert answer.returncode == 2
    assert answer.stderr.startswith("maskfer: error: broker redis://127.0.0.1:9/0: no answer")
    assert "secret" not in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_segments_that_wait_behind_another_archive_are_not_queued_again(
    clip: Path, tiny_release: Release, undisturbed: pa.Table, tmp_path: Path
) -> None:
    command = _command(tiny_release, tmp_path / "out", clip, workers=0)
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
    command = _command(tiny_release, tmp_path / "out", clip, workers=0)
    with embedded_broker() as url, _lasting_worker(url, elsewhere, log=log):
        answer = _score(command, home, MASKFER_BROKER_URL=url, MASKFER_VISIBILITY_TIMEOUT_S="2")
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
    answer = _score([MASKFER, "worker"], tmp_path)
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
    answer = _score(command, tmp_path)
    assert answer.returncode == 0, answer.stderr
    people, header = timeline.read(tmp_path / "out" / "two-people.parquet")
    assert len(set(people["track"].to_pylist())) >= 2
    assert header.frames == 275
    nobody, header = timeline.read(tmp_path / "out" / "no-face.parquet")
    assert (len(nobody), header.frames) == (0, 95)
