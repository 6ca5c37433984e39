"""Convolutional feature extractors, the part before any attention, and the layers they are built of."""

from maskfer.learning.models.backbones.base import Backbone
from maskfer.learning.models.backbones.face_resnet import FaceResNet, FaceTail
from maskfer.learning.models.backbones.layers import (
    MIDDLE_GREY,
    ConvNorm,
    Normalise,
    ResidualBlock,
    fold_norms,
    placed,
)
from maskfer.learning.models.backbones.mobilenet import MobileNetV2
from maskfer.learning.models.backbones.pretrained import load_pretrained
from maskfer.learning.models.backbones.resnet import ResNet, resnet18, resnet50
from maskfer.learning.models.backbones.small import SmallResNet
from maskfer.learning.models.backbones.vgg import VGG, vgg19

__all__ = [
    "MIDDLE_GREY",
    "VGG",
    "Backbone",
    "ConvNorm",
    "FaceResNet",
    "FaceTail",
    "MobileNetV2",
    "Normalise",
    "ResNet",
    "ResidualBlock",
    "SmallResNet",
    "fold_norms",
    "load_pretrained",
    "placed",
    "resnet18",
    "resnet50",
    "vgg19",
]
