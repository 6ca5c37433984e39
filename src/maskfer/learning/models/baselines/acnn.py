"""ACNN in both versions: patches around landmarks alone (pACNN), or the whole face beside them (gACNN).

Source: Li et al. (2019), "Occlusion aware facial expression recognition using CNN with attention mechanism",
§III. Features are VGG-16's up to conv4_2; a patch of them around each of 24 points goes through a unit of its
own, which gives 64 numbers and weighs them by a gate in (0, 1) that it reads from the patch; gACNN adds
the face up to conv5_2, 512 numbers behind such a gate. Deviations:

- The crop is 96 pixels wide instead of 224, so that conv4_2 has 12 x 12 cells instead of 28 x 28. A patch is
  3 x 3 instead of 6 x 6: about the same part of the face. It is read between the cells, around its point.
- A patch unit has one 3 x 3 convolution to 128 channels. Two to 512, in 24 units, are 113 million weights.
- A point outside the crop is moved to its border.
- One grey channel; normalised VGG as in the authors' configuration; dropout as in the common protocol.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.backbones import VGG, ConvNorm, Normalise
from maskfer.learning.models.baselines.points import POINTS, expression_points
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

_PATCH = 3
"""Places along a patch's side."""
_STEP = 1 / 12
"""From one place to the next, in sides of the crop: a cell of conv4_2 where the crop is 96 pixels wide."""
_CONV4_2 = 30
"""Layers of a normalised VGG-16 up to conv4_2 and its ReLU."""


class PatchUnits(nn.Module):
    """Features of the patches to gated numbers; every point has its own weights, hence the groups."""

    def __init__(self, channels: int, *, inside: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.features = ConvNorm(POINTS * channels, POINTS * inside, groups=POINTS)
        self.numbers = nn.Sequential(
            nn.Conv2d(POINTS * inside, POINTS * outputs, _PATCH, groups=POINTS), nn.ReLU(inplace=True)
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(POINTS * inside, POINTS * outputs, 1, groups=POINTS),
            nn.ReLU(inplace=True),
            nn.Conv2d(POINTS * outputs, POINTS, 1, groups=POINTS),
            nn.Sigmoid(),
        )

    def forward(
        self, patches: Float[Tensor, "b 24 channels 3 3"]
    ) -> tuple[Float[Tensor, "b 24 outputs"], Float[Tensor, "b 24 1"]]:
        """Return the numbers, not weighed yet, and the gates."""
        features = self.features(patches.flatten(1, 2))
        numbers = self.numbers(features).reshape(-1, POINTS, self.outputs)
        return numbers, self.gate(features).reshape(-1, POINTS, 1)


class GlobalUnit(nn.Module):
    """The same for the whole face's last maps."""

    def __init__(self, channels: int, *, side: int, outputs: int) -> None:
        super().__init__()
        self.numbers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * side**2, outputs), nn.ReLU(inplace=True)
        )
        self.gate = nn.Sequential(
            ConvNorm(channels, channels // 4, kernel=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels // 4, channels // 8),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 8, 1),
            nn.Sigmoid(),
        )

    def forward(
        self, maps: Float[Tensor, "b channels h h"]
    ) -> tuple[Float[Tensor, "b outputs"], Float[Tensor, "b 1"]]:
        return self.numbers(maps), self.gate(maps)


class ACNNNet(ExpressionNet):
    """pACNN or, with `whole_face`, gACNN. `width` scales the channels of all layers."""

    needs_landmarks = True

    def __init__(
        self,
        *,
        classes: int,
        whole_face: bool,
        crop_size: int = 96,
        dropout: float = 0.2,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.normalise = Normalise()
        convolutions = (2, 2, 3, 3, 2) if whole_face else (2, 2, 3, 2)
        self.backbone = VGG(convolutions=convolutions, width=width)
        channels = int(512 * width)
        self.patches = PatchUnits(channels, inside=int(128 * width), outputs=int(64 * width))
        gathered = POINTS * self.patches.outputs
        self.whole: GlobalUnit | None = None
        if whole_face:
            self.whole = GlobalUnit(channels, side=crop_size // 16, outputs=channels)
            gathered += channels
        self.classifier = nn.Sequential(
            nn.Linear(gathered, 2 * channels),
            nn.Dropout(dropout),
            nn.ReLU(inplace=True),
            nn.Linear(2 * channels, classes),
        )

    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        assert context.landmarks is not None
        maps = self.backbone.features[:_CONV4_2](self.normalise(faces))
        numbers, gates = self.patches(patches(maps, expression_points(context.landmarks)))
        parts = [(numbers * gates).flatten(1)]
        if self.whole is not None:
            numbers, gate = self.whole(self.backbone.features[_CONV4_2:](maps))
            parts.append(numbers * gate)
        answer = self.classifier(torch.cat(parts, dim=1))
        return ExpressionReading(answer, (Head(answer, 1.0),))


def patches(
    maps: Float[Tensor, "b channels h h"], points: Float[Tensor, "b 24 2"]
) -> Float[Tensor, "b 24 channels 3 3"]:
    """Return the features around each point."""
    steps = torch.arange(_PATCH, device=maps.device) - _PATCH // 2
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1) * _STEP
    places = points.float().clamp(0, 1)[:, :, None, None] + offsets
    # grid_sample's coordinates are -1..1; in full precision: bfloat16 has eight bits for a coordinate.
    read = functional.grid_sample(
        maps.float(), 2 * places.flatten(1, 2) - 1, padding_mode="border", align_corners=False
    )
    return read.reshape(*maps.shape[:2], POINTS, _PATCH, _PATCH).transpose(1, 2)
