"""Stage `evaluate`: figures, predictions and pictures in one folder, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskfer.config import Params
from maskfer.data.table import table_sha256
from maskfer.errors import DatasetError, ReleaseCorrupted
from maskfer.evaluation import PredictionTable
from maskfer.stages import evaluate
from maskfer.stages.evaluate import EvaluateReport
from tests.known import KnownFaces


@pytest.fixture(scope="module")
def report(
    known_faces: KnownFaces, known_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> EvaluateReport:
    """One run of the stage."""
    out = tmp_path_factory.mktemp("staged") / "out"
    return evaluate.run(known_faces.release("staged").path, known_table, out, params=Params())


def test_the_folder_holds_what_the_contract_names(
    report: EvaluateReport, known_faces: KnownFaces, known_table: Path
) -> None:
    metrics = json.loads((report.out / "metrics.json").read_text())
    assert metrics == report.metrics
    assert {"n", "accuracy", "macro_f1", "per_class", "confusion", "ece", "slices", "heatmap_iou"} <= set(
        metrics
    )
    assert set(metrics["slices"]) == {"masked", "unmasked", "orientation"}
    assert metrics["release_sha256"] == known_faces.release("staged").sha256
    assert metrics["dataset_sha256"] == table_sha256(known_table)
    predictions = PredictionTable.read(report.out / "predictions.parquet")
    assert len(predictions) == metrics["rows"] == 600
    assert len(list((report.out / "plots").glob("*.png"))) == 5


def test_the_same_release_and_faces_give_the_same_bytes(
    report: EvaluateReport, known_faces: KnownFaces, known_table: Path, tmp_path: Path
) -> None:
    evaluate.run(known_faces.release("staged").path, known_table, tmp_path / "again", params=Params())
    for path in report.out.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(report.out)).read_bytes()


def test_without_test_faces_the_error_names_split_and_remedy(known_faces: KnownFaces, tmp_path: Path) -> None:
    faces = known_faces.table(people=2, split="train")
    with pytest.raises(DatasetError, match=r"no face in split 'test'; .*test_fraction"):
        evaluate.run(known_faces.release("staged").path, faces, tmp_path / "out", params=Params())
    assert not list(tmp_path.iterdir())


def test_a_corrupted_release_is_not_judged(
    known_faces: KnownFaces, known_table: Path, tmp_path: Path
) -> None:
    release = known_faces.release("to-corrupt")
    (release.path / "model.onnx").write_bytes(b"other")
    with pytest.raises(ReleaseCorrupted):
        evaluate.run(release.path, known_table, tmp_path / "out", params=Params())
    assert not list(tmp_path.iterdir())
