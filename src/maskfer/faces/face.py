"""What a found face is: a box, a confidence, five points; and the two roles that find and describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, UInt8

Image = UInt8[np.ndarray, "h w 3"]
"""A picture, BGR as OpenCV reads it."""
Points = Float32[np.ndarray, "points 2"]
"""x, y in pixels; x to the right, y down, the first pixel's centre at (0, 0)."""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle in pixels; it may reach over the picture's edge."""

    left: float
    top: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Width times height, square pixels."""
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        """x, y of the middle, pixels."""
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass(frozen=True, slots=True)
class Detection:
    """One face as the detector sees it."""

    box: Box
    confidence: float
    """In [0, 1]."""
    points: Points
    """Five: the eye at the picture's left, the eye at its right, nose tip, mouth corner left, right."""


class FaceDetector(Protocol):
    """Finds faces in a picture."""

    def detect(self, image: Image) -> list[Detection]:
        """Return the faces, most confident first; an empty list where there are none."""
        ...


class LandmarkPredictor(Protocol):
    """Places the 68 landmarks of iBUG-300W inside a box."""

    def predict(self, image: Image, box: Box) -> Points:
        """Return 68 points in the picture's pixels, numbered as iBUG-68 counts from 0."""
        ...
