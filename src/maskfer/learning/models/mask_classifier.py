"""Stage 1 of approach 2 (§5.1): is this face masked, where is the mask, and where does the face look.

Source: §5.1, a small attentional network with a spatial transformer between two blocks. Deviations:

- The logit is the mean of local logits, so that covering a patch measures the evidence in that patch, and
  evidence in one place cannot saturate the answer for all others.
- The rasters of all layers lie centred on the face. With the usual padding each strided layer starts at the
  upper left corner: the logit then looks a cell too far up and left, and the heatmap lies there too.
- A second head gives the heatmap of `learning.heatmaps` in one pass (it is fitted to it afterwards), because
  the exact one costs a forward pass per position of the patch. It reads the features before the transformer,
  whose positions are the face's own.
- A third head gives the face's orientation, so that serving needs no landmarks, which a mask hides.
- A fourth gives the answer. The mean of local logits is what a heatmap can be made of; whether a real mask is
  worn is told better by features of the whole face, trained with whole masks alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.labels import ORIENTATIONS
from maskfer.learning.models.attention import SpatialTransformer
from maskfer.learning.models.backbones import ConvNorm, Normalise


class MaskReading(NamedTuple):
    """What stage 1 says of a batch of faces; all logits."""

    masked: Float[Tensor, " b"]
    """The answer; the heatmap explains `MaskClassifier.mask_logits`."""
    orientation: Float[Tensor, "b 5"]
    heatmap: Float[Tensor, "b g g"]


class HeatmapHead(nn.Module):
    """Logits of H_m on a raster that tiles the face, from the features of block 1."""

    def __init__(self, channels: int, *, grid: int) -> None:
        super().__init__()
        self.grid = grid
        # Dilated: where a mask ends is decided by a third of the face, not by one cell.
        self.layers = nn.Sequential(
            ConvNorm(channels, channels),
            ConvNorm(channels, channels, dilation=2),
            ConvNorm(channels, channels, dilation=2),
            nn.Conv2d(channels, 1, 1),
        )

    def forward(self, shallow: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g g"]:
        raster: Tensor = self.layers(shallow)
        if raster.shape[-1] != self.grid:
            size = (self.grid, self.grid)
            raster = functional.interpolate(raster, size=size, mode="bilinear", align_corners=False)
        return raster.squeeze(1)


class _CentredConv(ConvNorm):
    """A layer of stride 2 that does not start at the upper left corner.

    With a kernel of 4 its cells tile the input; one of 3, as cheap as ever, is padded on the right and below
    only, so that cell i is centred on 2 i + 1 instead of 2 i.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, kernel=kernel, stride=2)
        self.conv.padding = (0, 0)
        before = (kernel - 2) // 2
        self.pad = (before, kernel - 2 - before, before, kernel - 2 - before)

    def forward(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return super().forward(functional.pad(features, self.pad))


class MaskClassifier(nn.Module):
    """Masked or not, orientation, and H_m on a `grid` x `grid` raster, from grey faces 0..255."""

    block1_stride = 8
    """Pixels from one cell of block 1's features to the next."""
    block1_reads = (-4, 10)
    """First and last pixel that a cell reads, counted from `block1_stride` times its index."""

    def __init__(self, *, grid: int = 12, width: int = 32, spatial_transformer: bool = True) -> None:
        super().__init__()
        self.grid = grid
        self.normalise = Normalise()
        self.block1 = nn.Sequential(
            # Two to the right and one to the left: cell j of 8 pixels is centred on pixel 8 j + 3.
            _CentredConv(1, width // 2),
            _CentredConv(width // 2, width),
            ConvNorm(width, width, stride=2),
        )
        self.transformer = SpatialTransformer(width) if spatial_transformer else nn.Identity()
        # Small on purpose: the exact heatmap runs everything after block 1 once per position of the patch.
        self.block2 = nn.Sequential(ConvNorm(width, width), _CentredConv(width, 2 * width, kernel=4))
        self.evidence = nn.Conv2d(2 * width, 1, 1)
        self.orientation_head = nn.Sequential(
            ConvNorm(width, 2 * width, stride=2),
            ConvNorm(2 * width, 2 * width),
            ConvNorm(2 * width, 16, kernel=1),
            nn.AdaptiveAvgPool2d(6),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16 * 36, len(ORIENTATIONS)),
        )
        self.heatmap_head = HeatmapHead(width, grid=grid)
        self.verdict_head = nn.Sequential(
            ConvNorm(width, 2 * width),
            ConvNorm(2 * width, 4 * width, stride=2),
            ConvNorm(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(4 * width, 1),
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> MaskReading:
        shallow = self.shallow_features(faces)
        return MaskReading(self.verdict(shallow), self.orientation_head(shallow), self.heatmap_head(shallow))

    def verdict(self, shallow: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Logit of "masked" that is answered, from the features of block 1."""
        logits: Tensor = self.verdict_head(shallow)
        return logits.squeeze(1)

    def mask_logits(self, shallow: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Logit of "masked" that patches are slid under: the mean of local evidence for a mask."""
        local: Tensor = self.evidence(self.block2(self.transformer(shallow)))
        return local.mean(dim=(1, 2, 3))

    def shallow_features(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b c h w"]:
        """Features of block 1, before the transformer: what every head starts from."""
        shallow: Tensor = self.block1(self.normalise(faces))
        return shallow

    def heatmap(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b g g"]:
        """H_m in (0, 1), in one pass."""
        return torch.sigmoid(self.heatmap_head(self.shallow_features(faces)))


class HeatmapGuided(nn.Module):
    """What a network answers from faces and the classifier's heatmaps of them."""

    def __init__(self, mask_classifier: MaskClassifier, network: nn.Module) -> None:
        super().__init__()
        self.mask_classifier = mask_classifier
        self.network = network

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Tensor:
        answer: Tensor = self.network(faces, self.mask_classifier.heatmap(faces))
        return answer
