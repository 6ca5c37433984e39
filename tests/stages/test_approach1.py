"""Approach 1's stages, one after the other, on drawn heads: inpainter, landmarks, expression, verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from maskfer.config import Params
from maskfer.data.table import FacesTable, write_table
from maskfer.errors import TrainingError
from maskfer.learning import export
from maskfer.learning.faces import load
from maskfer.release import Lineage, read
from maskfer.stages import (
    compute_heatmaps,
    evaluate,
    train_expression,
    train_inpainter,
    train_landmarks,
    train_mask_classifier,
)
from tests.stages.conftest import run_killed

PARAMS = Params.model_validate(
    {
        "mask_classifier": {"epochs": 4, "batch_size": 8, "width": 8, "learning_rate": 1e-2},
        "heatmap": {"epochs": 2, "batch_size": 16, "patch": 24, "stride": 24},
        "inpainting": {"epochs": 2, "batch_size": 6, "width": 4},
        "landmarks": {"epochs": 2, "batch_size": 16, "width": 8},
        "expression": {
            "model": "landmark_split",
            "epochs": 1,
            "batch_size": 16,
            "width": 8,
            "aligned": False,
        },
        "evaluation": {"bootstrap_samples": 100},
    }
)
LINEAGE = Lineage(dataset_sha256="0" * 64)


@dataclass(frozen=True)
class Built:
    faces: Path
    home: Path
    inpainter: train_inpainter.InpainterReport
    landmarks: train_landmarks.LandmarksReport
    expression: train_expression.ExpressionReport

    @property
    def maps(self) -> Path:
        return self.home / "maps"


@pytest.fixture(scope="module")
def built(toy_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("approach1")
    train_mask_classifier.run(toy_faces, home / "mask", params=PARAMS)
    maps = compute_heatmaps.run(toy_faces, home / "mask", home / "maps", params=PARAMS).weights.parent
    inpainter = train_inpainter.run(toy_faces, maps, home / "inpainter", params=PARAMS)
    landmarks = train_landmarks.run(
        toy_faces, maps, home / "landmarks", params=PARAMS, inpainter=home / "inpainter"
    )
    expression = train_expression.run(
        toy_faces,
        maps,
        home / "release",
        params=PARAMS,
        landmarks=home / "landmarks",
        lineage=LINEAGE,
    )
    return Built(toy_faces, home, inpainter, landmarks, expression)


def test_each_stage_writes_its_figures(built: Built) -> None:
    for report, names in (
        (built.inpainter, {"psnr", "ssim", "psnr_masked", "ssim_masked"}),
        (
            built.landmarks,
            {
                "nme_unmasked",
                "nme_masked",
                "nme_masked_inpainted",
                "orientation_agreement",
                "orientation_twins_alike",
                "orientation_agreement_classifier",
            },
        ),
    ):
        assert json.loads((report.weights.parent / "metrics.json").read_text()) == report.metrics
        assert set(report.metrics["val"]) == names
        assert all(np.isfinite(value) for value in report.metrics["val"].values())
    assert built.inpainter.metrics["pairs"] == 36
    assert built.landmarks.metrics["faces"] == 72
    assert not list(built.home.glob(".*checkpoint*"))


def test_what_was_trained_can_be_judged_on_other_people(built: Built) -> None:
    painted = train_inpainter.judge(
        built.faces, built.maps, built.home / "inpainter", params=PARAMS, split="val"
    )
    found = train_landmarks.judge(
        built.faces,
        built.maps,
        built.home / "landmarks",
        params=PARAMS,
        inpainter=built.home / "inpainter",
        split="val",
    )

    assert painted == pytest.approx(built.inpainter.metrics["val"], rel=1e-4)
    assert found == pytest.approx(built.landmarks.metrics["val"], rel=1e-4)
    others = train_inpainter.judge(built.faces, built.maps, built.home / "inpainter", params=PARAMS)
    assert others["psnr_masked"] != painted["psnr_masked"]


def test_the_release_is_one_graph_from_faces_to_answers_and_has_all_its_weights(built: Built) -> None:
    release = read(built.expression.release.path)
    session = ort.InferenceSession(release.onnx, providers=["CPUExecutionProvider"])
    restored = export.restore(release)

    answers = session.run(None, {"faces": np.zeros((3, 1, 96, 96), np.float32)})

    assert [answer.shape for answer in answers] == [(3, 3), (3,), (3, 5), (3, 4, 4)]
    assert export.check_parity(restored, release.onnx.read_bytes(), crop_size=96) <= export.PARITY_TOLERANCE


def test_the_release_is_judged_like_any_other(built: Built, tmp_path: Path) -> None:
    report = evaluate.run(built.expression.release.path, built.faces, tmp_path / "judged", params=PARAMS)

    assert report.metrics["n"] == 36
    assert {"masked", "unmasked", "orientation"} == set(report.metrics["slices"])


def test_landmarks_without_an_inpainter_are_trained_on_the_faces_as_they_are(
    built: Built, tmp_path: Path
) -> None:
    report = train_landmarks.run(built.faces, built.maps, tmp_path / "landmarks", params=PARAMS)

    assert "nme_masked_inpainted" not in report.metrics["val"]
    with pytest.raises(TrainingError, match=r"landmarks\.safetensors: weights of another architecture"):
        train_expression.run(
            built.faces,
            built.maps,
            tmp_path / "release",
            params=PARAMS,
            landmarks=tmp_path / "landmarks",
            lineage=LINEAGE,
        )


def test_a_network_that_needs_landmarks_says_so_and_one_that_does_not_refuses_them(
    built: Built, tmp_path: Path
) -> None:
    out, two_branch = (
        tmp_path / "out",
        PARAMS.model_copy(
            update={"expression": PARAMS.expression.model_copy(update={"model": "two_branch"})}
        ),
    )

    with pytest.raises(TrainingError, match="'landmark_split' needs landmarks and none were given"):
        train_expression.run(built.faces, built.maps, out, params=PARAMS, lineage=LINEAGE)
    with pytest.raises(TrainingError, match="'two_branch' reads no landmarks"):
        train_expression.run(
            built.faces,
            built.maps,
            out,
            params=two_branch,
            landmarks=built.home / "landmarks",
            lineage=LINEAGE,
        )
    assert not out.exists()


def test_a_table_without_drawn_twins_or_landmarks_is_refused_with_its_name(
    built: Built, tmp_path: Path
) -> None:
    table = FacesTable.read(built.faces)
    bare, real = tmp_path / "bare.parquet", tmp_path / "real.parquet"
    masked = np.array(table.column("is_masked"))
    write_table(bare, table.where(~masked).table, metadata=dict(table.metadata))
    write_table(real, table.where(masked).table, metadata=dict(table.metadata))

    with pytest.raises(TrainingError, match=r"bare\.parquet: none of 36 faces of .* is a drawn twin"):
        train_inpainter.run(bare, built.maps, tmp_path / "out", params=PARAMS)
    with pytest.raises(TrainingError, match=r"real\.parquet: none of 36 faces of .* has landmarks"):
        train_landmarks.run(real, built.maps, tmp_path / "out", params=PARAMS)


def test_landmarks_of_the_table_are_counted_from_the_edge_of_the_crop(toy_faces: Path) -> None:
    faces = load(toy_faces, split="val", classes=PARAMS.classes, data=PARAMS.data)

    expected = (FacesTable.read(toy_faces, split="val").landmarks() + 0.5) / 96
    torch.testing.assert_close(faces.landmarks, torch.from_numpy(expected))


def test_an_inpainter_whose_run_is_killed_ends_as_an_uninterrupted_one(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "inpainter"
    run_killed("train_inpainter", built.faces, built.maps, out, params=PARAMS)
    [checkpoint] = tmp_path.glob(".inpainter.checkpoint-*.safetensors")
    assert not out.exists()

    report = train_inpainter.run(built.faces, built.maps, out, params=PARAMS)

    assert report.weights.read_bytes() == built.inpainter.weights.read_bytes()
    assert not checkpoint.exists()
