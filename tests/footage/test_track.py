from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskfer.footage.decode import Video
from maskfer.footage.track import MAX_GAP_S, Tracker, assign_tracks, max_gap_s


def _tracks(rows: list[tuple[int, float, float]], *, fps: float = 5.0, side: float = 40.0) -> list[int]:
    """Track faces given as frame, left, top."""
    frames = np.array([row[0] for row in rows], np.int64)
    boxes = np.array([(left, top, side, side) for _, left, top in rows], np.float32).reshape(-1, 4)
    return assign_tracks(frames, frames / fps, boxes).tolist()


def test_no_faces_have_no_tracks() -> None:
    assert _tracks([]) == []


def test_a_face_that_moves_slowly_is_one_track() -> None:
    assert _tracks([(frame, 10.0 * frame, 0.0) for frame in range(10)]) == [0] * 10


def test_two_faces_keep_their_numbers_whatever_the_order_of_rows() -> None:
    rows = [(0, 0.0, 0.0), (0, 200.0, 0.0), (1, 205.0, 0.0), (1, 5.0, 0.0), (2, 10.0, 0.0), (2, 210.0, 0.0)]
    assert _tracks(rows) == [0, 1, 1, 0, 0, 1]


def test_a_face_unseen_for_a_moment_is_the_same_track() -> None:
    assert _tracks([(0, 0.0, 0.0), (4, 0.0, 0.0)]) == [0, 0]


def test_a_face_unseen_for_longer_than_a_second_is_a_new_track() -> None:
    assert _tracks([(0, 0.0, 0.0), (6, 0.0, 0.0)]) == [0, 1]


def test_a_face_elsewhere_is_a_new_track() -> None:
    assert _tracks([(0, 0.0, 0.0), (1, 300.0, 0.0)]) == [0, 1]


def test_a_face_of_another_size_at_the_same_place_is_a_new_track() -> None:
    frames = np.array([0, 1], np.int64)
    boxes = np.array([[0, 0, 40, 40], [0, 0, 160, 160]], np.float32)
    assert assign_tracks(frames, frames / 5.0, boxes).tolist() == [0, 1]


def test_the_closest_pair_is_joined_first() -> None:
    assert _tracks([(0, 0.0, 0.0), (1, 20.0, 0.0), (1, 2.0, 0.0)]) == [0, 1, 0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 120))
def test_frames_that_come_one_by_one_get_the_tracks_of_the_whole_file(seed: int, faces: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.sort(rng.integers(0, 40, faces)).astype(np.int64)
    boxes = np.concatenate([rng.uniform(0, 200, (faces, 2)), rng.uniform(20, 90, (faces, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    tracker = Tracker()
    # Frames without a face come too, as from a camera.
    online = [tracker.update(frame / 5.0, boxes[frames == frame]) for frame in range(40)]
    assert np.concatenate(online).tolist() == assign_tracks(frames, frames / 5.0, boxes).tolist()


def test_a_track_that_is_over_is_forgotten() -> None:
    tracker = Tracker()
    box = np.array([[0, 0, 40, 40]], np.float32)
    assert tracker.update(0.0, box).tolist() == [0]
    assert tracker.update(0.5, box[:0]).tolist() == []
    assert tracker.live == {0}
    tracker.update(1.5, box[:0])
    assert tracker.live == frozenset()


@pytest.mark.parametrize(
    ("sample_fps", "fps"), [(1.0, 29.97), (0.5, 25.0), (0.2, 30.0), (5.0, 0.5), (0.99, 1.0), (None, 0.4)]
)
def test_a_face_in_every_judged_frame_is_one_track_however_far_apart_they_are(
    sample_fps: float | None, fps: float
) -> None:
    video = Video(Path("film.mp4"), np.arange(400) / fps, 64, 48)
    frames = video.sample(sample_fps)
    boxes = np.tile(np.array([[0, 0, 40, 40]], np.float32), (len(frames), 1))
    limit_s = max_gap_s(sample_fps=sample_fps, fps=fps)
    tracks = assign_tracks(frames, video.times_s[frames], boxes, max_gap_s=limit_s)
    assert set(tracks.tolist()) == {0}


def test_at_a_frame_a_second_a_face_missing_in_one_is_a_new_track() -> None:
    box = np.array([[0, 0, 40, 40]] * 2, np.float32)
    limit_s = max_gap_s(sample_fps=1.0, fps=30.0)
    assert assign_tracks(np.array([0, 60]), np.array([0.0, 2.0]), box, max_gap_s=limit_s).tolist() == [0, 1]


@pytest.mark.parametrize(("sample_fps", "fps"), [(5.0, 25.0), (None, 12.0), (2.0, 25.0), (5.0, 0.0)])
def test_where_frames_are_judged_often_a_track_outlives_one_second(
    sample_fps: float | None, fps: float
) -> None:
    assert max_gap_s(sample_fps=sample_fps, fps=fps) == MAX_GAP_S
