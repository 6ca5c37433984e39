"""`maskfer models` and `maskfer evaluate` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskfer import release as releases
from maskfer.config import Settings
from maskfer.registry import Registry
from tests.cli.conftest import Maskfer
from tests.known import KnownFaces

DECISION = {
    "promote": False,
    "reason": "worse on masked faces",
    "champion": 1,
    "comparisons": [],
    "notes": [],
}
COMPARISON = {
    "slice": "overall",
    "metric": "accuracy",
    "n": 100,
    "people": 10,
    "candidate": 0.8,
    "champion": 0.9,
    "difference": -0.1,
    "interval": [-0.2, 0.0],
    "bound": -0.2,
    "confidence": 0.9,
    "required": -0.02,
    "verdict": "worse",
    "note": "",
}


@pytest.fixture
def maskfer(maskfer: Maskfer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Maskfer:
    """The command line, on this test's registry."""
    monkeypatch.setenv("MASKFER_HOME", str(settings.home))
    monkeypatch.setenv("MASKFER_MODEL_NAME", settings.model_name)
    monkeypatch.setenv("COLUMNS", "120")
    return maskfer


@pytest.fixture
def registered(known_faces: KnownFaces, settings: Settings) -> Registry:
    """Two versions; the first is champion, the second was refused."""
    registry = Registry(settings)
    first, second = (
        registry.register(known_faces.release(f"{settings.model_name}-{number}")) for number in (1, 2)
    )
    registry.promote(first, reason="the first", forced=True)
    registry.record_decision(second, DECISION)
    return registry


def read(text: str) -> Any:
    return json.loads(text)


def test_list_shows_versions_and_the_champion(maskfer: Maskfer, registered: Registry) -> None:
    shown = maskfer("models", "list")
    assert registered.settings.model_name in shown
    assert "v1 champion" in shown
    assert "refused" in shown
    versions = read(maskfer("models", "list", "--json"))
    assert [(one["version"], one["champion"]) for one in versions] == [(2, False), (1, True)]


def test_list_asks_for_the_figures_of_all_versions_at_once(
    maskfer: Maskfer, known_faces: KnownFaces, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    for number in range(3):
        release = known_faces.release(f"{settings.model_name}-{number}")
        out, figures = known_faces.folder / f"judged-{number}", {"accuracy": 0.711 + number / 10}
        Registry(settings).register(releases.judged(release, out, metrics=figures, card="# Card", plots={}))
    asked: list[str] = []
    get_run = MlflowClient.get_run

    def counted(client: MlflowClient, run_id: str) -> Any:
        asked.append(run_id)
        return get_run(client, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", counted)
    shown = maskfer("models", "list")
    for accuracy in ("0.711", "0.811", "0.911"):
        assert accuracy in shown
    assert not asked


@pytest.mark.usefixtures("registered")
def test_show_tells_origin_files_and_decision(maskfer: Maskfer) -> None:
    shown = maskfer("models", "show", "v2")
    assert "f" * 40 in shown
    assert "worse on masked faces" in shown
    champion = read(maskfer("models", "show", "champion", "--json"))
    assert champion["version"] == 1
    assert champion["champion"]
    assert "model.onnx" in champion["files"]


@pytest.mark.usefixtures("registered")
def test_a_refused_version_needs_force_and_history_tells_the_story(maskfer: Maskfer) -> None:
    line = maskfer("models", "promote", "v2", "--reason", "hope", code=2)
    assert "worse on masked faces" in line
    assert "--force" in line
    assert "champion is now v2" in maskfer("models", "promote", "v2", "--force", "--reason", "new masks")
    event = read(maskfer("models", "rollback", "--reason", "worse in hall 2", "--json"))
    assert (event["kind"], event["version"], event["previous"]) == ("rolled_back", 1, 2)
    shown = maskfer("models", "history")
    for text in ("the first", "new masks", "forced", "rolled back to", "worse in hall 2", "now"):
        assert text in shown
    story = read(maskfer("models", "history", "--json"))
    assert [one["version"] for one in story["reigns"]] == [1, 2, 1]
    assert story["reigns"][0]["until"] == story["reigns"][1]["at"]
    assert story["champion"] == 1


@pytest.mark.usefixtures("registered")
def test_a_reason_is_shown_as_it_was_written_whatever_brackets_it_has(maskfer: Maskfer) -> None:
    reasons = ("see [/wiki/12]", "as [bold]Ann[/bold] said :warning:")
    for version, reason in zip(("v2", "v1"), reasons, strict=True):
        maskfer("models", "promote", version, "--force", "--reason", reason)
    shown = _unwrapped(maskfer("models", "history"))
    for reason in reasons:
        assert _unwrapped(reason) in shown


def test_a_decision_that_quotes_somebody_is_shown_as_it_was_recorded(
    maskfer: Maskfer, registered: Registry, known_faces: KnownFaces
) -> None:
    reason = "a person rolled back from this release: see [/wiki/12]"
    quoting = registered.register(known_faces.release(f"{registered.settings.model_name}-3"))
    registered.record_decision(quoting, {**DECISION, "reason": reason, "comparisons": [COMPARISON]})
    assert _unwrapped(maskfer("models", "show", "v3")).count(_unwrapped(reason)) == 2


def _unwrapped(shown: str) -> str:
    """The text without what a column's width does to it."""
    return "".join(shown.split())


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "v9"), "not found"),
        (("show", "nobody"), "no version with alias 'nobody'"),
        (("promote", "v1", "--reason", "again", "--force"), "champion already"),
        (("promote", "v2", "--reason", "  "), "--reason is empty"),
        (("rollback",), "no earlier champion"),
        (("history", "--name", "another"), "another"),
        (("list", "--name", "another"), "another"),
    ],
)
def test_what_cannot_be_done_is_one_line(maskfer: Maskfer, arguments: tuple[str, ...], says: str) -> None:
    assert says in maskfer("models", *arguments, code=2)


def test_no_registry_is_one_line(maskfer: Maskfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(tmp_path))
    assert "maskfer retrain" in maskfer("models", "list", code=2)
    monkeypatch.setenv("MASKFER_TRACKING_URI", "http://127.0.0.1:9")
    assert "does not answer" in maskfer("models", "history", code=2)


def test_evaluate_writes_the_figures_of_the_champion(
    maskfer: Maskfer, registered: Registry, known_table: Path, tmp_path: Path
) -> None:
    out, notes = tmp_path / "new" / "metrics.json", tmp_path / "plots" / "notes.txt"
    notes.parent.mkdir()
    notes.touch()
    name = registered.settings.model_name
    shown = maskfer(
        "evaluate",
        "--model",
        f"{name}@champion",
        "--data",
        str(known_table.parent),
        "--json",
        str(out),
        "--plots",
        str(tmp_path / "plots"),
    )
    metrics = read(out.read_text())
    assert {"n", "accuracy", "macro_f1", "per_class", "slices", "heatmap_iou"} <= set(metrics)
    assert metrics["model"] == f"{name}@champion"
    assert f"{metrics['slices']['masked']['accuracy']:.3f}" in shown
    assert len(list((tmp_path / "plots").glob("*.png"))) == 5
    assert notes.exists()


def test_evaluate_takes_a_folder_and_names_what_is_wrong_with_it(
    maskfer: Maskfer, known_faces: KnownFaces, known_table: Path, tmp_path: Path
) -> None:
    release = known_faces.release("cli")
    data = ("--data", str(known_table.parent), "--json", str(tmp_path / "m.json"))
    assert "unmasked" in maskfer("evaluate", "--model", str(release.path), *data)
    (tmp_path / "m.json").unlink()
    (release.path / "model.onnx").write_bytes(b"damaged")
    assert "model.onnx: sha256" in maskfer("evaluate", "--model", str(release.path), *data, code=2)
    assert "no model.json" in maskfer("evaluate", "--model", str(tmp_path), *data, code=2)
    assert "expected one of" in maskfer("evaluate", "--model", "x", *data, "--split", "all", code=2)
    assert not list(tmp_path.iterdir())


def test_evaluate_without_faces_says_how_to_make_them(
    maskfer: Maskfer, known_faces: KnownFaces, tmp_path: Path
) -> None:
    release = known_faces.release("cli-2")
    line = maskfer("evaluate", "--model", str(release.path), "--data", str(tmp_path), code=2)
    assert "maskfer data build" in line
