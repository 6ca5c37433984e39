"""The head as a surface: a tapered ellipsoid with the front's heights, turned, lit, seen by parallel rays."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from maskfer.data.synthetic.paint import (
    TEXTURE_SCALE,
    Scalars,
    face_landmarks,
    paint_face,
    sample,
    taper,
)
from maskfer.data.synthetic.person import Person, Pose, Scene, as_colour

_MARCH_STEPS: Final = 20
_BISECTIONS: Final = 5


def draw_face(
    person: Person, pose: Pose, scene: Scene, *, size: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "size size 3"], Float32[np.ndarray, "68 2"]]:
    """Draw one picture (BGR) and return it with its 68 landmarks in pixels (iBUG-68 order)."""
    fine = 2 * size
    scale, center = scene.scale * fine, np.array(scene.center) * fine
    rotation = _rotation(pose)
    landmarks = face_landmarks(person, pose)
    colour, height = paint_face(person, pose, landmarks)
    picture = _backdrop(scene, person, fine)
    hit, points = _cast(person, height, rotation, center=center, scale=scale, size=fine)
    shaded = _shade(person, scene, colour, height, rotation, points)
    alpha = cv2.GaussianBlur(hit.astype(np.float32), (3, 3), 0)[..., None]
    layer = np.zeros_like(picture)
    layer[hit] = shaded
    layer = np.where(hit[..., None], layer, cv2.dilate(layer, np.ones((3, 3), np.uint8)))
    picture = picture * (1 - alpha) + layer * alpha
    picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) * scene.exposure
    picture += rng.normal(0, scene.noise, picture.shape).astype(np.float32)
    on_skin = np.column_stack([landmarks, _surface_z(person, height, landmarks)])
    pixels = (on_skin @ rotation.T)[:, :2] * scale + center
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8), ((pixels - 0.5) / 2).astype(np.float32)


def _rotation(pose: Pose) -> Float32[np.ndarray, "3 3"]:
    yaw, pitch, roll = np.deg2rad([pose.yaw, pose.pitch, pose.roll])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y, np.float32)


def _inside(person: Person, height: Scalars, p: Float32[np.ndarray, "n 3"]) -> Scalars:
    """Negative inside the head, positive outside."""
    x, y, z = p.T
    lifted = z - np.where(z > 0, sample(height, x, y), 0.05)
    head = (x / (person.width * taper(y))) ** 2 + y**2 + (lifted / 0.88) ** 2 - 1
    ear = (
        ((np.abs(x) - person.width * 0.98) / 0.09) ** 2
        + ((y - 0.02) / 0.2) ** 2
        + ((z + 0.08) / 0.13) ** 2
        - 1
    )
    surface = np.minimum(head, ear)
    if person.long_hair:
        fall = ((np.abs(x) - 0.66) / 0.22) ** 2 + ((y - 0.25) / 0.95) ** 2 + ((z + 0.35) / 0.3) ** 2 - 1
        surface = np.minimum(surface, fall)
    return np.asarray(surface, np.float32)


def _cast(
    person: Person,
    height: Scalars,
    rotation: Float32[np.ndarray, "3 3"],
    *,
    center: np.ndarray,
    scale: float,
    size: int,
) -> tuple[np.ndarray, Float32[np.ndarray, "n 3"]]:
    """Intersect one parallel ray per pixel with the head: which pixels hit, and where (head coordinates)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    screen = np.stack([(x - center[0]) / scale, (y - center[1]) / scale], axis=-1).reshape(-1, 2)
    near = np.flatnonzero((screen**2).sum(axis=1) < 1.45**2)
    front = np.column_stack([screen[near], np.full(near.size, 1.35, np.float32)]) @ rotation
    direction = np.array([0, 0, -1], np.float32) @ rotation
    step = 2.2 / _MARCH_STEPS
    distance = np.full(near.size, np.inf, np.float32)
    waiting = np.arange(near.size)
    for index in range(1, _MARCH_STEPS + 1):
        entered = _inside(person, height, front[waiting] + direction * (index * step)) < 0
        distance[waiting[entered]] = index * step
        waiting = waiting[~entered]
    found = np.isfinite(distance)
    origin, far = front[found], distance[found]
    low, high = far - step, far
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = _inside(person, height, origin + direction * middle[:, None]) < 0
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    hit = np.zeros(size * size, bool)
    hit[near[found]] = True
    return hit.reshape(size, size), (origin + direction * high[:, None]).astype(np.float32)


def _shade(
    person: Person,
    scene: Scene,
    colour: Scalars,
    height: Scalars,
    rotation: Float32[np.ndarray, "3 3"],
    points: Float32[np.ndarray, "n 3"],
) -> Float32[np.ndarray, "n 3"]:
    """Colour of each hit under the scene's light: painted front, hair behind, Lambert with a soft edge."""
    x, y, z = points.T
    albedo = sample(colour, x, y)
    strands = 1 + 0.15 * np.sin(40 * x + 7 * np.sin(6 * y))
    hair = np.asarray(person.hair, np.float32) * strands[:, None]
    behind = (z < -0.12) & ((y < 0.1) | person.long_hair) & (np.abs(x) < person.width * 1.3)
    ear = (np.abs(x) > person.width * 0.99) & (np.abs(y - 0.02) < 0.21) & ~np.bool_(person.long_hair)
    albedo = np.where(behind[:, None] & ~ear[:, None], hair, albedo)
    albedo = np.where(ear[:, None], np.asarray(person.skin, np.float32) * 0.92, albedo)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) * (TEXTURE_SCALE / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * (TEXTURE_SCALE / 8)
    front = z > 0
    lifted = z - np.where(front, sample(height, x, y), 0.05)
    along_z = 2 * lifted / 0.88**2
    normal = (
        np.column_stack(
            [
                2 * x / (person.width * taper(y)) ** 2 - np.where(front, along_z * sample(slope_x, x, y), 0),
                2 * y - np.where(front, along_z * sample(slope_y, x, y), 0),
                along_z,
            ]
        )
        @ rotation.T
    )
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
    light = np.asarray(scene.light, np.float32)
    light /= np.linalg.norm(light)
    half_way = np.add(light, [0, 0, 1])
    lambert = np.clip((normal @ light + 0.25) / 1.25, 0, None)
    shine = 0.12 * np.clip(normal @ (half_way / np.linalg.norm(half_way)), 0, None) ** 24
    lit = albedo * (scene.ambient + (1.15 - scene.ambient) * lambert[:, None]) + shine[:, None]
    return np.asarray(lit, np.float32)


def _surface_z(person: Person, height: Scalars, points: Float32[np.ndarray, "n 2"]) -> Scalars:
    """z of the head's front at head coordinates x, y."""
    x, y = points.T
    rest = 1 - (x / (person.width * taper(y))) ** 2 - y**2
    return np.asarray(0.88 * np.sqrt(np.clip(rest, 0, None)) + sample(height, x, y), np.float32)


def _backdrop(scene: Scene, person: Person, size: int) -> Float32[np.ndarray, "h w 3"]:
    """A shaded wall, a neck and shoulders."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    wall = 0.85 + 0.3 * (x - 0.5) * np.sign(scene.light[0]) - 0.2 * (y - 0.5)
    picture = wall[..., None] * np.asarray(scene.background, np.float32)
    middle, top, unit = scene.center[0] * size, scene.center[1] * size, scene.scale * size
    neck = [(-0.42, 0.4), (0.42, 0.4), (0.46, 1.5), (-0.46, 1.5)]
    shoulders = [(-0.5, 1.22), (0.5, 1.22), (1.5, 1.5), (1.9, 3.0), (-1.9, 3.0), (-1.5, 1.5)]
    for outline, colour in (
        (neck, np.array(person.skin) * 0.62),
        (shoulders, np.array(person.clothes) * 0.8),
    ):
        corners = np.array([(middle + dx * unit, top + dy * unit) for dx, dy in outline])
        cv2.fillPoly(picture, [np.round(corners * 16).astype(np.int32)], as_colour(colour), cv2.LINE_AA, 4)
    return np.ascontiguousarray(cv2.GaussianBlur(picture, (0, 0), 1.5), dtype=np.float32)
