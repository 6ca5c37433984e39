"""The default feature extractor: small, and fast on a processor.

Source: §5.2 takes the convolutions of ResNet or VGG19. We use a small ResNet (He et al. 2016, §3.3, basic
block) that works at a quarter of the resolution from its third layer on: on two cores a layer at half the
resolution costs as much as four of the layers that decide.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.layers import ConvNorm, ResidualBlock


class SmallResNet(Backbone):
    """Feature maps F of a face at an eighth of its resolution, `2 * width` channels."""

    def __init__(self, *, width: int = 32) -> None:
        super().__init__(channels=2 * width)
        self.stem = nn.Sequential(ConvNorm(1, width // 2, stride=2), ConvNorm(width // 2, width, stride=2))
        self.stages = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, 2 * width, stride=2))

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b channels g g"]:
        maps: Tensor = self.stages(self.stem(faces))
        return maps
