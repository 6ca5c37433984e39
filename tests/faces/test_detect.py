"""Faces are found large, small, cut close, and from several threads at once."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer.errors import InputError
from maskfer.faces.detect import OpenCvFaceDetector, SlimeFaceDetector, default_detector, primary_face
from maskfer.faces.face import Box, Detection, FaceDetector, Image
from tests.faces.conftest import DrawnFace


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return default_detector()


def as_array(detections: list[Detection]) -> list[list[float]]:
    return [
        [face.confidence, face.box.left, face.box.top, face.box.width, face.box.height, *face.points.ravel()]
        for face in detections
    ]


def test_drawn_faces_are_found_once_with_their_points_in_order(
    detector: FaceDetector, drawn_faces: list[DrawnFace]
) -> None:
    for face in drawn_faces:
        (found,) = detector.detect(face.image)
        left_eye, right_eye, nose, mouth_left, mouth_right = found.points
        assert left_eye[0] < right_eye[0]
        assert mouth_left[0] < mouth_right[0]
        assert left_eye[1] < nose[1] < mouth_left[1]
        assert found.box.left < face.landmarks[30, 0] < found.box.left + found.box.width
        assert 0.5 <= found.confidence <= 1


@pytest.mark.parametrize("side", [24, 48, 480, 2400])
def test_a_face_is_found_at_its_place_whatever_the_picture_measures(
    detector: FaceDetector, frontal_face: DrawnFace, side: int
) -> None:
    scale = side / 192
    image = cv2.resize(frontal_face.image, (side, side), interpolation=cv2.INTER_AREA)
    (found,) = detector.detect(np.asarray(image, np.uint8))
    (original,) = detector.detect(frontal_face.image)
    expected = np.array([*original.box.center, original.box.width]) * scale
    np.testing.assert_allclose([*found.box.center, found.box.width], expected, atol=24 * scale)


def test_a_small_face_in_a_large_picture_is_found_with_more_pixels(
    detector: FaceDetector, frontal_face: DrawnFace
) -> None:
    image = np.full((1200, 1600, 3), 120, np.uint8)
    small = cv2.resize(frontal_face.image, (80, 80), interpolation=cv2.INTER_AREA)
    image[700:780, 1200:1280] = small
    (found,) = detector.detect(image)
    x, y = found.box.center
    assert 1200 < x < 1280
    assert 700 < y < 780


def test_a_crop_that_the_face_fills_is_found(detector: FaceDetector, drawn_faces: list[DrawnFace]) -> None:
    for face in drawn_faces:
        (left, top), (right, bottom) = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
        tight = face.image[int(top) : int(bottom), int(left) : int(right)]
        assert detector.detect(tight), face.orientation


@pytest.mark.parametrize("shape", [(1, 1), (8, 400), (64, 64), (0, 10), (2000, 3)])
def test_a_picture_without_a_face_gives_none(detector: FaceDetector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert detector.detect(noise) == []


@pytest.mark.parametrize("shape", [(12_000, 100), (100, 12_000), (10, 1_000_000), (65_000, 760)])
def test_a_thin_picture_without_a_face_takes_no_more_memory_than_itself(
    detector: FaceDetector, shape: tuple[int, int]
) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    tracemalloc.start()
    try:
        assert detector.detect(image) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_a_face_that_a_border_shows_is_found_at_its_place_among_many_pixels(
    detector: FaceDetector, frontal_face: DrawnFace
) -> None:
    # Without its outline a face is found only once something is around it.
    (left, top), (right, bottom) = frontal_face.landmarks.min(axis=0), frontal_face.landmarks.max(axis=0)
    x, y = (right - left) / 4, (bottom - top) / 4
    middle = frontal_face.image[int(top + y) : int(bottom - y), int(left + x) : int(right - x)]
    few = np.asarray(cv2.resize(middle, (600, 600), interpolation=cv2.INTER_LINEAR), np.uint8)
    many = np.asarray(cv2.resize(few, (5_400, 5_400), interpolation=cv2.INTER_NEAREST), np.uint8)
    (expected,) = as_array(detector.detect(few))
    (found,) = as_array(detector.detect(many))
    np.testing.assert_allclose(np.array(found[1:]) / 9, expected[1:], atol=0.05 * 600)


def test_a_view_into_a_larger_picture_is_as_good_as_a_copy(
    detector: FaceDetector, frontal_face: DrawnFace
) -> None:
    view: Image = frontal_face.image[4:180, 6:188]
    assert as_array(detector.detect(view)) == as_array(detector.detect(view.copy()))


def test_threads_share_a_detector_and_get_the_same_faces(
    detector: FaceDetector, drawn_faces: list[DrawnFace]
) -> None:
    images = [face.image for face in drawn_faces] * 4
    alone = [as_array(detector.detect(image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = [as_array(found) for found in pool.map(detector.detect, images)]
    assert together == alone


def test_less_confident_faces_are_left_out(frontal_face: DrawnFace) -> None:
    (found,) = SlimeFaceDetector(min_confidence=0.1).detect(frontal_face.image)
    assert SlimeFaceDetector(min_confidence=found.confidence + 0.005).detect(frontal_face.image) == []


def test_the_face_meant_is_large_and_near_the_middle() -> None:
    def face(box: Box) -> Detection:
        return Detection(box, 0.9, np.zeros((5, 2), np.float32))

    image = np.zeros((100, 200, 3), np.uint8)
    middle, corner, small = face(Box(80, 30, 40, 40)), face(Box(-5, -5, 44, 44)), face(Box(95, 45, 10, 10))
    assert primary_face([corner, small, middle], image) is middle
    assert primary_face([], image) is None


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"yunet\.onnx.*YuNet"):
        OpenCvFaceDetector(path)
