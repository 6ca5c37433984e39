"""MobileNet, version 2.

Source: Sandler et al. (2018), table 2. Parameter names are torchvision's (`mobilenet_v2`). Deviations: one
grey channel in; no classifier.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.layers import he_initialise

_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, count and the first one's stride, as in table 2."""
_FIRST, _LAST = 32, 1280


class _ReLU6(nn.Module):
    """torch's own is exported as a hardtanh, which the exporter needs a second each to take apart."""

    def forward(self, features: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        return features.clamp(0, 6)


class _ConvNormReLU6(nn.Sequential):
    """A sequence, because torchvision numbers its parts."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            _ReLU6(),
        )


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; the shortcut joins the narrow ends."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inside = inputs * expansion
        widen = [_ConvNormReLU6(inputs, inside, kernel=1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            _ConvNormReLU6(inside, inside, kernel=3, stride=stride, groups=inside),
            nn.Conv2d(inside, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        maps: Tensor = self.conv(features)
        return features + maps if self.has_shortcut else maps


class MobileNetV2(Backbone):
    """Feature maps of a face at 1/32 of its resolution; `width` scales the channels of all layers."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__(channels=int(_LAST * width), left_out=("classifier.",))
        inputs = int(_FIRST * width)
        layers: list[nn.Module] = [_ConvNormReLU6(1, inputs, kernel=3, stride=2)]
        for expansion, channels, count, first_stride in _BLOCKS:
            outputs = int(channels * width)
            for index in range(count):
                stride = first_stride if index == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, expansion=expansion, stride=stride))
                inputs = outputs
        layers.append(_ConvNormReLU6(inputs, self.channels, kernel=1))
        self.features = nn.Sequential(*layers)
        he_initialise(self)

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b channels g g"]:
        maps: Tensor = self.features(faces)
        return maps
