"""AWFM: draw a mask on a face of a photograph.

Source: Yang et al. (2021), §3. `fit` says where the mask goes, `templates` and `textures` what it is,
`light` what the photograph does to it; this module puts them together inside the mask's rectangle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from maskfer.errors import InputError
from maskfer.faces.face import Image
from maskfer.labels import Orientation
from maskfer.masking import light as lighting
from maskfer.masking.fit import Fit, Point, fit_mask
from maskfer.masking.templates import Color, MaskStyle, Template, templates_of
from maskfer.masking.textures import pattern_weights, relief, texture_size, wrinkles
from maskfer.masking.warp import texture_maps

Landmarks = Float32[np.ndarray, "68 2"]
Region = Bool[np.ndarray, "h w"]
Plane = Float32[np.ndarray, "rows columns"]

MIN_HEIGHT_PX: Final = 8.0
"""A nose-jaw line shorter than this carries no mask that anyone could see."""


class CannotWear(InputError):
    """A face that cannot be masked: its landmarks make no face, or it is too small or out of the picture."""


@dataclass(frozen=True, slots=True)
class _Rectangle:
    left: int
    top: int
    width: int
    height: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)

    @property
    def corner(self) -> Point:
        return np.array([self.left, self.top], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Strap:
    path: Float[np.ndarray, "n 2"]
    thickness_px: float


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
    template = templates_of(style.type)[int(rng.integers(len(templates_of(style.type))))]
    rise, slant = float(rng.uniform(-1.2, 0.4)), float(rng.uniform(0.0, 0.22))
    fit = fit_mask(landmarks, orientation, rise=rise, slant=slant, depth=template.depth)
    outline = fit.to_image(_worn(template.outline(), rng))
    straps = _straps(fit, template, rng)
    frame = _rectangle(
        np.vstack([outline, *(strap.path for strap in straps)]), image, margin=0.06 * fit.height_px
    )
    patch = image[frame.rows, frame.columns]
    luminance = cv2.cvtColor(patch, cv2.COLOR_BGR2GRAY)
    points = landmarks.astype(np.float64)
    light = lighting.read_light(
        luminance,
        np.vstack([points[:17], points[26:16:-1]]) - frame.corner,
        points[48:60] - frame.corner,
        picture_white=lighting.picture_white(image),
    )
    sigma = lighting.blur_sigma(_eye_patch(image, points))
    open_skin = _outside_eyes(frame, points)
    covering = _filled(outline - frame.corner, frame, sigma) * open_skin
    if not (covering >= 0.5).any():
        raise CannotWear("the part of the face that a mask covers lies outside the picture")
    width = texture_size(float(np.ptp(outline[:, 0])), sigma=sigma)
    cloth = _cloth(fit, template, style, light, frame, width=width, rng=rng)
    field = lighting.enlarge(light.field * np.float32(light.gain), frame.height, frame.width)
    strap = _strap_alpha(straps, frame, sigma) * open_skin * (1 - covering)
    picture = _compose(
        patch,
        bare=(1 - covering - strap) * (1 - _shadow(covering, strap, fit, rng) * open_skin),
        layers=[
            _Layer(covering, _film(cloth.shade * field), cloth.colors, cloth.weights),
            _Layer(strap, field, [_strap_color(style, template, rng)], []),
        ],
        noise=lighting.grain(frame.height, frame.width, rng) * np.float32(lighting.grain_sigma(luminance)),
        grey=lighting.is_grey(image) if grey is None else grey,
    )
    worn = image.copy()
    worn[frame.rows, frame.columns] = picture
    region = np.zeros(image.shape[:2], dtype=bool)
    region[frame.rows, frame.columns] = covering >= 0.5
    return worn, region


def _check_face(landmarks: Landmarks, image: Image) -> None:
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise CannotWear(f"landmarks of shape {landmarks.shape} are not 68 finite points")
    height, width = image.shape[:2]
    nose_jaw = float(np.hypot(*(landmarks[8] - landmarks[28])))
    jaw = float(np.hypot(*(landmarks[16] - landmarks[0])))
    if nose_jaw < MIN_HEIGHT_PX or jaw < 0.6 * MIN_HEIGHT_PX:
        raise CannotWear(
            f"the face is too small: {nose_jaw:.1f} px from nose to jaw, at least {MIN_HEIGHT_PX:g}"
        )
    if nose_jaw > 8 * jaw or jaw > 8 * nose_jaw:
        raise CannotWear(f"the landmarks make no face: {jaw:.0f} px wide, {nose_jaw:.0f} px from nose to jaw")
    centre = landmarks[[30, 62]].mean(axis=0)
    if not (0 <= centre[0] < width and 0 <= centre[1] < height):
        raise CannotWear("nose and mouth lie outside the picture")


def _worn(outline: Float[np.ndarray, "n 2"], rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """Nobody wears a mask quite as it was cut: a little wider, lower, askew."""
    wide, askew, low = rng.normal(1.0, 0.025), rng.normal(0, 0.012), rng.normal(0, 0.015)
    t = outline[:, 1] + askew * outline[:, 0] + low * np.clip(outline[:, 1], 0, 1)
    return np.stack([outline[:, 0] * wide, t], axis=1)


def _straps(fit: Fit, template: Template, rng: np.random.Generator) -> list[_Strap]:
    if template.fastening == "none":
        return []
    is_loop = template.fastening == "loops"
    thickness = fit.height_px * (rng.uniform(0.014, 0.024) if is_loop else rng.uniform(0.02, 0.035))
    lengths = rng.uniform(-0.03, 0.03, 2)
    straps = []
    for near in (True, False):
        if fit.is_side and not near:
            continue
        sign = 1.0 if near else -1.0
        ends = np.array([[sign * s, t] for s, t in template.anchors])
        starts = fit.to_upright(ends)
        ear = fit.ear(near=near)
        reach = [(0.0, -0.04), (0.0, 0.16)] if is_loop else [(0.02, -0.36), (-0.02, 0.42)]
        for start, (dx, dy), slack in zip(starts, reach, lengths, strict=True):
            end = ear + np.array([sign * dx, dy + slack])
            middle = 0.5 * (start + end) + np.array([0.0, 0.02 if is_loop else 0.0])
            u = np.linspace(0, 1, 9)[:, None]
            path = (1 - u) ** 2 * start + 2 * u * (1 - u) * middle + u**2 * end
            straps.append(_Strap(fit.from_upright(path), max(0.9, thickness)))
    return straps


def _rectangle(points: Float[np.ndarray, "n 2"], image: Image, *, margin: float) -> _Rectangle:
    height, width = image.shape[:2]
    left, top = (math.floor(value - margin) - 3 for value in points.min(axis=0))
    right, bottom = (math.ceil(value + margin) + 4 for value in points.max(axis=0))
    left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if right - left < 4 or bottom - top < 4:
        raise CannotWear("the part of the face that a mask covers lies outside the picture")
    return _Rectangle(left, top, right - left, bottom - top)


def _fixed(points: Float[np.ndarray, "n 2"]) -> np.ndarray:
    """Pixels in the 28.4 fixed point that OpenCV draws with."""
    return np.asarray(np.rint(points * 16).astype(np.int32))


def _filled(polygon: Float[np.ndarray, "n 2"], frame: _Rectangle, sigma: float) -> Plane:
    alpha = np.zeros((frame.height, frame.width), np.uint8)
    cv2.fillPoly(alpha, [_fixed(polygon)], 255, cv2.LINE_AA, 4)
    return _opacity(alpha, sigma)


def _opacity(alpha: UInt8[np.ndarray, "rows columns"], sigma: float) -> Plane:
    """Return a drawing as opacity, its edges as soft as the photograph's."""
    if sigma > 0.35:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), sigma))
    return np.asarray(np.multiply(alpha, np.float32(1 / 255), dtype=np.float32))


def _outside_eyes(frame: _Rectangle, points: Float[np.ndarray, "68 2"]) -> Plane:
    """0 on the eyes and 1 elsewhere: whatever the landmarks say, an eye is never painted over."""
    free = np.full((frame.height, frame.width), 255, np.uint8)
    for eye in (points[36:42], points[42:48]):
        grown = eye.mean(axis=0) + 1.15 * (eye - eye.mean(axis=0)) - frame.corner
        cv2.fillPoly(free, [_fixed(grown)], 0, cv2.LINE_8, 4)
    return _opacity(free, 0.0)


def _eye_patch(image: Image, points: Float[np.ndarray, "68 2"]) -> UInt8[np.ndarray, "h w"]:
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(points[36:48].min(axis=0)) - 2, 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(points[36:48].max(axis=0)) + 3, 0, [width, height]).astype(int)
    if right - left < 2 or bottom - top < 2:
        return np.zeros((0, 0), np.uint8)
    return cv2.cvtColor(np.ascontiguousarray(image[top:bottom, left:right]), cv2.COLOR_BGR2GRAY)


@dataclass(frozen=True, slots=True)
class _Cloth:
    shade: Plane
    weights: list[Plane]
    """Of every colour but the first, over the one before."""
    colors: list[Color]


def _cloth(
    fit: Fit,
    template: Template,
    style: MaskStyle,
    light: lighting.FaceLight,
    frame: _Rectangle,
    *,
    width: int,
    rng: np.random.Generator,
) -> _Cloth:
    """Light the template's relief, print its pattern, and warp both into the picture."""
    surface = relief(template, width)
    crease_s, crease_t = wrinkles(width, int(rng.integers(6)))
    towards = np.array([float(np.clip(1.3 * light.slope[0], -0.9, 0.9)), -0.5 + float(rng.normal(0, 0.12))])
    towards_s, towards_t = fit.direction(towards)
    crumple = np.float32(template.crumple * rng.uniform(0.2, 1.5))
    depth = rng.uniform(0.3, 0.6)  # soft light or hard
    shade = 1 - np.float32(depth * towards_s) * (surface.slope_s + crumple * crease_s)
    shade -= np.float32(depth * towards_t) * (surface.slope_t + crumple * crease_t)
    shade = np.clip(shade, 0.3, 1.7) * (1 + np.float32(rng.uniform(0.7, 1.6)) * (surface.ambient - 1))
    rows = shade.shape[0]
    shade *= 1 / float(shade[rows // 5 : -rows // 5, width // 5 : -width // 5].mean())
    channels, colors = [shade], [style.bgr]
    if style.pattern is not None:
        channels += pattern_weights(style.pattern, width, rng)
        colors += _print_colors(style.bgr, rng)
    if template.valve or template.cup > 1.2:
        channels.append(surface.trim)
        colors.append(_trim_color(style, rng))
    map_x, map_y = texture_maps(
        fit, left=frame.left, top=frame.top, width=frame.width, height=frame.height, texture_width=width
    )
    stacked = cv2.merge(channels) if len(channels) > 1 else channels[0]
    drawn = cv2.remap(stacked, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    planes = list(cv2.split(drawn)) if len(channels) > 1 else [drawn]
    return _Cloth(planes[0], planes[1:], colors)


def _film(light: Plane) -> Plane:
    """Compress what is brighter than an even light, as a photograph does: white cloth keeps its folds."""
    return np.asarray(np.minimum(light, np.float32(0.55) + np.float32(0.45) * light))


def _print_colors(base: Color, rng: np.random.Generator) -> list[Color]:
    """Two colours that can be told from the cloth's."""
    is_dark = float(base.mean()) < 120
    first = rng.uniform(140, 250, 3) if is_dark else rng.uniform(10, 150, 3)
    if rng.random() < 0.4:
        first = np.full(3, first.mean())
    return [first, rng.uniform(20, 245, 3)]


def _trim_color(style: MaskStyle, rng: np.random.Generator) -> Color:
    """A valve is of the mask's colour, or white, grey or black plastic."""
    shade = [style.bgr * 0.93, np.full(3, 228.0), np.full(3, 165.0), np.full(3, 40.0)]
    return shade[int(rng.choice(4, p=[0.45, 0.3, 0.15, 0.1]))]


def _strap_color(style: MaskStyle, template: Template, rng: np.random.Generator) -> Color:
    own, white = style.bgr, np.full(3, 236.0)
    if template.fastening == "straps":
        choices = [white, np.array([90.0, 200.0, 225.0]), np.full(3, 40.0), np.array([190.0, 120.0, 60.0])]
        return choices[int(rng.choice(4, p=[0.45, 0.25, 0.15, 0.15]))]
    is_own = style.type == "cloth" or float(own.mean()) < 90
    return own if is_own else white


def _strap_alpha(straps: list[_Strap], frame: _Rectangle, sigma: float) -> Plane:
    alpha = np.zeros((frame.height, frame.width), np.uint8)
    for strap in straps:
        level = round(235 * min(1.0, strap.thickness_px))
        thickness = max(1, round(strap.thickness_px))
        cv2.polylines(alpha, [_fixed(strap.path - frame.corner)], False, level, thickness, cv2.LINE_AA, 4)
    return _opacity(alpha, 0.8 * sigma)


def _shadow(covering: Plane, strap: Plane, fit: Fit, rng: np.random.Generator) -> Plane:
    """The narrow dark line where the mask's edge rests on the skin."""
    size = max(3, 2 * round(0.022 * fit.height_px) + 1)
    thrown = cv2.blur(np.maximum(covering, 0.7 * strap), (size, size))
    return np.asarray(thrown * np.float32(rng.uniform(0.15, 0.4)))


@dataclass(frozen=True, slots=True)
class _Layer:
    opacity: Plane
    light: Plane
    colors: list[Color]
    weights: list[Plane]
    """Of every colour but the first, over the ones before."""


def _compose(
    patch: UInt8[np.ndarray, "h w 3"], *, bare: Plane, layers: list[_Layer], noise: Plane, grey: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """Blend the layers over the photograph, plane by plane: rows of one channel run at full speed."""
    strengths = [layer.opacity * layer.light for layer in layers]
    noise = noise * (layers[0].opacity + layers[1].opacity)
    planes: list[UInt8[np.ndarray, "h w"]] = []
    for channel, plane in enumerate(cv2.split(patch)):
        if channel == 0 or not grey:
            paint = noise
            for layer, strength in zip(layers, strengths, strict=True):
                values = [_luminance(color) if grey else float(color[channel]) for color in layer.colors]
                paint = paint + strength * _blend(values, layer.weights)
        skin = cv2.multiply(plane, bare, dtype=cv2.CV_32F)
        planes.append(np.asarray(cv2.add(skin, paint, dtype=cv2.CV_8U)))  # rounds, and stops at 0 and 255
    return np.asarray(cv2.merge(planes))


def _luminance(color: Color) -> float:
    return float(color @ [0.114, 0.587, 0.299])


def _blend(values: list[float], weights: list[Plane]) -> Plane | np.float32:
    """The colour at each pixel: each weight draws its value over what is there."""
    color: Plane | np.float32 = np.float32(_veiled(values[0]))
    for value, weight in zip(values[1:], weights, strict=True):
        color = color + weight * (np.float32(_veiled(value)) - color)
    return color


def _veiled(value: float) -> float:
    """No cloth is as black as ink in a photograph: a little light always comes back."""
    return value + 0.03 * (255.0 - value)
