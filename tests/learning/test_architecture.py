"""One key of params.yaml chooses the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maskfer.config import Params
from maskfer.errors import TrainingError
from maskfer.learning import architecture
from maskfer.learning.models.aligned import AlignedNet
from maskfer.learning.models.attention import SpatialTransformer
from maskfer.learning.models.backbones import VGG, ResNet, SmallResNet
from maskfer.learning.models.baselines.acnn import ACNNNet
from maskfer.learning.models.baselines.deep_emotion import DeepEmotionNet
from maskfer.learning.models.baselines.mobilenet import MobileNet
from maskfer.learning.models.baselines.oadn import OADNNet
from maskfer.learning.models.baselines.ran import RANNet
from maskfer.learning.models.baselines.vgg19 import VGG19Net
from maskfer.learning.models.expression import ExpressionNet
from maskfer.learning.models.two_branch import OneBranchNet, TwoBranchNet


def _params(**expression: Any) -> Params:
    return Params.model_validate({"expression": {"aligned": False, **expression}})


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ({}, TwoBranchNet),
        ({"attention": "region"}, TwoBranchNet),
        ({"attention": "unmasked"}, OneBranchNet),
        ({"attention": "none"}, OneBranchNet),
        ({"model": "vgg19"}, VGG19Net),
        ({"model": "mobilenet"}, MobileNet),
        ({"model": "deep_emotion"}, DeepEmotionNet),
        ({"model": "pacnn"}, ACNNNet),
        ({"model": "gacnn"}, ACNNNet),
        ({"model": "ran"}, RANNet),
        ({"model": "oadn"}, OADNNet),
    ],
)
def test_the_params_choose_the_network(expression: dict[str, Any], kind: type[ExpressionNet]) -> None:
    with torch.device("meta"):
        network = architecture.expression_classifier(_params(**expression))

    assert type(network) is kind


@pytest.mark.parametrize(
    "expression",
    [
        *({"model": model} for model in ("vgg19", "mobilenet", "pacnn", "gacnn", "ran", "oadn")),
        *({"backbone": backbone} for backbone in ("resnet18", "vgg19")),
    ],
)
def test_the_params_narrow_what_is_published(expression: dict[str, Any]) -> None:
    with torch.device("meta"):
        whole = architecture.expression_classifier(_params(**expression))
        half = architecture.expression_classifier(_params(**expression, width_multiplier=0.5))

    assert half.backbone.channels == whole.backbone.channels / 2


def test_by_default_the_network_reads_aligned_faces() -> None:
    with torch.device("meta"):
        network = architecture.expression_classifier(Params())

    assert type(network) is AlignedNet
    assert type(network.network) is TwoBranchNet


@pytest.mark.parametrize(("backbone", "kind"), [("small", SmallResNet), ("resnet18", ResNet), ("vgg19", VGG)])
def test_the_params_choose_the_backbone(backbone: str, kind: type) -> None:
    with torch.device("meta"):
        network = architecture.expression_classifier(_params(backbone=backbone))

    assert type(network.backbone) is kind


@pytest.mark.parametrize(("key", "usual"), [("mask_classifier", True), ("expression", False)])
def test_the_spatial_transformers_can_be_put_in_and_left_out(key: str, usual: bool) -> None:
    def has_one(params: Params) -> bool:
        make = getattr(architecture, key.replace("expression", "expression_classifier"))
        return any(isinstance(module, SpatialTransformer) for module in make(params).modules())

    assert has_one(Params()) is usual
    assert has_one(Params.model_validate({key: {"spatial_transformer": not usual}})) is not usual


def test_the_backbone_starts_from_the_weights_that_the_params_name(tmp_path: Path) -> None:
    own = SmallResNet(width=8)
    save_file(own.state_dict(), tmp_path / "own.safetensors")

    network = architecture.expression_classifier(_params(width=8, pretrained=tmp_path / "own.safetensors"))

    for name, value in own.state_dict().items():
        torch.testing.assert_close(network.backbone.state_dict()[name], value, msg=name)  # type: ignore[union-attr]


def test_what_ships_needs_no_file_of_weights_to_start_from(tmp_path: Path) -> None:
    params = _params(width=8, pretrained=tmp_path / "gone.safetensors")

    assert isinstance(architecture.whole(params).expression, TwoBranchNet)
    with pytest.raises(TrainingError, match=r"gone\.safetensors"):
        architecture.expression_classifier(params)


def test_weights_of_another_backbone_stop_before_anything_is_trained(tmp_path: Path) -> None:
    save_file(SmallResNet(width=16).state_dict(), tmp_path / "wider.safetensors")

    with pytest.raises(TrainingError, match=r"wider\.safetensors: weights of another architecture"):
        architecture.expression_classifier(_params(width=8, pretrained=tmp_path / "wider.safetensors"))
