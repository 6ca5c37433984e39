"""The 24 points that ACNN and OADN look at, from the 68 landmarks of iBUG.

Source: Li et al. (2019), §III: 16 landmarks on brows, eyes, nose and mouth; the middles of six pairs, on the
eyes and on the cheeks; two beside the corners of the mouth. Ding et al. (2020) look at 24 points as well.
Deviations: the brows' points are not lifted; "beside" is 1/16 of the side of our crop.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

POINTS: Final = 24
# Numbered from 0.
_LANDMARKS = [18, 21, 22, 25, 38, 36, 43, 45, 27, 29, 48, 50, 52, 54, 58, 56]
_FIRST_OF_PAIR = [19, 24, 40, 46, 17, 26]
_SECOND_OF_PAIR = [37, 44, 41, 47, 58, 56]
_MOUTH_CORNERS = [48, 54]
_BESIDE = [[-1 / 16, -1 / 16], [1 / 16, -1 / 16]]


def expression_points(landmarks: Float[Tensor, "b 68 2"]) -> Float[Tensor, "b 24 2"]:
    """Return the points, in sides of the crop like the landmarks."""
    middles = (landmarks[:, _FIRST_OF_PAIR] + landmarks[:, _SECOND_OF_PAIR]) / 2
    beside = landmarks[:, _MOUTH_CORNERS] + torch.tensor(_BESIDE, device=landmarks.device)
    return torch.cat([landmarks[:, _LANDMARKS], middles, beside], dim=1)
