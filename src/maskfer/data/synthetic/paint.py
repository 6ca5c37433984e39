"""The front of the face: its 68 landmarks, its colours and its height above the ellipsoid.

Head coordinates: x to the picture's right, y down, z towards the viewer; the face is about 1.5 wide and
2 high, its middle at the origin. Colours and heights lie on one texture grid over x and y.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Float32

from maskfer.data.synthetic.person import Colour, Person, Pose, as_colour

Scalars = Float32[np.ndarray, "..."]

TEXTURE_SCALE: Final = 140
"""Texture pixels of one head unit."""
TEXTURE_HALF: Final = (1.15, 1.35)
"""The texture reaches this far from the middle, head units."""


def face_landmarks(person: Person, pose: Pose) -> Float32[np.ndarray, "68 2"]:
    """The 68 points on the front of the unturned head (iBUG-68 order), head coordinates."""
    angle = np.linspace(0, np.pi, 17)
    jaw_y = -0.12 + 1.10 * np.sin(angle) ** 0.9
    jaw = np.column_stack([-np.cos(angle) * person.width * taper(jaw_y) * 0.97, jaw_y])
    brow_y = -0.33 - 0.02 * pose.smile
    arch = np.array([0.03, -0.03, -0.05, -0.035, 0.0])
    lowered = pose.anger * np.array([-0.05, -0.02, 0.03, 0.08, 0.125])
    x = np.linspace(person.eye_distance + 0.20, 0.105 - 0.035 * pose.anger, 5)
    left_brow = np.column_stack([-x, brow_y + arch + lowered])
    nose_tip = person.nose_length
    bridge = np.column_stack([np.zeros(4), np.linspace(-0.14, nose_tip, 4)])
    base_x = np.array([-1, -0.5, 0, 0.5, 1]) * person.nose_width
    base = np.column_stack([base_x, nose_tip + np.array([0.05, 0.075, 0.09, 0.075, 0.05])])
    half, open_ = 0.135, 0.055 * (1 - 0.55 * pose.smile - 0.35 * pose.anger)
    lid = np.array([[-half, 0], [-half / 3, -open_], [half / 3, -open_], [half, 0], [half / 3, open_ * 0.8]])
    eye = np.vstack([lid, [-half / 3, open_ * 0.8]])
    left_eye = np.add(eye, [-person.eye_distance, -0.12])
    right_eye = np.add(
        np.column_stack([-eye[[3, 2, 1, 0, 5, 4], 0], eye[[3, 2, 1, 0, 5, 4], 1]]),
        [person.eye_distance, -0.12],
    )
    return np.vstack(
        [jaw, left_brow, left_brow[::-1] * [-1, 1], bridge, base, left_eye, right_eye, _mouth(person, pose)]
    ).astype(np.float32)


def _mouth(person: Person, pose: Pose) -> Float32[np.ndarray, "20 2"]:
    half = 0.23 + 0.09 * pose.smile - 0.03 * pose.anger
    middle = person.nose_length + 0.31
    bend = -0.11 * pose.smile + 0.085 * pose.anger  # of the corners; y points down
    gap, lip = 0.075 * pose.smile, person.lip * (1 - 0.35 * pose.anger)

    def row(shares: list[float], offset: float) -> list[list[float]]:
        return [[s * half, middle + bend * s * s + offset * (1 - abs(s)) ** 0.6] for s in shares]

    outer_top = row([-1, -0.6, -0.25, 0, 0.25, 0.6, 1], -gap * 0.4 - lip)
    outer_bottom = row([0.6, 0.25, 0, -0.25, -0.6], gap + lip * 1.3)
    inner_top = row([-0.85, -0.3, 0, 0.3, 0.85], -gap * 0.4)
    inner_bottom = row([0.3, 0, -0.3], gap)
    return np.array(outer_top + outer_bottom + inner_top + inner_bottom, dtype=np.float32)


class _Canvas:
    """Anti-aliased drawing in head coordinates on the painted front."""

    def __init__(self, fill: Colour) -> None:
        half_x, half_y = TEXTURE_HALF
        shape = (round(2 * half_y * TEXTURE_SCALE), round(2 * half_x * TEXTURE_SCALE), 3)
        self.pixels = np.full(shape, fill, np.float32)

    @staticmethod
    def place(points: Any) -> Float32[np.ndarray, "n 2"]:
        return ((np.asarray(points, np.float32) + TEXTURE_HALF) * TEXTURE_SCALE).astype(np.float32)

    def fill(self, points: Any, colour: Colour) -> None:
        corners = np.round(self.place(points) * 16).astype(np.int32)
        cv2.fillPoly(self.pixels, [corners], colour, cv2.LINE_8, 4)

    def line(self, points: Any, colour: Colour, width: float) -> None:
        corners = np.round(self.place(points) * 16).astype(np.int32)
        thickness = max(1, round(width * TEXTURE_SCALE))
        cv2.polylines(self.pixels, [corners], False, colour, thickness, cv2.LINE_8, 4)

    def disc(self, center: Any, radius: float, colour: Colour) -> None:
        x, y = np.round(self.place([center])[0] * 16).astype(int)
        cv2.circle(
            self.pixels, (int(x), int(y)), round(radius * TEXTURE_SCALE * 16), colour, -1, cv2.LINE_8, 4
        )

    def soft(self, center: Any, radii: tuple[float, float], colour: Colour, strength: float) -> None:
        """Blend a Gaussian spot of a colour."""
        weight = strength * _spot(center, radii)[..., None]
        self.pixels += weight * (np.asarray(colour, np.float32) - self.pixels)


@cache
def _grid() -> tuple[Scalars, Scalars]:
    half_x, half_y = TEXTURE_HALF
    height, width = round(2 * half_y * TEXTURE_SCALE), round(2 * half_x * TEXTURE_SCALE)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / TEXTURE_SCALE
    return x - half_x, y - half_y


def _spot(center: Any, radii: tuple[float, float]) -> Scalars:
    x, y = _grid()
    spot = np.exp(-(((x - center[0]) / radii[0]) ** 2) - ((y - center[1]) / radii[1]) ** 2)
    return np.asarray(spot, np.float32)


def paint_face(
    person: Person, pose: Pose, landmarks: Float32[np.ndarray, "68 2"]
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Paint the colours of the front and its height above the ellipsoid, both on the texture grid."""
    skin = np.array(person.skin)
    canvas = _Canvas(person.skin)
    for side in (-1, 1):
        canvas.soft(
            (side * 0.42, 0.25 - 0.05 * pose.smile), (0.2, 0.16), as_colour(skin * (0.85, 0.85, 1.08)), 0.6
        )
        canvas.soft((side * person.eye_distance, -0.13), (0.2, 0.12), as_colour(skin * 0.72), 0.55)
    if person.beard:
        jaw_x, jaw_y = _grid()
        shade = person.beard / (1 + np.exp(-14 * (jaw_y - 0.42 + 0.25 * np.exp(-((jaw_x / 0.5) ** 4)) - 0.2)))
        canvas.pixels += shade[..., None].astype(np.float32) * (
            np.array(person.hair, np.float32) - canvas.pixels
        )
    _paint_creases(canvas, person, pose, landmarks)
    _paint_nose_and_mouth(canvas, person, pose, landmarks)
    for eye in (landmarks[36:42], landmarks[42:48]):
        _paint_eye(canvas, person, pose, eye)
    for brow in (landmarks[17:22], landmarks[22:27]):
        canvas.line(_smooth(brow), as_colour(np.array(person.hair) * 0.75), person.brow * 1.5)
    if person.glasses:
        _paint_glasses(canvas, person)
    texture = cv2.GaussianBlur(canvas.pixels, (0, 0), 1.2)
    x, y = _grid()
    hairline = person.hairline + 0.28 * (np.abs(x) / person.width) ** 3 + 0.02 * np.sin(17 * x)
    hair = 1 / (1 + np.exp(np.clip(60 * (y - hairline), -50, 50)))
    strands = 1 + 0.18 * np.sin(55 * x + 9 * np.sin(5 * y))
    texture += hair[..., None] * (np.array(person.hair) * strands[..., None] - texture)
    return texture.astype(np.float32), _height(person, pose, landmarks, hair.astype(np.float32))


def _paint_creases(
    canvas: _Canvas, person: Person, pose: Pose, landmarks: Float32[np.ndarray, "68 2"]
) -> None:
    dark = as_colour(np.array(person.skin) * 0.68)
    corner = landmarks[54]
    for side in (-1, 1):
        fold = [
            (side * person.nose_width * 1.15, person.nose_length + 0.02),
            (side * 0.27, 0.40),
            (side * (corner[0] + 0.05), corner[1] - 0.02),
        ]
        if pose.smile > 0.2:
            canvas.line(_smooth(np.array(fold)), dark, 0.016 * pose.smile)
            bag = [
                (side * (person.eye_distance + dx), -0.12 + dy)
                for dx, dy in ((-0.12, 0.07), (0, 0.10), (0.13, 0.06))
            ]
            canvas.line(_smooth(np.array(bag)), dark, 0.02 * pose.smile)
            for dy in (-0.03, 0.0, 0.03):  # crow's feet
                foot = [
                    (side * (person.eye_distance + 0.17), -0.12 + dy),
                    (side * (person.eye_distance + 0.24), -0.12 + 2 * dy),
                ]
                canvas.line(foot, dark, 0.012 * pose.smile)
        if pose.anger > 0.2:
            canvas.line([(side * 0.035, -0.36), (side * 0.03, -0.22)], dark, 0.018 * pose.anger)


def _paint_nose_and_mouth(
    canvas: _Canvas, person: Person, pose: Pose, landmarks: Float32[np.ndarray, "68 2"]
) -> None:
    skin = np.array(person.skin)
    for side in (-1, 1):
        canvas.soft(
            (side * person.nose_width * 0.55, person.nose_length + 0.062),
            (0.035, 0.02),
            as_colour(skin * 0.25),
            0.9,
        )
        canvas.soft(
            (side * person.nose_width * 1.1, person.nose_length + 0.02),
            (0.03, 0.06),
            as_colour(skin * 0.6),
            0.5,
        )
    lips = as_colour(skin * (0.72, 0.62, 0.88))
    mouth = landmarks[48:68]
    canvas.fill(_smooth(mouth[:12], closed=True), lips)
    inner = _smooth(mouth[12:], closed=True)
    if pose.smile > 0.25:
        canvas.fill(inner, (0.10, 0.08, 0.22))
        teeth = mouth[12:].copy()
        teeth[5:, 1] -= 0.35 * (teeth[5:, 1] - mouth[14, 1])
        canvas.fill(_smooth(teeth, closed=True), (0.88, 0.92, 0.93))
    else:
        canvas.line(_smooth(mouth[12:17]), as_colour(skin * 0.35), 0.02)
    canvas.soft((0, mouth[9, 1] + 0.06), (0.14, 0.03), as_colour(skin * 0.7), 0.5)


def _paint_eye(canvas: _Canvas, person: Person, pose: Pose, eye: Float32[np.ndarray, "6 2"]) -> None:
    before = canvas.pixels.copy()
    center = np.add(eye.mean(axis=0), [0.035 * pose.gaze, -0.004])
    canvas.fill(_smooth(eye, closed=True), (0.88, 0.90, 0.92))
    canvas.disc(center, 0.058, person.iris)
    canvas.disc(center, 0.027, (0.03, 0.03, 0.03))
    canvas.disc(np.add(center, -0.018), 0.011, (0.97, 0.97, 0.97))
    lids = np.zeros(before.shape[:2], np.uint8)
    corners = np.round(_Canvas.place(_smooth(eye, closed=True)) * 16).astype(np.int32)
    cv2.fillPoly(lids, [corners], 1, cv2.LINE_8, 4)
    canvas.pixels[lids == 0] = before[lids == 0]  # the iris stays behind the lids
    canvas.line(_smooth(eye[:4]), (0.07, 0.06, 0.06), 0.022)
    canvas.line(_smooth(eye[[3, 4, 5, 0]]), as_colour(np.array(person.skin) * 0.5), 0.009)


def _paint_glasses(canvas: _Canvas, person: Person) -> None:
    frame = (0.08, 0.08, 0.1)
    turn = np.linspace(0, 2 * np.pi, 40)
    for side in (-1, 1):
        rim = np.column_stack([side * person.eye_distance + 0.2 * np.cos(turn), -0.10 + 0.155 * np.sin(turn)])
        canvas.line(rim, frame, 0.022)
        canvas.line([(side * (person.eye_distance + 0.2), -0.12), (side * 0.8, -0.14)], frame, 0.022)
    canvas.line([(-person.eye_distance + 0.2, -0.12), (person.eye_distance - 0.2, -0.12)], frame, 0.022)


def _height(
    person: Person, pose: Pose, landmarks: Float32[np.ndarray, "68 2"], hair: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """Height above the ellipsoid along z, head units."""
    x, y = _grid()
    along = np.clip((y + 0.18) / (person.nose_length + 0.22), 0, 1)
    ridge = along**1.3 / (1 + np.exp(40 * (y - person.nose_length - 0.03)))
    height = 0.24 * ridge * np.exp(-((x / (0.055 + 0.055 * along)) ** 2))
    for side in (-1, 1):
        height += 0.05 * _spot((side * person.nose_width * 0.8, person.nose_length + 0.01), (0.05, 0.05))
        height -= 0.05 * _spot((side * person.eye_distance, -0.12), (0.17, 0.09))
        height += 0.035 * (0.4 + pose.smile) * _spot((side * 0.40, 0.20 - 0.07 * pose.smile), (0.2, 0.15))
        height += 0.02 * _spot((side * person.eye_distance, -0.32), (0.22, 0.06))
    mouth_y = float(landmarks[62, 1])
    height += 0.05 * _spot((0, mouth_y), (0.24, 0.10)) + 0.05 * _spot((0, 0.88), (0.2, 0.14))
    return np.asarray(height + 0.07 * hair, np.float32)


def _smooth(points: Any, *, closed: bool = False) -> Float32[np.ndarray, "n 2"]:
    """Catmull-Rom curve through the points."""
    p = np.asarray(points, np.float32)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    q = np.vstack([ends[0], p, ends[1]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    a, b, c, d = q[None, :-3], q[None, 1:-2], q[None, 2:-1], q[None, 3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat = curve.transpose(1, 0, 2).reshape(-1, 2)
    return (flat if closed else np.vstack([flat, p[-1:]])).astype(np.float32)


def taper(y: Scalars) -> Scalars:
    """Relative width of the head at a height: the jaw is narrower than the temples."""
    below = np.clip((y - 0.05) / 0.95, 0, 1)
    return 1 - 0.20 * below * below * (3 - 2 * below)


def sample(grid: Scalars, x: Scalars, y: Scalars) -> Scalars:
    """Look up the texture grid at head coordinates, bilinear."""
    half_x, half_y = TEXTURE_HALF
    at_x = ((x + half_x) * TEXTURE_SCALE).astype(np.float32)
    at_y = ((y + half_y) * TEXTURE_SCALE).astype(np.float32)
    # cv2.remap refuses sides over 32767: long lists of points are folded into rows.
    count, width = at_x.size, 1024
    rows = -(-count // width)
    folded = [np.pad(v.ravel(), (0, rows * width - count)).reshape(rows, width) for v in (at_x, at_y)]
    found = cv2.remap(grid, folded[0], folded[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(rows * width, *grid.shape[2:])[:count]
