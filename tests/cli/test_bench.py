"""`maskfer bench heatmap` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from maskfer.data.table import FacesTable, write_table
from maskfer.release import Release
from tests.cli.conftest import Maskfer
from tests.known import KnownFaces


def test_every_way_to_the_heatmap_of_synthetic_faces_is_timed_and_judged(
    maskfer: Maskfer, tiny_release: Release, tmp_path: Path
) -> None:
    out = tmp_path / "heatmap.json"

    shown = maskfer(
        *("bench", "heatmap", "--model", tiny_release.path),
        *("--faces", 2, "--rounds", 1, "--json", out),
    )

    assert "2 masked faces and their unmasked twins; patch 16, stride 8; one thread" in shown
    figures = json.loads(out.read_text())
    assert list(figures["ways"]) == [
        "captum.attr.Occlusion",
        "exact map",
        "one pass",
        "one pass, whole answer",
    ]
    assert all(name in shown for name in figures["ways"])
    captum, exact, one_pass, whole = figures["ways"].values()
    assert captum["times_faster"] == 1
    assert exact["correlation"] == pytest.approx(1)
    # An untrained network's map is noise, of which captum's is the mean of four neighbours.
    assert captum["correlation"] > 0.5
    for figure in ("correlation", "iou", "heat_unmasked"):
        assert one_pass[figure] == pytest.approx(whole[figure], abs=1e-4)
    assert all(0 <= way["iou"] <= 1 and way["ms_per_face"] > 0 for way in figures["ways"].values())


def test_a_folder_without_faces_is_one_line(maskfer: Maskfer, tiny_release: Release, tmp_path: Path) -> None:
    line = maskfer("bench", "heatmap", "--model", tiny_release.path, "--data", tmp_path, code=2)

    assert "faces.parquet: no such file; make it with `maskfer data build RAW --out DIR`" in line


def test_faces_without_drawn_masks_are_one_line(
    maskfer: Maskfer, tiny_release: Release, known_faces: KnownFaces, tmp_path: Path
) -> None:
    table = FacesTable.read(known_faces.table(people=1))
    keep = ~table.table.column("is_masked").to_numpy()
    write_table(tmp_path / "faces.parquet", table.where(keep).table, metadata=dict(table.metadata))

    line = maskfer("bench", "heatmap", "--model", tiny_release.path, "--data", tmp_path, code=2)

    assert "no face with a drawn mask" in line
    assert "--no-masks" in line


def test_a_release_that_torch_cannot_rebuild_is_one_line(maskfer: Maskfer, known_faces: KnownFaces) -> None:
    release = known_faces.release("no-network")

    line = maskfer(
        *("bench", "heatmap", "--model", release.path),
        *("--data", known_faces.table(people=1).parent),
        code=2,
    )

    assert "model.json: params.name: Extra inputs are not permitted" in line
    assert "train it again" in line


def test_without_captum_the_line_names_the_extra(
    maskfer: Maskfer, tiny_release: Release, known_faces: KnownFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Python says it of a package that is not installed.
    monkeypatch.setitem(sys.modules, "captum.attr", None)

    line = maskfer(
        *("bench", "heatmap", "--model", tiny_release.path),
        *("--data", known_faces.table(people=1).parent),
        code=2,
    )

    assert "captum, the program to compare with, is not installed" in line
    assert "maskfer[bench]" in line


def test_help_shows_examples(maskfer: Maskfer) -> None:
    shown = maskfer("bench", "heatmap", "--help")

    assert "maskfer bench heatmap --model out/release --data dataset" in " ".join(shown.split())
