"""The networks that a `Params` describes, freshly initialised from its seed, on the processor."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from maskfer.config import ExpressionParams, Params
from maskfer.learning import start
from maskfer.learning.models.aligned import CLOSE_SPREAD, SPREAD, AlignedNet
from maskfer.learning.models.backbones import (
    Backbone,
    FaceResNet,
    FaceTail,
    SmallResNet,
    load_pretrained,
    resnet18,
    vgg19,
)
from maskfer.learning.models.baselines.acnn import ACNNNet
from maskfer.learning.models.baselines.deep_emotion import DeepEmotionNet
from maskfer.learning.models.baselines.mobilenet import MobileNet
from maskfer.learning.models.baselines.oadn import OADNNet
from maskfer.learning.models.baselines.ran import RANNet
from maskfer.learning.models.baselines.vgg19 import VGG19Net
from maskfer.learning.models.expression import ExpressionNet
from maskfer.learning.models.grid_branch import GridBranch
from maskfer.learning.models.inpainting import InpaintingGan
from maskfer.learning.models.landmark_net import LandmarkNet, LandmarkReader
from maskfer.learning.models.landmark_split import LandmarkSplitNet
from maskfer.learning.models.mask_aware import MaskAwareNet
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.models.two_branch import OneBranchNet, TwoBranchNet

_LARGE_SIDE: Final = 80
"""Pixels of an aligned face for `face_resnet`, whatever the crop's. Its layers were trained on larger faces,
of 150 pixels, at which it would take four times as long."""


def mask_classifier(params: Params) -> MaskClassifier:
    """Return stage 1's network; its heatmap has one cell for each position of the patch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        return MaskClassifier(
            grid=params.data.crop_size // params.heatmap.stride,
            width=params.mask_classifier.width,
            spatial_transformer=params.mask_classifier.spatial_transformer,
        )


def inpainting_gan(params: Params) -> InpaintingGan:
    """Return approach 1's generator with its discriminators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        return InpaintingGan(width=params.inpainting.width)


def landmark_reader(params: Params, *, inpainting: bool) -> LandmarkReader:
    """Return the landmark network, behind a generator where the faces are inpainted first."""
    inpainter = inpainting_gan(params).generator if inpainting else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        network = LandmarkNet(side=params.data.crop_size, width=params.landmarks.width)
    return LandmarkReader(network, inpainter=inpainter)


def expression_classifier(params: Params) -> ExpressionNet:
    """Return stage 2's network, its backbone filled from `start.weights` where there are some.

    Raises `TrainingError` where those weights are missing or belong to another architecture.
    """
    network = _expression(params)
    weights = start.weights(params.expression)
    if weights is not None:
        for part in _backbones(network):
            load_pretrained(part, weights)
    return network


def pretrained_parameters(network: ExpressionNet) -> frozenset[str]:
    """Return the names of the parameters that `expression_classifier` fills from weights it starts from."""
    parts = {id(parameter) for part in _backbones(network) for parameter in part.parameters()}
    return frozenset(name for name, parameter in network.named_parameters() if id(parameter) in parts)


def whole(params: Params) -> MaskAwareNet:
    """Return all networks of a release as the one that ships.

    What it started from is not read: a release has its own weights, and the file may be gone.
    """
    section = params.expression
    reads = section.reads_landmarks
    return MaskAwareNet(
        mask_classifier=mask_classifier(params),
        expression=_expression(params),
        landmarks=landmark_reader(params, inpainting=section.inpaints) if reads else None,
    )


def _expression(params: Params) -> ExpressionNet:
    section, classes = params.expression, len(params.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        network = _unaligned(section, classes=classes, crop_size=params.data.crop_size)
        if not section.aligned:
            return network
        return AlignedNet(
            network,
            classes=classes,
            dropout=section.dropout,
            side=_LARGE_SIDE if section.knows_faces else None,
            spread=CLOSE_SPREAD if section.knows_faces else SPREAD,
        )


def _unaligned(section: ExpressionParams, *, classes: int, crop_size: int) -> ExpressionNet:
    published = {"dropout": section.dropout, "width": section.width_multiplier}
    match section.model:
        case "two_branch":
            network = _two_branch(section, classes=classes, crop_size=crop_size)
        case "landmark_split":
            network = LandmarkSplitNet(
                classes=classes,
                width=section.width,
                masked_branch_weight=section.masked_branch_weight,
                dropout=section.dropout,
            )
        case "vgg19":
            network = VGG19Net(classes=classes, **published)
        case "mobilenet":
            network = MobileNet(classes=classes, **published)
        case "deep_emotion":
            network = DeepEmotionNet(classes=classes, dropout=section.dropout)
        case "pacnn" | "gacnn":
            network = ACNNNet(
                classes=classes,
                whole_face=section.model == "gacnn",
                crop_size=crop_size,
                **published,
            )
        case "ran":
            network = RANNet(classes=classes, **published)
        case "oadn":
            network = OADNNet(classes=classes, **published)
    return network


def _two_branch(section: ExpressionParams, *, classes: int, crop_size: int) -> ExpressionNet:
    match section.attention:
        case "heatmap" | "region":
            return TwoBranchNet(
                classes=classes,
                backbone=_backbone(section),
                unmasked_branch=_branch(section, classes=classes, crop_size=crop_size),
                width=section.width,
                masked_branch_weight=section.masked_branch_weight,
                dropout=section.dropout,
                spatial_transformer=section.spatial_transformer,
            )
        case "unmasked" | "none":
            return OneBranchNet(
                classes=classes,
                attention=section.attention,
                backbone=_backbone(section),
                unmasked_branch=_branch(section, classes=classes, crop_size=crop_size),
                width=section.width,
                dropout=section.dropout,
                spatial_transformer=section.spatial_transformer,
            )


def _backbones(network: ExpressionNet) -> list[Backbone]:
    return [module for module in network.modules() if isinstance(module, Backbone)]


def _branch(section: ExpressionParams, *, classes: int, crop_size: int) -> nn.Module | None:
    if section.backbone != "face_resnet":
        return None
    tail = FaceTail()
    side = _LARGE_SIDE if section.aligned else crop_size
    return GridBranch(tail, classes, cells=-(-side // tail.stride), dropout=section.dropout)


def _backbone(section: ExpressionParams) -> Backbone:
    match section.backbone:
        case "face_resnet":
            return FaceResNet()
        case "small":
            return SmallResNet(width=section.width)
        case "resnet18":
            return resnet18(stages=2, width=section.width_multiplier)
        case "vgg19":
            return vgg19(blocks=4, width=section.width_multiplier)
