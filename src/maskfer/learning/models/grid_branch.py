"""A branch for faces that lie alike: what is seen where counts by itself. Not in the paper."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.backbones import Backbone


class GridBranch(nn.Module):
    """Reweighed features to class logits: `blocks`, then two fully connected layers that read every place.

    `blocks` leave `cells` x `cells` places. Attention over places (`LightAttentionBranch`) forgets which was
    which; on aligned faces a place is a part of the face, and the branch learns faster from all of them.
    """

    def __init__(
        self, blocks: Backbone, classes: int, *, cells: int, dropout: float, hidden: int = 128
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(blocks.channels * cells**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, features: Float[Tensor, "b channels g g"]) -> Float[Tensor, "b classes"]:
        logits: Tensor = self.head(self.blocks(features))
        return logits
