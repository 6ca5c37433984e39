"""`maskfer models challenge` and `maskfer models shadow` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskfer.config import Settings
from maskfer.registry import Registry
from services.scoring.shadow_records import Agreement, Named, Pair, ShadowRecords, Tally, Work
from tests.cli.conftest import Maskfer
from tests.known import KnownFaces


def test_without_a_record_it_says_how_to_make_one(
    maskfer: Maskfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(tmp_path))
    shown = maskfer("models", "shadow")
    assert "no challenger was compared yet" in shown
    assert "MASKFER_SHADOW_MODEL" in shown
    assert json.loads(maskfer("models", "shadow", "--json")) == []
    assert not list(tmp_path.iterdir())


def test_the_report_shows_counts_agreement_and_times(
    maskfer: Maskfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "140")
    tally = Tally(work=Work(dropped=7, timed_faces=10, champion_s=0.01, challenger_s=0.02))
    tally.agreement["masked"] = Agreement(
        faces=40, same_expression=30, same_masked=40, same_orientation=20, expression_difference=2.0
    )
    pair = Pair(Named("maskfer", "3", "a" * 64), Named("maskfer", "4", "b" * 64))
    ShadowRecords(tmp_path).add({pair: tally})
    shown = maskfer("models", "shadow")
    for text in ("maskfer v4 beside maskfer v3", "75.0%", "100.0%", "50.0%", "0.0500", "2.00 beside 1.00"):
        assert text in shown
    assert "7 faces while behind" in shown
    (report,) = json.loads(maskfer("models", "shadow", "--json"))
    assert report["challenger"] == {"name": "maskfer", "version": "4", "sha256": "b" * 64}
    assert report["slices"]["masked"]["expression"] == {"agreement": 0.75, "difference": 0.05}
    assert report["slices"]["unmasked"]["expression"] == {"agreement": None, "difference": None}
    assert report["ms_per_face"] == {"champion": 1.0, "challenger": 2.0, "faces": 10}
    assert "forgot 1 pair" in maskfer("models", "shadow", "--clear")
    assert "no challenger was compared yet" in maskfer("models", "shadow")


def test_a_challenger_is_named_and_withdrawn(
    maskfer: Maskfer, known_faces: KnownFaces, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(settings.home))
    monkeypatch.setenv("MASKFER_MODEL_NAME", settings.model_name)
    registry = Registry(settings)
    version = registry.register(known_faces.release(f"{settings.model_name}-1"))
    assert "challenger is now v1" in maskfer("models", "challenge", "v1")
    assert registry.resolve("challenger").version == version.version
    assert "nobody is challenger" in maskfer("models", "challenge", "--end")
    assert "no version with alias 'challenger'" in maskfer("models", "challenge", "--end", code=2)
    assert "give either a VERSION or --end" in maskfer("models", "challenge", code=2)
    assert "give either a VERSION or --end" in maskfer("models", "challenge", "v1", "--end", code=2)
    assert "not found" in maskfer("models", "challenge", "v9", code=2)


def test_a_shadow_that_is_no_registered_model_is_one_line(
    maskfer: Maskfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFER_SHADOW_MODEL", "runs/release")
    assert "MASKFER_shadow_model" in maskfer("models", "shadow", code=2)
