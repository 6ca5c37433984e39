"""What the photograph says about its light, its sharpness and its grain, so that a drawn mask shares them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

Plane = Float32[np.ndarray, "h w"]

_CELLS: Final = 16
"""The light is read on a grid this fine: pores, lips and beards are gone, the shadow of the nose stays."""
_WELL_LIT: Final = 145.0
"""Luminance of skin in an ordinary exposure; there a mask has the colour that was asked for."""


@dataclass(frozen=True, slots=True)
class FaceLight:
    """Light on the covered part of a face."""

    gain: float
    """Exposure: 1 in an ordinary photograph."""
    field: Float32[np.ndarray, "16 16"]
    """Low-frequency light over the region of interest, 1 on average over the face."""
    slope: tuple[float, float]
    """How the light grows to the picture's right and downwards, per half width of the region."""
    skin: float
    """Mean luminance of the covered skin, 0 to 255."""


def read_light(
    grey: UInt8[np.ndarray, "h w"],
    face: Float[np.ndarray, "n 2"],
    lips: Float[np.ndarray, "m 2"],
    *,
    picture_white: float,
) -> FaceLight:
    """Read the light inside the polygon `face` without `lips`, both in pixels of `grey`.

    `picture_white` is the luminance of the picture's bright parts: it tells a dark skin from a dark room.
    """
    height, width = grey.shape
    scale = np.array([_CELLS / width, _CELLS / height]) * 16
    valid = np.zeros((_CELLS, _CELLS), np.uint8)
    cv2.fillPoly(valid, [np.rint(face * scale - 8).astype(np.int32)], 255, cv2.LINE_AA, 4)
    cv2.fillPoly(valid, [np.rint(lips * scale - 8).astype(np.int32)], 40, cv2.LINE_AA, 4)
    weight = valid.astype(np.float32) / 255 + 1e-3
    luminance = cv2.resize(grey, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)
    total = float(weight.sum())
    skin = max(8.0, float((luminance * weight).sum()) / total)
    # A background that shines through the polygon's edge must not light the mask.
    luminance = np.clip(luminance, 0.35 * skin, 1.9 * skin)
    smooth = cv2.GaussianBlur(luminance * weight, (0, 0), 2.2) / cv2.GaussianBlur(weight, (0, 0), 2.2)
    axis = np.linspace(-1, 1, _CELLS, dtype=np.float32)
    spread = float((weight * axis**2).sum()) + 1e-6
    relative = (luminance / skin - 1) * weight
    slope_x = float((relative * (axis - float((weight * axis).sum()) / total)).sum()) / spread
    slope_y = float((relative * axis[:, None]).sum()) / spread
    field = np.clip(smooth / skin, 0.45, 1.5) ** 0.75
    exposure = max(skin, 0.62 * picture_white)
    gain = float(np.clip((exposure / _WELL_LIT) ** 0.75, 0.25, 1.12))
    return FaceLight(gain, field / float((field * weight).sum() / total), (slope_x, slope_y), skin)


def picture_white(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the luminance that one pixel in twenty exceeds, from a sample of the picture."""
    step = max(1, min(image.shape[:2]) // 40)
    sample = cv2.cvtColor(np.ascontiguousarray(image[::step, ::step]), cv2.COLOR_BGR2GRAY).ravel()
    return float(np.partition(sample, -max(1, len(sample) // 20))[-max(1, len(sample) // 20)])


def is_grey(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether a picture has no colour: channels equal but for the noise of a lossy codec."""
    step = max(1, min(image.shape[:2]) // 32)
    sample = image[::step, ::step].reshape(-1, 3).astype(np.int16)
    chroma = np.maximum(np.abs(sample[:, 0] - sample[:, 1]), np.abs(sample[:, 2] - sample[:, 1]))
    return bool(np.mean(chroma <= 6) > 0.98)


def blur_sigma(grey: UInt8[np.ndarray, "h w"]) -> float:
    """Return the Gaussian blur, pixels, of the sharpest edges in a patch that has some (the eyes); 0 to 3."""
    if min(grey.shape) < 4:
        return 0.6
    patch = grey.astype(np.float32)
    across, down = np.abs(patch[:, 2:] - patch[:, :-2]) / 2, np.abs(patch[2:] - patch[:-2]) / 2
    contrast = float(np.ptp(cv2.GaussianBlur(patch, (3, 3), 0)))
    steepest = float(
        max(np.partition(across.ravel(), -4)[-4:].mean(), np.partition(down.ravel(), -4)[-4:].mean())
    )
    # A step of height c blurred by sigma is steepest with c / (sigma * sqrt(2 pi)).
    return float(np.clip(0.75 * contrast / (math.sqrt(2 * math.pi) * max(steepest, 1.0)), 0.0, 3.0))


def grain_sigma(grey: UInt8[np.ndarray, "h w"]) -> float:
    """Return the standard deviation of the picture's noise, grey levels, from its quiet places; 0 to 8.

    Source: the Laplacian difference mask of Immerkaer (1996), Fast Noise Variance Estimation; a median in
    place of the mean, because a face is full of edges.
    """
    if min(grey.shape) < 8:
        return 1.0
    step = max(1, min(grey.shape) // 96)
    patch = np.ascontiguousarray(grey[: 96 * step, : 96 * step]).astype(np.float32)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(patch, -1, mask))[1:-1:2, 1:-1:2].ravel()
    middle = len(response) // 2
    return float(min(8.0, np.partition(response, middle)[middle] / (0.6745 * 6)))


@lru_cache(maxsize=1)
def _grain_tile() -> Float32[np.ndarray, "512 512"]:
    return np.random.default_rng(5).standard_normal((512, 512), dtype=np.float32)


def grain(height: int, width: int, rng: np.random.Generator) -> Plane:
    """Return unit noise, cut at a random place from one fixed sheet."""
    tile = _grain_tile()
    if height > len(tile) or width > len(tile):
        tile = np.tile(tile, (height // len(tile) + 1, width // len(tile) + 1))
    top, left = int(rng.integers(tile.shape[0] - height + 1)), int(rng.integers(tile.shape[1] - width + 1))
    return tile[top : top + height, left : left + width]
