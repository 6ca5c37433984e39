"""VGG-16 and VGG-19, whole or cut after any of their five blocks.

Source: Simonyan and Zisserman (2015), table 1, columns D and E. Parameter names are torchvision's
(`vgg19_bn`, `vgg16_bn`). Deviations: batch normalisation after each convolution, without which VGG-19
dies at the rate that all our networks are trained with (docs/training.md); one grey channel in; no
classifier; the pooling after the last block is left out.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.layers import he_initialise

_WIDTHS = (64, 128, 256, 512, 512)
_LONGEST = 53
"""Layers of the longest published `features`, VGG-19's."""


class VGG(Backbone):
    """Feature maps at `1 / 2 ** (len(convolutions) - 1)` of the face's resolution.

    `convolutions` has the number of convolutions of each block, `width` scales the channels of all.
    """

    def __init__(self, *, convolutions: tuple[int, ...], width: float = 1.0) -> None:
        layers: list[nn.Module] = []
        inputs = 1
        for block, (count, published) in enumerate(zip(convolutions, _WIDTHS, strict=False)):
            outputs = int(published * width)
            if block > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(inplace=True),
                ]
                inputs = outputs
        beyond = (f"features.{index}." for index in range(len(layers), _LONGEST))
        super().__init__(channels=inputs, left_out=("classifier.", *beyond))
        self.features = nn.Sequential(*layers)
        he_initialise(self)

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b channels g g"]:
        maps: Tensor = self.features(faces)
        return maps


def vgg19(*, blocks: int = 5, width: float = 1.0) -> VGG:
    """Return the convolutions of VGG-19 up to the end of block `blocks`; four blocks have a stride of 8."""
    return VGG(convolutions=(2, 2, 4, 4, 4)[:blocks], width=width)
