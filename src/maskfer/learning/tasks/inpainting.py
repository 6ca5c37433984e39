"""Stage 1 of approach 1 (§4.1): train the generator and both discriminators on masked and unmasked twins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from maskfer.learning import adversarial
from maskfer.learning.augment import Jitter, random_warps, relight_alike, warp
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.models.backbones import placed
from maskfer.learning.models.inpainting import InpaintingGan, painted_share
from maskfer.learning.models.mask_classifier import HeatmapGuided, MaskClassifier
from maskfer.learning.reconstruction import psnr, ssim
from maskfer.learning.training import SCORE, inference, reduced_precision, shuffled_batches

_JITTER = Jitter(blur=0.0, noise=0.0, erase=0.0)
"""Moved and relit only: a generator should not learn to draw blur and noise."""


@dataclass(frozen=True, slots=True)
class InpaintingLoss:
    """The weights of the parts of the generator's loss."""

    reconstruction: float
    """Of L_r."""
    adversarial: float
    """Of each discriminator's opinion."""


@dataclass
class InpaintingTask:
    """The unmasked twin's face from the masked twin's, where the frozen classifier's heatmap says mask.

    The heatmap is read from the augmented batch, as it is when the release answers, errors included.
    """

    model: InpaintingGan
    mask_classifier: MaskClassifier
    """Frozen."""
    train: Faces
    val: Faces
    batch_size: int
    device: torch.device
    weights: InpaintingLoss
    jitter: Jitter = _JITTER
    title: str = "inpainting"

    def __post_init__(self) -> None:
        self.train, self.val = self.train.to(self.device), self.val.to(self.device)
        self.mask_classifier = placed(self.mask_classifier, self.device).eval()
        self._pairs = drawn_twins(self.train)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, len(self._pairs) // self.batch_size)

    def batches(self, generator: Generator) -> Iterator[Int64[Tensor, " b"]]:
        """Yield the rows of drawn twins, shuffled."""
        for index in shuffled_batches(len(self._pairs), batch_size=self.batch_size, generator=generator):
            yield self._pairs[index]

    def loss(self, batch: Int64[Tensor, " b"], generator: Generator) -> Float[Tensor, ""]:
        """L_r and the adversarial loss of the generator plus the discriminators' loss; see `adversarial`."""
        masked, original, regions = self._moved(batch, generator)
        gan = self.model
        with reduced_precision(self.device):
            with torch.no_grad():
                share = painted_share(self.mask_classifier.heatmap(masked), masked.shape[-1])
            paint = gan.generator.painted(masked, share)
            # What is not painted is the original's, so that no discriminator can tell by ear loops.
            painted = original + share * (paint - original)
            with adversarial.held(gan.global_discriminator, gan.local_discriminator):
                opinions = gan.judge(painted, regions)
            real, fake = gan.judge(original, regions), gan.judge(painted.detach(), regions)
        repaired = masked + share * (paint - masked)
        reconstruction = adversarial.reconstruction(repaired, original, share)
        return (
            self.weights.reconstruction * reconstruction
            + self.weights.adversarial * adversarial.generator_loss(opinions)
            + adversarial.discriminator_loss(real, fake)
        )

    def validate(self, model: InpaintingGan) -> dict[str, float]:
        """PSNR and SSIM inside the mask's region, of the inpainted and of the masked face."""
        pairs = drawn_twins(self.val)
        masked, original = self.val.batch(pairs), self.val.batch(self.val.twins[pairs])
        regions = self.val.regions[pairs].unsqueeze(1)
        painted = inference(HeatmapGuided(self.mask_classifier, model.generator), self.val)[pairs]
        fidelity = psnr(painted, original, regions)
        return {
            # Not SSIM: of that a plain grey patch has more than a face that is not quite right yet.
            SCORE: fidelity,
            "psnr": fidelity,
            "ssim": ssim(painted, original, regions),
            "psnr_masked": psnr(masked, original, regions),
            "ssim_masked": ssim(masked, original, regions),
        }

    def _moved(
        self, rows: Int64[Tensor, " b"], generator: Generator
    ) -> tuple[Float[Tensor, "b 1 s s"], Float[Tensor, "b 1 s s"], Bool[Tensor, "b 1 s s"]]:
        twins = self.train.batch(self.train.twins[rows])
        regions = self.train.regions[rows].unsqueeze(1).float()
        together = torch.cat([self.train.batch(rows), twins, regions], dim=1)
        moved = warp(together, random_warps(len(rows), jitter=self.jitter, generator=generator))
        masked, original = relight_alike(
            moved[:, 0:1], moved[:, 1:2], jitter=self.jitter, generator=generator
        )
        as_fast = torch.channels_last
        return (
            masked.contiguous(memory_format=as_fast),
            original.contiguous(memory_format=as_fast),
            moved[:, 2:3] > 0.5,
        )


def drawn_twins(faces: Faces) -> Int64[Tensor, " pairs"]:
    """Return the rows of faces with a drawn mask whose unmasked face is there too."""
    return torch.nonzero(faces.twins != UNKNOWN).squeeze(1)
