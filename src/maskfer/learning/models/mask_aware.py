"""Both stages as the one graph that ships."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskfer.learning.models.expression import ExpressionNet, FaceContext
from maskfer.learning.models.landmark_net import LandmarkReader, orientation_probabilities
from maskfer.learning.models.mask_classifier import MaskClassifier


class FaceAnswers(NamedTuple):
    """The outputs of a release's ONNX graph, in its order."""

    expression: Float[Tensor, "b classes"]
    """Probabilities; each row sums to 1."""
    masked: Float[Tensor, " b"]
    """Probability of a mask."""
    orientation: Float[Tensor, "b 5"]
    """Probabilities in the order of `labels.ORIENTATIONS`."""
    heatmap: Float[Tensor, "b g g"]
    """H_m in (0, 1), on a raster that tiles the face."""


class MaskAwareNet(nn.Module):
    """Grey faces 0..255 to everything a release answers.

    With `landmarks` the orientation is read from them, else the mask classifier's head gives it.
    """

    def __init__(
        self,
        *,
        mask_classifier: MaskClassifier,
        expression: ExpressionNet,
        landmarks: LandmarkReader | None = None,
    ) -> None:
        super().__init__()
        assert landmarks is not None or not expression.needs_landmarks, "the network needs landmarks"
        self.mask_classifier = mask_classifier
        self.expression = expression
        self.landmarks = landmarks

    def forward(self, faces: Float[Tensor, "b 1 s s"]) -> FaceAnswers:
        reading = self.mask_classifier(faces)
        heatmap = torch.sigmoid(reading.heatmap)
        landmarks = None if self.landmarks is None else self.landmarks(faces, heatmap)
        logits = self.expression(faces, FaceContext(heatmap, landmarks)).answer
        if landmarks is None:
            orientation = torch.softmax(reading.orientation, dim=1)
        else:
            orientation = orientation_probabilities(landmarks, side=faces.shape[-1])
        return FaceAnswers(
            torch.softmax(logits, dim=1),
            torch.sigmoid(reading.masked),
            orientation,
            heatmap,
        )
