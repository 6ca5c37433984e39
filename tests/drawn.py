"""A raw folder of nine drawn faces, a folder per class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer.data.synthetic import Person, Pose, Scene, draw_face
from maskfer.labels import EXPRESSIONS, Orientation


@pytest.fixture(scope="session")
def raw_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`RAW/CLASS/*.png`: three people, looking ahead, left and right."""
    raw = tmp_path_factory.mktemp("drawn") / "raw"
    rng = np.random.default_rng(4)
    for expression in EXPRESSIONS:
        (raw / expression).mkdir(parents=True)
        for orientation in (Orientation.CENTER, Orientation.LEFT, Orientation.RIGHT):
            pose = Pose.random(expression, orientation, rng)
            image, _ = draw_face(Person.random(rng), pose, Scene.random(rng), size=160, rng=rng)
            cv2.imwrite(str(raw / expression / f"{orientation}.png"), image)
    return raw
