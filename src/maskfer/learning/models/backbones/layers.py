"""The layers that our own networks are built of, and what is done to whole networks."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)

MIDDLE_GREY = 128.0
"""The level, of 0..255, that a normalised face calls zero: what "zero out a patch" (§5.1) paints."""
GREY_SPAN = 64.0
"""Levels to one unit of a normalised face."""


class Normalise(nn.Module):
    """Grey levels 0..255 to about [-2, 2]. Inside the graph, so that no caller can forget it."""

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
        return (faces - MIDDLE_GREY) / GREY_SPAN


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and, unless `activate` is off, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.activate = nn.ReLU(inplace=True) if activate else nn.Identity()

    def forward(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        normed: Tensor = self.activate(self.norm(self.conv(features)))
        return normed


class Shrink(nn.Module):
    """Average over squares of `stride` positions; what is left at the border is one of its own."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h2 w2"]:
        # Asked to round up where nothing is left, ONNX Runtime takes several times as long.
        leaves_some = features.shape[-2] % self.stride > 0 or features.shape[-1] % self.stride > 0
        return functional.avg_pool2d(features, self.stride, ceil_mode=leaves_some)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; the shortcut pools before it projects, so nothing is skipped.

    Source: He et al. (2016), §3.3; the pooled shortcut is He et al. (2019), "bag of tricks", ResNet-D.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs, activate=False)
        shortcut: list[nn.Module] = [Shrink(stride)] if stride > 1 else []
        if stride > 1 or inputs != outputs:
            shortcut.append(ConvNorm(inputs, outputs, kernel=1, activate=False))
        self.shortcut = nn.Sequential(*shortcut)
        self.activate = nn.ReLU(inplace=True)

    def forward(self, features: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        added: Tensor = self.activate(self.second(self.first(features)) + self.shortcut(features))
        return added


def placed(network: Network, device: torch.device) -> Network:
    """Move a network to a device, in the memory layout in which convolutions are fastest."""
    moved: Network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def fold_norms(network: Network) -> Network:
    """Return a copy for inference whose batch normalisations are part of the convolutions before them.

    In all our networks, as in torchvision's, the one that a module registers right after a convolution is the
    one that follows it. One that follows no convolution stays.
    """
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        for (first, conv), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, nn.Identity())
    return folded


def he_initialise(network: nn.Module) -> None:
    """Draw all convolutions so that layers with ReLU neither grow nor shrink what passes through them.

    Source: He et al. (2015), §2.2. torchvision keeps the size of the gradients instead; with a single channel
    in, its first layer would shrink a face to a fifth, and VGG has no normalisation to undo that.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
