"""OADN, occlusion-adaptive deep network: features where landmarks are in sight, and regions on their own.

Source: Ding et al. (2020), "Occlusion-adaptive deep network for robust facial expression recognition", §3.
Features are ResNet-50's, with a last stage that keeps its resolution. The landmark-guided attention branch
weighs them by a Gaussian map around each of 24 points, averages over positions and takes the largest over
points; the facial region branch lets each quarter of the face answer alone; the loss is a weighted sum of
both. Deviations:

- Our landmarks have no confidence. In its place the map of a point is zero where the point lies under the
  mask, H_m above one half, or outside the crop.
- 6 x 6 cells instead of 14 x 14, on a grey crop of 96 pixels instead of 224; the Gaussian's width is ours.
- Both branches count alike, in the loss and in the answer; their logits are averaged.
- Dropout as in the common protocol.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.backbones import Normalise, resnet50
from maskfer.learning.models.baselines.points import expression_points
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

_SPREAD = 0.1
"""Standard deviation of a point's map, in sides of the crop: about as far as an eye reaches."""
_COVERED = 0.5
"""H_m from which a point is under the mask."""
_INSIDE = 256
"""Numbers between a branch's two layers."""
_QUARTERS = 4


class OADNNet(ExpressionNet):
    """Logits of the landmark branch and of four quarters. `width` scales the channels of all layers."""

    needs_landmarks = True

    def __init__(self, *, classes: int, dropout: float = 0.2, width: float = 1.0) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = resnet50(width=width, last_stride=1)
        channels = self.backbone.channels
        self.landmark_branch = _classifier(channels, classes, dropout=dropout)
        self.quarters = nn.ModuleList(
            _classifier(channels, classes, dropout=dropout) for _ in range(_QUARTERS)
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        assert context.landmarks is not None
        maps = self.backbone(self.normalise(faces))
        points = expression_points(context.landmarks)
        weights = point_maps(points, cells=maps.shape[-1])
        weights = torch.where(is_bare(points, context.heatmap)[:, :, None, None], weights, 0.0).to(maps.dtype)
        attended = weights.flatten(2) @ maps.flatten(2).transpose(1, 2) / maps[0, 0].numel()
        guided = self.landmark_branch(attended.amax(dim=1))
        half = maps.shape[-1] // 2
        blocks = [block for rows in maps.split(half, dim=2) for block in rows.split(half, dim=3)]
        quarters = [
            branch(block.mean(dim=(2, 3))) for branch, block in zip(self.quarters, blocks, strict=True)
        ]
        answer = (guided + torch.stack(quarters).mean(dim=0)) / 2
        return ExpressionReading(
            answer, (Head(guided, 0.5), *(Head(logits, 0.5 / _QUARTERS) for logits in quarters))
        )


def point_maps(points: Float[Tensor, "b 24 2"], *, cells: int) -> Float[Tensor, "b 24 cells cells"]:
    """Return a Gaussian around each point, 1 at its middle, on a raster that tiles the crop.

    The map of a point outside the crop is zero.
    """
    points = points.float()
    middles = (torch.arange(cells, device=points.device) + 0.5) / cells
    across, down = (
        torch.exp(-((middles - place.unsqueeze(2)) ** 2) / (2 * _SPREAD**2)) for place in points.unbind(dim=2)
    )
    is_inside = ((points >= 0) & (points <= 1)).all(dim=2)
    return torch.where(is_inside[:, :, None, None], across.unsqueeze(2) * down.unsqueeze(3), 0.0)


def is_bare(points: Float[Tensor, "b 24 2"], heatmap: Float[Tensor, "b g g"]) -> Bool[Tensor, "b 24"]:
    """Return which points no mask covers."""
    places = (2 * points.float() - 1).unsqueeze(2)
    heat = functional.grid_sample(
        heatmap.float().unsqueeze(1), places, mode="bilinear", padding_mode="border", align_corners=False
    )
    return heat[:, 0, :, 0] < _COVERED


def _classifier(channels: int, classes: int, *, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, _INSIDE), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(_INSIDE, classes)
    )
