"""Where a mask goes on a face: the paper's resize, rotate and offset, then a chart that hugs the jaw.

Source: Yang et al. (2021), §3: the mask is resized by the ratio between the left and the right side of the
face, rotated by the line between nose and jaw, and placed by its offset (o_x, o_y) from the nose.
Deviation: after these three, the template is bent to the jaw's landmarks, because a flat picture that was
only resized and rotated leaves the chin bare or hangs in the air beside the cheek.

The chart has two coordinates. `s` runs across the face, -1 and 1 at the jaw's two sides and 0 on the line of
nose and chin; `t` runs down, 0 at the bridge of the nose and 1 at the chin. Inside, a side face always looks
to the left: a face that looks to the right is mirrored, so that both get the same mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from maskfer.labels import Orientation

Point = Float[np.ndarray, " 2"]
Chart = Float[np.ndarray, "n 2"]
"""s, t."""

_EDGE_BOTTOM = 4.7
"""Landmark of the jaw (counted from the ear) at the chart's lower corners."""
_FORESHORTENING = 1.15
"""Radians from the nose to the jaw on the cylinder that the cheeks resemble."""
_KNOTS = np.linspace(0.0, 1.0, 9)
_ACROSS = np.sin(_FORESHORTENING * _KNOTS) / math.sin(_FORESHORTENING)
_BULGE = np.array([0.0, 0.37, 0.7, 0.91, 0.92, 0.83, 0.7, 0.45, 0.15])
"""Profile of nose, lips and chin, 1 at the tip of the nose."""


Curve = Float[np.ndarray, "9 2"]
"""x, y in the upright frame at `_KNOTS`."""


@dataclass(frozen=True, slots=True)
class _Half:
    """One side of the face: the borders of its chart from nose to jaw."""

    edge: Curve
    top: Curve
    bottom: Curve
    ear: Point


@dataclass(frozen=True, slots=True)
class Fit:
    """How one mask is worn by one face."""

    nose: Point
    """The origin: the point on the bridge of the nose where the mask begins, pixels."""
    height_px: float
    """Length of the nose-jaw line."""
    angle_deg: float
    """Of the nose-jaw line against the picture's vertical; the mask is rotated by it."""
    ratio: float
    """Width of the half that the viewer sees less of, over the other's (§3); 1 for a frontal face."""
    is_side: bool
    """The side template is worn: one ear, and the far half ends at the silhouette."""
    far_extent: float
    """How much of the template's far half is in sight, in units of s."""
    sine_yaw: float
    _axes: Float[np.ndarray, "2 2"]
    _centre: Curve
    _far: _Half
    _near: _Half

    def to_image(self, chart: Chart) -> Float[np.ndarray, "n 2"]:
        """Map chart coordinates to pixels."""
        return self.from_upright(self.to_upright(chart))

    def to_upright(self, chart: Chart) -> Float[np.ndarray, "n 2"]:
        """Map chart coordinates to the upright frame; beyond the chart's borders it continues straight on."""
        s, t = chart[:, :1], chart[:, 1:]
        r, t_in = np.minimum(np.abs(s), 1.0), np.minimum(np.maximum(t, 0.0), 1.0)
        w = np.sin(_FORESHORTENING * r) / math.sin(_FORESHORTENING)
        is_near = s >= 0
        # A Coons patch: between nose line and jaw, plus between upper and lower border, less what both count.
        down, across = _Between(t_in), _Between(r)
        centre, far, near = self._centre, self._far, self._near
        edge = np.where(is_near, down.of(near.edge), down.of(far.edge))
        top = np.where(is_near, across.of(near.top), across.of(far.top))
        bottom = np.where(is_near, across.of(near.bottom), across.of(far.bottom))
        upper = np.where(is_near, near.edge[0], far.edge[0])
        lower = np.where(is_near, near.edge[-1], far.edge[-1])
        points = (1 - w) * down.of(centre) + w * edge
        points += (1 - t_in) * (top - (1 - w) * centre[0] - w * upper)
        points += t_in * (bottom - (1 - w) * centre[-1] - w * lower)
        points[:, :1] += np.sign(s) * (np.abs(s) - r) * 0.8
        points[:, 1:] += t - t_in
        return np.asarray(points)

    def from_upright(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map the upright frame (nose at 0, chin at (0, 1), near side at positive x) to pixels."""
        return np.asarray(self.nose + points @ self._axes)

    def into_upright(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Undo `from_upright`."""
        return np.asarray((points - self.nose) @ self._axes.T / self.height_px**2)

    def direction(self, vector: Point) -> tuple[float, float]:
        """Turn a direction in the picture into one along s and t; its length stays."""
        across, down = vector @ self._axes.T / self.height_px
        return float(across), float(down)

    def texture_s(self, s: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return where the template's picture is read for `s`: what the face hides is left out."""
        return np.where(s < 0, s * self.far_extent, s)

    def ear(self, *, near: bool) -> Point:
        """Return the root of an ear in the upright frame, near side at positive x."""
        return self._near.ear if near else self._far.ear


def fit_mask(
    landmarks: Float32[np.ndarray, "68 2"],
    orientation: Orientation,
    *,
    rise: float,
    slant: float,
    depth: float,
) -> Fit:
    """Place a mask on a face.

    `rise` moves its upper edge, in steps between two landmarks of the nose's bridge, up is positive; `slant`
    is how far that edge drops from nose to ear and `depth` how far the mask stands off the face, which only
    shows from the side: both in units of the nose-jaw line.
    """
    points = landmarks.astype(np.float64)
    nose = _along(points[27:31], np.array([1.0 - rise]))[0]
    down = points[8] - nose
    height_px = math.hypot(*down)
    down /= height_px
    mirror = -1.0 if orientation is Orientation.RIGHT else 1.0
    axes = height_px * np.array([[mirror * down[1], -mirror * down[0]], down])
    upright = (points - nose) @ axes.T / height_px**2
    if mirror < 0:
        upright = upright[_MIRROR]
    is_side = orientation in (Orientation.LEFT, Orientation.RIGHT)
    far_width, near_width = (max(-upright[3, 0], 0.05), max(upright[13, 0], 0.05))
    asymmetry = float(np.clip((near_width - far_width) / (near_width + far_width), -1.0, 1.0))
    sine_yaw = min(1.0, 1.15 * abs(asymmetry))
    centre = _centre_line(upright, depth=depth * sine_yaw * math.copysign(1.0, asymmetry))
    near = _half(upright[16:7:-1], upright[42:48], sign=1.0, centre=centre, slant=slant)
    far = _half(upright[:9], upright[36:42], sign=-1.0, centre=centre, slant=slant)
    ratio = float(min(near_width, far_width) / max(near_width, far_width))
    far_extent = 1.0
    if is_side:
        silhouette = np.abs(far.edge[:, 0]) - np.abs(centre[:, 0])
        far_extent = float(np.clip(1.6 * silhouette.max() / near_width, 0.15, 1.0))
    return Fit(
        nose=nose,
        height_px=height_px,
        angle_deg=math.degrees(math.atan2(-down[0], down[1])),
        ratio=ratio,
        is_side=is_side,
        far_extent=far_extent,
        sine_yaw=sine_yaw,
        _axes=axes,
        _centre=centre,
        _far=far,
        _near=near,
    )


_MIRROR = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
"""iBUG-68 index of each landmark's mirror image."""


class _Between:
    """Linear interpolation between a curve's knots, with the search done once for several curves."""

    def __init__(self, at: Float[np.ndarray, "n 1"]) -> None:
        scaled = at * (len(_KNOTS) - 1)
        self._knot = np.minimum(scaled[:, 0].astype(np.intp), len(_KNOTS) - 2)
        self._share = scaled - self._knot[:, None]

    def of(self, curve: Curve) -> Float[np.ndarray, "n 2"]:
        """Return the curve's points."""
        start = curve[self._knot]
        return np.asarray(start + self._share * (curve[self._knot + 1] - start))


def _along(polyline: Float[np.ndarray, "k 2"], at: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Return points of a polyline at fractional indices."""
    k = np.minimum(at.astype(np.intp), len(polyline) - 2)
    return np.asarray(polyline[k] + (at - k)[:, None] * (polyline[k + 1] - polyline[k]))


def _smooth(values: Float[np.ndarray, " 9"]) -> Float[np.ndarray, " 9"]:
    """Round the corners of a sampled curve; its ends stay."""
    smooth = values.copy()
    smooth[1:-1] = 0.2 * values[:-2] + 0.6 * values[1:-1] + 0.2 * values[2:]
    return smooth


def _centre_line(upright: Float[np.ndarray, "68 2"], *, depth: float) -> Curve:
    """The line from the bridge over the tip of the nose to the chin, bulging to where the face looks."""
    tip_x, tip_y = upright[30]
    tip_y = float(np.clip(tip_y, 0.2, 0.5))
    y = np.interp(_KNOTS, [0.0, 0.38, 1.0], [0.0, tip_y, 1.03])
    return np.stack([_BULGE * (tip_x - depth), y], axis=1)


def _half(
    jaw: Float[np.ndarray, "9 2"], eye: Float[np.ndarray, "6 2"], *, sign: float, centre: Curve, slant: float
) -> _Half:
    """Borders of one side; `jaw` runs from the ear to the chin, `sign` is that of the side's x."""
    outward = np.array([sign, 1.0])
    jaw, eye, centre = jaw * outward, eye * outward, centre * outward
    jaw[1:8] = 0.25 * jaw[:7] + 0.5 * jaw[1:8] + 0.25 * jaw[2:9]
    cheek_y = max(float(eye[:, 1].max()) + 0.09, 0.04)
    corner_y = max(slant, cheek_y - 0.04)
    first = float(np.interp(corner_y, np.maximum.accumulate(jaw[:6, 1]), np.arange(6.0)))
    edge = _along(jaw, np.clip(first, 0.8, 2.6) + (_EDGE_BOTTOM - np.clip(first, 0.8, 2.6)) * _KNOTS) * 1.02
    edge[0, 1] = max(float(edge[0, 1]), corner_y)
    # Where the nose hides the far cheek, the mask ends at its own silhouette.
    edge[:, 0] = np.maximum(edge[:, 0], np.maximum(centre[:, 0] + 0.06, 0.16 + 0.06 * _KNOTS))
    bottom = _along(jaw, 8.0 - (8.0 - _EDGE_BOTTOM) * _KNOTS)
    bottom += _KNOTS[:, None] * (edge[-1] - bottom[-1]) + (1 - _KNOTS)[:, None] * (centre[-1] - bottom[0])
    bottom += np.sin(math.pi * _KNOTS)[:, None] * [0.05, 0.035]  # cloth spans the hollow between chin and jaw
    top_y = np.interp(_KNOTS, [0, 0.25, 0.6, 1], [0.0, 0.6 * cheek_y, max(cheek_y, 0.6 * slant), edge[0, 1]])
    top = np.stack([_ACROSS * edge[0, 0], _smooth(top_y)], axis=1)
    ear = np.array([jaw[0, 0] * 1.02 + 0.03, 0.55 * jaw[0, 1] + 0.45 * jaw[1, 1]])
    return _Half(edge=edge * outward, top=top * outward, bottom=bottom * outward, ear=ear * outward)
