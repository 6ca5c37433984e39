"""The network that dlib recognises faces with, in two parts, and filled from dlib's own file.

Source: He et al. (2016), ResNet-34 with fewer blocks and half the channels, as dlib's author trained it on
three million photographs of 7,485 people, none of them in Labeled Faces in the Wild; public domain
(docs/licences.md). It learnt to tell people apart; its middle layers know expressions as well. Deviations:
one grey channel in; borders are padded, so that a face of any size has whole maps; dlib's fixed scales and
shifts are part of the convolutions before them.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.layers import Shrink

_CUT = 7
"""Blocks up to where the stride is 8: F of two branches."""
_CHANNELS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
"""Of dlib's blocks; where they rise, a block halves the resolution, and so does the last one."""


class FaceBlock(nn.Module):
    """Two convolutions around a shortcut that knows no weights: it pools, and new channels start as zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        shrinks = outputs != inputs
        self.shrink = Shrink(2) if shrinks else None
        self.new = outputs - inputs
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2 if shrinks else 1, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        residual = self.second(functional.relu(self.first(features)))
        if self.shrink is not None:
            features = functional.pad(self.shrink(features), (0, 0, 0, 0, 0, self.new))
        return functional.relu(features + residual)


class FaceResNet(Backbone):
    """Feature maps F of a face at an eighth of its resolution, 64 channels: dlib's network up to there."""

    def __init__(self) -> None:
        super().__init__(channels=_CHANNELS[_CUT - 1], left_out=_names_but_of(range(_CUT), keeps_stem=True))
        self.stem = nn.Conv2d(1, _CHANNELS[0], 7, stride=2, padding=3)
        self.blocks = _blocks(range(_CUT))

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b channels g g"]:
        maps = functional.max_pool2d(functional.relu(self.stem(faces)), 3, stride=2, padding=1)
        for block in self.blocks.values():
            maps = block(maps)
        return maps


class FaceTail(Backbone):
    """dlib's next two blocks, from F to 128 channels at a sixteenth of a face's resolution.

    The last of dlib's have forgotten expressions, they tell people apart; the one in between costs more time
    than it gives.
    """

    stride: ClassVar[int] = 16
    """Pixels of the face to a place of its features, rounded up at the border."""

    def __init__(self) -> None:
        blocks = range(_CUT, _CUT + 2)
        super().__init__(channels=_CHANNELS[blocks[-1]], left_out=_names_but_of(blocks, keeps_stem=False))
        self.blocks = _blocks(blocks)

    def forward(self, features: Float[Tensor, "b 64 g g"]) -> Float[Tensor, "b channels h h"]:
        for block in self.blocks.values():
            features = block(features)
        return features


def _blocks(numbers: range) -> nn.ModuleDict:
    # Named by their numbers in dlib's network, so that its file fills each part of it.
    channels = (_CHANNELS[0], *_CHANNELS)
    return nn.ModuleDict({str(n): FaceBlock(channels[n], channels[n + 1]) for n in numbers})


def _names_but_of(numbers: range, *, keeps_stem: bool) -> tuple[str, ...]:
    others = tuple(f"blocks.{n}." for n in range(len(_CHANNELS)) if n not in numbers)
    return others if keeps_stem else ("stem.", *others)
