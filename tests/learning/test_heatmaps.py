"""The occlusion heatmap: against arithmetic, against the definition, and with nothing to find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maskfer.errors import InputError
from maskfer.learning import heatmaps
from maskfer.learning.captum_occlusion import occlusion_map
from maskfer.learning.models.mask_classifier import MaskClassifier


def _area(covered: slice) -> int:
    return int(covered.stop - covered.start)


@pytest.mark.parametrize(("patch", "stride"), [(16, 8), (8, 8), (12, 6), (24, 12)])
def test_on_a_linear_classifier_the_map_is_the_weight_under_each_patch(patch: int, stride: int) -> None:
    weights = torch.rand(48, 48, generator=torch.Generator().manual_seed(1))
    faces = torch.ones(2, 1, 48, 48) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)

    drops = heatmaps.occlusion_sensitivity(
        lambda normalised: (normalised.squeeze(1) * weights).sum(dim=(1, 2)),
        faces,
        patch=patch,
        stride=stride,
    )

    spans = heatmaps.patches(48, patch=patch, stride=stride)
    expected = torch.stack([torch.stack([weights[down, across].sum() for across in spans]) for down in spans])
    torch.testing.assert_close(drops, torch.stack([expected, 2 * expected]), rtol=1e-3, atol=1e-3)


def test_patches_are_centred_on_the_cells_and_cut_at_the_border() -> None:
    spans = heatmaps.patches(96, patch=16, stride=8)

    assert len(spans) == 12
    assert (spans[0], spans[5], spans[-1]) == (slice(0, 12), slice(36, 52), slice(84, 96))
    assert sum(map(_area, heatmaps.patches(96, patch=8, stride=8))) == 96


def _reacting_classifier(*, grid: int) -> MaskClassifier:
    torch.manual_seed(0)
    model = MaskClassifier(width=8, grid=grid)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
    # A transformer that reacts: a patch then changes what the whole face looks like to the rest.
    nn.init.normal_(model.transformer.localisation[-1].weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize(("patch", "stride"), [(16, 8), (8, 8), (17, 8), (24, 12)])
def test_the_fast_map_of_a_mask_classifier_is_the_defined_one(patch: int, stride: int) -> None:
    model = _reacting_classifier(grid=96 // stride)
    faces = torch.rand(3, 1, 96, 96) * 255

    defined = heatmaps.occlusion_sensitivity(
        lambda normalised: model.mask_logits(model.block1(normalised)),
        model.normalise(faces),
        patch=patch,
        stride=stride,
    )
    fast = heatmaps.FastSensitivity(model, side=96, patch=patch, stride=stride)(faces)

    assert defined.std() > 0
    torch.testing.assert_close(fast, defined, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("patch", "stride"), [(16, 8), (8, 8), (17, 8), (24, 12)])
def test_captum_finds_the_defined_map(patch: int, stride: int) -> None:
    model = _reacting_classifier(grid=48 // stride)
    faces = model.normalise(torch.rand(2, 1, 48, 48) * 255)

    def mask_logits(normalised: Tensor) -> Tensor:
        return model.mask_logits(model.block1(normalised))

    defined = heatmaps.occlusion_sensitivity(mask_logits, faces, patch=patch, stride=stride)
    captum = occlusion_map(mask_logits, faces, patch=patch, stride=stride, per_pass=7)

    # Captum gives each pixel the mean over the patches that cover it.
    total, count = torch.zeros(2, 48, 48), torch.zeros(48, 48)
    spans = heatmaps.patches(48, patch=patch, stride=stride)
    for row, down in enumerate(spans):
        for column, across in enumerate(spans):
            total[:, down, across] += defined[:, row, column].view(2, 1, 1)
            count[down, across] += 1
    assert defined.std() > 0
    torch.testing.assert_close(captum, total / count, atol=1e-6, rtol=1e-4)


def test_captum_is_not_asked_for_patches_with_gaps() -> None:
    with pytest.raises(
        InputError, match=r"heatmap\.patch 4: captum needs at least heatmap\.stride, which is 8"
    ):
        occlusion_map(lambda faces: faces.sum(dim=(1, 2, 3)), torch.zeros(1, 1, 16, 16), patch=4, stride=8)


@pytest.mark.parametrize(("layers", "cells"), [("block1", 12), ("block2", 6)])
def test_the_features_of_a_face_lie_where_the_face_is(layers: str, cells: int) -> None:
    # Were every strided layer to start at the upper left corner, they would lie half a cell too far.
    block = getattr(MaskClassifier(width=8), layers).eval()
    channels, side = (1, 96) if layers == "block1" else (8, 12)
    for parameter in block.parameters():
        nn.init.ones_(parameter)

    @torch.inference_mode()
    def center(column: int) -> float:
        stripe = torch.zeros(1, channels, side, side)
        stripe[..., column] = 1
        weight = (block(stripe) - block(torch.zeros_like(stripe))).sum(dim=(0, 1, 2))
        return float((weight * (torch.arange(cells) + 0.5)).sum() / weight.sum())

    columns = range(side // 4, 3 * side // 4)
    offsets = [center(column) - (column + 0.5) * cells / side for column in columns]
    assert sum(offsets) / len(offsets) == pytest.approx(0, abs=0.1)


def _box(value: float) -> Tensor:
    drops = torch.zeros(1, 12, 12)
    drops[0, 6:11, 3:9] = value
    return drops


def test_the_heatmap_passes_a_half_where_the_sensitivity_is_at_the_center() -> None:
    drops = _box(2.0)
    drops[0, 5, 3:9] = 1.0

    attention = heatmaps.attention(drops, center=0.5, gain=8, floor=0.1)

    assert attention[0, 8, 5] == pytest.approx(torch.sigmoid(torch.tensor(4.0)).item())
    assert attention[0, 5, 5] == pytest.approx(0.5)
    assert attention[0, 0, 0] == pytest.approx(torch.sigmoid(torch.tensor(-4.0)).item())


def test_a_face_without_a_mask_gets_no_heat_from_noise() -> None:
    masked = torch.ones(8, dtype=torch.bool)
    floor = heatmaps.sensitivity_floor(_box(2.0).repeat(8, 1, 1), masked)

    attention = heatmaps.attention(_box(0.05), center=0.5, gain=8, floor=floor)

    assert floor == pytest.approx(1.5)
    assert attention.max() < 0.05


def test_iou_is_one_on_the_region_itself_and_falls_with_what_is_missed() -> None:
    cells = torch.zeros(1, 12, 12)
    cells[0, 6:, :] = 1
    region = heatmaps.upsampled(cells, 96) > 0.5
    half = cells.clone()
    half[0, 9:, :] = 0

    assert heatmaps.region_iou(cells, region) == 1
    assert heatmaps.region_iou(half, region) == pytest.approx(0.5, abs=0.05)


def test_a_cell_holds_the_share_of_it_that_the_region_covers() -> None:
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, 8:, :12] = True

    assert heatmaps.region_heatmaps(region.float(), cells=2).tolist() == [[[0, 0], [1, 0.5]]]
