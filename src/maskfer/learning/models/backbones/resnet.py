"""ResNet-18 and ResNet-50, whole or cut after any of their four stages.

Source: He et al. (2016), table 1. Parameter names are torchvision's (`resnet18`, `resnet50`), and so is the
stride's place in a bottleneck, its 3 x 3 convolution. Deviations: one grey channel in; no pooling and no
classifier at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.layers import he_initialise

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class _Residual(nn.Module, ABC):
    """Shared by both blocks: add the shortcut, projected where shapes differ."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    @abstractmethod
    def residual(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        """Return what is added to the shortcut."""

    def forward(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        shortcut = features if self.downsample is None else self.downsample(features)
        added: Tensor = self.relu(self.residual(features) + shortcut)
        return added


class BasicBlock(_Residual):
    """Two 3 x 3 convolutions."""

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__(inputs, width, stride=stride)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def residual(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        maps: Tensor = self.relu(self.bn1(self.conv1(features)))
        last: Tensor = self.bn2(self.conv2(maps))
        return last


class Bottleneck(_Residual):
    """A 3 x 3 convolution between two of 1 x 1; four times as many channels out as inside."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__(inputs, self.expansion * width, stride=stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * width)

    def residual(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        maps: Tensor = self.relu(self.bn1(self.conv1(features)))
        maps = self.relu(self.bn2(self.conv2(maps)))
        last: Tensor = self.bn3(self.conv3(maps))
        return last


class ResNet(Backbone):
    """Feature maps of a face; the stem has a stride of 4, each stage after the first one of 2.

    `blocks` has the number of blocks of each stage that is there. `last_stride` is that of `layer4`.
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, ...],
        width: float = 1.0,
        last_stride: int = 2,
    ) -> None:
        widths = [int(64 * width) * 2**stage for stage in range(len(blocks))]
        beyond = (f"{name}." for name in _STAGES[len(blocks) :])
        super().__init__(channels=widths[-1] * block.expansion, left_out=("fc.", *beyond))
        self.conv1 = nn.Conv2d(1, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self._stages = _STAGES[: len(blocks)]
        inputs = widths[0]
        for name, count, stage_width in zip(self._stages, blocks, widths, strict=True):
            stride = {"layer1": 1, "layer4": last_stride}.get(name, 2)
            stage = nn.Sequential()
            for index in range(count):
                stage.append(block(inputs, stage_width, stride=stride if index == 0 else 1))
                inputs = stage_width * block.expansion
            self.add_module(name, stage)
        he_initialise(self)

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b channels g g"]:
        maps: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(faces))))
        for name in self._stages:
            maps = self.get_submodule(name)(maps)
        return maps


def resnet18(*, stages: int = 4, width: float = 1.0) -> ResNet:
    """Return ResNet-18 up to the end of stage `stages`; two stages have a stride of 8, four of 32."""
    return ResNet(block=BasicBlock, blocks=(2, 2, 2, 2)[:stages], width=width)


def resnet50(*, width: float = 1.0, last_stride: int = 2) -> ResNet:
    """Return ResNet-50; with a `last_stride` of 1 its maps have a stride of 16 instead of 32."""
    return ResNet(block=Bottleneck, blocks=(3, 4, 6, 3), width=width, last_stride=last_stride)
