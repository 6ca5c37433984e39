"""Where a face looks, in five ways, from its landmarks.

Source: Yang et al. (2021), §3: the five orientations, and the ratio between the left and the right side of
the face. The paper annotated them by hand; the thresholds here were set by looking at photographs sorted by
these measures, and agree with faces drawn at a known angle (docs/data.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from maskfer.faces.face import Points
from maskfer.labels import Orientation

_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)
SIDEWAYS: Final = 0.15
"""Deviation of the left share from 1/2 at which a face looks aside: a turn of about 17 degrees."""
LEVEL: Final = 0.48
UP: Final = 0.22
DOWN: Final = 0.27
"""Deviation of the nose's height from `LEVEL` at which a face looks up or down: about 11 degrees."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How far a face is turned; both are free of roll and size."""

    left_share: float
    """Distance from the bridge of the nose to the jaw's left side, over the face's width: 0.5 looks ahead."""
    nose_height: float
    """How far the nose's tip is below the ears, over the distance from eyes to mouth: grows looking down."""


def turn_of(landmarks: Points) -> Turn:
    """Measure the turn on 68 landmarks. Source: Yang et al. (2021), §3, for the ratio of the sides."""
    points = _without_roll(landmarks, landmarks[_LEFT_EYE].mean(axis=0), landmarks[_RIGHT_EYE].mean(axis=0))
    x, y = points.T
    left, right = x[0:3].mean(), x[14:17].mean()
    bridge = x[27:31].mean()
    # The nose is before and the ears are behind the axis of a nod: their heights move against each other.
    eyes_to_mouth = _at_least_one((y[48] + y[54]) / 2 - (y[_LEFT_EYE].mean() + y[_RIGHT_EYE].mean()) / 2)
    return Turn(
        left_share=float((bridge - left) / _at_least_one(right - left)),
        nose_height=float((y[30] - (y[0] + y[16]) / 2) / eyes_to_mouth),
    )


def orientation_of(landmarks: Points) -> Orientation:
    """Return where a face with these 68 landmarks looks, as the viewer sees it."""
    turn = turn_of(landmarks)
    return _decide(
        sideways=(turn.left_share - 0.5) / SIDEWAYS,
        nod=_scaled(turn.nose_height, level=LEVEL, up=UP, down=DOWN),
    )


def _decide(*, sideways: float, nod: float) -> Orientation:
    """Return the direction of the larger deviation; 1 is its border, positive is right and down."""
    if max(abs(sideways), abs(nod)) < 1:
        return Orientation.CENTER
    if abs(sideways) >= abs(nod):
        return Orientation.RIGHT if sideways > 0 else Orientation.LEFT
    return Orientation.DOWN if nod > 0 else Orientation.UP


def _scaled(value: float, *, level: float, up: float, down: float) -> float:
    return (value - level) / (down if value > level else up)


def _without_roll(points: Points, left_eye: Points, right_eye: Points) -> Float[np.ndarray, "points 2"]:
    """Turn the picture until the eyes are level."""
    across, down = (right_eye - left_eye).astype(np.float64)
    length = float(np.hypot(across, down)) or 1.0
    cosine, sine = across / length, down / length
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    return np.asarray((points - (left_eye + right_eye) / 2) @ rotation.T)


def _at_least_one(pixels: float) -> float:
    """Landmarks that make no face must not divide by zero."""
    return max(float(pixels), 1.0)
