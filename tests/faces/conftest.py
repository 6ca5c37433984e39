"""Drawn faces whose landmarks and orientation are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from maskfer.data.synthetic import Person, Pose, Scene, draw_face
from maskfer.faces.face import Image, Points
from maskfer.labels import EXPRESSIONS, ORIENTATIONS, Orientation


@dataclass(frozen=True)
class DrawnFace:
    image: Image
    landmarks: Points
    orientation: Orientation


@pytest.fixture(scope="session")
def drawn_faces() -> list[DrawnFace]:
    """Fifteen people: three in each orientation, every expression in each."""
    rng = np.random.default_rng(11)
    faces = []
    for orientation in ORIENTATIONS:
        for expression in EXPRESSIONS:
            pose = Pose.random(expression, orientation, rng)
            image, landmarks = draw_face(Person.random(rng), pose, Scene.random(rng), size=192, rng=rng)
            faces.append(DrawnFace(image, landmarks, orientation))
    return faces


@pytest.fixture(scope="session")
def frontal_face(drawn_faces: list[DrawnFace]) -> DrawnFace:
    return next(face for face in drawn_faces if face.orientation is Orientation.CENTER)
