"""Params that contradict themselves are refused before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from maskfer.config import OTHER_VARIABLES, PREFIX, Params, Settings
from maskfer.errors import ParamsError


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ({"model": "vgg20"}, r"expression\.model"),
        ({"model": "ran", "backbone": "vgg19"}, "backbone has no effect with model ran"),
        ({"model": "oadn", "attention": "none"}, "attention has no effect with model oadn"),
        ({"model": "vgg19", "width": 16}, "width has no effect with model vgg19"),
        ({"width_multiplier": 0.5}, "width_multiplier has no effect with model two_branch"),
        (
            {"backbone": "face_resnet", "spatial_transformer": True},
            "spatial_transformer has no effect.* backbone face_resnet",
        ),
        (
            {"backbone": "face_resnet", "attention": "none", "width": 16},
            "width has no effect.* backbone face_resnet",
        ),
        ({"pretrained_rate": 0.5}, "pretrained_rate has no effect.* backbone small"),
        ({"model": "deep_emotion", "width_multiplier": 0.5}, "width_multiplier has no effect"),
        ({"model": "landmark_split", "width_multiplier": 0.5}, "width_multiplier has no effect"),
        (
            {"model": "mobilenet", "width_multiplier": 0.05},
            "width_multiplier.* equal to 0.0625",
        ),
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


def test_params_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"cannot be read \(Is a directory\); give --params a YAML file"):
        Params.load(tmp_path)


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


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("MASKFER_SCORING_PRT", r"MASKFER_SCORING_PRT: no such setting; did you mean MASKFER_SCORING_PORT\?"),
        ("MASKFER_TRACKING_URL", r"did you mean MASKFER_TRACKING_URI\?"),
        ("MASKFER_API_TOKEN", r"did you mean MASKFER_API_TOKENS\?"),
        ("MASKFER_ZZZ", "MASKFER_ZZZ: no such setting; unset it"),
        ("maskfer_hom", r"maskfer_hom: no such setting; did you mean MASKFER_HOME\?"),
    ],
)
def test_a_misspelt_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setenv(name, "3001")
    with pytest.raises(ParamsError, match=says) as caught:
        Settings.load()
    assert "3001" not in str(caught.value)


@pytest.mark.parametrize("service", ["", "SCORING_", "SCORING_INTERNAL_"])
def test_what_kubernetes_sets_for_a_service_is_neither_refused_nor_a_setting(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    before = Settings.load()
    address = {"PORT": "tcp://10.0.0.1:80", "PORT_80_TCP": "tcp://10.0.0.1:80"}
    parts = {"PORT_80_TCP_PROTO": "tcp", "PORT_80_TCP_PORT": "80", "PORT_80_TCP_ADDR": "10.0.0.1"}
    named = {"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80"}
    for name, value in (address | parts | named).items():
        monkeypatch.setenv(f"MASKFER_{service}{name}", value)
    assert Settings.load() == before


def test_every_variable_that_the_project_names_is_read() -> None:
    root = Path(__file__).resolve().parents[1]
    places = ("src", "services", "components", "pipelines", "k8s", "mlflow", "docs", ".ci")
    files = [root / "README.md", root / "Makefile"]
    files += [path for place in places for path in (root / place).rglob("*") if path.is_file()]
    named = {name for path in files for name in re.findall(rb"MASKFER_[A-Z][A-Z_]+", path.read_bytes())}
    known = {name.upper() for name in Settings.model_fields} | set(OTHER_VARIABLES)
    assert {name.decode().removeprefix(PREFIX) for name in named} <= known
