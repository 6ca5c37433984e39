"""Stage 1 of approach 2 (§5.1): is this face masked, where is the mask, and where does the face look.

Source: §5.1, a small attentional network with a spatial transformer between two blocks. Deviations:

- The logit is the mean of local logits, so that covering a patch measures the evidence in that patch, and
  evidence in one place cannot saturate the answer for all others.
- A second head gives the heatmap of `learning.heatmaps` in one pass (it is fitted to it afterwards), because
  the exact one costs a forward pass per position of the patch. It reads the features before the transformer,
  whose positions are the face's own.
- A third head gives the face's orientation, so that serving needs no landmarks, which a mask hides.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.labels import ORIENTATIONS
from maskfer.learning.models.attention import SpatialTransformer
from maskfer.learning.models.backbones import ConvNorm, Normalise


class MaskReading(NamedTuple):
    """What stage 1 says of a batch of faces; all logits."""

    masked: Float[Tensor, " b"]
    orientation: Float[Tensor, "b 5"]
    heatmap: Float[Tensor, "b g g"]


class MaskClassifier(nn.Module):
    """Masked or not, orientation, and H_m on a `grid` x `grid` raster, from grey faces 0..255."""

    def __init__(self, *, grid: int = 12, width: int = 32, spatial_transformer: bool = True) -> None:
        super().__init__()
        self.grid = grid
        self.normalise = Normalise()
        self.block1 = nn.Sequential(ConvNorm(1, width // 2, stride=2), ConvNorm(width // 2, width, stride=2))
        self.transformer = SpatialTransformer(width) if spatial_transformer else nn.Identity()
        self.block2 = nn.Sequential(
            ConvNorm(width, 2 * width, stride=2), ConvNorm(2 * width, 2 * width, stride=2)
        )
        self.evidence = nn.Conv2d(2 * width, 1, 1)
        self.orientation_head = nn.Sequential(
            ConvNorm(width, 2 * width, stride=2),
            ConvNorm(2 * width, 2 * width, stride=2),
            ConvNorm(2 * width, 16, kernel=1),
            nn.AdaptiveAvgPool2d(6),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16 * 36, len(ORIENTATIONS)),
        )
        self.heatmap_head = nn.Sequential(
            ConvNorm(width, width, stride=2),
            ConvNorm(width, width, dilation=2),
            ConvNorm(width, width, dilation=2),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> MaskReading:
        shallow = self.block1(self.normalise(faces))
        return MaskReading(self._masked(shallow), self.orientation_head(shallow), self.heatmap_from(shallow))

    def mask_logits(self, normalised: Float[Tensor, "b 1 s s"]) -> Float[Tensor, " b"]:
        """Logit of "masked" alone, of faces that are normalised already (so that zero is `MIDDLE_GREY`)."""
        return self._masked(self.block1(normalised))

    def shallow_features(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b c h w"]:
        """Features before the transformer: what the heatmap head reads."""
        shallow: Tensor = self.block1(self.normalise(faces))
        return shallow

    def heatmap_from(self, shallow: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g g"]:
        """Logits of H_m from the features before the transformer."""
        raster: Tensor = self.heatmap_head(shallow)
        if raster.shape[-1] != self.grid:
            raster = functional.interpolate(
                raster, size=(self.grid, self.grid), mode="bilinear", align_corners=False
            )
        return raster.squeeze(1)

    def _masked(self, shallow: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        local: Tensor = self.evidence(self.block2(self.transformer(shallow)))
        return local.mean(dim=(1, 2, 3))
