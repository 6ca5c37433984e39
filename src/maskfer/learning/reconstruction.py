"""How much a painted face looks like the original where the mask was: PSNR and SSIM inside a region."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_WHITE: Final = 255.0
_SMALLEST_ERROR: Final = 1e-2
"""Square grey levels: equal pictures get 68 dB and no infinity that would spoil a mean."""
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * _WHITE) ** 2, (0.03 * _WHITE) ** 2


def psnr(
    painted: Float[Tensor, "n 1 s s"], original: Float[Tensor, "n 1 s s"], regions: Bool[Tensor, "n 1 s s"]
) -> float:
    """Mean over faces of the peak signal-to-noise ratio of the region's pixels, dB."""
    inside = regions.sum(dim=(1, 2, 3))
    squares = ((painted - original).square() * regions).sum(dim=(1, 2, 3))
    error = (squares / inside.clamp(min=1))[inside > 0].clamp(min=_SMALLEST_ERROR)
    return float((10 * torch.log10(_WHITE**2 / error)).mean())


def ssim(
    painted: Float[Tensor, "n 1 s s"], original: Float[Tensor, "n 1 s s"], regions: Bool[Tensor, "n 1 s s"]
) -> float:
    """Mean over faces of the structural similarity of the windows whose centre lies in the region.

    Windows that reach over the border of the picture do not count.

    Source: Wang et al. (2004), §III-B: Gaussian windows of 11 x 11 pixels, sigma 1.5, K1 .01, K2 .03.
    """
    kernel = _gaussian(painted.device)
    mean_a, mean_b = _local_mean(painted, kernel), _local_mean(original, kernel)
    variance_a = _local_mean(painted.square(), kernel) - mean_a.square()
    variance_b = _local_mean(original.square(), kernel) - mean_b.square()
    covariance = _local_mean(painted * original, kernel) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a.square() + mean_b.square() + _C1) * (variance_a + variance_b + _C2)
    )
    edge = _WINDOW // 2
    centres = regions[:, :, edge:-edge, edge:-edge]
    inside = centres.sum(dim=(1, 2, 3))
    return float(((similarity * centres).sum(dim=(1, 2, 3))[inside > 0] / inside[inside > 0]).mean())


def _gaussian(device: torch.device) -> Float[Tensor, " window"]:
    place = torch.arange(_WINDOW, device=device) - _WINDOW // 2
    weights = torch.exp(-(place.square()) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _local_mean(
    pictures: Float[Tensor, "n 1 s s"], kernel: Float[Tensor, " window"]
) -> Float[Tensor, "n 1 t t"]:
    across = functional.conv2d(pictures, kernel.view(1, 1, 1, -1))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1))
