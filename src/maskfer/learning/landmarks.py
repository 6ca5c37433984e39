"""What landmark regression minimises, and what it is judged by."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_WIDTH, _CURVATURE = 0.04, 0.008
"""Of the wing, in sides of the crop: 10 and 2 of the 256 pixels of its paper."""
_OUTER_EYE_CORNERS: Final = (36, 45)


def wing_loss(answers: Float[Tensor, "b 68 2"], truth: Float[Tensor, "b 68 2"]) -> Float[Tensor, ""]:
    """Mean over coordinates of the wing: logarithmic near the truth, linear from `_WIDTH` on; 1 is there.

    A small error then pulls as hard as its relative size, and one wild point does not outweigh the others.

    Source: Feng et al. (2018), Wing Loss, §4.
    """
    error = (answers - truth).abs()
    height = _WIDTH * math.log(1 + _WIDTH / _CURVATURE)
    near = _WIDTH * torch.log(1 + error / _CURVATURE)
    return torch.where(error < _WIDTH, near, error - _WIDTH + height).mean() / height


def normalised_mean_error(answers: Float[Tensor, "n 68 2"], truth: Float[Tensor, "n 68 2"]) -> float:
    """Mean distance from the truth, over the true distance between the outer corners of the eyes.

    Source: Sagonas et al. (2013), 300 Faces in-the-Wild, §4, which calls this distance inter-ocular.
    """
    left, right = (truth[:, corner] for corner in _OUTER_EYE_CORNERS)
    # A profile's eyes may coincide; a hundredth of the crop is less than any face's.
    between = (right - left).norm(dim=1).clamp(min=0.01)
    return float(((answers - truth).norm(dim=2).mean(dim=1) / between).mean())
