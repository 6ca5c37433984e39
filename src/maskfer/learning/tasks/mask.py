"""Stage 1 (§5.1): train the mask classifier and its orientation head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn import functional

from maskfer.labels import ORIENTATIONS
from maskfer.learning import scores
from maskfer.learning.augment import (
    DEFAULT_JITTER,
    FAR_JITTER,
    Jitter,
    Warps,
    erase,
    mirrored_orientations,
    random_patchwork,
    random_rectangles,
    random_warps,
    relight,
    warp,
)
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.losses import adjusted_cross_entropy, log_priors, mask_verdict
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.redress import DEFAULT_REDRESS, Redress, Wardrobe
from maskfer.learning.training import SCORE, inference, reduced_precision, shuffled_batches

_PATCHED, _PASTED = 0.5, 0.3
"""Shares of the masked twins into which a patchwork, or one rectangle, of the unmasked twin is pasted."""
_PATCH_CELLS = 6
"""Squares of the patchwork along the crop's side: 16 pixels of 96, like the heatmap's patch."""
_CERTAINTY = 4.0
"""The logit that a whole mask should get; none should get its negative.

The label is such that the best logit is linear in the share that is visible. So a piece of the mask is worth
its area wherever it lies, and the heatmap is even over the mask instead of peaking at its most typical spot.
"""
_FAR = 0.5
"""Share of the faces that are moved as `augment.FAR_JITTER` says; all are relit so."""
_ORIENTATION_WEIGHT = 0.5
_PRIOR_STRENGTH = 0.5
"""Most faces look straight ahead; see `losses.adjusted_cross_entropy`."""


@dataclass
class MaskTask:
    """Masked or not, and orientation, from all faces of a split.

    The two twins of a face are aligned pixel by pixel, so pieces of the unmasked one are pasted into the
    masked one, and the label becomes the share of the mask that is still to be seen. The network then cannot
    answer from one tell-tale spot: every part of the mask has to count, which is what the heatmap measures.
    Source: Yun et al. (2019), CutMix, §3.1; pasting between twins and the label are ours.

    The head that answers learns from whole masks and from none. Cloths are changed, and faces moved and relit
    further than one source of photographs asks for: it has to know masks that nobody drew.
    """

    model: MaskClassifier
    train: Faces
    val: Faces
    batch_size: int
    device: torch.device
    jitter: Jitter = DEFAULT_JITTER
    far_jitter: Jitter = FAR_JITTER
    redress: Redress = DEFAULT_REDRESS
    title: str = "mask_classifier"

    def __post_init__(self) -> None:
        self.train, self.val = self.train.to(self.device), self.val.to(self.device)
        # Not taught here but by `HeatmapTask`: what is trained has a part in every batch's loss.
        self.model.heatmap_head.requires_grad_(False)
        self._prior = log_priors(self.train.orientations, len(ORIENTATIONS)).clamp(min=-10)
        # On the processor: it is asked at every step, for which an accelerator would have to stop.
        self._is_drawn = (self.train.twins != UNKNOWN).cpu()
        self._wardrobe = Wardrobe(self.train)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, len(self.train) // self.batch_size)

    def batches(self, generator: Generator) -> Iterator[Int64[Tensor, " b"]]:
        """Yield the training rows, shuffled."""
        batches = shuffled_batches(len(self.train), batch_size=self.batch_size, generator=generator)
        yield from torch.stack(list(batches)).cpu()

    def loss(self, batch: Int64[Tensor, " b"], generator: Generator) -> Float[Tensor, ""]:
        """Cross-entropies of the mask's visible share, the answer, and the orientation where it is known."""
        drawn = self._is_drawn[batch].nonzero().squeeze(1).to(self.device, non_blocking=True)
        batch = batch.to(self.device, non_blocking=True)
        images, whole, visible = self._pasted(batch, drawn, generator)
        warps = self._warps(len(batch), generator)
        moved = warp(torch.cat([images, whole.float(), visible.float()], dim=1), warps)
        faces = relight(moved[:, :1], jitter=self.far_jitter, generator=generator)
        faces, covered = erase(faces, jitter=self.jitter, generator=generator)
        share = _visible_share(
            moved[:, 1:2] > 0.5, (moved[:, 2:] > 0.5) & ~covered, self.train.is_masked[batch]
        )
        orientations = mirrored_orientations(self.train.orientations[batch], warps.mirrored)
        with reduced_precision(self.device):
            shallow = self.model.shallow_features(faces.contiguous(memory_format=torch.channels_last))
            evidence, verdict = self.model.mask_logits(shallow), self.model.verdict(shallow)
            orientation = self.model.orientation_head(shallow)
        label = torch.sigmoid(_CERTAINTY * (2 * share - 1))
        loss = functional.binary_cross_entropy_with_logits(evidence.float(), label)
        return loss + mask_verdict(verdict.float(), share) + self._orientation_loss(orientation, orientations)

    def validate(self, model: MaskClassifier) -> dict[str, float]:
        """Accuracy of the mask, accuracy and macro-F1 of the orientation."""
        readings = inference(model, self.val)
        masked = scores.accuracy((readings.masked > 0).long(), self.val.is_masked.long())
        known = self.val.orientations != UNKNOWN
        answers, labels = readings.orientation.argmax(dim=1)[known], self.val.orientations[known]
        orientation = scores.macro_f1(answers, labels, classes=len(ORIENTATIONS))
        return {
            SCORE: (masked + orientation) / 2,
            "mask_accuracy": masked,
            "orientation_accuracy": scores.accuracy(answers, labels),
            "orientation_macro_f1": orientation,
        }

    def _orientation_loss(
        self, logits: Float[Tensor, "b 5"], orientations: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        return _ORIENTATION_WEIGHT * adjusted_cross_entropy(
            logits.float(), orientations, log_prior=self._prior, strength=_PRIOR_STRENGTH, smoothing=0.05
        )

    def _warps(self, count: int, generator: Generator) -> Warps:
        near = random_warps(count, jitter=self.jitter, generator=generator)
        far = random_warps(count, jitter=self.far_jitter, generator=generator)
        return far.where(torch.rand(count, generator=generator, device=self.device) < _FAR, near)

    def _pasted(
        self, batch: Int64[Tensor, " b"], drawn: Int64[Tensor, " d"], generator: Generator
    ) -> tuple[Float[Tensor, "b 1 s s"], Bool[Tensor, "b 1 s s"], Bool[Tensor, "b 1 s s"]]:
        # Returns the faces, the mask's region, and what the pasted rectangle leaves of it. `drawn` has the
        # places in the batch.
        faces, regions = self.train.batch(batch), self.train.regions[batch].unsqueeze(1)
        twins = self.train.twins[batch]
        faces[drawn], regions[drawn] = self._wardrobe.dressed(
            batch[drawn], redress=self.redress, generator=generator
        )
        others = self.train.batch(torch.where(twins == UNKNOWN, batch, twins))
        count, side = len(batch), faces.shape[-1]
        patched = random_patchwork(count, side, cells=_PATCH_CELLS, generator=generator)
        pasted = random_rectangles(count, side, smallest=0.15, largest=0.9, generator=generator)
        draw = torch.rand((count, 1, 1, 1), generator=generator, device=self.device)
        pasted = torch.where(draw < _PATCHED, patched, pasted & (draw < _PATCHED + _PASTED))
        pasted &= (twins != UNKNOWN).view(-1, 1, 1, 1)
        return torch.where(pasted, others, faces), regions, regions & ~pasted


def _visible_share(
    whole: Bool[Tensor, "b 1 s s"], visible: Bool[Tensor, "b 1 s s"], is_masked: Bool[Tensor, " b"]
) -> Float[Tensor, " b"]:
    # A real mask has no known region: nothing was pasted over it, all of it counts as seen.
    area = whole.sum(dim=(1, 2, 3))
    return torch.where(area > 0, visible.sum(dim=(1, 2, 3)) / area.clamp(min=1), is_masked.float())
