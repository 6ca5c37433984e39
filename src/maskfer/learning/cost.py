"""What a network costs: its size, and the work for one face."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskfer.learning.models.expression import ExpressionNet, FaceContext
from maskfer.learning.models.mask_aware import MaskAwareNet


def parameters(network: nn.Module) -> int:
    """Return the number of trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: ExpressionNet | MaskAwareNet, *, crop_size: int) -> int:
    """Return the multiplications, each with its addition, of convolutions and matrix products on one face.

    An `ExpressionNet` alone is counted without the networks that give it its context.
    """
    network = copy.deepcopy(network).to("cpu").eval()
    faces = torch.zeros(1, 1, crop_size, crop_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(network, MaskAwareNet):
            network(faces)
        else:
            network(faces, FaceContext(torch.zeros(1, 1, 1), torch.full((1, 68, 2), 0.5)))
    operations: int = counter.get_total_flops()
    return operations // 2
