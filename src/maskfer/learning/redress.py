"""Masked twins dressed anew in every batch: in the mask of another face, in another cloth.

A face of the table has one drawn twin. Seen in every epoch, that one mask is learnt by heart, and so is that
its outline follows the mouth it covers. Here a twin also wears masks that were fitted to other faces, and
cloths that nobody drew. Not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from maskfer.labels import ORIENTATIONS
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.models.backbones import MIDDLE_GREY

_CONTRAST, _BRIGHTNESS = 0.7, 60.0
"""Largest change of a cloth's contrast (natural logarithm) and brightness (grey levels)."""
_PLAIN = 0.3
"""Share of the changed cloths that become one plain grey."""


@dataclass(frozen=True, slots=True)
class Redress:
    """How often a masked twin is dressed anew."""

    borrowed: float = 0.3
    """Share that wears the mask of another face, drawn from those with its orientation."""
    recoloured: float = 0.5
    """Share whose cloth gets another contrast and brightness, or becomes plain."""


DEFAULT_REDRESS = Redress()


class Wardrobe:
    """The drawn masks of a split, ordered by the orientation of the faces that wear them."""

    def __init__(self, faces: Faces) -> None:
        rows = (faces.twins != UNKNOWN).nonzero().squeeze(1)
        # Unknown orientations are a kind of their own, the first.
        kinds = faces.orientations[rows] + 1
        self._faces = faces
        self._rows = rows[torch.argsort(kinds, stable=True)]
        self._counts = torch.bincount(kinds, minlength=len(ORIENTATIONS) + 1)
        self._starts = self._counts.cumsum(0) - self._counts

    def dressed(
        self, twins: Int64[Tensor, " b"], *, redress: Redress, generator: Generator
    ) -> tuple[Float[Tensor, "b 1 s s"], Bool[Tensor, "b 1 s s"]]:
        """Return the masked twins in the rows `twins`, some dressed anew, and where they are covered now."""
        faces, regions = self._faces.batch(twins), self._faces.regions[twins].unsqueeze(1)
        lenders = self._lenders(self._faces.orientations[twins], generator)
        lent = self._faces.regions[lenders].unsqueeze(1)
        borrows = _chosen(len(twins), redress.borrowed, generator)
        bare = self._faces.batch(self._faces.twins[twins])
        faces = torch.where(borrows, torch.where(lent, self._faces.batch(lenders), bare), faces)
        regions = torch.where(borrows, lent, regions)
        return _recoloured(faces, regions, share=redress.recoloured, generator=generator), regions

    def _lenders(self, orientations: Int64[Tensor, " b"], generator: Generator) -> Int64[Tensor, " b"]:
        kinds = orientations + 1
        draw = torch.rand(len(kinds), generator=generator, device=generator.device)
        return self._rows[self._starts[kinds] + (draw * self._counts[kinds]).long()]


def _recoloured(
    faces: Float[Tensor, "b 1 s s"], regions: Bool[Tensor, "b 1 s s"], *, share: float, generator: Generator
) -> Float[Tensor, "b 1 s s"]:
    count = len(faces)
    contrast, brightness, level = torch.rand(
        (3, count, 1, 1, 1), generator=generator, device=generator.device
    ).unbind()
    cloth = (faces - MIDDLE_GREY) * torch.exp((2 * contrast - 1) * _CONTRAST) + MIDDLE_GREY
    cloth = (cloth + (2 * brightness - 1) * _BRIGHTNESS).clamp(0, 255)
    cloth = torch.where(_chosen(count, _PLAIN, generator), level * 255, cloth)
    return torch.where(_chosen(count, share, generator) & regions, cloth, faces)


def _chosen(count: int, share: float, generator: Generator) -> Bool[Tensor, "b 1 1 1"]:
    return torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) < share
