"""What ships answers as what was trained, and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from maskfer import golden
from maskfer.errors import ReleaseError, TrainingError
from maskfer.inference import OUTPUTS, Analyzer
from maskfer.labels import ORIENTATIONS
from maskfer.learning import export
from maskfer.learning.models.two_branch import TwoBranchNet
from maskfer.release import Release


@pytest.fixture(scope="module")
def session(tiny_release: Release) -> ort.InferenceSession:
    return ort.InferenceSession(tiny_release.onnx, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_graph_answers_a_batch_of_any_size_as_the_contract_says(
    session: ort.InferenceSession, count: int
) -> None:
    faces = np.random.default_rng(count).uniform(0, 255, (count, 1, 96, 96)).astype(np.float32)

    names = [output.name for output in session.get_outputs()]
    expression, masked, orientation, heatmap = session.run(None, {"faces": faces})

    assert names == ["expression", "masked", "orientation", "heatmap"]
    assert expression.shape == (count, 3)
    assert masked.shape == (count,)
    assert orientation.shape == (count, len(ORIENTATIONS))
    assert heatmap.shape == (count, 12, 12)
    np.testing.assert_allclose(expression.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(orientation.sum(axis=1), 1, atol=1e-5)
    assert ((masked > 0) & (masked < 1)).all()
    assert ((heatmap > 0) & (heatmap < 1)).all()


def test_the_network_restored_from_a_release_alone_answers_as_its_graph(tiny_release: Release) -> None:
    difference = export.check_parity(
        export.restore(tiny_release), tiny_release.onnx.read_bytes(), crop_size=96
    )

    assert difference <= export.PARITY_TOLERANCE


def test_a_release_carries_its_graphs_answers_to_the_golden_faces(tiny_release: Release) -> None:
    assert {f"golden/{name}.npy" for name in ("faces", *OUTPUTS)} <= set(tiny_release.files)
    golden.check(Analyzer(tiny_release))


def test_a_graph_that_answers_differently_is_refused(tiny_release: Release) -> None:
    model = export.restore(tiny_release)
    assert isinstance(model.expression, TwoBranchNet)
    with torch.no_grad():
        model.expression.unmasked_branch.head[-1].bias[0] += 1

    with pytest.raises(TrainingError, match="'expression' differs from the model"):
        export.check_parity(model, tiny_release.onnx.read_bytes(), crop_size=96)


def test_weights_of_another_architecture_are_refused_with_one_line(tiny_release: Release) -> None:
    other = TwoBranchNet(classes=8, width=8)

    with pytest.raises(TrainingError, match=r"model\.safetensors: weights of another architecture") as caught:
        export.load_weights(other, tiny_release.weights)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_weights_is_refused_with_one_line(tiny_release: Release, tmp_path: Path) -> None:
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(tiny_release.weights.read_bytes()[:1000])

    with pytest.raises(TrainingError, match=r"model\.safetensors: the file is damaged") as caught:
        export.load_weights(TwoBranchNet(classes=3, width=8), damaged)
    assert "\n" not in str(caught.value)


def test_a_release_with_parameters_of_another_version_is_refused_with_one_line(tiny_release: Release) -> None:
    metadata = tiny_release.metadata.model_copy(update={"params": {"heatmap": {"sharpness": 3}}})
    other = replace(tiny_release, metadata=metadata)

    with pytest.raises(
        ReleaseError, match=r"model\.json: params\.heatmap\.sharpness: .* train it again"
    ) as caught:
        export.restore(other)
    assert "\n" not in str(caught.value)
