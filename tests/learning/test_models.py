"""Every network: shapes as annotated, no dead parameter, probabilities that are some."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from maskfer.learning.models.attention import AttentionPool, LightAttentionBranch, SpatialTransformer
from maskfer.learning.models.backbones import SmallResNet, fold_norms
from maskfer.learning.models.expression import FaceContext
from maskfer.learning.models.mask_aware import MaskAwareNet
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.models.two_branch import TwoBranchNet


def _seeded(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _faces(count: int = 4, side: int = 96) -> Tensor:
    return _seeded((count, 1, side, side)) * 255


def _mask_classifier_loss() -> tuple[nn.Module, Tensor]:
    model = MaskClassifier(width=8)
    faces = _faces()
    answers = (*model(faces), model.mask_logits(model.shallow_features(faces)))
    return model, torch.stack([answer.square().sum() for answer in answers]).sum()


def _two_branch_loss() -> tuple[nn.Module, Tensor]:
    model = TwoBranchNet(classes=3, width=8, dropout=0.0)
    reading = model(_faces(), FaceContext(_seeded((4, 12, 12))))
    return model, torch.stack([head.logits.square().sum() for head in reading.heads]).sum()


def _transformer_loss() -> tuple[nn.Module, Tensor]:
    model = SpatialTransformer(8)
    return model, model(_seeded((4, 8, 24, 24))).square().sum()


def _backbone_loss() -> tuple[nn.Module, Tensor]:
    model = SmallResNet(width=8)
    return model, model(_faces()).square().sum()


def _branch_loss() -> tuple[nn.Module, Tensor]:
    model = LightAttentionBranch(8, 3, width=16, dropout=0.0)
    return model, model(_seeded((4, 8, 12, 12))).square().sum()


@pytest.mark.parametrize(
    "made",
    [_mask_classifier_loss, _two_branch_loss, _transformer_loss, _backbone_loss, _branch_loss],
    ids=lambda made: made.__name__.strip("_"),
)
def test_every_parameter_gets_a_gradient(made: object) -> None:
    assert callable(made)
    torch.manual_seed(0)
    model, loss = made()

    loss.backward()

    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert dead == []


@pytest.mark.parametrize(("side", "grid"), [(96, 12), (96, 8), (64, 8), (128, 32)])
def test_the_whole_network_answers_probabilities_at_any_crop_size_and_raster(side: int, grid: int) -> None:
    model = MaskAwareNet(
        mask_classifier=MaskClassifier(grid=grid, width=8), expression=TwoBranchNet(classes=8, width=8)
    ).eval()

    with torch.inference_mode():
        answers = model(_faces(3, side))

    assert answers.expression.shape == (3, 8)
    assert answers.heatmap.shape == (3, grid, grid)
    torch.testing.assert_close(answers.expression.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(answers.orientation.sum(dim=1), torch.ones(3))
    assert ((answers.masked > 0) & (answers.masked < 1)).all()
    assert ((answers.heatmap > 0) & (answers.heatmap < 1)).all()


def test_a_fresh_spatial_transformer_hardly_moves_anything() -> None:
    torch.manual_seed(0)
    features = _seeded((2, 8, 12, 12))

    moved = SpatialTransformer(8).eval()(features)

    assert (moved - features).abs().max() < 0.05


def test_a_fresh_attention_pool_is_the_mean() -> None:
    features = _seeded((2, 8, 6, 6))

    torch.testing.assert_close(AttentionPool(8)(features), features.mean(dim=(2, 3)))


def test_where_the_heatmap_is_zero_the_branch_on_the_mask_sees_nothing() -> None:
    model = TwoBranchNet(classes=3, width=8).eval()

    with torch.inference_mode():
        _, unmasked, masked = model(_faces(5), FaceContext(torch.zeros(5, 12, 12))).heads

    torch.testing.assert_close(masked.logits, masked.logits[:1].expand(5, 3))
    assert unmasked.logits.std(dim=0).sum() > 0


def test_the_answer_weighs_both_branches() -> None:
    model = TwoBranchNet(classes=3, width=8, masked_branch_weight=0.25).eval()

    with torch.inference_mode():
        reading = model(_faces(), FaceContext(_seeded((4, 12, 12))))

    _, unmasked, masked = reading.heads
    torch.testing.assert_close(reading.answer, 0.75 * unmasked.logits + 0.25 * masked.logits)


def test_folding_the_normalisations_changes_no_answer() -> None:
    model = TwoBranchNet(classes=3, width=8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    folded = fold_norms(model)
    context = FaceContext(_seeded((4, 12, 12)))

    with torch.inference_mode():
        torch.testing.assert_close(
            folded(_faces(), context).answer,
            model.eval()(_faces(), context).answer,
            atol=1e-5,
            rtol=1e-4,
        )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


_CHECKED = """
from jaxtyping import install_import_hook
with install_import_hook("maskfer.learning.models", "beartype.beartype"):
    from maskfer.learning.models.baselines import acnn, deep_emotion, mobilenet, oadn, ran, vgg19
    from maskfer.learning.models.expression import FaceContext
    from maskfer.learning.models.inpainting import InpaintingGan
    from maskfer.learning.models.landmark_net import LandmarkNet, LandmarkReader
    from maskfer.learning.models.landmark_split import LandmarkSplitNet
    from maskfer.learning.models.mask_aware import MaskAwareNet
    from maskfer.learning.models.mask_classifier import MaskClassifier
    from maskfer.learning.models.two_branch import OneBranchNet, TwoBranchNet
import torch
faces, context = torch.rand(2, 1, 96, 96), FaceContext(torch.rand(2, 12, 12), torch.rand(2, 68, 2))
for network in (
    OneBranchNet(classes=3, attention="unmasked", width=8),
    vgg19.VGG19Net(classes=3, width=1 / 8),
    mobilenet.MobileNet(classes=3, width=1 / 8),
    deep_emotion.DeepEmotionNet(classes=3),
    acnn.ACNNNet(classes=3, whole_face=True, width=1 / 8),
    ran.RANNet(classes=3, width=1 / 8),
    oadn.OADNNet(classes=3, width=1 / 8),
):
    network(faces, context)
model = MaskAwareNet(mask_classifier=MaskClassifier(width=8), expression=TwoBranchNet(classes=3, width=8))
model(torch.rand(2, 1, 96, 96))
gan = InpaintingGan(width=4)
gan.judge(torch.rand(2, 1, 96, 96), torch.rand(2, 1, 96, 96) > 0.5)
MaskAwareNet(
    mask_classifier=MaskClassifier(width=8),
    expression=LandmarkSplitNet(classes=3, width=8),
    landmarks=LandmarkReader(LandmarkNet(width=8), inpainter=gan.generator),
)(torch.rand(2, 1, 96, 96))
try:
    model(torch.rand(2, 3, 96, 96))
except Exception as error:
    assert "faces" in str(error), error
else:
    raise AssertionError("three channels went through")
"""


def test_the_annotated_shapes_are_true() -> None:
    subprocess.run([sys.executable, "-c", _CHECKED], check=True, timeout=120)
