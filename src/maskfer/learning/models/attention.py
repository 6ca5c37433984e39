"""The two attention parts that both stages of approach 2 borrow (§5.1, §5.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning.models.backbones import ConvNorm, ResidualBlock


class SpatialTransformer(nn.Module):
    """Warp feature maps by an affine map read from them; starts as the identity.

    Source: Jaderberg et al. (2015), §3; §5.1 puts it between two blocks. We bound every entry's distance
    from the identity to `reach`: unbounded, it leaves the face in its first hundred steps on small data.
    `reader` replaces the layers that look at the features; it gives `read` numbers for each.
    """

    def __init__(
        self, channels: int, *, reach: float = 0.3, reader: nn.Sequential | None = None, read: int = 16 * 36
    ) -> None:
        super().__init__()
        self.reach = reach
        last = nn.Linear(read, 6)
        # Nearly, not exactly, zero: at zero the layers before it would get no gradient in the first step.
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)
        if reader is None:
            reader = nn.Sequential(nn.AdaptiveAvgPool2d(12), ConvNorm(channels, 16, stride=2), nn.Flatten())
        self.localisation = nn.Sequential(*reader, last)
        self.register_buffer("identity", torch.eye(2, 3), persistent=False)
        self.identity: Tensor

    def forward(self, features: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        change = torch.tanh(self.localisation(features).float()).reshape(-1, 2, 3)
        grid = affine_grid(self.identity + self.reach * change, *features.shape[-2:])
        # In full precision: bfloat16 has eight bits for a coordinate.
        return functional.grid_sample(
            features.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )


def affine_grid(theta: Float[Tensor, "b 2 3"], height: int, width: int) -> Float[Tensor, "b height width 2"]:
    """Return where each pixel of the output comes from, in [-1, 1], in full precision whatever autocast says.

    torch's own multiplies matrices, which autocast would do in bfloat16.
    """
    x = ((torch.arange(width, device=theta.device) + 0.5) * 2 / width - 1).view(1, 1, 1, -1)
    y = ((torch.arange(height, device=theta.device) + 0.5) * 2 / height - 1).view(1, 1, -1, 1)
    across, down, shift = (column.unsqueeze(-1).unsqueeze(-1) for column in theta.unbind(dim=2))
    return (across * x + down * y + shift).permute(0, 2, 3, 1)


class AttentionPool(nn.Module):
    """Weighted mean over positions, the weights a softmax of a learned score of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels"]:
        weights = self.score(features).flatten(1).softmax(dim=1)
        pooled: Tensor = (features.flatten(2) * weights.to(features.dtype).unsqueeze(1)).sum(dim=2)
        return pooled


class LightAttentionBranch(nn.Module):
    """Reweighed features to class logits: two blocks, attention, two fully connected layers.

    Source: §5.2, with the network of Minaee and Abdolrashidi (2019), Deep-Emotion. Deviations: residual
    blocks for its plain convolutions; attention pooling, so that the fully connected layers are small and the
    branch says where it looked; its spatial transformer only where asked for, because here it learns more
    slowly and costs a fifth of the answer's time (docs/training.md).
    """

    def __init__(
        self, channels: int, classes: int, *, width: int, dropout: float, spatial_transformer: bool = False
    ) -> None:
        super().__init__()
        self.transformer = SpatialTransformer(channels) if spatial_transformer else nn.Identity()
        self.blocks = nn.Sequential(
            ResidualBlock(channels, width, stride=2), ResidualBlock(width, 2 * width, stride=2)
        )
        self.pool = AttentionPool(2 * width)
        first = nn.Linear(2 * width, 2 * width)
        # Features are not negative, so the first layer starts as no layer: from a random one the branch needs
        # twice the epochs to get anywhere.
        nn.init.eye_(first.weight)
        nn.init.zeros_(first.bias)
        self.head = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, classes))

    def forward(self, features: Float[Tensor, "b channels g g"]) -> Float[Tensor, "b classes"]:
        logits: Tensor = self.head(self.pool(self.blocks(self.transformer(features))))
        return logits
