"""Faces a few pixels wide, for tests and for the processes that tests start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskfer.faces.shape import fit_mean_face
from maskfer.learning.faces import UNKNOWN, Faces


def make_twins(count: int = 24, *, side: int = 32, seed: int = 0) -> Faces:
    """Faces and their masked twins; brightness is the class, a bright box the mask."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    faces = rng.integers(0, 40, (count, side, side)) + 60 + 50 * labels[:, None, None]
    regions = np.zeros((count, side, side), bool)
    regions[:, side // 2 :, side // 4 : 3 * side // 4] = True
    masked = np.where(regions, 250, faces)
    return Faces(
        face_ids=tuple(str(row) for row in range(2 * count)),
        images=torch.from_numpy(np.concatenate([faces, masked]).astype(np.uint8)),
        regions=torch.from_numpy(np.concatenate([np.zeros_like(regions), regions])),
        is_masked=torch.arange(2 * count) >= count,
        labels=torch.from_numpy(np.tile(labels, 2)),
        orientations=torch.arange(2 * count) % 5,
        twins=torch.cat([torch.full((count,), UNKNOWN), torch.arange(count)]),
        landmarks=_landmarks(labels).repeat(2, 1, 1),
    )


def _landmarks(labels: np.ndarray) -> Tensor:
    """The 68 points of a face that lies the deeper the brighter it is."""
    five = np.array([[0.36, 0.35], [0.64, 0.35], [0.5, 0.5], [0.4, 0.67], [0.6, 0.67]], np.float32)
    return torch.from_numpy(fit_mean_face(five) + 0.05 * labels[:, None, None].astype(np.float32))
