"""What a template's cloth looks like: folds, seams, hems and valves as relief.

A texture covers the chart from (`S_MAX`, `T_MIN`) to (`S_MAX`, `T_MAX`). Reliefs are made once per template
and size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32

from maskfer.masking.templates import Template

S_MAX: Final = 1.2
T_MIN: Final = -0.15
T_MAX: Final = 1.2
WIDTHS: Final = (64, 96, 144, 208, 304, 448)
"""Texture widths, pixels: the smallest that resolves the mask is used, so that small masks do not alias."""

Texture = Float32[np.ndarray, "rows columns"]


@dataclass(frozen=True, slots=True)
class Relief:
    """A template's surface: slopes towards s and t, and what is dark or of another material."""

    slope_s: Texture
    slope_t: Texture
    ambient: Texture
    """Share of the ambient light that reaches the cloth; folds are dark."""
    trim: Texture
    """Weight of the second material: nose clip, valve, stitches."""


def texture_size(width_px: float, *, sigma: float) -> int:
    """Return the texture width for a mask `width_px` wide in a picture with Gaussian blur `sigma`, pixels.

    A blurred picture gets a coarse texture: cheaper than to blur a fine one, and it looks the same.
    """
    return next((width for width in WIDTHS if width >= 1.05 * width_px / max(1.0, sigma)), WIDTHS[-1])


def texture_shape(width: int) -> tuple[int, int]:
    """Return rows and columns of a texture."""
    return round(width * 0.6), width


@lru_cache(maxsize=len(WIDTHS))
def chart_grid(width: int) -> tuple[Texture, Texture]:
    """Return s and t of every texture pixel."""
    rows, columns = texture_shape(width)
    s = np.linspace(-S_MAX, S_MAX, columns, dtype=np.float32)
    t = np.linspace(T_MIN, T_MAX, rows, dtype=np.float32)
    return np.asarray(np.broadcast_to(s, (rows, columns))), np.asarray(
        np.broadcast_to(t[:, None], (rows, columns))
    )


@lru_cache(maxsize=128)
def relief(template: Template, width: int) -> Relief:
    """Return the template's surface at a texture width."""
    s, t = chart_grid(width)
    r = np.abs(s)
    inside = _distance_inside(template, width)
    height = template.cup * _bulge(r, t)
    ambient = np.ones_like(height)
    trim = np.zeros_like(height)
    pixel = 2 * S_MAX / width
    for at in template.pleats:
        fold, depth = _pleat(r, t, at, pixel)
        height += fold
        ambient *= 1 - depth
    for at in template.creases:
        line = at + (0.4 - at) * np.clip(r / 0.95, 0, 1) ** 1.3
        height += 0.09 * np.abs(t - line) * (1 if at > 0.5 else -0.3)
        ambient *= 1 - 0.2 * _line(t - line, 0.014, pixel)
        height += 0.016 * _line(t - line - 0.012, 0.02, pixel)
    if template.ridge:
        height -= 0.22 * template.ridge * np.minimum(r, 0.5)
        ambient *= 1 - 0.22 * template.ridge * _line(r - 0.01, 0.01, pixel)
    if template.is_shell:
        for d in (0.09, 0.3):
            height += 0.02 * _line(inside - d, 0.022, pixel)
            ambient *= 1 - 0.12 * _line(inside - d, 0.018, pixel)
    if template.has_wire:
        clip = _line(t - 0.055 - 0.05 * (r / 0.3) ** 2, 0.018, pixel) * (r < 0.3)
        height += 0.012 * clip
        trim += 0.35 * clip if template.is_shell else 0.0
    ambient *= _hem(template, inside, s, t, pixel)
    if template.valve:
        _add_valve(template.valve, s, t, height, ambient, trim)
    slope_s = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=width / (8 * 2 * S_MAX))
    slope_t = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=width * 0.6 / (8 * (T_MAX - T_MIN)))
    return Relief(slope_s, slope_t, ambient.astype(np.float32), trim.astype(np.float32))


@lru_cache(maxsize=64)
def wrinkles(width: int, which: int) -> tuple[Texture, Texture]:
    """Return the slopes of one of a few fixed sheets of creased cloth."""
    rows, columns = texture_shape(width)
    rng = np.random.default_rng([20, which])
    height = np.zeros((rows, columns), np.float32)
    for cells, amplitude in ((2, 0.16), (4, 0.1), (8, 0.04)):
        noise = smooth_noise(rng, rows, columns, cells)
        height -= amplitude * np.sqrt(noise**2 + 0.05)  # ridges, as creases are, with round backs
    slope_s = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=width / (8 * 2 * S_MAX))
    slope_t = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=width * 0.6 / (8 * (T_MAX - T_MIN)))
    return slope_s, slope_t


def _bulge(r: Texture, t: Texture) -> Texture:
    """Height of a sheet held out by nose and chin and tied back at the ears."""
    profile = np.interp(t, [-0.15, 0.0, 0.35, 0.75, 1.05, 1.2], [0.1, 0.3, 0.62, 0.56, 0.25, 0.0])
    down = cv2.GaussianBlur(profile.astype(np.float32), (0, 0), t.shape[0] / 14)
    nose = 0.1 * np.exp(-((r / 0.16) ** 2) - ((t - 0.12) / 0.2) ** 2)
    return np.asarray(down * (1 - 0.75 * np.minimum(r, 1.1) ** 2.2) + nose, dtype=np.float32)


def _line(distance: Texture, half_width: float, pixel: float) -> Texture:
    """A soft line, never thinner than the texture can show."""
    sigma = max(half_width, 0.7 * pixel)
    return np.asarray(
        np.exp(-((distance / sigma) ** 2)) * min(1.0, half_width / (0.5 * pixel)), dtype=np.float32
    )


def _pleat(r: Texture, t: Texture, at: float, pixel: float) -> tuple[Texture, Texture]:
    """One horizontal fold: a step that opens towards the middle, with its shadow under the edge."""
    line = at + 0.03 * (at - 0.5) * r**2 + 0.035 * (1 - r**2) * (1 if at < 0.5 else 1.3)
    inside = np.clip((0.9 - r) * 12, 0, 1)
    strength = (0.5 + 0.5 * np.minimum(r / 0.8, 1)) * inside
    ramp = np.clip((line - t) / 0.16, 0, 1)
    step = np.where(t < line, 0.035 * (1 - ramp) ** 1.5, 0.0) * strength
    shadow = 0.2 * strength * _line(t - line - 0.012, 0.02, pixel)
    glow = -0.06 * strength * _line(t - line + 0.03, 0.03, pixel)
    rounded = cv2.GaussianBlur(step.astype(np.float32), (0, 0), max(0.6, 0.012 / pixel))
    return np.asarray(rounded), np.asarray(shadow + glow, dtype=np.float32)


def _hem(template: Template, inside: Texture, s: Texture, t: Texture, pixel: float) -> Texture:
    """The border: a thin rounded edge, and a weld or a row of stitches inside it."""
    rim = 1 - 0.3 * np.exp(-((np.maximum(inside, 0) / max(0.014, pixel)) ** 2))
    weld = 0.13 * _line(inside - 0.055, 0.009, pixel)
    if template.stitched:
        weld = weld * (0.65 + 0.35 * np.sin(90 * (s + t)))
    return np.asarray(rim * (1 - weld), dtype=np.float32)


def _add_valve(
    valve: tuple[float, float, float],
    s: Texture,
    t: Texture,
    height: Texture,
    ambient: Texture,
    trim: Texture,
) -> None:
    at_s, at_t, radius = valve
    distance = np.hypot(0.95 * (s - at_s), t - at_t)
    pixel = 2 * S_MAX / s.shape[1]
    disc = np.clip((radius - distance) / (2 * pixel) + 0.5, 0, 1)
    height += 0.035 * np.clip((radius - distance) / 0.035, 0, 1)
    height -= 0.012 * np.clip((0.72 * radius - distance) / 0.02, 0, 1)
    ambient *= 1 - 0.25 * _line(distance - radius - 0.015, 0.02, pixel)
    slats = 0.5 - 0.5 * np.cos(2 * math.pi * (t - at_t) / (0.36 * radius))
    ambient *= 1 - 0.22 * slats * np.clip((0.62 * radius - distance) / (2 * pixel), 0, 1)
    np.maximum(trim, disc, out=trim)


def _distance_inside(template: Template, width: int) -> Texture:
    """Distance of every texture pixel inside the outline from it, chart units; 0 outside."""
    rows, columns = texture_shape(width)
    corners = template.outline() * [1.0, 1.0] - [-S_MAX, T_MIN]
    corners *= [(columns - 1) / (2 * S_MAX), (rows - 1) / (T_MAX - T_MIN)]
    filled = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(filled, [np.rint(corners * 16).astype(np.int32)], 255, shift=4)
    distance = cv2.distanceTransform(filled, cv2.DIST_L2, 5)
    return np.asarray(distance * (2 * S_MAX / width), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, rows: int, columns: int, cells: int) -> Texture:
    """Noise in about [-1, 1] with `cells` features down and twice as many across."""
    coarse = rng.uniform(-1, 1, (cells + 1, 2 * cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC) * 1.3)
