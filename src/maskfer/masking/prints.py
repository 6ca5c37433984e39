"""Prints on cloth, as the weights of a second and a third colour; made per mask, at the size it needs."""

from __future__ import annotations

import math

import cv2
import numpy as np

from maskfer.masking.templates import Pattern
from maskfer.masking.textures import (
    S_MAX,
    T_MAX,
    T_MIN,
    Texture,
    chart_grid,
    smooth_noise,
    texture_shape,
)


def pattern_weights(pattern: Pattern, width: int, rng: np.random.Generator) -> tuple[Texture, Texture]:
    """Return the weights of a print's second and third colour at every texture pixel, 0 to 1."""
    s, t = chart_grid(width)
    edge = width / (2 * S_MAX)  # one texture pixel, in 1/chart units: the sharpest edge that does not alias
    none = np.zeros_like(s)
    angle = rng.uniform(0, math.pi)
    period = rng.uniform(0.09, 0.24)
    cosine, sine = math.cos(angle), math.sin(angle)
    u, v = cosine * 1.3 * s + sine * t, cosine * t - sine * 1.3 * s
    match pattern:
        case "stripes":
            return _band(u, period, rng.uniform(0.3, 0.6), edge), none
        case "checks":
            u, v = (s * 1.3, t) if rng.random() < 0.7 else (u, v)
            a, b = _band(u, period, 0.5, edge), _band(v, period, 0.5, edge)
            return np.asarray(0.5 * (a + b)), none
        case "dots":
            u, v = u / period, v / period
            row = np.floor(v)
            du = u + 0.5 * (row % 2) - np.floor(u + 0.5 * (row % 2)) - 0.5
            distance = np.hypot(du, v - row - 0.5) * period
            radius = period * rng.uniform(0.2, 0.36)
            return np.clip((radius - distance) * edge + 0.5, 0, 1), none
        case "floral" | "motif":
            return _flowers(width, rng) if pattern == "floral" else _motif(width, rng)
        case "camouflage":
            rows, columns = s.shape
            a, b = (smooth_noise(rng, rows, columns, int(rng.integers(5, 9))) for _ in range(2))
            return np.clip(6 * (a - 0.15) + 0.5, 0, 1), np.clip(6 * (b - 0.45) + 0.5, 0, 1)
        case "marble":
            rows, columns = s.shape
            a = smooth_noise(rng, rows, columns, int(rng.integers(6, 14)))
            return np.clip(1.3 - np.abs(a) * rng.uniform(5, 9), 0, 1), none


def _band(u: Texture, period: float, share: float, edge: float) -> Texture:
    phase = np.abs((u / period) % 1.0 - 0.5) * period
    return np.clip((share * period / 2 - phase) * edge + 0.5, 0, 1)


def _flowers(width: int, rng: np.random.Generator) -> tuple[Texture, Texture]:
    """Scattered flowers: petals in the second colour, hearts and leaves in the third."""
    rows, columns = texture_shape(width)
    petals, hearts = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.uint8)
    count = int(rng.integers(18, 45))
    size = width * rng.uniform(0.012, 0.022)
    centres = rng.random((count, 2)) * [columns, rows]
    turns = rng.uniform(0, 2 * np.pi, count)
    sizes = size * rng.uniform(0.7, 1.4, count)
    for centre, turn, radius in zip(centres, turns, sizes, strict=True):
        leaf = centre + 2.6 * radius * np.array([np.cos(turn), np.sin(turn)])
        _disc(hearts, leaf, radius * 0.8)
        for k in range(5):
            angle = turn + 2 * np.pi * k / 5
            _disc(petals, centre + 1.1 * radius * np.array([np.cos(angle), np.sin(angle)]), radius)
        _disc(hearts, centre, 0.7 * radius)
    return petals.astype(np.float32) / 255, hearts.astype(np.float32) / 255


def _motif(width: int, rng: np.random.Generator) -> tuple[Texture, Texture]:
    """One figure where the mouth is, as people like it: lips, a grin, a snout with whiskers, or letters."""
    rows, columns = texture_shape(width)
    main, second = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.uint8)
    unit = width / (2 * S_MAX) * rng.uniform(0.8, 1.3)
    x, y = width / 2, (rng.uniform(0.5, 0.68) - T_MIN) * rows / (T_MAX - T_MIN)

    def oval(canvas: np.ndarray, dx: float, dy: float, rx: float, ry: float) -> None:
        centre = (round((x + dx * unit) * 16), round((y + dy * unit) * 16))
        axes = (round(rx * unit * 16), round(ry * unit * 16))
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA, 4)

    def line(
        canvas: np.ndarray, points: list[tuple[float, float]], thickness: float, value: int = 255
    ) -> None:
        path = np.rint((np.array(points) * unit + [x, y]) * 16).astype(np.int32)
        cv2.polylines(canvas, [path], False, value, max(1, round(thickness * unit)), cv2.LINE_AA, 4)

    match int(rng.integers(4)):
        case 0:
            for dx, dy, ry in ((-0.1, -0.04, 0.07), (0.1, -0.04, 0.07), (0.0, 0.05, 0.09)):
                oval(main, dx, dy, 0.15, ry)
            line(second, [(-0.22, 0.0), (0.0, 0.02), (0.22, 0.0)], 0.02)
        case 1:
            oval(main, 0.0, 0.0, 0.34, 0.16)
            oval(second, 0.0, 0.0, 0.3, 0.12)
            for dx in np.linspace(-0.3, 0.3, 7):
                line(second, [(dx, -0.12), (dx, 0.12)], 0.02, 0)
        case 2:
            oval(main, 0.0, -0.12, 0.09, 0.06)
            line(main, [(0.0, -0.06), (0.0, 0.06), (-0.15, 0.12)], 0.02)
            line(main, [(0.0, 0.06), (0.15, 0.12)], 0.02)
            for side in (-1, 1):
                for dy in (-0.1, 0.0, 0.1):
                    line(main, [(side * 0.25, dy * 0.6), (side * 0.6, dy * 1.6)], 0.015)
        case _:
            letters = "".join(chr(65 + int(k)) for k in rng.integers(0, 26, int(rng.integers(1, 5))))
            scale = unit / 110 * (3.0 if len(letters) == 1 else 1.4)
            thick = max(1, round(unit * 0.03))
            (wide, high), _ = cv2.getTextSize(letters, cv2.FONT_HERSHEY_DUPLEX, scale, thick)
            at = (round(x - wide / 2), round(y + high / 2))
            cv2.putText(main, letters, at, cv2.FONT_HERSHEY_DUPLEX, scale, 255, thick, cv2.LINE_AA)
    return main.astype(np.float32) / 255, second.astype(np.float32) / 255


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float) -> None:
    x, y = (round(float(value) * 16) for value in centre)
    cv2.circle(canvas, (x, y), round(radius * 16), 255, -1, cv2.LINE_AA, 4)
