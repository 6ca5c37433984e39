"""AWFM: draw a mask on a face of a photograph.

Source: Yang et al. (2021), §3. `placement` says where the mask goes, `cloth` what it looks like, `light` what
the photograph does to it; this module blends them, inside the mask's rectangle and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from maskfer.errors import InputError
from maskfer.faces.face import Image
from maskfer.labels import Orientation
from maskfer.masking import light as lighting
from maskfer.masking.cloth import Cloth, Plane, draw_cloth, strap_color
from maskfer.masking.placement import Path, Placement, place_mask
from maskfer.masking.templates import Color, MaskStyle, templates_of

Landmarks = Float32[np.ndarray, "68 2"]
Region = Bool[np.ndarray, "h w"]
Drawing = UInt8[np.ndarray, "rows columns"]

MIN_HEIGHT_PX: Final = 8.0
"""A nose-jaw line shorter than this carries no mask that anyone could see."""
_PEN: Final = 0.65
"""OpenCV's anti-aliased fill reaches this far over a polygon's edge, pixels: measured on squares."""
_OUTSIDE: Final = "the part of the face that a mask covers lies outside the picture"


class CannotWear(InputError):
    """A face that cannot be masked: its landmarks make no face, or it is too small or out of the picture."""


@dataclass(frozen=True, slots=True)
class _Rectangle:
    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def corner(self) -> Float[np.ndarray, " 2"]:
        return np.array([self.left, self.top], dtype=np.float64)


def wear_mask(
    image: UInt8[np.ndarray, "h w 3"],
    landmarks: Landmarks,
    orientation: Orientation,
    *,
    style: MaskStyle,
    rng: np.random.Generator,
    grey: bool | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], Region]:
    """Return a copy of a BGR picture in which the face wears a mask, and the region the mask covers.

    The region is where the covering's opacity is at least one half; ear loops and head straps, thin and on
    skin that stays in sight, do not belong to it. `grey` draws the mask without colour; None does so where
    the picture itself has none. The same arguments and the same state of `rng` give the same bytes.
    Raises `CannotWear`.
    """
    _check_face(landmarks, image)
    cuts = templates_of(style.type)
    template = cuts[int(rng.integers(len(cuts)))]
    placement = place_mask(landmarks, orientation, template=template, rng=rng)
    frame = _rectangle(placement.outline, image, margin=0.06 * placement.fit.height_px + 3)
    if frame is None:
        raise CannotWear(_OUTSIDE)
    points = landmarks.astype(np.float64)
    sigma = lighting.blur_sigma(_eye_patch(image, points))
    covering = _soft(_filled(placement.clockwise_outline - frame.corner, frame), sigma)
    _spare_eyes(covering, points, frame, 0)
    covered = covering >= 128
    if not covered.any():
        raise CannotWear(_OUTSIDE)
    luminance = cv2.cvtColor(image[frame.slices], cv2.COLOR_BGR2GRAY)
    light = _read_light(image, luminance, points - frame.corner)
    cloth = draw_cloth(
        placement,
        template,
        style,
        light=light,
        rectangle=(frame.left, frame.top, frame.width, frame.height),
        sigma=sigma,
        rng=rng,
    )
    is_grey = lighting.is_grey(image) if grey is None else grey
    worn = image.copy()
    tone = _tone(strap_color(style, template, rng) * (0.92 * light.gain), is_grey)
    for pair in (placement.straps[:2], placement.straps[2:]):  # one side of the face after the other
        _draw_straps(worn, pair, tone, points=points, width_px=placement.strap_px, sigma=sigma)
    grain = lighting.grain(frame.height, frame.width, rng), lighting.grain_sigma(luminance)
    shadow = _shadow(covering, placement, rng)
    _spare_eyes(shadow, points, frame, 255)
    worn[frame.slices] = _cover(worn[frame.slices], covering, shadow, cloth, grain=grain, grey=is_grey)
    region = np.zeros(image.shape[:2], dtype=bool)
    region[frame.slices] = covered
    return worn, region


def _check_face(landmarks: Landmarks, image: Image) -> None:
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise CannotWear(f"landmarks of shape {landmarks.shape} are not 68 finite points")
    height, width = image.shape[:2]
    down, across = landmarks[8] - landmarks[28], landmarks[16] - landmarks[0]
    nose_jaw = math.hypot(*down)
    if nose_jaw < MIN_HEIGHT_PX:
        raise CannotWear(
            f"the face is too small: {nose_jaw:.1f} px from nose to jaw, at least {MIN_HEIGHT_PX:g}"
        )
    jaw = abs(float(across[0] * down[1] - across[1] * down[0])) / nose_jaw
    if not 0.2 * nose_jaw < jaw < 6 * nose_jaw:
        raise CannotWear(f"the landmarks make no face: {jaw:.0f} px wide, {nose_jaw:.0f} px from nose to jaw")
    x, y = (landmarks[30] + landmarks[62]) / 2
    if not (0 <= x < width and 0 <= y < height):
        raise CannotWear("nose and mouth lie outside the picture")


def _rectangle(points: Path, image: Image, *, margin: float) -> _Rectangle | None:
    """The part of the picture around some points; None when it is outside."""
    height, width = image.shape[:2]
    left, top = (max(0, math.floor(value - margin)) for value in points.min(axis=0))
    right, bottom = (math.ceil(value + margin) + 1 for value in points.max(axis=0))
    right, bottom = min(width, right), min(height, bottom)
    if right - left < 4 or bottom - top < 4:
        return None
    return _Rectangle(left, top, right - left, bottom - top)


def _read_light(
    image: Image, luminance: UInt8[np.ndarray, "rows columns"], points: Float[np.ndarray, "68 2"]
) -> lighting.FaceLight:
    face = np.vstack([points[:17], points[26:16:-1]])
    return lighting.read_light(luminance, face, points[48:60], picture_white=lighting.picture_white(image))


def _eye_patch(image: Image, points: Float[np.ndarray, "68 2"]) -> UInt8[np.ndarray, "h w"]:
    """The eyes in grey: they have the sharpest edges of a face."""
    height, width = image.shape[:2]
    left, top = (max(0, int(value) - 2) for value in points[36:48].min(axis=0))
    right, bottom = (max(0, int(value) + 4) for value in points[36:48].max(axis=0))
    if min(right, width) - left < 2 or min(bottom, height) - top < 2:
        return np.zeros((0, 0), np.uint8)
    return cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2GRAY)


def _fixed(points: Path) -> np.ndarray:
    """Pixels in the 28.4 fixed point that OpenCV draws with."""
    return np.asarray(np.rint(points * 16).astype(np.int32))


def _filled(polygon: Path, frame: _Rectangle) -> Drawing:
    """Fill a clockwise polygon."""
    along = np.roll(polygon, -1, axis=0) - np.roll(polygon, 1, axis=0)
    inwards = along[:, ::-1] * [-1, 1] / (np.hypot(along[:, :1], along[:, 1:]) + 1e-9)
    alpha = np.zeros((frame.height, frame.width), np.uint8)
    cv2.fillPoly(alpha, [_fixed(polygon + _PEN * inwards)], 255, cv2.LINE_AA, 4)
    return alpha


def _soft(drawing: Drawing, sigma: float) -> Drawing:
    """Blur a drawing's edges as the photograph's are."""
    # Two boxes come close to a Gaussian and cost a fifth; a box of k pixels has variance (k^2 - 1) / 12.
    size = 2 * round((math.sqrt(6 * sigma * sigma + 1) - 1) / 2) + 1
    return drawing if size == 1 else np.asarray(cv2.blur(cv2.blur(drawing, (size, size)), (size, size)))


def _spare_eyes(drawing: Drawing, points: Float[np.ndarray, "68 2"], frame: _Rectangle, value: int) -> None:
    """Set the eyes to `value`: whatever the landmarks say, an eye is never painted over."""
    for eye in (points[36:42], points[42:48]):
        grown = 1.15 * eye - 0.15 * eye.mean(axis=0) - frame.corner
        cv2.fillPoly(drawing, [_fixed(grown)], value, cv2.LINE_8, 4)


def _draw_straps(
    worn: Image,
    straps: Sequence[Path],
    tone: Color,
    *,
    points: Float[np.ndarray, "68 2"],
    width_px: float,
    sigma: float,
) -> None:
    """Draw loops or straps onto the picture; `tone` is their colour in the picture's light."""
    frame = _rectangle(np.vstack(straps), worn, margin=width_px + 3 * sigma + 1) if straps else None
    if frame is None:
        return
    drawing = np.zeros((frame.height, frame.width), np.uint8)
    level, thickness = round(235 * min(1.0, width_px)), max(1, round(width_px))
    lines = [_fixed(strap - frame.corner) for strap in straps]
    cv2.polylines(drawing, lines, False, level, thickness, cv2.LINE_AA, 4)
    drawing = _soft(drawing, 0.8 * sigma)
    _spare_eyes(drawing, points, frame, 0)
    touched = np.nonzero(drawing)
    opacity = drawing[touched][:, None] * np.float32(1 / 255)
    patch = worn[frame.slices]
    under = patch[touched].astype(np.float32)
    patch[touched] = np.rint(under + opacity * (tone.astype(np.float32) - under)).astype(np.uint8)


def _shadow(covering: Drawing, placement: Placement, rng: np.random.Generator) -> Drawing:
    """What the mask's edge leaves of the light on the skin beside it: a narrow dark line."""
    size = max(3, 2 * round(0.022 * placement.fit.height_px) + 1)
    thrown = cv2.blur(covering, (size, size))
    return np.asarray(cv2.convertScaleAbs(thrown, alpha=-float(rng.uniform(0.15, 0.4)), beta=255.0))


def _cover(
    patch: Image,
    covering: Drawing,
    shadow: Drawing,
    cloth: Cloth,
    *,
    grain: tuple[Plane, float],
    grey: bool,
) -> Image:
    """Blend cloth and shadow over the photograph, plane by plane: one channel in a row runs at full speed."""
    bare = cv2.multiply(cv2.bitwise_not(covering), shadow, scale=1 / 255**2, dtype=cv2.CV_32F)
    strength = cv2.multiply(covering, cloth.light, scale=1 / 255, dtype=cv2.CV_32F)
    noise = cv2.multiply(covering, grain[0], scale=grain[1] / 255, dtype=cv2.CV_32F)
    channels = cv2.split(patch)
    if grey and np.array_equal(channels[0], channels[1]) and np.array_equal(channels[1], channels[2]):
        channels = channels[:1]
    tones = [_tone(color, grey) for color in cloth.colors]
    planes: list[UInt8[np.ndarray, "h w"]] = []
    for channel, plane in enumerate(channels):
        if channel == 0 or not grey:
            paint = _paint(noise, strength, [_veiled(float(tone[channel])) for tone in tones], cloth.weights)
        skin = cv2.multiply(plane, bare, dtype=cv2.CV_32F)
        planes.append(np.asarray(cv2.add(skin, paint, dtype=cv2.CV_8U)))  # rounds, and stops at 0 and 255
    return np.asarray(cv2.merge(planes if len(planes) == 3 else planes * 3))


def _paint(under: Plane, strength: Plane, values: list[float], weights: Sequence[Plane]) -> Plane:
    """Add the cloth's colour: each weight draws its value over the ones before."""
    if not weights:
        return np.asarray(cv2.scaleAdd(strength, values[0], under))
    color: Plane | np.float32 = np.float32(values[0])
    for value, weight in zip(values[1:], weights, strict=True):
        color = color + weight * (np.float32(value) - color)
    return np.asarray(under + strength * color)


def _tone(color: Color, grey: bool) -> Color:
    """The colour as the photograph takes it."""
    return np.full(3, 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]) if grey else color


def _veiled(value: float) -> float:
    """No cloth is as black as ink in a photograph: a little light always comes back."""
    return value + 0.03 * (255.0 - value)
