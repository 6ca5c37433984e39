"""Any expression network, on faces that were turned, moved and scaled to lie alike. Not in the paper.

A crop follows the detector's box, which wanders and does not turn with the head; a mask then leaves a network
little by which it could tell a raised brow from a tilted face. Here landmarks say how the face lies, and the
similarity that takes five points nearest to their usual places is applied before the expression is read.

Source: face recognition aligns by a similarity of these five points (Liu et al., 2017, SphereFace, §4.1). The
one with the least squares is Umeyama's (1991), in the plane a quotient of complex numbers.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from maskfer.learning.augment import Warps, warp_landmarks
from maskfer.learning.models.attention import affine_grid
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext

_PLACES: Final = ((0.323, 0.385), (0.677, 0.385), (0.5, 0.58), (0.343, 0.771), (0.657, 0.771))
"""Eyes, tip of the nose and corners of the mouth in sides of the crop: their means over the training faces of
`lfw-expressions`, made symmetric."""
_TIP, _CORNERS = 30, (48, 54)
_SMALLEST: Final = 0.2
"""Of a face's size to the usual one: below it the landmarks are no face, and nothing is turned."""


class AlignedNet(ExpressionNet):
    """`network` with faces, heatmaps and landmarks brought to a common place; answers as it does."""

    needs_landmarks: ClassVar[bool] = True

    def __init__(self, network: ExpressionNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("places", torch.tensor(_PLACES), persistent=False)
        self.places: Tensor

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        assert context.landmarks is not None
        theta = similarity(five_points(context.landmarks.float()), self.places)
        # Not `len(theta)`, which the exporter takes for a number that never changes.
        still = torch.zeros(theta.shape[0], dtype=torch.bool, device=theta.device)
        aligned = FaceContext(
            _moved(context.heatmap.unsqueeze(1), theta).squeeze(1),
            warp_landmarks(context.landmarks.float(), Warps(theta, still)),
        )
        reading: ExpressionReading = self.network(_moved(faces, theta), aligned)
        return reading


def five_points(landmarks: Float[Tensor, "b 68 2"]) -> Float[Tensor, "b 5 2"]:
    """Return eyes, tip of the nose and corners of the mouth: `faces.shape.five_of`, on a batch."""
    eyes = [landmarks[:, 36:42].mean(dim=1), landmarks[:, 42:48].mean(dim=1)]
    return torch.stack([*eyes, landmarks[:, _TIP], *(landmarks[:, corner] for corner in _CORNERS)], dim=1)


def similarity(points: Float[Tensor, "b n 2"], places: Float[Tensor, "n 2"]) -> Float[Tensor, "b 2 3"]:
    """Return the turn, size and shift that take `places` nearest to `points`, both in sides of the crop.

    As `affine_grid` takes them, from a pixel of the aligned face to that of the face as it is.
    """
    # A landmark far outside the crop is a mistake, and could be so far that its square is no number.
    points, places = 2 * points.clamp(-1, 2) - 1, 2 * places - 1
    middle, centre = points.mean(dim=1), places.mean(dim=0)
    x, y = (points - middle.unsqueeze(1)).unbind(dim=2)
    u, v = (places - centre).unbind(dim=1)
    spread = (u.square() + v.square()).sum()
    cos, sin = (x * u + y * v).sum(dim=1) / spread, (y * u - x * v).sum(dim=1) / spread
    is_face = cos.square() + sin.square() >= _SMALLEST**2
    cos, sin = torch.where(is_face, cos, _SMALLEST), torch.where(is_face, sin, 0)
    across = middle[:, 0] - (cos * centre[0] - sin * centre[1])
    down = middle[:, 1] - (sin * centre[0] + cos * centre[1])
    return torch.stack([torch.stack([cos, -sin, across], dim=1), torch.stack([sin, cos, down], dim=1)], dim=1)


def _moved(maps: Float[Tensor, "b c h h"], theta: Float[Tensor, "b 2 3"]) -> Float[Tensor, "b c h h"]:
    # Held to the outermost pixels' centres, a grid never needs the border that it would be padded with; asked
    # for that border, ONNX Runtime takes twice the time. In full precision: bfloat16 has eight bits for a
    # coordinate.
    inside = 1 - 1 / maps.shape[-1]
    grid = affine_grid(theta, *maps.shape[-2:]).clamp(-inside, inside)
    return functional.grid_sample(maps.float(), grid, align_corners=False)
