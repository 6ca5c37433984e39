"""What all expression networks have in common, so that one task trains each and one graph ships each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class FaceContext(NamedTuple):
    """What frozen networks said of a batch of faces before its expression is read."""

    heatmap: Float[Tensor, "b g g"]
    """H_m in (0, 1), on a raster that tiles the face."""
    landmarks: Float[Tensor, "b 68 2"] | None = None
    """x, y in sides of the crop, iBUG-68; may lie outside 0..1. None where the network needs none."""


class Head(NamedTuple):
    """One of the classifiers inside a network, and what its cross-entropy counts in the loss."""

    logits: Float[Tensor, "b classes"]
    weight: float


class ExpressionReading(NamedTuple):
    """What an expression network says of a batch; all logits."""

    answer: Float[Tensor, "b classes"]
    heads: tuple[Head, ...]
    """What the loss judges; the answer is among them or made from them."""
    penalty: Float[Tensor, ""] | None = None
    """What a method adds to the loss, already weighted."""


class ExpressionNet(nn.Module, ABC):
    """Expression logits from grey faces 0..255 and their context; each method is a subclass."""

    needs_landmarks: ClassVar[bool] = False
    """Whether `FaceContext.landmarks` has to be there."""

    @abstractmethod
    def forward(self, faces: Float[Tensor, "b 1 s s"], context: FaceContext) -> ExpressionReading:
        """Return the answer, and what the loss judges."""
