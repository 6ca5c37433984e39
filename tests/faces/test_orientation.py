"""Orientation from landmarks: exact on drawn faces, free of roll and size, mirrored in the mirror."""

from __future__ import annotations

import numpy as np
import pytest

from maskfer.faces.orientation import orientation_of
from maskfer.labels import Orientation
from tests.faces.conftest import DrawnFace

MIRRORED = [
    *(*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
]


def test_drawn_faces_look_where_they_were_drawn_to_look(drawn_faces: list[DrawnFace]) -> None:
    assert [orientation_of(face.landmarks) for face in drawn_faces] == [f.orientation for f in drawn_faces]


@pytest.mark.parametrize("roll_deg", [-30, 20])
@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_a_tilted_or_resized_picture_looks_the_same_way(
    drawn_faces: list[DrawnFace], roll_deg: float, scale: float
) -> None:
    angle = np.deg2rad(roll_deg)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for face in drawn_faces:
        assert orientation_of((face.landmarks @ turn.T).astype(np.float32)) is face.orientation


def test_left_and_right_change_places_in_the_mirror(drawn_faces: list[DrawnFace]) -> None:
    swapped = {Orientation.LEFT: Orientation.RIGHT, Orientation.RIGHT: Orientation.LEFT}
    for face in drawn_faces:
        mirrored = (face.landmarks[MIRRORED] * np.array([-1, 1])).astype(np.float32)
        assert orientation_of(mirrored) is swapped.get(face.orientation, face.orientation)


def test_landmarks_that_make_no_face_still_give_an_answer() -> None:
    assert orientation_of(np.zeros((68, 2), np.float32)) in Orientation
