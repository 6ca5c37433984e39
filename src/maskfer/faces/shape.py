"""A rigid mean face, turned until it meets five points: landmarks where regression trees give none.

Trees trained on frontal faces fail on profiles, and under masks; the detector's five points hold on both.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from maskfer.faces.face import Points

# fmt: off
_MEAN_FACE: Final = np.array(
    [
        (-84, 2, -43), (-83, 22, -41), (-81, 41, -40), (-77, 61, -38), (-70, 79, -33), (-58, 95, -24),
        (-42, 107, -13), (-22, 114, -3), (0, 115, 0), (22, 114, -3), (42, 107, -13), (58, 95, -24),
        (70, 79, -33), (77, 61, -38), (81, 41, -40), (83, 22, -41), (84, 2, -43), (-67, -14, -8),
        (-56, -23, 1), (-42, -26, 8), (-27, -24, 13), (-13, -19, 17), (13, -19, 17), (27, -24, 13),
        (42, -26, 8), (56, -23, 1), (67, -14, -8), (0, -4, 17), (0, 9, 22), (0, 22, 28),
        (0, 36, 34), (-17, 45, 17), (-9, 48, 20), (0, 50, 22), (9, 48, 20), (17, 45, 17),
        (-50, -1, -2), (-41, -5, 2), (-31, -5, 4), (-22, 1, 2), (-31, 2, 3), (-42, 2, 2),
        (22, 1, 2), (31, -5, 4), (41, -5, 2), (50, -1, -2), (42, 2, 2), (31, 2, 3),
        (-32, 72, -2), (-21, 67, 10), (-9, 64, 17), (0, 66, 17), (9, 64, 17), (21, 67, 10),
        (32, 72, -2), (21, 82, 6), (10, 86, 12), (0, 86, 12), (-10, 86, 12), (-21, 82, 6),
        (-27, 72, 0), (-9, 70, 15), (0, 71, 15), (9, 70, 15), (27, 72, 0), (9, 76, 12),
        (0, 77, 13), (-9, 76, 12),
    ],
    np.float64,
)
# fmt: on
"""iBUG-68 of a mean face: x right, y down, z towards the viewer; the eyes' outer corners are 100 apart.

A rank-3 factorisation of landmarks placed on 2,900 photographs, made symmetric; its depth, which that method
underestimates, is stretched by 1.5 (best fit to the five points of profiles).
Source: Tomasi and Kanade (1992), Shape and Motion from Image Streams under Orthography.
"""

_NOISE: Final = 0.06
"""Expected error of the five points, in units of the face's size."""
_YAW: Final = 0.8
_PITCH: Final = 0.2
"""Radians that a face is expected to be turned by: five points hardly show a nod."""
_STEPS: Final = 15

_Pose = Float[np.ndarray, " six"]
"""Yaw, pitch, roll in radians, logarithm of the scale, x, y."""


def five_of(landmarks: Float[np.ndarray, "68 axes"]) -> Float[np.ndarray, "5 axes"]:
    """Return the detector's five points of 68 landmarks: both eyes, nose tip, both mouth corners."""
    eyes = (landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0))
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def fit_mean_face(five: Points) -> Points:
    """Return the 68 landmarks of the mean face, turned, scaled and moved to where its five points lie."""
    middle = five.mean(axis=0, dtype=np.float64)
    size = max(float(np.linalg.norm(five - middle, axis=1).mean()), 1e-6)
    target = (five - middle) / size
    eyes, mouth = target[:2].mean(axis=0), target[3:].mean(axis=0)
    roll = np.arctan2(eyes[0] - mouth[0], mouth[1] - eyes[1])
    # Three starts, because a face that looks left also fits, badly, as one that looks right.
    starts = [np.array([yaw, 0.0, roll, 0.6, 0.0, 0.0]) for yaw in (-0.6, 0.0, 0.6)]
    poses = [_refined(start, target) for start in starts]
    best = min(poses, key=lambda pose: float(np.square(_misfit(pose, target)).sum()))
    return np.asarray(_project(best, _MEAN_FACE / 100) * size + middle, np.float32)


def _refined(pose: _Pose, target: Float[np.ndarray, "5 2"]) -> _Pose:
    """Gauss-Newton steps with a numeric Jacobian; six unknowns need no library."""
    step = 1e-4
    for _ in range(_STEPS):
        error = _misfit(pose, target)
        moved = np.stack([_misfit(pose + step * axis, target) for axis in np.eye(6)])
        jacobian = (moved - error).T / step
        pose = pose - np.linalg.solve(jacobian.T @ jacobian + 1e-3 * np.eye(6), jacobian.T @ error)
    return np.asarray(pose)


def _misfit(pose: _Pose, target: Float[np.ndarray, "5 2"]) -> Float[np.ndarray, " values"]:
    distance = (_project(pose, five_of(_MEAN_FACE / 100)) - target) / _NOISE
    return np.concatenate([distance.ravel(), [pose[0] / _YAW, pose[1] / _PITCH]])


def _project(pose: _Pose, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    (yaw, pitch, roll), scale, shift = pose[:3], np.exp(pose[3]), pose[4:]
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(scale * (points @ (about_z @ about_x @ about_y)[:2].T) + shift)
