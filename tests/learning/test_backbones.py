"""Published networks: torchvision's names, and weights that either fit or are refused with a reason."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskfer.errors import TrainingError
from maskfer.learning.models.backbones import (
    VGG,
    Backbone,
    MobileNetV2,
    load_pretrained,
    resnet18,
    resnet50,
    vgg19,
)

NARROW = 1 / 8


@pytest.mark.parametrize(
    ("make", "parameters", "stride", "channels", "names"),
    [
        # The counts are the published ones, less the classifier and two thirds of the first layer.
        (vgg19, 20_035_392 - 2 * 576, 16, 512, {"features.0.weight", "features.49.bias"}),
        (
            lambda: VGG(convolutions=(2, 2, 3, 3, 3)),
            14_723_136 - 2 * 576,
            16,
            512,
            {"features.1.running_mean", "features.40.weight"},
        ),
        (resnet18, 11_176_512 - 2 * 3136, 32, 512, {"conv1.weight", "layer2.0.downsample.1.bias"}),
        (resnet50, 23_508_032 - 2 * 3136, 32, 2048, {"bn1.bias", "layer4.2.conv3.weight"}),
        (MobileNetV2, 2_223_872 - 2 * 288, 32, 1280, {"features.1.conv.1.weight", "features.18.1.bias"}),
    ],
    ids=["vgg19_bn", "vgg16_bn", "resnet18", "resnet50", "mobilenet_v2"],
)
def test_a_published_network_has_the_published_size_names_and_stride(
    make: Callable[[], Backbone], parameters: int, stride: int, channels: int, names: set[str]
) -> None:
    with torch.device("meta"):
        network = make()
        maps = network(torch.empty(1, 1, 96, 96))

    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert maps.shape == (1, channels, 96 // stride, 96 // stride)
    assert network.channels == channels
    assert names <= set(network.state_dict())


@pytest.mark.parametrize(
    ("cut", "channels"),
    [(lambda: vgg19(blocks=4, width=NARROW), 64), (lambda: resnet18(stages=2, width=NARROW), 16)],
    ids=["vgg19", "resnet18"],
)
def test_a_cut_network_has_one_cell_for_each_of_the_heatmap(
    cut: Callable[[], Backbone], channels: int
) -> None:
    assert cut()(torch.zeros(1, 1, 96, 96)).shape == (1, channels, 12, 12)


def _published(network: Backbone, *, classifier: str) -> dict[str, Tensor]:
    """Weights as torchvision would have them: three colours in, a classifier at the end."""
    torch.manual_seed(1)
    weights = {name: torch.rand_like(value.float()) for name, value in network.state_dict().items()}
    first = next(iter(weights))
    weights[first] = torch.rand(weights[first].shape[0], 3, *weights[first].shape[2:])
    return {**weights, classifier: torch.rand(10, 5)}


def _saved(weights: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_published_weights_fill_a_network_the_first_layer_summed_over_colours(
    tmp_path: Path, file: str
) -> None:
    network = resnet18(width=NARROW)
    published = _published(network, classifier="fc.weight")

    load_pretrained(network, _saved(published, tmp_path / file))

    torch.testing.assert_close(network.conv1.weight, published["conv1.weight"].sum(dim=1, keepdim=True))
    filled = network.state_dict()["layer4.1.bn2.running_var"]
    torch.testing.assert_close(filled, published["layer4.1.bn2.running_var"])


@pytest.mark.parametrize(
    ("whole", "cut", "classifier", "kept"),
    [
        (
            resnet18(width=NARROW),
            resnet18(stages=2, width=NARROW),
            "fc.weight",
            "layer2.1.conv2.weight",
        ),
        (
            vgg19(width=NARROW),
            vgg19(blocks=4, width=NARROW),
            "classifier.0.weight",
            "features.36.bias",
        ),
    ],
    ids=["resnet18", "vgg19"],
)
def test_a_cut_network_takes_its_part_of_the_whole_ones_weights(
    tmp_path: Path, whole: Backbone, cut: Backbone, classifier: str, kept: str
) -> None:
    published = _published(whole, classifier=classifier)

    load_pretrained(cut, _saved(published, tmp_path / "weights.safetensors"))

    torch.testing.assert_close(cut.state_dict()[kept], published[kept])


def _without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without("bn1.bias"), r"bn1\.bias is missing"),
        (
            lambda weights: {**weights, "layer3.2.bn1.bias": torch.zeros(2)},
            r"layer3\.2\.bn1\.bias is not exp",
        ),
        (
            lambda weights: {**weights, "conv1.weight": torch.zeros(9, 3, 7, 7)},
            r"conv1\.weight has the shape \(9, 1, 7, 7\), expected \(8, 1, 7, 7\)",
        ),
        (lambda _: {"fc.weight": torch.zeros(1)}, r"is missing.* and 97 more"),
    ],
    ids=["missing", "unexpected", "shape", "many"],
)
def test_weights_of_another_architecture_are_refused_with_what_differs(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], says: str
) -> None:
    network = resnet18(width=NARROW)
    before = network.conv1.weight.clone()
    weights = change(_published(network, classifier="fc.weight"))

    with pytest.raises(TrainingError, match=says) as caught:
        load_pretrained(network, _saved(weights, tmp_path / "weights.safetensors"))

    assert "weights.safetensors: weights of another architecture" in str(caught.value)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(network.conv1.weight, before)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"neither of the two formats",
        # To torch each of these is a pickle, as far as it goes.
        b"hello",
        b"error: no such file",
        b"version https://git-lfs.github.com/spec/v1",
        pickle.dumps({"conv1.weight": 1.5}, protocol=2)[:-4],
        pickle.dumps({"conv1.weight": "one"}, protocol=2).replace(b"one", b"\xff\xfe\xfd"),
    ],
    ids=["empty", "a sentence", "a word", "a message", "a pointer", "half a pickle", "damaged text"],
)
def test_a_file_that_holds_no_weights_is_refused_with_one_line(
    tmp_path: Path, file: str, content: bytes
) -> None:
    path = tmp_path / file
    path.write_bytes(content)

    with pytest.raises(TrainingError, match="not a file of weights") as caught:
        load_pretrained(resnet18(width=NARROW), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("saved", "holds"),
    [([torch.zeros(1)], "list"), ({"state_dict": {}}, "dict"), ({0: torch.zeros(1)}, "dict")],
    ids=["a list", "a whole training", "numbers for names"],
)
def test_what_is_no_state_dict_is_refused_with_what_it_is(tmp_path: Path, saved: object, holds: str) -> None:
    torch.save(saved, tmp_path / "saved.pth")

    with pytest.raises(TrainingError, match=f"holds {holds}, expected names and tensors"):
        load_pretrained(resnet18(width=NARROW), tmp_path / "saved.pth")
