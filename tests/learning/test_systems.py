"""The systems of the accuracy table have names of their own and parameters that are allowed."""

from __future__ import annotations

from typing import Any

import pytest

from maskfer.config import Params
from maskfer.errors import ParamsError
from maskfer.learning import architecture, cost, systems


def test_the_names_of_systems_are_unlike_and_all_can_be_made() -> None:
    assert len(systems.SYSTEMS) == len(systems.GROUPS["all"])
    for system in systems.SYSTEMS.values():
        assert system.params(Params(), seed=3).seed == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "oadn"},
        {"attention": "none", "width": 48},
        {"backbone": "resnet18", "width_multiplier": 0.5},
        {"spatial_transformer": True, "masked_branch_weight": 0.2},
        {"aligned": False},
        {"model": "ran", "pretrained": "resnet18.pth"},
        {"backbone": "face_resnet", "pretrained": "own.safetensors"},
    ],
)
def test_a_system_is_what_its_name_says_whatever_the_parameters_are(changed: dict[str, Any]) -> None:
    base = Params.model_validate({"expression": {**changed, "epochs": 3}})

    made = {name: system.params(base, seed=1).expression for name, system in systems.SYSTEMS.items()}

    assert {one.epochs for one in made.values()} == {3}
    assert [name for name, one in made.items() if one.knows_faces] == ["face_resnet"]
    assert {one.pretrained for one in made.values()} == {None}
    ours = made["two_branch"]
    assert (ours.model, ours.backbone, ours.attention) == ("two_branch", "small", "heatmap")
    assert not ours.spatial_transformer
    assert [name for name, one in made.items() if one.aligned] == [
        "default",
        "face_resnet",
        "aligned_no_heatmap",
        "narrow_gacnn_aligned",
    ]
    assert made["vgg19"].width_multiplier == made["resnet18"].width_multiplier == 1
    assert ours.width == changed.get("width", 32)
    assert made["ran"].model == "ran"
    assert made["branch_transformer"].spatial_transformer
    assert len({one.model_dump_json() for one in made.values()}) == len(made) - 1, "one differs in stage 1"


def test_parameters_that_a_system_cannot_have_name_it() -> None:
    wrong = {"expression": {"model": "deep_emotion", "pretrained": "weights.safetensors"}}

    with pytest.raises(ParamsError, match=r"system wrong: .*pretrained has no effect"):
        systems.System("wrong", "weights that nobody has", wrong).params(Params(), seed=1)


def test_the_rate_of_given_weights_is_a_rate_like_others() -> None:
    base = Params.model_validate({"expression": {"backbone": "face_resnet", "pretrained_rate": 0.5}})

    made = {name: system.params(base, seed=1).expression for name, system in systems.SYSTEMS.items()}

    default = Params().expression.pretrained_rate
    assert {one.pretrained_rate for name, one in made.items() if name != "face_resnet"} == {default}
    assert made["face_resnet"].pretrained_rate == 0.5


@pytest.mark.parametrize("name", ["landmark_split", "gacnn", "narrow_oadn", "narrow_gacnn_aligned"])
def test_published_methods_have_a_wide_landmark_network(name: str) -> None:
    assert systems.SYSTEMS[name].params(Params(), seed=1).landmarks.width == 32
    assert systems.SYSTEMS["default"].params(Params(), seed=1).landmarks.width == 16


def test_the_default_of_the_table_is_that_of_the_parameters() -> None:
    assert systems.METHODS[0].params(Params(), seed=7) == Params()


@pytest.mark.parametrize("system", systems.NARROW, ids=lambda system: system.name)
def test_a_narrowed_method_takes_just_no_less_work_than_the_default(system: systems.System) -> None:
    params = system.params(Params(), seed=1)
    kept = round(params.expression.width_multiplier * 64)
    narrower = params.expression.model_copy(update={"width_multiplier": (kept - 1) / 64})

    ours = _work(systems.SYSTEMS["default"].params(Params(), seed=1))
    assert _work(params.model_copy(update={"expression": narrower})) < ours <= _work(params)


def _work(params: Params) -> int:
    network = architecture.expression_classifier(params)
    return cost.multiply_adds(network, crop_size=params.data.crop_size)
