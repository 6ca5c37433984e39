"""dlib's landmarks lie where the drawn ones are; where they fail, a mean face stands in."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import pytest

from maskfer.errors import InputError
from maskfer.faces.detect import default_detector, primary_face
from maskfer.faces.landmarks import DlibLandmarks, disagreement
from maskfer.labels import Orientation
from tests.faces.conftest import DrawnFace


@pytest.fixture(scope="module")
def predictor() -> DlibLandmarks:
    return DlibLandmarks()


def test_the_landmarks_of_a_frontal_face_lie_on_it(
    predictor: DlibLandmarks, drawn_faces: list[DrawnFace]
) -> None:
    detector = default_detector()
    ahead = [face for face in drawn_faces if face.orientation is Orientation.CENTER]
    assert ahead, "otherwise nothing is looked at"
    for face in ahead:
        found = primary_face(detector.detect(face.image), face.image)
        assert found is not None
        placed = predictor.predict(face.image, found.box)
        eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
        assert np.linalg.norm(placed - face.landmarks, axis=1).mean() < 0.12 * eyes


def test_checked_landmarks_agree_with_the_detector_in_every_orientation(
    predictor: DlibLandmarks, drawn_faces: list[DrawnFace]
) -> None:
    detector = default_detector()
    for face in drawn_faces:
        found = primary_face(detector.detect(face.image), face.image)
        assert found is not None
        assert disagreement(predictor.predict_checked(face.image, found), found.points) <= 0.6


def test_a_face_whose_lower_half_is_covered_gets_landmarks_near_the_five_points(
    predictor: DlibLandmarks, drawn_faces: list[DrawnFace]
) -> None:
    detector = default_detector()
    disagreements = []
    for face in drawn_faces:
        covered = face.image.copy()
        cv2.fillConvexPoly(covered, np.int32(face.landmarks[[2, 29, 14, 12, 8, 4]]), (230, 230, 230))
        found = primary_face(detector.detect(covered), covered)
        if found is not None:
            disagreements.append(disagreement(predictor.predict_checked(covered, found), found.points))
    # The detector may lose a covered face; were it to lose most of them, this would say nothing of landmarks.
    assert len(disagreements) > len(drawn_faces) / 2
    assert max(disagreements) <= 0.6


def test_missing_weights_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"face-recognition-models.*pip install maskfer\[data\]"):
        DlibLandmarks()
