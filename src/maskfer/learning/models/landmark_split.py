"""Stage 2 of approach 1 (§4.2): the picture is cut at a landmark; a branch above it, a branch below.

Source: §4.2. Landmark No. 29 divides the picture; counted from 1 as iBUG does it has index 28, the second
point of the bridge of the nose: of the drawn masks 99 % lies below it, below the next point 94 %. Both parts
are fed into one convolutional extractor, F_u and F_m go through an attention branch and two fully connected
layers each, L_u and L_m are combined. Deviations and what the paper leaves open:

- The pixels are the original ones, with the mask: §4.2 wants the landmarks "on the original image with the
  face mask", and calls the lower part the one "mainly covered by the face mask". The inpainted face is for
  the landmark network alone.
- The cut is level, whatever the roll of the head, and blends over one pixel, so that it cannot jump.
- The weights of L_u and L_m, and the answer made from both branches, are those of approach 2.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from maskfer.learning.models.attention import LightAttentionBranch
from maskfer.learning.models.backbones import Normalise, SmallResNet
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

SPLIT_LANDMARK: Final = 28
"""No. 29, counted from 1."""


class LandmarkSplitNet(ExpressionNet):
    """The face above and below a landmark, a branch each; the heads are answer, L_u and L_m."""

    needs_landmarks: ClassVar[bool] = True

    def __init__(
        self, *, classes: int, width: int = 32, masked_branch_weight: float = 0.35, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.masked_branch_weight = masked_branch_weight
        self.normalise = Normalise()
        self.backbone = SmallResNet(width=width)
        channels = self.backbone.channels
        self.unmasked_branch = LightAttentionBranch(channels, classes, width=4 * width, dropout=dropout)
        self.masked_branch = LightAttentionBranch(channels, classes, width=2 * width, dropout=dropout)

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        assert context.landmarks is not None, "LandmarkSplitNet needs landmarks"
        upper = upper_share(context.landmarks, faces.shape[-1])
        normalised = self.normalise(faces)
        # One batch of both parts: the extractor's normalisation then sees in training what it sees later.
        parts = torch.stack([normalised * upper, normalised * (1 - upper)], dim=1).flatten(0, 1)
        features = self.backbone(parts).unflatten(0, (-1, 2))
        unmasked, masked = self.unmasked_branch(features[:, 0]), self.masked_branch(features[:, 1])
        share = self.masked_branch_weight
        answer = (1 - share) * unmasked + share * masked
        heads = (Head(answer, 0.5), Head(unmasked, 0.5 * (1 - share)), Head(masked, 0.5 * share))
        return ExpressionReading(answer, heads)


def upper_share(landmarks: Float[Tensor, "b 68 2"], side: int) -> Float[Tensor, "b 1 side 1"]:
    """Return how much of each row of pixels lies above the split, 0..1."""
    split = landmarks[:, SPLIT_LANDMARK, 1].float().view(-1, 1, 1, 1) * side
    rows = torch.arange(side, device=landmarks.device, dtype=torch.float32).view(1, 1, -1, 1)
    return (split - rows).clamp(0, 1)
