"""Params that contradict themselves are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from maskfer.config import Params, Settings
from maskfer.errors import ParamsError


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ({"model": "vgg20"}, r"expression\.model"),
        ({"model": "ran", "backbone": "vgg19"}, "backbone has no effect with model ran"),
        ({"model": "oadn", "attention": "none"}, "attention has no effect with model oadn"),
        ({"model": "vgg19", "width": 16}, "width has no effect with model vgg19"),
        ({"width_multiplier": 0.5}, "width_multiplier has no effect with model two_branch"),
        ({"model": "deep_emotion", "width_multiplier": 0.5}, "width_multiplier has no effect"),
        ({"model": "landmark_split", "width_multiplier": 0.5}, "width_multiplier has no effect"),
        ({"model": "pacnn", "spatial_transformer": True}, "spatial_transformer has no effect"),
        (
            {"attention": "none", "masked_branch_weight": 0.5},
            "masked_branch_weight has no effect with model two",
        ),
        (
            {"model": "deep_emotion", "pretrained": "w.pth"},
            "pretrained has no effect with model deep_emotion",
        ),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused_by_name(
    tmp_path: Path, expression: dict[str, object], says: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"expression": expression}))

    with pytest.raises(ParamsError, match=says):
        Params.load(path)


def test_params_with_a_path_survive_the_way_through_json() -> None:
    params = Params.model_validate({"expression": {"model": "ran", "pretrained": "weights/resnet18.pth"}})

    assert Params.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("given", ["first, second,", '["first", "second"]'])
def test_tokens_are_separated_by_commas_and_never_shown(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("MASKFER_API_TOKENS", given)
    monkeypatch.setenv("MASKFER_CORS_ORIGINS", "https://a.example,https://b.example")
    settings = Settings.load()
    assert [token.get_secret_value() for token in settings.api_tokens] == ["first", "second"]
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert "first" not in repr(settings)


def test_tokens_that_do_not_parse_are_not_shown_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFER_API_TOKENS", '["first"')
    with pytest.raises(ParamsError, match="MASKFER_api_tokens") as caught:
        Settings.load()
    assert "first" not in str(caught.value)
