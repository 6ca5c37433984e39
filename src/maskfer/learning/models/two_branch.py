"""Stage 2 of approach 2 (§5.2): two classifiers, one away from the mask and one on it.

Source: §5.2. F_m = F * H_m and F_u = F * H_u with H_u = 1 - H_m; each goes through a light attention branch
and two fully connected layers. The paper trains l_u and l_m and leaves open how the answer is made: ours is
the softmax of the weighted mean of both branches' logits, with the weights of the losses.

Backbones are cut where their stride is 8: there one cell of F lies under one cell of the heatmap (12 x 12 for
a face of 96 pixels; to the 10 x 10 of an aligned face of 80 the heatmap is resampled). At a stride of 16 a
cell at the mask's edge would be half mask, and no weight could tell its halves apart.

The ablations take away one part at a time: `unmasked` the branch on the mask, `none` the heatmap as well.
Both have a single branch, so that each step to the full network adds what is judged and nothing else.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.attention import LightAttentionBranch
from maskfer.learning.models.backbones import Backbone, Normalise, SmallResNet
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head


class TwoBranchNet(ExpressionNet):
    """Features F reweighed by H_u and by H_m, a branch each; the heads are answer, l_u and l_m.

    Without `backbone`, a `SmallResNet` of the same width; without `unmasked_branch`, one of light
    attention.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int = 32,
        backbone: Backbone | None = None,
        unmasked_branch: nn.Module | None = None,
        masked_branch_weight: float = 0.35,
        dropout: float = 0.2,
        spatial_transformer: bool = False,
    ) -> None:
        super().__init__()
        self.masked_branch_weight = masked_branch_weight
        self.normalise = Normalise()
        self.backbone = SmallResNet(width=width) if backbone is None else backbone
        channels = self.backbone.channels
        # The branch on the mask has little to read: half the width is enough, and a third of the cost.
        self.unmasked_branch = unmasked_branch or LightAttentionBranch(
            channels, classes, width=4 * width, dropout=dropout, spatial_transformer=spatial_transformer
        )
        self.masked_branch = LightAttentionBranch(
            channels, classes, width=2 * width, dropout=dropout, spatial_transformer=spatial_transformer
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        features = self.backbone(self.normalise(faces))
        covered = _resized(context.heatmap, features.shape[-1]).to(features.dtype)
        unmasked = self.unmasked_branch(features * (1 - covered))
        masked = self.masked_branch(features * covered)
        share = self.masked_branch_weight
        answer = (1 - share) * unmasked + share * masked
        # The answer's own loss is ours: without it nothing trains what ships.
        heads = (Head(answer, 0.5), Head(unmasked, 0.5 * (1 - share)), Head(masked, 0.5 * share))
        return ExpressionReading(answer, heads)


class OneBranchNet(ExpressionNet):
    """The ablations with one branch, on F reweighed by H_u or, with attention `none`, on F as it is."""

    def __init__(
        self,
        *,
        classes: int,
        attention: Literal["unmasked", "none"],
        width: int = 32,
        backbone: Backbone | None = None,
        unmasked_branch: nn.Module | None = None,
        dropout: float = 0.2,
        spatial_transformer: bool = False,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.normalise = Normalise()
        self.backbone = SmallResNet(width=width) if backbone is None else backbone
        self.branch = unmasked_branch or LightAttentionBranch(
            self.backbone.channels,
            classes,
            width=4 * width,
            dropout=dropout,
            spatial_transformer=spatial_transformer,
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        features = self.backbone(self.normalise(faces))
        if self.attention == "unmasked":
            features = features * (1 - _resized(context.heatmap, features.shape[-1]).to(features.dtype))
        answer = self.branch(features)
        return ExpressionReading(answer, (Head(answer, 1.0),))


def _resized(heatmaps: Float[Tensor, "b g g"], size: int) -> Float[Tensor, "b 1 h h"]:
    maps = heatmaps.unsqueeze(1)
    if maps.shape[-1] == size:
        return maps
    return functional.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
