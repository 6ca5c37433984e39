"""Fit the one-pass heatmap head to the exact maps; the rest of the mask classifier stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn import functional

from maskfer.learning.augment import DEFAULT_JITTER, Jitter, random_warps, relight, warp
from maskfer.learning.faces import Faces
from maskfer.learning.heatmaps import correlation, covered_share, region_heatmaps, region_iou
from maskfer.learning.models.backbones import placed
from maskfer.learning.models.mask_classifier import HeatmapHead, MaskClassifier
from maskfer.learning.training import SCORE, inference, reduced_precision, shuffled_batches


@dataclass
class HeatmapTask:
    """H_m in one pass, from the exact H_m of the training faces, moved and relit together with them.

    A second term, ours and not the paper's, pulls the head to the drawn mask: the exact map is blurred by its
    patch and weak at the mask's rim. Of a real mask only the exact map is known.
    """

    classifier: MaskClassifier
    """Frozen; its `heatmap_head` is what is trained."""
    train: Faces
    train_maps: Float[Tensor, "n g g"]
    """Exact H_m of `train`, in (0, 1)."""
    val: Faces
    val_maps: Float[Tensor, "m g g"]
    batch_size: int
    device: torch.device
    region_weight: float
    """Weight of the cross-entropy against the true region, beside 1 for that against the exact map."""
    jitter: Jitter = DEFAULT_JITTER
    """Nothing is erased, whatever it says: the exact map of a covered face is another one."""
    title: str = "heatmap"
    model: HeatmapHead = field(init=False)

    def __post_init__(self) -> None:
        self.train, self.val = self.train.to(self.device), self.val.to(self.device)
        self.train_maps = self.train_maps.to(self.device)
        self.val_maps = self.val_maps.to(self.device)
        self.classifier = placed(self.classifier, self.device).eval()
        self.model = self.classifier.heatmap_head
        # In parts: as numbers instead of bits the regions of a whole data set would not fit beside it.
        parts = torch.split(self.train.regions, 1024)
        cells = self.train_maps.shape[-1]
        self._regions = torch.cat([region_heatmaps(part.float(), cells=cells) for part in parts])
        self._is_known = ~self.train.is_masked | (self._regions > 0).flatten(1).any(dim=1)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, len(self.train) // self.batch_size)

    def batches(self, generator: Generator) -> Iterator[Int64[Tensor, " b"]]:
        """Yield the training rows, shuffled."""
        return shuffled_batches(len(self.train), batch_size=self.batch_size, generator=generator)

    def loss(self, batch: Int64[Tensor, " b"], generator: Generator) -> Float[Tensor, ""]:
        """Cross-entropy of every cell against the exact map, and where it is known against the region."""
        warps = random_warps(len(batch), jitter=self.jitter, generator=generator)
        faces = warp(self.train.batch(batch), warps)
        targets = torch.stack([self.train_maps[batch], self._regions[batch]], dim=1)
        maps, regions = warp(targets, warps).clamp(0, 1).unbind(dim=1)
        faces = relight(faces, jitter=self.jitter, generator=generator)
        with reduced_precision(self.device):
            with torch.no_grad():
                shallow = self.classifier.shallow_features(
                    faces.contiguous(memory_format=torch.channels_last)
                )
            logits = self.model(shallow).float()
        loss = functional.binary_cross_entropy_with_logits(logits, maps)
        # Not an index by it: a batch may have none, and an accelerator would stop to count them.
        known = self._is_known[batch]
        pulls = functional.binary_cross_entropy_with_logits(logits, regions, reduction="none").mean(
            dim=(1, 2)
        )
        return loss + self.region_weight * (pulls * known).sum() / known.sum().clamp(min=1)

    def validate(self, model: HeatmapHead) -> dict[str, float]:
        """Correlation with the exact map, overlap of both with the true region, heat where no mask is.

        The score weighs the correlation and the overlap as the loss weighs its terms.
        """
        maps = inference(_HeadOn(self.classifier, model), self.val)
        drawn = self.val.regions.flatten(1).any(dim=1)
        agreement = correlation(maps, self.val_maps)
        result = {SCORE: agreement, "correlation": agreement}
        if drawn.any():
            regions = self.val.regions[drawn]
            result["iou"] = region_iou(maps[drawn], regions)
            result["iou_exact"] = region_iou(self.val_maps[drawn], regions)
            result["correlation_masked"] = correlation(maps[drawn], self.val_maps[drawn])
            result[SCORE] = (agreement + self.region_weight * result["iou"]) / (1 + self.region_weight)
        if not self.val.is_masked.all():
            result["heat_unmasked"] = covered_share(maps[~self.val.is_masked], self.val.images.shape[-1])
        return result


class _HeadOn(torch.nn.Module):
    """A head on a frozen classifier's features, faces in and H_m out."""

    def __init__(self, classifier: MaskClassifier, head: HeatmapHead) -> None:
        super().__init__()
        self.classifier = classifier
        self.head = head

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b g g"]:
        return torch.sigmoid(self.head(self.classifier.shallow_features(faces)))
