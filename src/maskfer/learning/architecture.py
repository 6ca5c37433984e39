"""The networks that a `Params` describes, freshly initialised from its seed."""

from __future__ import annotations

import torch

from maskfer.config import Params
from maskfer.learning.models.expression import ExpressionNet
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.models.two_branch import TwoBranchNet


def mask_classifier(params: Params) -> MaskClassifier:
    """Return stage 1's network; its heatmap has one cell for each position of the patch."""
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        return MaskClassifier(
            grid=params.data.crop_size // params.heatmap.stride, width=params.mask_classifier.width
        )


def expression_classifier(params: Params) -> ExpressionNet:
    """Return stage 2's network."""
    section = params.expression
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        return TwoBranchNet(
            classes=len(params.classes),
            width=section.width,
            masked_branch_weight=section.masked_branch_weight,
            dropout=section.dropout,
        )
