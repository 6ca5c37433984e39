"""The networks that a `Params` describes, freshly initialised from its seed."""

from __future__ import annotations

import torch

from maskfer.config import Params
from maskfer.learning.models.expression import ExpressionNet
from maskfer.learning.models.inpainting import InpaintingGan
from maskfer.learning.models.landmark_net import LandmarkNet, LandmarkReader
from maskfer.learning.models.landmark_split import LandmarkSplitNet
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.models.two_branch import TwoBranchNet


def mask_classifier(params: Params) -> MaskClassifier:
    """Return stage 1's network; its heatmap has one cell for each position of the patch."""
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        return MaskClassifier(
            grid=params.data.crop_size // params.heatmap.stride, width=params.mask_classifier.width
        )


def inpainting_gan(params: Params) -> InpaintingGan:
    """Return approach 1's generator with its discriminators."""
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        return InpaintingGan(width=params.inpainting.width)


def landmark_reader(params: Params, *, inpainting: bool) -> LandmarkReader:
    """Return the landmark network, behind a generator where the faces are inpainted first."""
    inpainter = inpainting_gan(params).generator if inpainting else None
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        network = LandmarkNet(side=params.data.crop_size, width=params.landmarks.width)
    return LandmarkReader(network, inpainter=inpainter)


def expression_classifier(params: Params) -> ExpressionNet:
    """Return stage 2's network."""
    section = params.expression
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        match section.model:
            case "two_branch":
                return TwoBranchNet(
                    classes=len(params.classes),
                    width=section.width,
                    masked_branch_weight=section.masked_branch_weight,
                    dropout=section.dropout,
                )
            case "landmark_split":
                return LandmarkSplitNet(
                    classes=len(params.classes),
                    width=section.width,
                    masked_branch_weight=section.masked_branch_weight,
                    dropout=section.dropout,
                )
