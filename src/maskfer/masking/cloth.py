"""The covering itself: a template's relief in the face's light, with its print, warped into the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32

from maskfer.masking.fit import Fit
from maskfer.masking.light import FaceLight
from maskfer.masking.placement import Placement
from maskfer.masking.prints import pattern_weights
from maskfer.masking.templates import Color, MaskStyle, Template, pick
from maskfer.masking.textures import Texture, relief, texture_size, wrinkles
from maskfer.masking.warp import texture_maps

Plane = Float32[np.ndarray, "rows columns"]

_BLURRED: Final = 1.2
"""Gaussian blur of the photograph, pixels, from which on cloth is drawn at half size: it looks the same."""
_STRAP_COLORS: Final = (
    *(((236.0, 236.0, 236.0), 0.5), ((120.0, 200.0, 218.0), 0.2)),
    *(((40.0, 40.0, 40.0), 0.2), ((170.0, 125.0, 85.0), 0.1)),
)
"""Blue, green, red of head straps, and their shares."""
_TRIM_LEVELS: Final = ((None, 0.45), (228.0, 0.3), (165.0, 0.15), (40.0, 0.1))
"""Grey level of a valve, None for the mask's own colour, and their shares."""


@dataclass(frozen=True, slots=True)
class Cloth:
    """What the covering looks like at every pixel of the rectangle it is drawn in."""

    light: Plane
    """Factor on the colours."""
    colors: tuple[Color, ...]
    weights: tuple[Plane, ...]
    """Of every colour but the first, over the ones before."""


def draw_cloth(
    placement: Placement,
    template: Template,
    style: MaskStyle,
    *,
    light: FaceLight,
    rectangle: tuple[int, int, int, int],
    sigma: float,
    rng: np.random.Generator,
) -> Cloth:
    """Draw the cloth inside `rectangle` (left, top, width, height), for a photograph with blur `sigma`."""
    left, top, width, height = rectangle
    texture_width = texture_size(float(np.ptp(placement.outline[:, 0])), sigma=sigma)
    channels = [_shade(placement.fit, template, light, texture_width, rng)]
    colors = [style.bgr]
    if style.pattern is not None:
        channels += pattern_weights(style.pattern, texture_width, rng)
        colors += _print_colors(style.bgr, rng)
    if template.has_trim:
        channels.append(relief(template, texture_width).trim)
        colors.append(_trim_color(style, rng))
    step = 2 if sigma >= _BLURRED else 1
    small = (-(-width // step), -(-height // step))
    map_x, map_y = texture_maps(
        placement,
        left=left,
        top=top,
        width=small[0],
        height=small[1],
        step=step,
        texture_width=texture_width,
    )
    planes = [
        cv2.remap(channel, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for channel in channels
    ]
    field = cv2.resize(light.field * np.float32(light.gain), small, interpolation=cv2.INTER_LINEAR)
    planes[0] = _film(planes[0] * field)
    if step > 1:
        full = (small[0] * step, small[1] * step)
        planes = [
            cv2.resize(plane, full, interpolation=cv2.INTER_LINEAR)[:height, :width] for plane in planes
        ]
    return Cloth(planes[0], tuple(colors), tuple(planes[1:]))


def strap_color(style: MaskStyle, template: Template, rng: np.random.Generator) -> Color:
    """Return the colour of loops and straps."""
    if template.fastening == "straps":
        return np.array(pick(_STRAP_COLORS, rng))
    return style.bgr if style.type == "cloth" or float(style.bgr.mean()) < 90 else np.full(3, 236.0)


def _shade(
    fit: Fit, template: Template, light: FaceLight, texture_width: int, rng: np.random.Generator
) -> Texture:
    """Light the relief from above and from the side that the face is lit from; 1 on average."""
    surface = relief(template, texture_width)
    crease_s, crease_t = wrinkles(texture_width, int(rng.integers(6)))
    along_s, along_t = fit.direction(
        min(max(1.3 * light.slope[0], -0.9), 0.9), -0.5 + float(rng.normal(0, 0.12))
    )
    crumple = np.float32(template.crumple * rng.uniform(0.2, 1.5))
    contrast = rng.uniform(0.3, 0.6)  # soft light or hard
    shade = 1 - np.float32(contrast * along_s) * (surface.slope_s + crumple * crease_s)
    shade -= np.float32(contrast * along_t) * (surface.slope_t + crumple * crease_t)
    shade = np.minimum(np.maximum(shade, np.float32(0.3)), np.float32(1.7))
    shade *= 1 + np.float32(rng.uniform(0.7, 1.6)) * (surface.ambient - 1)
    rows, columns = shade.shape
    middle = shade[rows // 5 : -rows // 5, columns // 5 : -columns // 5]
    return np.asarray(shade * np.float32(1 / cv2.mean(middle)[0]))


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
    level = pick(_TRIM_LEVELS, rng)
    return style.bgr * 0.93 if level is None else np.full(3, level)
