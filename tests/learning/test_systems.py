"""The systems of the accuracy table have names of their own and parameters that are allowed."""

from __future__ import annotations

from typing import Any

import pytest

from maskfer.config import Params
from maskfer.errors import ParamsError
from maskfer.learning import systems


def test_the_names_of_systems_are_unlike_and_all_can_be_made() -> None:
    assert len(systems.SYSTEMS) == len(systems.METHODS) + len(systems.VARIANTS)
    for system in systems.SYSTEMS.values():
        assert system.params(Params(), seed=3).seed == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "oadn"},
        {"attention": "none", "width": 48},
        {"spatial_transformer": True, "masked_branch_weight": 0.2},
    ],
)
def test_a_system_is_what_its_name_says_whatever_the_parameters_are(changed: dict[str, Any]) -> None:
    base = Params.model_validate({"expression": {**changed, "epochs": 3}})

    made = {name: system.params(base, seed=1).expression for name, system in systems.SYSTEMS.items()}

    assert {one.epochs for one in made.values()} == {3}
    ours = made["two_branch"]
    assert (ours.model, ours.attention, ours.spatial_transformer) == ("two_branch", "heatmap", False)
    assert ours.width == changed.get("width", 32)
    assert made["ran"].model == "ran"
    assert made["branch_transformer"].spatial_transformer
    assert len({one.model_dump_json() for one in made.values()}) == len(made) - 1, "one differs in stage 1"


def test_parameters_that_a_system_cannot_have_name_it() -> None:
    base = Params.model_validate({"expression": {"pretrained": "weights.safetensors"}})

    with pytest.raises(ParamsError, match=r"system deep_emotion: .*pretrained has no effect"):
        systems.SYSTEMS["deep_emotion"].params(base, seed=1)
