"""One key of params.yaml chooses the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maskfer.config import Params
from maskfer.errors import TrainingError
from maskfer.faces import packaged
from maskfer.learning import architecture
from maskfer.learning.models.aligned import AlignedNet
from maskfer.learning.models.attention import SpatialTransformer
from maskfer.learning.models.backbones import VGG, FaceResNet, ResNet, SmallResNet
from maskfer.learning.models.backbones.dlib_file import read_dlib
from maskfer.learning.models.baselines.acnn import ACNNNet
from maskfer.learning.models.baselines.deep_emotion import DeepEmotionNet
from maskfer.learning.models.baselines.mobilenet import MobileNet
from maskfer.learning.models.baselines.oadn import OADNNet
from maskfer.learning.models.baselines.ran import RANNet
from maskfer.learning.models.baselines.vgg19 import VGG19Net
from maskfer.learning.models.expression import ExpressionNet, FaceContext
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


def test_layers_that_know_faces_start_from_what_is_published() -> None:
    network = architecture.expression_classifier(_params(aligned=True, backbone="face_resnet"))

    assert type(network) is AlignedNet
    assert type(network.network.backbone) is FaceResNet  # type: ignore[union-attr]
    path = packaged.packaged_weights(packaged.RECOGNITION)
    assert path is not None
    published = read_dlib(path)
    known = architecture.pretrained_parameters(network)
    for name, parameter in network.named_parameters():
        inner = name.removeprefix("network.backbone.").removeprefix("network.unmasked_branch.blocks.")
        assert (name in known) == (inner in published), name
        if name in known:
            torch.testing.assert_close(parameter.data, published[inner], msg=name)


@pytest.mark.parametrize("expression", [{"aligned": False}, {"attention": "none"}, {"attention": "unmasked"}])
def test_layers_that_know_faces_go_into_the_ablations_as_well(expression: dict[str, Any]) -> None:
    params = Params.model_validate({"expression": {"backbone": "face_resnet", **expression}})
    network = architecture.expression_classifier(params)
    context = FaceContext(torch.full((2, 12, 12), 0.5), torch.rand(2, 68, 2))

    assert network(torch.rand(2, 1, 96, 96) * 255, context).answer.shape == (2, 3)
    assert len(architecture.pretrained_parameters(network)) > 30


def test_without_the_package_that_brings_the_weights_training_stops_and_restoring_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged, "packaged_weights", lambda _: None)

    params = _params(aligned=True, backbone="face_resnet")

    with pytest.raises(TrainingError, match=r"face-recognition-models.* is missing; pip install maskfer"):
        architecture.expression_classifier(params)
    assert architecture.whole(params).landmarks is not None


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
