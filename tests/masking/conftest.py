"""Portraits with exact landmarks, drawn by code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from maskfer.data.synthetic import Person, Pose, Scene, draw_face
from maskfer.labels import ORIENTATIONS, Orientation

MIRROR = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
]


@dataclass(frozen=True)
class Portrait:
    image: UInt8[np.ndarray, "h w 3"]
    landmarks: Float32[np.ndarray, "68 2"]
    orientation: Orientation

    def mirrored(self) -> Portrait:
        landmarks = self.landmarks[MIRROR] * [-1, 1] + [self.image.shape[1] - 1, 0]
        other = {Orientation.LEFT: Orientation.RIGHT, Orientation.RIGHT: Orientation.LEFT}
        return Portrait(
            np.ascontiguousarray(self.image[:, ::-1]),
            landmarks.astype(np.float32),
            other.get(self.orientation, self.orientation),
        )


@pytest.fixture(scope="session")
def portraits() -> dict[Orientation, Portrait]:
    """One synthetic person in the five orientations, 192 px."""
    rng = np.random.default_rng(1)
    person = Person.random(rng)
    drawn = {}
    for orientation in ORIENTATIONS:
        pose = Pose.random("neutral", orientation, rng)
        image, landmarks = draw_face(person, pose, Scene(), size=192, rng=rng)
        drawn[orientation] = Portrait(image, landmarks, orientation)
    return drawn


@pytest.fixture(scope="session")
def frontal(portraits: dict[Orientation, Portrait]) -> Portrait:
    return portraits[Orientation.CENTER]


@pytest.fixture(scope="session")
def evenly_lit(frontal: Portrait) -> Portrait:
    """The frontal face's landmarks on a plain surface in ordinary light."""
    return Portrait(np.full_like(frontal.image, 150), frontal.landmarks, Orientation.CENTER)


@pytest.fixture(scope="session")
def photo_folder(portraits: dict[Orientation, Portrait], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several formats and depths, one with two people, one without, one that is none."""
    folder = tmp_path_factory.mktemp("photos") / "in"
    (folder / "people" / "deep").mkdir(parents=True)
    images = {orientation: portrait.image for orientation, portrait in portraits.items()}
    cv2.imwrite(str(folder / "a.jpg"), images[Orientation.CENTER])
    cv2.imwrite(str(folder / "people" / "b.png"), images[Orientation.LEFT])
    cv2.imwrite(str(folder / "people" / "deep" / "c.webp"), images[Orientation.RIGHT])
    cv2.imwrite(str(folder / "grey.png"), cv2.cvtColor(images[Orientation.CENTER], cv2.COLOR_BGR2GRAY))
    transparent = np.dstack([images[Orientation.CENTER], np.full((192, 192), 200, np.uint8)])
    cv2.imwrite(str(folder / "transparent.png"), transparent)
    cv2.imwrite(str(folder / "two.png"), np.hstack([images[Orientation.CENTER], images[Orientation.DOWN]]))
    cv2.imwrite(str(folder / "nobody.png"), np.full((120, 160, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    (folder / "notes.txt").write_text("nor is this")
    return folder
