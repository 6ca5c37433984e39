"""What is judged is what is served, and the figures say what is true of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer.config import EvaluationParams
from maskfer.data.table import FacesTable
from maskfer.errors import DatasetError
from maskfer.evaluation import Evaluation, PredictionTable, evaluate
from maskfer.evaluation.card import model_card
from maskfer.evaluation.plots import write_plots
from maskfer.inference import Analyzer
from tests.known import KnownFaces


@pytest.fixture(scope="module")
def blind(known_faces: KnownFaces, known_table: Path) -> Evaluation:
    """A release that is good without a mask and answers one class with."""
    release = known_faces.release("evaluated", blind_when_masked=True)
    return evaluate(Analyzer(release), FacesTable.read(known_table, split="test"))


def test_a_fault_shows_in_its_slice_and_only_there(blind: Evaluation) -> None:
    figures = blind.to_json()
    assert figures["n"] == 600
    assert figures["slices"]["masked"]["n"] == figures["slices"]["unmasked"]["n"] == 300
    assert figures["slices"]["unmasked"]["accuracy"] > 0.85
    assert figures["slices"]["masked"]["accuracy"] < 0.45
    assert figures["slices"]["masked"]["macro_f1"] < 0.35
    assert figures["slices"]["unmasked"]["accuracy"] > figures["accuracy"] > 0.5
    orientations = figures["slices"]["orientation"]
    assert {name: part["n"] for name, part in orientations.items()} == dict.fromkeys(
        ("up", "left", "center", "right", "down"), 120
    )


def test_mask_orientation_and_heatmap_are_measured_against_the_truth(blind: Evaluation) -> None:
    figures = blind.to_json()
    assert figures["mask_accuracy"] == 1
    assert figures["mask_recall"] == {"masked": 1, "unmasked": 1}
    assert figures["orientation_agreement"] > 0.95
    assert figures["heatmap_iou"] == pytest.approx(1, abs=0.05)
    assert figures["heatmap_n"] == 300


def test_faces_without_an_expression_still_give_the_mask_figures(known_faces: KnownFaces) -> None:
    faces = known_faces.table(people=4, labels=False)
    release = known_faces.release("no-labels")
    figures = evaluate(Analyzer(release), FacesTable.read(faces)).to_json()
    assert figures["n"] == 0
    assert figures["accuracy"] is None
    assert figures["rows"] == 40
    assert figures["mask_accuracy"] == 1
    assert figures["absent"] == ["positive", "neutral", "negative"]


def test_no_face_to_judge_by_is_an_error(known_faces: KnownFaces, known_table: Path) -> None:
    analyzer = Analyzer(known_faces.release("empty"))
    with pytest.raises(DatasetError, match="no face to judge by"):
        evaluate(analyzer, FacesTable.read(known_table, split="val"))


def test_faces_that_are_cut_otherwise_than_a_release_takes_them_are_refused(
    known_faces: KnownFaces, known_table: Path
) -> None:
    release = known_faces.release("closer", crop_context=1.4)
    with pytest.raises(DatasetError, match=r"1 times the box, release known wants 96 and 1\.4;"):
        evaluate(Analyzer(release), FacesTable.read(known_table), params=EvaluationParams())


def test_predictions_are_read_as_they_were_written(blind: Evaluation, tmp_path: Path) -> None:
    written = blind.predictions
    written.write(tmp_path / "predictions.parquet")
    read = PredictionTable.read(tmp_path / "predictions.parquet")
    for name in ("classes", "face_ids", "people", "orientations", "answered_orientations"):
        assert getattr(read, name) == getattr(written, name)
    for name in ("labels", "probabilities", "is_masked", "masked_probability", "heatmap_iou", "clusters"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def test_a_face_and_its_twin_and_the_rest_of_the_person_are_one_cluster(blind: Evaluation) -> None:
    predictions = blind.predictions
    assert len(np.unique(predictions.clusters)) == 60
    assert set(np.bincount(predictions.clusters)) == {10}


def test_another_files_predictions_are_refused(known_table: Path) -> None:
    with pytest.raises(DatasetError, match="no predictions"):
        PredictionTable.read(known_table)


def test_pictures_are_drawn_for_what_can_be_drawn(blind: Evaluation, tmp_path: Path) -> None:
    written = write_plots(blind, tmp_path / "plots", bins=15)
    assert {path.name for path in written} == {
        "confusion.png",
        "calibration.png",
        "slices.png",
        "classes.png",
        "heatmaps.png",
    }
    for path in written:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 5
    again = write_plots(blind, tmp_path / "again", bins=15)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_without_labels_only_the_heatmaps_are_drawn(known_faces: KnownFaces, tmp_path: Path) -> None:
    faces = known_faces.table(people=4, labels=False)
    release = known_faces.release("no-labels")
    evaluation = evaluate(Analyzer(release), FacesTable.read(faces), params=EvaluationParams())
    # A picture of an evaluation before would pass for one of this; what is nobody's stays.
    for name in ("confusion.png", "mine.png"):
        (tmp_path / name).touch()
    assert [path.name for path in write_plots(evaluation, tmp_path, bins=15)] == ["heatmaps.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"heatmaps.png", "mine.png"}


def test_the_card_says_what_where_from_how_good_and_where_not(
    blind: Evaluation, known_faces: KnownFaces
) -> None:
    release = known_faces.release("evaluated", blind_when_masked=True)
    figures = blind.to_json()
    card = model_card(
        release, metrics={**figures, "dataset_sha256": "d" * 64, "split": "test"}, plots=["slices.png"]
    )
    assert "f" * 40 in card
    assert "d" * 64 in card
    assert "| Data (DVC) | `not known: " in card
    assert f"| masked | 300 | {figures['slices']['masked']['accuracy']:.3f} |" in card
    assert "plots/slices.png" in card
    assert "plots/confusion.png" not in card
    for heading in ("Purpose", "Origin", "Results", "Limits", "Licences", "How to use"):
        assert f"## {heading}" in card


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        (
            {"model": "two_branch", "backbone": "face_resnet"},
            "dlib's face recognition network, public domain",
        ),
        ({"model": "two_branch", "backbone": "small", "pretrained": None}, "random weights"),
        ({"model": "ran", "backbone": "face_resnet"}, "random weights"),
        ({"model": "ran", "pretrained": "weights/resnet18.pth"}, "weights/resnet18.pth"),
    ],
)
def test_the_card_says_what_the_training_started_from(
    expression: dict[str, str], says: str, blind: Evaluation, known_faces: KnownFaces
) -> None:
    release = known_faces.release("started")
    metadata = release.metadata.model_copy(update={"params": {"expression": expression}})

    card = model_card(replace(release, metadata=metadata), metrics=blind.to_json(), plots=[])

    assert f"| Expression network trained from | `{says}` |" in card


def test_the_card_names_what_was_hardly_measured(known_faces: KnownFaces) -> None:
    faces = known_faces.table(people=4, seed=3)
    release = known_faces.release("few")
    metrics = evaluate(Analyzer(release), FacesTable.read(faces)).to_json()
    card = model_card(release, metrics=metrics, plots=[])
    assert "hardly measured: masked (20), unmasked (20), looks up (8)" in card
