"""Who is drawn, in which pose, in which light: what a picture of a synthetic face is made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from maskfer.labels import Orientation

Colour = tuple[float, float, float]
"""Blue, green, red in [0, 1]."""

TURN_DEGREES: Final = {
    Orientation.CENTER: (0.0, 0.0),
    Orientation.LEFT: (-32.0, 0.0),
    Orientation.RIGHT: (32.0, 0.0),
    Orientation.UP: (0.0, -22.0),
    Orientation.DOWN: (0.0, 22.0),
}
"""Yaw and pitch of each orientation, degrees: positive to the picture's right, positive down."""


@dataclass(frozen=True, slots=True)
class Person:
    """What stays the same in every picture of one synthetic person."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    width: float
    eye_distance: float
    nose_length: float
    nose_width: float
    lip: float
    brow: float
    hairline: float
    long_hair: bool
    beard: float
    glasses: bool

    @classmethod
    def random(cls, rng: np.random.Generator) -> Self:
        """Draw a person; colours are BGR in [0, 1]."""
        skins = [
            (0.62, 0.72, 0.90),
            (0.50, 0.62, 0.84),
            (0.38, 0.50, 0.72),
            (0.24, 0.36, 0.55),
            (0.16, 0.24, 0.38),
        ]
        hairs = [
            (0.06, 0.06, 0.07),
            (0.10, 0.16, 0.25),
            (0.25, 0.42, 0.60),
            (0.60, 0.62, 0.64),
            (0.12, 0.20, 0.42),
        ]
        skin = np.array(skins[rng.integers(len(skins))]) * rng.uniform(0.92, 1.08)
        hair = np.array(hairs[rng.integers(len(hairs))]) * rng.uniform(0.8, 1.2)
        return cls(
            skin=as_colour(skin),
            hair=as_colour(hair),
            iris=as_colour(np.array([(0.15, 0.2, 0.3), (0.5, 0.4, 0.25), (0.3, 0.42, 0.3)][rng.integers(3)])),
            clothes=as_colour(rng.uniform(0.08, 0.8, 3)),
            width=float(rng.uniform(0.70, 0.80)),
            eye_distance=float(rng.uniform(0.285, 0.33)),
            nose_length=float(rng.uniform(0.19, 0.27)),
            nose_width=float(rng.uniform(0.10, 0.145)),
            lip=float(rng.uniform(0.045, 0.085)),
            brow=float(rng.uniform(0.028, 0.052)),
            hairline=float(rng.uniform(-0.78, -0.58)),
            long_hair=bool(rng.random() < 0.4),
            beard=float(rng.uniform(0.3, 0.8)) if rng.random() < 0.25 else 0.0,
            glasses=bool(rng.random() < 0.2),
        )


@dataclass(frozen=True, slots=True)
class Pose:
    """What changes from picture to picture."""

    yaw: float = 0.0
    """Degrees; positive turns the face to the picture's right."""
    pitch: float = 0.0
    """Degrees; positive turns the face down."""
    roll: float = 0.0
    """Degrees; positive turns the picture clockwise."""
    smile: float = 0.0
    """0 neutral to 1 broad."""
    anger: float = 0.0
    """0 neutral to 1 full: inner brows lowered, lids tight, mouth corners down."""
    gaze: float = 0.0
    """-1 to the picture's left, 1 to its right."""

    @classmethod
    def random(cls, expression: str, orientation: Orientation, rng: np.random.Generator) -> Self:
        """Draw a pose of a class: `positive`, `neutral` or `negative`, and one of the five orientations."""
        yaw, pitch = TURN_DEGREES[orientation]
        strength = float(rng.uniform(0.65, 1.0))
        return cls(
            yaw=yaw + float(rng.uniform(-6, 6)),
            pitch=pitch + float(rng.uniform(-4, 4)),
            roll=float(rng.uniform(-10, 10)),
            smile=strength if expression == "positive" else float(rng.uniform(0, 0.1)),
            anger=strength if expression == "negative" else float(rng.uniform(0, 0.1)),
            gaze=float(rng.uniform(-0.6, 0.6)),
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Light, background and where the head is."""

    light: tuple[float, float, float] = (-0.3, -0.5, 0.8)
    """Direction towards the light, head coordinates of an unturned head."""
    ambient: float = 0.45
    exposure: float = 1.0
    center: tuple[float, float] = (0.5, 0.48)
    """Middle of the head as a share of the picture's width and height."""
    scale: float = 0.30
    """Pixels of one head unit as a share of the picture's width."""
    background: Colour = (0.55, 0.5, 0.45)
    noise: float = 0.01

    @classmethod
    def random(cls, rng: np.random.Generator) -> Self:
        """Draw a light from the front or side, a background and a place."""
        return cls(
            light=(
                float(rng.uniform(-0.9, 0.9)),
                float(rng.uniform(-0.8, 0.2)),
                float(rng.uniform(0.6, 1.0)),
            ),
            ambient=float(rng.uniform(0.35, 0.6)),
            exposure=float(rng.uniform(0.75, 1.15)),
            center=(float(rng.uniform(0.46, 0.54)), float(rng.uniform(0.45, 0.51))),
            scale=float(rng.uniform(0.27, 0.33)),
            background=as_colour(rng.uniform(0.15, 0.85) + rng.uniform(-0.12, 0.12, 3)),
            noise=float(rng.uniform(0.004, 0.02)),
        )


def as_colour(values: np.ndarray) -> Colour:
    """Clip three numbers into a colour."""
    blue, green, red = np.clip(values, 0, 1)
    return float(blue), float(green), float(red)


def blend(first: Pose, second: Pose, share: float) -> Pose:
    """The pose `share` of the way from the first to the second."""
    return replace(
        first,
        **{
            name: (1 - share) * getattr(first, name) + share * getattr(second, name)
            for name in ("yaw", "pitch", "roll", "smile", "anger", "gaze")
        },
    )
