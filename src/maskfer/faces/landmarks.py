"""Places the 68 landmarks of iBUG-300W with dlib's regression trees; for building datasets, not for serving.

Source: Kazemi and Sullivan (2014), One Millisecond Face Alignment with an Ensemble of Regression Trees. The
weights come with the package `face-recognition-models`; their licence excludes commercial use, see
docs/licences.md.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from maskfer.errors import InputError
from maskfer.faces import packaged
from maskfer.faces.face import Box, Detection, Image, Points
from maskfer.faces.shape import fit_mean_face, five_of

_REMEDY: Final = "pip install maskfer[data]"

# dlib's trees expect the box that dlib's own detector draws: a square from the brows to below the chin. Of
# our detector's box that is this much, this far below its centre (fitted to photographs that both find).
_SIDE: Final = 0.95
_DOWN: Final = 0.05

# The trees sometimes settle on a wrong face shape, mostly on turned heads; another start mostly helps.
_OTHER_STARTS: Final = ((1.15, 0.0), (0.85, 0.0), (1.0, 0.1), (1.1, -0.1))
_TRUSTED: Final = 0.3
_USELESS: Final = 0.6
"""Disagreements with the detector's five points: beyond these another start is tried, and none believed."""


class DlibLandmarks:
    """The 68 landmarks of a face in a detector's box; not to be shared between threads.

    Loading takes about 1.5 s. Raises `InputError` when dlib or its weights are missing.
    """

    def __init__(self) -> None:
        try:
            import dlib
        except ImportError as error:
            raise InputError(f"dlib, which places the landmarks, is missing; {_REMEDY}") from error
        weights = packaged.packaged_weights(packaged.LANDMARKS)
        if weights is None:
            raise InputError(
                f"face-recognition-models, which has the landmark weights, is missing; {_REMEDY}"
            )
        self._rectangle = dlib.rectangle
        self._predict = dlib.shape_predictor(str(weights))

    def predict(self, image: Image, box: Box) -> Points:
        """Return 68 points in the picture's pixels, numbered as iBUG-68 counts from 0."""
        return self._place(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), box)

    def predict_checked(self, image: Image, detection: Detection) -> Points:
        """Return the 68 points, of several starts those that agree best with the detector's five points.

        Where no start comes near them, as on profiles and under many masks, a mean face is fitted to them.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        best = self._place(grey, detection.box)
        error = disagreement(best, detection.points)
        for scale, down in _OTHER_STARTS if error > _TRUSTED else ():
            other = self._place(grey, _changed(detection.box, scale=scale, down=down))
            if disagreement(other, detection.points) < error:
                best, error = other, disagreement(other, detection.points)
        return best if error <= _USELESS else fit_mean_face(detection.points)

    def _place(self, grey: np.ndarray, box: Box) -> Points:
        x, y = box.center
        half = _SIDE * (box.width + box.height) / 4
        y += _DOWN * box.height
        corners = (round(v) for v in (x - half, y - half, x + half, y + half))
        shape = self._predict(grey, self._rectangle(*corners))
        return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def disagreement(landmarks: Points, five: Points) -> float:
    """Mean distance of the 68 landmarks from the detector's five points, in units of the face's size.

    The size is the mean distance of the five points from their middle, which a turned head does not shrink to
    nothing as it does the distance between the eyes.
    """
    size = np.linalg.norm(five - five.mean(axis=0), axis=1).mean()
    return float(np.linalg.norm(five_of(landmarks) - five, axis=1).mean() / max(size, 1e-6))


def _changed(box: Box, *, scale: float, down: float) -> Box:
    x, y = box.center
    width, height = box.width * scale, box.height * scale
    return Box(x - width / 2, y + down * box.height - height / 2, width, height)
