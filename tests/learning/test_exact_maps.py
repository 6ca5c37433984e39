"""The exact maps of a split: every face's own, in the table's order, and what a file keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskfer.learning import exact_maps, heatmaps
from maskfer.learning.models.mask_classifier import MaskClassifier
from tests.learning.faces import make_twins


def test_each_face_gets_its_own_map_whichever_core_made_it(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    classifier = MaskClassifier(width=8, grid=4).eval()
    faces = make_twins(40, side=96)  # two chunks

    drops = exact_maps.sensitivity(classifier, faces, patch=24, stride=24)

    with torch.inference_mode():
        expected = heatmaps.occlusion_sensitivity(
            lambda normalised: classifier.mask_logits(classifier.block1(normalised)),
            classifier.normalise(faces.batch(torch.arange(80))),
            patch=24,
            stride=24,
        )
    assert drops.shape == (80, 4, 4)
    torch.testing.assert_close(drops, expected, rtol=1e-3, atol=1e-4)
    assert "occlusion maps of 80 faces: 100 %" in capsys.readouterr().out


def test_a_map_is_a_byte_a_cell_row_by_row() -> None:
    (kept,) = exact_maps.as_bytes(torch.tensor([[[0.0, 1.0], [0.5, 0.2]]]))

    np.testing.assert_array_equal(np.frombuffer(kept, np.uint8), [0, 255, 128, 51])
