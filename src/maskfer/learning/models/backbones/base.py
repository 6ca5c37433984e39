"""What all feature extractors have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Feature maps of normalised grey faces, `channels` of them.

    The published networks have torchvision's parameter names, so that `load_pretrained` can fill them.
    """

    def __init__(self, *, channels: int, left_out: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.channels = channels
        self.left_out = left_out
        """How names of published parameters begin that are not here: the classifier, layers after a cut."""

    @abstractmethod
    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b channels g g"]:
        """Return the feature maps."""
