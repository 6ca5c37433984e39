"""The mean face finds the pose it was seen in, from five points."""

from __future__ import annotations

import numpy as np
import pytest

from maskfer.faces.orientation import turn_of
from maskfer.faces.shape import fit_mean_face, five_of
from maskfer.labels import Orientation
from tests.faces.conftest import DrawnFace


def test_a_fitted_face_meets_the_five_points(drawn_faces: list[DrawnFace]) -> None:
    for face in drawn_faces:
        five = five_of(face.landmarks)
        size = np.linalg.norm(five - five.mean(axis=0), axis=1).mean()
        fitted = fit_mean_face(five)
        assert fitted.shape == (68, 2)
        assert np.linalg.norm(five_of(fitted) - five, axis=1).mean() < 0.25 * size


def test_a_fitted_face_is_turned_to_the_side_that_the_face_is_turned_to(drawn_faces: list[DrawnFace]) -> None:
    for face in drawn_faces:
        left_share = turn_of(fit_mean_face(five_of(face.landmarks))).left_share
        if face.orientation is Orientation.LEFT:
            assert left_share < 0.4
        elif face.orientation is Orientation.RIGHT:
            assert left_share > 0.6


@pytest.mark.parametrize("angle_deg", [-40, 0, 25])
def test_moving_scaling_and_rolling_the_points_does_the_same_to_the_face(
    frontal_face: DrawnFace, angle_deg: float
) -> None:
    angle = np.deg2rad(angle_deg)
    turn = 3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    five = five_of(frontal_face.landmarks)
    moved = fit_mean_face((five @ turn.T + [500, -80]).astype(np.float32))
    np.testing.assert_allclose(moved, fit_mean_face(five) @ turn.T + [500, -80], atol=1.0)


def test_five_equal_points_give_finite_landmarks() -> None:
    assert np.isfinite(fit_mean_face(np.full((5, 2), 7.0, np.float32))).all()
