"""Losses of a generator and of the discriminators that are trained against it, in one backward pass.

Every part has to learn for its own end alone. The discriminators judge the generator's picture twice:
detached, for their own loss; and while they are `held`, for the generator's. The sum of all losses then gives
each parameter the gradient of its own, and one optimiser step updates all together, as §4.1 wants it.

Source: Lim and Ye (2017), Geometric GAN, §3, for the hinge; §4.1 says only "adversarial loss".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Logits = Float[Tensor, "b 1 p p"]


def discriminator_loss(real: Sequence[Logits], painted: Sequence[Logits]) -> Float[Tensor, ""]:
    """Sum over discriminators of the hinge: photographs above 1, paintings below -1."""
    return torch.stack(
        [
            functional.relu(1 - one).mean() + functional.relu(1 + other).mean()
            for one, other in zip(real, painted, strict=True)
        ]
    ).sum()


def generator_loss(painted: Sequence[Logits]) -> Float[Tensor, ""]:
    """Sum over discriminators of how far from "a photograph" they find what was painted."""
    return -torch.stack([logits.mean() for logits in painted]).sum()


def reconstruction(
    painted: Float[Tensor, "b 1 s s"], original: Float[Tensor, "b 1 s s"], share: Float[Tensor, "b 1 s s"]
) -> Float[Tensor, ""]:
    """L_r of §4.1: mean absolute difference of grey levels where the generator painted, in units of 255.

    The paper says "the distance"; the absolute one blurs less than the squared one (Isola et al. 2017, §3.1).
    """
    return ((painted - original).abs() / 255).sum() / share.sum().clamp(min=1)


@contextmanager
def held(*modules: nn.Module) -> Iterator[None]:
    """Let gradients pass through modules, to their input, but not into their parameters."""
    parameters = [one for module in modules for one in module.parameters() if one.requires_grad]
    for one in parameters:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in parameters:
            one.requires_grad_(True)
