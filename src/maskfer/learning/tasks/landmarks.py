"""The landmark network (§4.2): taught on masked faces by the landmarks of their unmasked twins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from maskfer.learning import scores
from maskfer.learning.augment import (
    DEFAULT_JITTER,
    Jitter,
    erase,
    random_warps,
    relight,
    warp,
    warp_landmarks,
)
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.landmarks import normalised_mean_error, wing_loss
from maskfer.learning.models.backbones import placed
from maskfer.learning.models.inpainting import InpaintingGenerator
from maskfer.learning.models.landmark_net import LandmarkNet, LandmarkReader, orientation_probabilities
from maskfer.learning.models.mask_classifier import HeatmapGuided, MaskClassifier
from maskfer.learning.training import SCORE, inference, reduced_precision, shuffled_batches


@dataclass
class LandmarkTask:
    """68 landmarks of every face whose landmarks are known without guessing under a mask.

    With an inpainter half of a batch's faces, drawn by chance, are seen inpainted and the others as they are:
    the network then reads both, and what inpainting is worth can be measured with one network.
    """

    model: LandmarkNet
    mask_classifier: MaskClassifier
    """Frozen; its heatmap tells the inpainter where to paint."""
    inpainter: InpaintingGenerator | None
    """Frozen; None where the faces are read as they are."""
    train: Faces
    val: Faces
    batch_size: int
    device: torch.device
    jitter: Jitter = DEFAULT_JITTER
    title: str = "landmarks"

    def __post_init__(self) -> None:
        self.train, self.val = self.train.to(self.device), self.val.to(self.device)
        self.mask_classifier = placed(self.mask_classifier, self.device).eval()
        if self.inpainter is not None:
            self.inpainter = placed(self.inpainter, self.device).eval()
        self._rows = torch.nonzero(taught(self.train)).squeeze(1)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return max(1, len(self._rows) // self.batch_size)

    def batches(self, generator: Generator) -> Iterator[Int64[Tensor, " b"]]:
        """Yield the rows with landmarks, shuffled."""
        for index in shuffled_batches(len(self._rows), batch_size=self.batch_size, generator=generator):
            yield self._rows[index]

    def loss(self, batch: Int64[Tensor, " b"], generator: Generator) -> Float[Tensor, ""]:
        """The wing loss of all coordinates."""
        warps = random_warps(len(batch), jitter=self.jitter, generator=generator)
        faces = warp(self.train.batch(batch), warps)
        truth = warp_landmarks(self.train.landmarks[batch], warps)
        faces = relight(faces, jitter=self.jitter, generator=generator)
        faces, _ = erase(faces, jitter=self.jitter, generator=generator)
        faces = faces.contiguous(memory_format=torch.channels_last)
        with reduced_precision(self.device):
            if self.inpainter is not None:
                faces = self._half_inpainted(faces, self.inpainter, generator)
            answers = self.model(faces)
        return wing_loss(answers, truth)

    def validate(self, model: LandmarkNet) -> dict[str, float]:
        """NME on unmasked and masked faces, and how often the orientation is that of the unmasked twin."""
        known = taught(self.val)
        masked, unmasked = known & self.val.is_masked, known & ~self.val.is_masked
        shipped = self._answers(model, self.inpainter)
        figures = {}
        if unmasked.any():
            figures["nme_unmasked"] = self._error(shipped, unmasked)
        if masked.any():
            figures["nme_masked"] = self._error(self._answers(model, None), masked)
            if self.inpainter is not None:
                figures["nme_masked_inpainted"] = self._error(shipped, masked)
        errors = [self._error(shipped, rows) for rows in (unmasked, masked) if rows.any()]
        return {SCORE: 1 - sum(errors) / len(errors), **figures, **self._agreement(shipped)}

    def _half_inpainted(
        self, faces: Float[Tensor, "b 1 s s"], inpainter: InpaintingGenerator, generator: Generator
    ) -> Float[Tensor, "b 1 s s"]:
        chosen = torch.rand((len(faces), 1, 1, 1), generator=generator, device=self.device) < 0.5
        with torch.no_grad():
            painted = inpainter(faces, self.mask_classifier.heatmap(faces))
        return torch.where(chosen, painted, faces)

    def _answers(self, model: LandmarkNet, inpainter: InpaintingGenerator | None) -> Float[Tensor, "n 68 2"]:
        reader = LandmarkReader(model, inpainter=inpainter)
        answers: Tensor = inference(HeatmapGuided(self.mask_classifier, reader), self.val)
        return answers

    def _error(self, answers: Float[Tensor, "n 68 2"], rows: Bool[Tensor, " n"]) -> float:
        return normalised_mean_error(answers[rows], self.val.landmarks[rows])

    def _agreement(self, landmarks: Float[Tensor, "n 68 2"]) -> dict[str, float]:
        # The table's orientation of a drawn twin is that of its unmasked face.
        drawn = (self.val.twins != UNKNOWN) & (self.val.orientations != UNKNOWN)
        if not drawn.any():
            return {}
        side = self.val.images.shape[-1]
        answers = orientation_probabilities(landmarks, side=side).argmax(dim=1)
        head = inference(self.mask_classifier, self.val).orientation.argmax(dim=1)
        truth, bare = self.val.orientations[drawn], answers[self.val.twins[drawn]]
        return {
            "orientation_agreement": scores.accuracy(answers[drawn], truth),
            "orientation_twins_alike": scores.accuracy(answers[drawn], bare),
            "orientation_agreement_classifier": scores.accuracy(head[drawn], truth),
        }


def taught(faces: Faces) -> Bool[Tensor, " n"]:
    """Return which rows have landmarks to learn from: not a real mask's, which were guessed through it."""
    known = torch.isfinite(faces.landmarks).flatten(1).all(dim=1)
    return known & (~faces.is_masked | (faces.twins != UNKNOWN))
