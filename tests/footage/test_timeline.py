from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskfer.errors import VideoError
from maskfer.footage import timeline
from maskfer.footage.decode import Video, probe
from maskfer.footage.score import footage_detector, score_segment
from maskfer.footage.timeline import Header, ScoringModel
from maskfer.inference import Analyzer
from tests.films import film_nobody

_MODEL = ScoringModel("maskfer", "3", "ab" * 32)


def _header(video: Video, analyzer: Analyzer) -> Header:
    return Header(
        source=video.path.name,
        source_sha256="00" * 32,
        fps=video.fps,
        frames=video.frames,
        duration_s=float(video.times_s[-1]),
        width=video.width,
        height=video.height,
        sample_fps=4.0,
        sampled_frames=len(video.sample(4.0)),
        classes=analyzer.release.classes,
        model=_MODEL,
    )


def _scored(analyzer: Analyzer, video: Video, cuts: list[int]) -> pa.Table:
    detector = footage_detector()
    parts = [score_segment(analyzer, detector, video, part) for part in np.split(video.sample(4.0), cuts)]
    return timeline.merge(parts, _header(video, analyzer))


def test_every_frame_with_a_face_has_a_row_with_its_probabilities(analyzer: Analyzer, video: Video) -> None:
    table = _scored(analyzer, video, [])
    classes = analyzer.release.classes
    assert set(table["frame"].to_pylist()) <= set(video.sample(4.0).tolist())
    assert len(table) >= 0.8 * len(video.sample(4.0))
    total = sum(table[f"probability_{name}"].to_numpy() for name in classes)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert set(table["expression"].to_pylist()) <= set(classes)
    assert set(table["model_version"].to_pylist()) == {"3"}


def test_the_table_does_not_depend_on_how_the_file_is_cut(analyzer: Analyzer, video: Video) -> None:
    whole = _scored(analyzer, video, [])
    cut = _scored(analyzer, video, [1, 5, 6, 17])
    exact = [name for name in whole.column_names if pa.types.is_integer(whole.schema.field(name).type)]
    assert whole.select([*exact, "time_s", "box", "confidence"]) == cut.select(
        [*exact, "time_s", "box", "confidence"]
    )
    for name in analyzer.release.classes:
        column = f"probability_{name}"
        np.testing.assert_allclose(whole[column].to_numpy(), cut[column].to_numpy(), atol=1e-5)


def test_a_face_judged_once_a_second_is_one_track(analyzer: Analyzer, video: Video) -> None:
    rows = score_segment(analyzer, footage_detector(), video, video.sample(4.0)[:1]).slice(0, 1)
    times_s = np.arange(10) * 1.001  # at 29.97 frames per second no frame lies on the full second
    film = pa.concat_tables([rows] * len(times_s))
    film = film.set_column(0, rows.schema.field(0), pa.array(np.arange(10) * 30))
    film = film.set_column(1, rows.schema.field(1), pa.array(times_s))
    header = replace(_header(video, analyzer), fps=29.97, sample_fps=1.0)
    assert set(timeline.merge([film], header)["track"].to_pylist()) == {0}


def test_a_video_without_a_face_gives_an_empty_table_of_the_right_schema(
    analyzer: Analyzer, video: Video, tmp_path: Path
) -> None:
    nobody = probe(film_nobody(tmp_path / "nobody.mp4"))
    table = _scored(analyzer, nobody, [])
    assert len(table) == 0
    assert table.schema == _scored(analyzer, video, []).schema


def test_a_written_timeline_says_what_made_it(analyzer: Analyzer, video: Video, tmp_path: Path) -> None:
    table = _scored(analyzer, video, [])
    timeline.write(table, tmp_path / "out" / "clip.parquet")
    back, header = timeline.read(tmp_path / "out" / "clip.parquet")
    assert back == table
    assert header == timeline.read_header(tmp_path / "out" / "clip.parquet") == _header(video, analyzer)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["clip.parquet"]


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"maskfer": "[]"}, {"maskfer": '"x"'}])
def test_another_parquet_file_is_no_timeline(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    table = pa.table({"x": [1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "x.parquet")
    for read in (timeline.read, timeline.read_header):
        with pytest.raises(VideoError, match="no timeline"):
            read(tmp_path / "x.parquet")


@pytest.mark.shared
def test_one_person_in_front_of_the_camera_is_one_track(analyzer: Analyzer, shared_dir: Path) -> None:
    table = _scored(analyzer, probe(shared_dir / "footage" / "single-face.mp4"), [3])
    assert len(table) == len(set(table["frame"].to_pylist()))
    assert set(table["track"].to_pylist()) == {0}


@pytest.mark.shared
def test_two_people_are_more_than_one_track(analyzer: Analyzer, shared_dir: Path) -> None:
    table = _scored(analyzer, probe(shared_dir / "footage" / "two-people.mp4"), [10])
    frames, tracks = table["frame"].to_numpy(), table["track"].to_numpy()
    assert len(set(tracks.tolist())) >= 2
    assert len(set(zip(frames.tolist(), tracks.tolist(), strict=True))) == len(table)
