"""Where `maskfer score` puts its tables: none replaces what is not of the same video."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskfer.config import Settings
from maskfer.footage import timeline
from maskfer.release import Release
from services.labeling import client
from tests.films import film_nobody
from tests.integration.archive import command_of, score


def test_another_video_of_the_same_name_is_scored_beside_the_earlier_one(
    tiny_release: Release, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    monday = film_nobody(tmp_path / "mon" / "cam1.mp4", frames=6)
    tuesday = film_nobody(tmp_path / "tue" / "cam1.mp4", frames=9)
    settings, release = Settings(home=tmp_path), str(tiny_release.path)
    client.score_videos([monday], out, settings=settings, model=release, workers=1)
    first = (out / "cam1.parquet").read_bytes()
    answer = score(command_of(tiny_release, out, tuesday), tmp_path)
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


@pytest.fixture(scope="module")
def scored(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home in which a video is scored already, so that no worker starts for it, and the video."""
    home = tmp_path_factory.mktemp("scored")
    video, out = film_nobody(home / "cam1.mp4", frames=6), home / "out"
    answer = score(command_of(tiny_release, out, video), home)
    assert answer.returncode == 0, answer.stderr
    return home, video


@pytest.mark.parametrize("what", ["a Parquet file", "no Parquet file", "a folder", "a pipe"])
def test_what_is_no_timeline_is_never_replaced(
    scored: tuple[Path, Path], tiny_release: Release, tmp_path: Path, what: str
) -> None:
    home, video = scored
    shutil.copytree(home / "jobs", tmp_path / "jobs")
    foreign = tmp_path / "out" / "cam1.parquet"
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
    answer = score(command_of(tiny_release, tmp_path / "out", video), tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert (foreign.read_bytes() if foreign.is_file() else foreign.stat().st_mode) == before
    assert timeline.read_header(tmp_path / "out" / "cam1.mp4.parquet").frames == 6


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
