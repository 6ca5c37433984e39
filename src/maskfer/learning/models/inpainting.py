"""Stage 1 of approach 1 (§4.1): paint the face where the mask is; two discriminators say how real it looks.

Source: §4.1, a generator with VGG19's convolutions and poolings, a global and a local discriminator; after
Liu et al. (2020), GAN-IAs. Skip connections: Ronneberger et al. (2015), U-Net, §2. Deviations:

- Grey faces, and batch normalisation after each convolution: nothing here starts from ImageNet's weights.
- The second channel of the input is H_m, and what H_m covers is blanked in the first: the colour of a mask
  says nothing about the face. The paper does not say how its generator knows where to paint.
- Pixels that H_m does not cover are the input's, so an unmasked face comes out as it went in.
- A discriminator judges every patch of its picture (Isola et al. 2017, §3.2.2), not the picture at once.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from maskfer.learning.models.attention import affine_grid
from maskfer.learning.models.backbones import ConvNorm, Normalise

_CONVOLUTIONS: Final = (2, 2, 4, 4, 4)
"""Of VGG19's five blocks; each ends with a pooling. Source: Simonyan and Zisserman (2015), table 1, E."""
_WIDTHS: Final = (1, 2, 4, 8, 8)
"""Channels of the blocks, in units of the first one's."""
_UNTOUCHED, _REPAINTED = 0.15, 0.35
"""H_m up to which a pixel stays the input's, and from which on it is wholly the generator's.

Below 1/2, where H_m has the border of the mask: it misses it by pixels, and a rest of mask in the picture is
worse than some skin painted anew. Where nothing is sensitive the exact H_m is sigmoid(-2), .12; the head's is
less.
"""
_BOX_MARGIN: Final = 1.1
"""Side of the local discriminator's box, in units of the region's longer side."""


class InpaintingGenerator(nn.Module):
    """Grey faces 0..255 and H_m to grey faces 0..255 without the mask; `width` 64 is VGG19's."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        channels = [width * factor for factor in _WIDTHS]
        self.normalise = Normalise()
        self.encoder = nn.ModuleList(
            _convolutions(before, after, count)
            for before, after, count in zip([2, *channels], channels, _CONVOLUTIONS, strict=False)
        )
        # At a 32nd of the resolution a cell sees all of the face.
        self.bottom = ConvNorm(channels[-1], channels[-1])
        below = [*channels[1:], channels[-1]]
        self.decoder = nn.ModuleList(
            ConvNorm(deeper + skipped, skipped) for deeper, skipped in zip(below, channels, strict=True)
        )
        self.paint = nn.Conv2d(width, 1, 1)

    def forward(
        self, faces: Float[Tensor, "b 1 s s"], heatmap: Float[Tensor, "b g g"]
    ) -> Float[Tensor, "b 1 s s"]:
        share = painted_share(heatmap, faces.shape[-1])
        return faces + share * (self.painted(faces, share) - faces)

    def painted(
        self, faces: Float[Tensor, "b 1 s s"], share: Float[Tensor, "b 1 s s"]
    ) -> Float[Tensor, "b 1 s s"]:
        """Return what the generator would put everywhere, also where the input's pixels stay."""
        features = torch.cat([self.normalise(faces) * (1 - share), share], dim=1)
        skipped = []
        for block in self.encoder:
            skipped.append(block(features))
            features = functional.max_pool2d(skipped[-1], 2)
        features = self.bottom(features)
        for block, skip in zip(reversed(self.decoder), reversed(skipped), strict=True):
            features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([features, skip], dim=1))
        return 255 * torch.sigmoid(self.paint(features).float())


class Discriminator(nn.Module):
    """Logits of "a photograph" for the overlapping patches of grey pictures 0..255.

    Source: Miyato et al. (2018), §2.1, for the spectral normalisation that keeps its slope bounded.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        channels = [1, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [Normalise()]
        for before, after in pairwise(channels):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        layers.append(spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 p p"]:
        logits: Tensor = self.layers(pictures)
        return logits.float()


class InpaintingGan(nn.Module):
    """The three that are trained together; only the generator is kept."""

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.generator = InpaintingGenerator(width=width)
        self.global_discriminator = Discriminator(width=width)
        self.local_discriminator = Discriminator(width=width)

    def judge(
        self, faces: Float[Tensor, "b 1 s s"], regions: Bool[Tensor, "b 1 s s"]
    ) -> tuple[Float[Tensor, "b 1 p p"], Float[Tensor, "b 1 q q"]]:
        """Return the logits of the whole face, and of the box around the mask's region at half the side."""
        boxes = around(regions, side=faces.shape[-1] // 2, faces=faces)
        return self.global_discriminator(faces), self.local_discriminator(boxes)


def painted_share(heatmap: Float[Tensor, "b g g"], side: int) -> Float[Tensor, "b 1 side side"]:
    """Return how much of each pixel is the generator's, 0..1."""
    fine = functional.interpolate(
        heatmap.unsqueeze(1).float(), size=(side, side), mode="bilinear", align_corners=False
    )
    return ((fine - _UNTOUCHED) / (_REPAINTED - _UNTOUCHED)).clamp(0, 1)


def around(
    regions: Bool[Tensor, "b 1 s s"], *, side: int, faces: Float[Tensor, "b 1 s s"]
) -> Float[Tensor, "b 1 side side"]:
    """Cut a square around the region of each face and resample it; without a region it is the whole face."""
    size = faces.shape[-1]
    left, right = _extent(regions.any(dim=2).squeeze(1))
    top, bottom = _extent(regions.any(dim=3).squeeze(1))
    # In affine_grid's coordinates, which span two units per side.
    scale = _BOX_MARGIN * torch.maximum(right - left, bottom - top) / size
    x, y = (left + right) / size - 1, (top + bottom) / size - 1
    zero = torch.zeros_like(scale)
    theta = torch.stack([torch.stack([scale, zero, x], dim=1), torch.stack([zero, scale, y], dim=1)], dim=1)
    grid = affine_grid(theta, side, side)
    return functional.grid_sample(
        faces.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _extent(present: Bool[Tensor, "b s"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    # First and last edge of what is present along an axis, pixels.
    some = present.any(dim=1)
    first = present.float().argmax(dim=1)
    last = present.shape[1] - present.flip(1).float().argmax(dim=1)
    return torch.where(some, first, 0).float(), torch.where(some, last, present.shape[1]).float()


def _convolutions(inputs: int, outputs: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ConvNorm(inputs if index == 0 else outputs, outputs) for index in range(count)))
