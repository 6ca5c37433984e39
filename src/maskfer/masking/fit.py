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
from jaxtyping import Float, Float32, Int

from maskfer.labels import Orientation

Point = Float[np.ndarray, " 2"]
Chart = Float[np.ndarray, "n 2"]
"""s, t."""
Curve = Float[np.ndarray, "9 2"]
"""x, y in the upright frame at `_KNOTS`."""
Curves = Float[np.ndarray, "2 9 2"]
"""One curve on the far and one on the near side."""

_EDGE_BOTTOM = 4.7
"""Landmark of the jaw (counted from the ear) at the chart's lower corners."""
_FORESHORTENING = 1.15
"""Radians from the nose to the jaw on the cylinder that the cheeks resemble."""
_KNOTS = np.linspace(0.0, 1.0, 9)
_ACROSS = np.sin(_FORESHORTENING * _KNOTS) / math.sin(_FORESHORTENING)
_BULGE = np.array([0.0, 0.37, 0.7, 0.91, 0.92, 0.83, 0.7, 0.45, 0.15])
"""Profile of nose, lips and chin, 1 at the tip of the nose."""
_LIPS = np.array([0.0, 0.0, 0.3, 0.7, 1.0, 1.0, 1.0, 0.8, 0.4])
"""Where the mouth is, down the nose line."""
_HOLLOW = np.sin(math.pi * _KNOTS)[:, None] * [0.05, 0.035]
"""How far cloth spans the hollow between chin and jaw."""
_TOP = np.array(
    [
        [0.0, 0.29, 0.51, 0.32, 0.15, 0.02, 0.0, 0.0, 0.0],
        [0.0, 0.05, 0.30, 0.64, 0.82, 0.92, 0.70, 0.31, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.06, 0.30, 0.69, 1.0],
    ]
)
"""The upper border at the knots, from its height beside the nose, under the eye and at the jaw."""
_FAR, _NEAR = 0, 1
_OUTWARD = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])
_MIRROR = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
"""iBUG-68 index of each landmark's mirror image."""


@dataclass(frozen=True, slots=True)
class _Span:
    """The curves that the chart is spanned between, in the upright frame."""

    centre: Curve
    edge: Curves
    top: Curves
    bottom: Curves
    ear: Float[np.ndarray, "2 2"]


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
    _axes: Float[np.ndarray, "2 2"]
    _span: _Span

    @property
    def is_mirrored(self) -> bool:
        """Whether positive s is at the picture's left."""
        (a, b), (c, d) = self._axes
        return bool(a * d < b * c)

    def to_image(self, chart: Chart) -> Float[np.ndarray, "n 2"]:
        """Map chart coordinates to pixels."""
        return self.from_upright(self.to_upright(chart))

    def to_upright(self, chart: Chart) -> Float[np.ndarray, "n 2"]:
        """Map chart coordinates to the upright frame; beyond the chart's borders it continues straight on."""
        s, t = chart[:, :1], chart[:, 1:]
        r, t_in = np.minimum(np.abs(s), 1.0), np.minimum(np.maximum(t, 0.0), 1.0)
        w = np.sin(_FORESHORTENING * r) / math.sin(_FORESHORTENING)
        span, side = self._span, (s[:, 0] >= 0).astype(np.intp)
        # A Coons patch: between nose line and jaw, plus between upper and lower border, less what both count.
        down, across = _Between(t_in), _Between(r)
        centre, edge = down.of(span.centre), down.of(span.edge, side)
        top, bottom = across.of(span.top, side), across.of(span.bottom, side)
        upper = span.centre[0] + w * (span.edge[side, 0] - span.centre[0])
        lower = span.centre[-1] + w * (span.edge[side, -1] - span.centre[-1])
        points = centre + w * (edge - centre) + (1 - t_in) * (top - upper) + t_in * (bottom - lower)
        points[:, :1] += np.sign(s) * (np.abs(s) - r) * 0.8
        points[:, 1:] += t - t_in
        return np.asarray(points)

    def from_upright(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Map the upright frame (nose at 0, chin at (0, 1), near side at positive x) to pixels."""
        return np.asarray(self.nose + points @ self._axes)

    def into_upright(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Undo `from_upright`."""
        return np.asarray((points - self.nose) @ self._axes.T / self.height_px**2)

    def direction(self, x: float, y: float) -> tuple[float, float]:
        """Turn a direction in the picture into one along s and t; its length stays."""
        across, down = self._axes @ (x, y) / self.height_px
        return float(across), float(down)

    def texture_s(self, s: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return where the template's picture is read for `s`: what the face hides is left out."""
        return np.where(s < 0, s * self.far_extent, s)

    def ear(self, *, near: bool) -> Point:
        """Return the root of an ear in the upright frame, near side at positive x."""
        return np.asarray(self._span.ear[_NEAR if near else _FAR])


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
    below = min(int(1.0 - rise), 2)
    nose = points[27 + below] + (1.0 - rise - below) * (points[28 + below] - points[27 + below])
    down = points[8] - nose
    height_px = math.hypot(*down)
    mirror = -1.0 if orientation is Orientation.RIGHT else 1.0
    axes = np.array([[mirror * down[1], -mirror * down[0]], down])
    upright = (points - nose) @ axes.T / height_px**2
    if mirror < 0:
        upright = upright[_MIRROR]
    far_width, near_width = max(-float(upright[3, 0]), 0.05), max(float(upright[13, 0]), 0.05)
    asymmetry = (near_width - far_width) / (near_width + far_width)
    sine_yaw = math.copysign(min(1.0, 1.15 * abs(asymmetry)), asymmetry)
    span = _span_chart(upright, depth=depth * sine_yaw, slant=slant)
    is_side = orientation in (Orientation.LEFT, Orientation.RIGHT)
    far_extent = 1.0
    if is_side:
        in_sight = float((np.abs(span.edge[_FAR, :, 0]) - np.abs(span.centre[:, 0])).max())
        far_extent = min(max(1.6 * in_sight / near_width, 0.15), 1.0)
    return Fit(
        nose=nose,
        height_px=height_px,
        angle_deg=math.degrees(math.atan2(-down[0], down[1])),
        ratio=min(near_width, far_width) / max(near_width, far_width),
        is_side=is_side,
        far_extent=far_extent,
        _axes=axes,
        _span=span,
    )


def _span_chart(upright: Float[np.ndarray, "68 2"], *, depth: float, slant: float) -> _Span:
    """Span the chart between the landmarks; `depth` is how far the nose line moves to the far side."""
    tip_y = min(max(float(upright[30, 1]), 0.2), 0.5)
    centre = np.empty((9, 2))
    centre[:, 0] = _BULGE * (upright[30, 0] - depth)
    centre[:, 1] = np.interp(_KNOTS, (0.0, 0.38, 1.0), (0.0, tip_y, 1.03))
    # From here on x grows outwards from the nose, on both sides.
    jaw = np.stack([upright[:9], upright[16:7:-1]]) * _OUTWARD
    jaw[:, 1:8] = 0.25 * jaw[:, :7] + 0.5 * jaw[:, 1:8] + 0.25 * jaw[:, 2:9]
    line = centre * _OUTWARD
    cheek_y = np.maximum(upright[[[36, 39, 40, 41], [42, 45, 46, 47]], 1].max(axis=1) + 0.09, 0.04)
    corner_y = np.maximum(slant, cheek_y - 0.04)
    edge = _along(jaw, _down_from(jaw, corner_y)) * 1.02
    edge[:, 0, 1] = np.maximum(edge[:, 0, 1], corner_y)
    # Where nose and lips hide the far cheek, the mask ends at its own silhouette, which is beyond theirs.
    mouth = np.stack([-upright[48:68, 0].min(keepdims=True), upright[48:68, 0].max(keepdims=True)])
    silhouette = np.maximum(line[..., 0] + 0.06, (mouth + 0.13) * _LIPS)
    edge[..., 0] = np.maximum(edge[..., 0], np.maximum(silhouette, 0.16 + 0.06 * _KNOTS))
    bottom = _along(jaw, np.broadcast_to(8.0 - (8.0 - _EDGE_BOTTOM) * _KNOTS, (2, 9))) + _HOLLOW
    bottom += _KNOTS[:, None] * (edge[:, -1:] - bottom[:, -1:])
    bottom += (1 - _KNOTS)[:, None] * (line[:, -1:] - bottom[:, :1])
    under_eye = np.maximum(cheek_y, 0.6 * slant)
    top = np.empty((2, 9, 2))
    top[..., 0] = _ACROSS * edge[:, :1, 0]
    top[..., 1] = np.stack([0.6 * cheek_y, under_eye, edge[:, 0, 1]], axis=1) @ _TOP
    ear = 0.55 * jaw[:, 0] + 0.45 * jaw[:, 1]
    ear[:, 0] = 1.02 * jaw[:, 0, 0] + 0.03
    return _Span(
        centre=centre,
        edge=edge * _OUTWARD,
        top=top * _OUTWARD,
        bottom=bottom * _OUTWARD,
        ear=ear * _OUTWARD[:, 0],
    )


def _down_from(jaw: Curves, corner_y: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "2 9"]:
    """Indices along each jaw from where it is as low as `corner_y` to the chart's lower corner."""
    lowest, index = np.maximum.accumulate(jaw[:, :6, 1], axis=1), np.arange(6.0)
    first = [min(max(float(np.interp(corner_y[k], lowest[k], index)), 0.8), 2.6) for k in (_FAR, _NEAR)]
    start = np.array(first)[:, None]
    return np.asarray(start + (_EDGE_BOTTOM - start) * _KNOTS)


class _Between:
    """Linear interpolation between a curve's knots, with the search done once for several curves."""

    def __init__(self, at: Float[np.ndarray, "n 1"]) -> None:
        scaled = at * (len(_KNOTS) - 1)
        self._knot = np.minimum(scaled[:, 0].astype(np.intp), len(_KNOTS) - 2)
        self._share = scaled - self._knot[:, None]

    def of(
        self, curve: Curve | Curves, side: Int[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "n 2"]:
        """Return the curve's points; of a pair of curves, each point on its own side."""
        if side is None:
            start, end = curve[self._knot], curve[self._knot + 1]
        else:
            start, end = curve[side, self._knot], curve[side, self._knot + 1]
        return np.asarray(start + self._share * (end - start))


def _along(jaw: Curves, at: Float[np.ndarray, "2 9"]) -> Curves:
    """Return the points of each jaw at fractional indices."""
    k = np.minimum(at.astype(np.intp), jaw.shape[1] - 2)
    side = np.array([[_FAR], [_NEAR]])
    start = jaw[side, k]
    return np.asarray(start + (at - k)[..., None] * (jaw[side, k + 1] - start))
