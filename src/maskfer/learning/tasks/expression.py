"""Stage 2 (§5.2): train an expression network on masked and unmasked twins together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from maskfer.learning import losses, scores
from maskfer.learning.augment import DEFAULT_JITTER, Jitter, Warps, erase, random_warps, relight, warp
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.heatmaps import region_heatmaps
from maskfer.learning.models.backbones import placed
from maskfer.learning.models.expression import ExpressionNet, FaceContext
from maskfer.learning.models.landmark_net import LandmarkReader
from maskfer.learning.models.mask_aware import MaskAwareNet
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.redress import DEFAULT_REDRESS, Redress, Wardrobe
from maskfer.learning.training import SCORE, inference, reduced_precision, shuffled_batches


@dataclass(frozen=True, slots=True)
class ExpressionLoss:
    """The weights of the parts of the loss."""

    prior_strength: float
    label_smoothing: float
    consistency: float
    """Weight of `losses.twin_consistency`."""


@dataclass
class ExpressionTask:
    """Expression of every labelled face; a batch holds faces and, moved alike, their masked twins.

    The heatmaps are those that ship: the frozen classifier's one-pass head reads the augmented batch itself,
    so that training sees what serving will, errors included. The exact maps, moved along with them, would
    be cleaner than anything the released graph can make.
    """

    model: ExpressionNet
    mask_classifier: MaskClassifier
    """Frozen."""
    train: Faces
    val: Faces
    classes: int
    batch_size: int
    device: torch.device
    weights: ExpressionLoss
    landmarks: LandmarkReader | None = None
    """Frozen; where the network needs landmarks."""
    true_regions: bool = False
    """Whether the true regions of the drawn masks stand in for the heatmaps. A network trained so shows what
    a perfect heatmap would give; serving has no region, so that it can be judged but not released."""
    jitter: Jitter = DEFAULT_JITTER
    redress: Redress = DEFAULT_REDRESS
    title: str = "expression"

    def __post_init__(self) -> None:
        self.train, self.val = self.train.to(self.device), self.val.to(self.device)
        self.mask_classifier = placed(self.mask_classifier, self.device).eval()
        if self.landmarks is not None:
            self.landmarks = placed(self.landmarks, self.device).eval()
        self._prior = losses.log_priors(self.train.labels, self.classes)
        # On the processor: `loss` counts a batch's pairs, for which an accelerator would have to stop.
        self._units = _units(self.train).cpu()
        self._wardrobe = Wardrobe(self.train)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, len(self._units) // self._units_per_batch)

    @property
    def _units_per_batch(self) -> int:
        return max(2, self.batch_size // 2)

    def batches(self, generator: Generator) -> Iterator[Int64[Tensor, "u 2"]]:
        """Yield units, shuffled: the row of a face and the row of its masked twin, or `UNKNOWN`."""
        batches = list(
            shuffled_batches(len(self._units), batch_size=self._units_per_batch, generator=generator)
        )
        for index in torch.stack(batches).cpu():
            yield self._units[index]

    def loss(self, batch: Int64[Tensor, "u 2"], generator: Generator) -> Float[Tensor, ""]:
        """The combined loss of §5.2 on both twins, and their consistency."""
        # Pairs first, so that twin i of the first half is row i of the second.
        batch = batch[torch.argsort(batch[:, 1] == UNKNOWN, stable=True)]
        pairs = int((batch[:, 1] != UNKNOWN).sum())
        batch = batch.to(self.device, non_blocking=True)
        rows = torch.cat([batch[:, 0], batch[:pairs, 1]])
        twins, covered = self._wardrobe.dressed(batch[:pairs, 1], redress=self.redress, generator=generator)
        regions = torch.cat([self.train.regions[batch[:, 0]].unsqueeze(1), covered])
        warps = random_warps(len(batch), jitter=self.jitter, generator=generator).followed_by(pairs)
        faces = warp(torch.cat([self.train.batch(batch[:, 0]), twins]), warps)
        faces = relight(faces, jitter=self.jitter, generator=generator)
        faces, _ = erase(faces, jitter=self.jitter, generator=generator)
        faces = faces.contiguous(memory_format=torch.channels_last)
        with reduced_precision(self.device):
            with torch.no_grad():
                heatmap = self._heatmap(faces, regions, warps)
                landmarks = None if self.landmarks is None else self.landmarks(faces, heatmap)
            reading = self.model(faces, FaceContext(heatmap, landmarks))
        loss = losses.expression(
            reading,
            self.train.labels[rows],
            log_prior=self._prior,
            strength=self.weights.prior_strength,
            smoothing=self.weights.label_smoothing,
        )
        if self.weights.consistency and pairs:
            unmasked, masked = reading.answer[:pairs], reading.answer[len(batch) :]
            loss = loss + self.weights.consistency * losses.twin_consistency(masked, unmasked)
        return loss

    def validate(self, model: ExpressionNet) -> dict[str, float]:
        """Accuracy and macro-F1, masked and unmasked; the score is the mean of all four."""
        answers = self._answers_by_region(model) if self.true_regions else self._answers(model)
        metrics: dict[str, float] = {}
        for name, chosen in (("unmasked", ~self.val.is_masked), ("masked", self.val.is_masked)):
            rows = chosen & (self.val.labels != UNKNOWN)
            if rows.any():
                given, true = answers[rows], self.val.labels[rows]
                metrics[f"{name}_accuracy"] = scores.accuracy(given, true)
                metrics[f"{name}_macro_f1"] = scores.macro_f1(given, true, classes=self.classes)
        # Accuracy counts too: the rare class has a few dozen faces in val; macro-F1 alone jumps with them.
        return {SCORE: sum(metrics.values()) / max(1, len(metrics)), **metrics}

    def _heatmap(
        self, faces: Float[Tensor, "b 1 s s"], regions: Bool[Tensor, "b 1 s s"], warps: Warps
    ) -> Float[Tensor, "b g g"]:
        if self.true_regions:
            moved = warp(regions.float(), warps).squeeze(1)
            return region_heatmaps(moved, cells=self.mask_classifier.grid)
        return self.mask_classifier.heatmap(faces)

    def _answers(self, model: ExpressionNet) -> Int64[Tensor, " n"]:
        whole = MaskAwareNet(mask_classifier=self.mask_classifier, expression=model, landmarks=self.landmarks)
        answers: Tensor = inference(whole, self.val).expression
        return answers.argmax(dim=1)

    @torch.inference_mode()
    def _answers_by_region(self, model: ExpressionNet) -> Int64[Tensor, " n"]:
        model = placed(model, self.device).eval()
        answers = []
        every_row = torch.arange(len(self.val), device=self.device)
        for start in range(0, len(self.val), self.batch_size):
            rows = every_row[start : start + self.batch_size]
            heatmaps = region_heatmaps(self.val.regions[rows].float(), cells=self.mask_classifier.grid)
            faces = self.val.batch(rows).contiguous(memory_format=torch.channels_last)
            with reduced_precision(self.device):
                landmarks = None if self.landmarks is None else self.landmarks(faces, heatmaps)
                answers.append(model(faces, FaceContext(heatmaps, landmarks)).answer.argmax(dim=1))
        return torch.cat(answers)


def _units(faces: Faces) -> Int64[Tensor, "u 2"]:
    # A face with its drawn twin, or a labelled face alone: one without twin, or a real mask.
    rows = torch.arange(len(faces), device=faces.labels.device)
    twin_of = torch.full_like(rows, UNKNOWN)
    drawn = faces.twins != UNKNOWN
    twin_of[faces.twins[drawn]] = rows[drawn]
    chosen = ~drawn & (faces.labels != UNKNOWN)
    return torch.stack([rows[chosen], twin_of[chosen]], dim=1)
