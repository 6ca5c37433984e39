"""Landmarks for faces on which a landmark model gives up: a mean head, turned as the detector's points say.

Profiles are such faces. The result is rougher than real landmarks, and good enough to hang a mask on.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from maskfer.faces.face import Points

_RIGHT_HALF: Final = {
    16: (1.13, 0.0, -1.1),
    15: (1.12, 0.3, -1.1),
    14: (1.09, 0.6, -1.05),
    13: (1.03, 0.9, -0.95),
    12: (0.93, 1.19, -0.75),
    11: (0.76, 1.41, -0.45),
    10: (0.53, 1.57, -0.15),
    9: (0.28, 1.68, 0.08),
    8: (0.0, 1.7, 0.15),
    26: (0.93, -0.19, -0.3),
    25: (0.78, -0.32, -0.1),
    24: (0.58, -0.36, 0.05),
    23: (0.37, -0.34, 0.15),
    22: (0.18, -0.26, 0.2),
    27: (0.0, -0.04, 0.15),
    28: (0.0, 0.15, 0.28),
    29: (0.0, 0.34, 0.42),
    30: (0.0, 0.54, 0.55),
    35: (0.23, 0.68, 0.25),
    34: (0.12, 0.72, 0.35),
    33: (0.0, 0.75, 0.4),
    45: (0.69, 0.0, -0.15),
    44: (0.57, -0.06, -0.02),
    43: (0.43, -0.06, 0.02),
    42: (0.3, 0.02, -0.02),
    47: (0.44, 0.05, 0.02),
    46: (0.58, 0.05, -0.02),
    54: (0.45, 1.04, 0.1),
    53: (0.28, 0.97, 0.28),
    52: (0.12, 0.94, 0.36),
    51: (0.0, 0.97, 0.38),
    57: (0.0, 1.26, 0.36),
    56: (0.13, 1.25, 0.34),
    55: (0.29, 1.19, 0.26),
    64: (0.38, 1.05, 0.12),
    63: (0.12, 1.03, 0.34),
    62: (0.0, 1.05, 0.36),
    66: (0.0, 1.11, 0.35),
    65: (0.12, 1.1, 0.33),
}
"""x, y, z of the mean head's right half, in units of the distance between the eyes; z towards the viewer."""

_MIRRORED: Final = {
    **{16 - k: k for k in range(8)},
    **{26 - k: 17 + k for k in range(5)},
    35: 31,
    34: 32,
    45: 36,
    44: 37,
    43: 38,
    42: 39,
    47: 40,
    46: 41,
    54: 48,
    53: 49,
    52: 50,
    56: 58,
    55: 59,
    64: 60,
    63: 61,
    65: 67,
}

_SINGULAR: Final = 0.05


def landmarks_from_five(points: Points) -> Points | None:
    """Return 68 landmarks from two eyes, nose tip and two mouth corners; None when they make no face.

    Source: weak perspective, as in Tomasi and Kanade (1992), Shape and Motion from Image Streams: the camera
    is the nearest scaled rotation to the least-squares fit of five points.
    """
    head = _head()
    eyes = [head[36:42].mean(axis=0), head[42:48].mean(axis=0)]
    model = np.stack([*eyes, head[30], head[48], head[54]])
    seen = points.astype(np.float64)
    camera = np.linalg.lstsq(model - model.mean(axis=0), seen - seen.mean(axis=0), rcond=None)[0].T
    across, sizes, down = np.linalg.svd(camera, full_matrices=False)
    if not np.isfinite(sizes).all() or sizes[1] < _SINGULAR * max(sizes[0], 1.0):
        return None
    camera = float(sizes.mean()) * across @ down
    return np.asarray((head - model.mean(axis=0)) @ camera.T + seen.mean(axis=0), dtype=np.float32)


def _head() -> Float[np.ndarray, "68 3"]:
    head = np.zeros((68, 3))
    for right, place in _RIGHT_HALF.items():
        head[right] = place
        if right in _MIRRORED:
            head[_MIRRORED[right]] = place * np.array([-1.0, 1.0, 1.0])
    return head
