"""The three training stages, one after the other, on drawn heads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from maskfer.config import Params
from maskfer.data.table import FacesTable, read_metadata, write_table
from maskfer.drift import read_reference
from maskfer.errors import DatasetError, TrainingError
from maskfer.faces import packaged
from maskfer.inference import Analyzer
from maskfer.learning import architecture
from maskfer.learning.models.backbones.dlib_file import read_dlib
from maskfer.release import Lineage, read
from maskfer.stages import compute_heatmaps, train_expression, train_mask_classifier
from tests.stages.conftest import run_killed

PARAMS = Params.model_validate(
    {
        "mask_classifier": {"epochs": 14, "batch_size": 8, "width": 8, "learning_rate": 1e-2},
        "heatmap": {"epochs": 2, "batch_size": 16, "patch": 24, "stride": 12},
        "expression": {"epochs": 2, "batch_size": 16, "width": 8, "aligned": False},
    }
)
LINEAGE = Lineage(dataset_sha256="0" * 64)


class Built(NamedTuple):
    faces: Path
    mask: train_mask_classifier.MaskClassifierReport
    heatmaps: compute_heatmaps.HeatmapReport
    expression: train_expression.ExpressionReport


@pytest.fixture(scope="module")
def built(toy_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("built")
    mask = train_mask_classifier.run(toy_faces, home / "mask", params=PARAMS)
    maps = compute_heatmaps.run(toy_faces, home / "mask", home / "maps", params=PARAMS)
    expression = train_expression.run(
        toy_faces, home / "maps", home / "release", params=PARAMS, lineage=LINEAGE
    )
    return Built(toy_faces, mask, maps, expression)


def test_the_mask_classifier_knows_masks_after_a_few_epochs(built: Built) -> None:
    assert built.mask.metrics["val"]["mask_accuracy"] >= 0.9
    written = json.loads((built.mask.weights.parent / "metrics.json").read_text())
    assert written == built.mask.metrics


def test_every_epoch_is_in_the_history(built: Built) -> None:
    with (built.mask.weights.parent / "history.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert [int(row["epoch"]) for row in rows] == list(range(1, 15))
    assert {"loss", "seconds", "mask_accuracy", "orientation_macro_f1"} <= set(rows[0])


def test_each_training_and_validation_face_gets_one_heatmap(built: Built) -> None:
    table = pq.read_table(built.heatmaps.heatmaps)
    expected = [
        face_id
        for split in ("train", "val")
        for face_id in FacesTable.read(built.faces, split=split).column("face_id")
    ]

    assert table.column("face_id").to_pylist() == expected
    assert {len(value) for value in table.column("heatmap").to_pylist()} == {8 * 8}
    assert read_metadata(built.heatmaps.heatmaps)["grid"] == 8
    assert set(built.heatmaps.metrics["val"]) >= {"correlation", "iou", "iou_exact"}


def test_the_release_answers_with_the_grid_and_the_classes_of_its_params(built: Built) -> None:
    release = read(built.expression.release.path)
    session = ort.InferenceSession(release.onnx, providers=["CPUExecutionProvider"])

    expression, _, _, heatmap = session.run(None, {"faces": np.zeros((3, 1, 96, 96), np.float32)})

    assert release.classes == PARAMS.classes
    assert expression.shape == (3, 3)
    assert heatmap.shape == (3, 8, 8)
    assert "plots/training_history.csv" in release.metadata.files


def test_the_release_carries_how_its_training_faces_and_its_answers_were_distributed(built: Built) -> None:
    release = read(built.expression.release.path)
    reference = read_reference(release)
    assert reference is not None
    table = FacesTable.read(built.faces, split="train")
    brightness = reference.features["brightness"]
    assert sum(brightness.counts) == len(table)
    medians = np.median(table.images().reshape(len(table), -1).mean(axis=1))
    assert brightness.edges[0] <= medians <= brightness.edges[-1]
    val = FacesTable.read(built.faces, split="val")
    said = Analyzer(release).predict(val.images()).expression.argmax(axis=1)
    assert reference.features["expression"].counts == tuple(
        np.bincount(said, minlength=len(release.classes)).tolist()
    )
    assert set(built.expression.metrics["val"]) >= {"masked_accuracy", "unmasked_macro_f1"}


def _with_expression(**changed: Any) -> Params:
    section = {**PARAMS.model_dump()["expression"], **changed}
    return Params.model_validate({**PARAMS.model_dump(), "expression": section})


def test_a_compared_method_is_trained_and_released_by_one_key(built: Built, tmp_path: Path) -> None:
    params = _with_expression(model="deep_emotion", width=32, epochs=1)

    report = train_expression.run(
        built.faces, built.heatmaps.weights.parent, tmp_path / "release", params=params, lineage=LINEAGE
    )

    session = ort.InferenceSession(read(report.release.path).onnx, providers=["CPUExecutionProvider"])
    expression = session.run(["expression"], {"faces": np.zeros((2, 1, 96, 96), np.float32)})[0]
    np.testing.assert_allclose(expression.sum(axis=1), 1, atol=1e-5)
    assert report.release.metadata.params["expression"]["model"] == "deep_emotion"


def test_layers_that_know_faces_start_from_what_they_know_and_the_release_from_nobody(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = _with_expression(backbone="face_resnet", epochs=1, learning_rate=1e-4)
    path = packaged.packaged_weights(packaged.RECOGNITION)
    assert path is not None
    known = read_dlib(path)["blocks.6.second.weight"]

    report = train_expression.run(
        built.faces, built.heatmaps.weights.parent, tmp_path / "release", params=params, lineage=LINEAGE
    )

    trained = load_file(report.release.path / "model.safetensors")
    moved = trained["expression.backbone.blocks.6.second.weight"] - known
    assert 0 < moved.abs().max() < 0.1 * known.std()
    monkeypatch.setattr(packaged, "packaged_weights", lambda _: None)
    restored = architecture.whole(Params.model_validate(report.release.metadata.params))
    assert restored.state_dict().keys() >= trained.keys()


def test_what_reads_the_true_region_is_judged_and_never_released(built: Built, tmp_path: Path) -> None:
    params = _with_expression(attention="region", epochs=1)
    maps = built.heatmaps.weights.parent

    with pytest.raises(TrainingError, match=r"expression\.attention: region .* no release can be made"):
        train_expression.run(built.faces, maps, tmp_path / "out", params=params, lineage=LINEAGE)
    trained = train_expression.train(built.faces, maps, params=params, checkpoint=tmp_path / "last")

    assert not (tmp_path / "out").exists()
    assert set(trained.metrics["val"]) >= {"masked_accuracy", "unmasked_macro_f1"}
    assert trained.task.validate(trained.task.model)["masked_accuracy"] == pytest.approx(
        trained.metrics["val"]["masked_accuracy"], abs=1e-5
    )


def test_no_checkpoint_is_left_when_a_stage_ends_well(built: Built) -> None:
    assert not list(built.mask.weights.parent.parent.glob(".*checkpoint*"))


def test_a_class_without_a_training_face_stops_with_its_name(built: Built, tmp_path: Path) -> None:
    table = FacesTable.read(built.faces)
    keep = np.array(
        [
            split != "train" or expression != "negative"
            for split, expression in zip(table.column("split"), table.column("expression"), strict=True)
        ]
    )
    faces = tmp_path / "faces.parquet"
    write_table(faces, table.where(keep).table, metadata=dict(table.metadata))

    with pytest.raises(DatasetError, match=r"faces\.parquet: no training face of class negative"):
        train_expression.run(
            faces, built.heatmaps.weights.parent, tmp_path / "out", params=PARAMS, lineage=LINEAGE
        )
    assert not (tmp_path / "out").exists()


def test_a_table_without_masked_faces_cannot_train_a_mask_classifier(built: Built, tmp_path: Path) -> None:
    table = FacesTable.read(built.faces)
    faces = tmp_path / "faces.parquet"
    write_table(faces, table.where(~np.array(table.column("is_masked"))).table, metadata=dict(table.metadata))

    with pytest.raises(TrainingError, match="0 of 36 training faces are masked"):
        train_mask_classifier.run(faces, tmp_path / "out", params=PARAMS)


@pytest.mark.parametrize(
    ("data", "wanted"), [({"crop_size": 64}, "64 and 1"), ({"crop_context": 1.4}, r"96 and 1\.4")]
)
def test_faces_that_are_cut_otherwise_are_refused(
    built: Built, tmp_path: Path, data: dict[str, float], wanted: str
) -> None:
    params = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update=data)})

    with pytest.raises(
        DatasetError, match=f"96 pixels wide and 1 times the box, the network wants {wanted};"
    ):
        train_mask_classifier.run(built.faces, tmp_path / "out", params=params)


def test_weights_of_another_width_are_refused(built: Built, tmp_path: Path) -> None:
    wider = PARAMS.mask_classifier.model_copy(update={"width": 16})
    params = PARAMS.model_copy(update={"mask_classifier": wider})

    with pytest.raises(TrainingError, match="weights of another architecture"):
        compute_heatmaps.run(built.faces, built.mask.weights.parent, tmp_path / "out", params=params)


def test_a_run_that_is_killed_ends_where_an_uninterrupted_one_ends(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "mask"
    run_killed("train_mask_classifier", built.faces, out, params=PARAMS)
    [checkpoint] = tmp_path.glob(".mask.checkpoint-*.safetensors")
    assert not out.exists()

    report = train_mask_classifier.run(built.faces, out, params=PARAMS)

    assert report.weights.read_bytes() == built.mask.weights.read_bytes()
    assert not checkpoint.exists()


def test_two_processes_make_the_files_of_one(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFER_TRAINING_PROCESSES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    short = PARAMS.mask_classifier.model_copy(update={"epochs": 2})
    params = PARAMS.model_copy(update={"mask_classifier": short})

    mask = train_mask_classifier.run(built.faces, tmp_path / "mask", params=params)
    maps = compute_heatmaps.run(built.faces, mask.weights.parent, tmp_path / "maps", params=params)

    for shared, alone in ((mask, built.mask), (maps, built.heatmaps)):
        assert {path.name for path in shared.weights.parent.iterdir()} == {
            path.name for path in alone.weights.parent.iterdir()
        }
        assert shared.metrics.keys() == alone.metrics.keys()
        assert shared.metrics["val"].keys() == alone.metrics["val"].keys()
    assert {path.name for path in tmp_path.iterdir()} == {"mask", "maps"}
