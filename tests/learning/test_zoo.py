"""Every expression network that the stage can train: alive, true to its paper, and shipped as trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskfer.learning import cost, export
from maskfer.learning.models.aligned import AlignedNet
from maskfer.learning.models.backbones import FaceResNet, FaceTail, fold_norms, resnet18, vgg19
from maskfer.learning.models.baselines.acnn import ACNNNet, PatchUnits, patches
from maskfer.learning.models.baselines.deep_emotion import DeepEmotionNet
from maskfer.learning.models.baselines.mobilenet import MobileNet
from maskfer.learning.models.baselines.oadn import OADNNet, is_bare, point_maps
from maskfer.learning.models.baselines.points import POINTS, expression_points
from maskfer.learning.models.baselines.ran import RANNet, region_biased_loss, regions
from maskfer.learning.models.baselines.vgg19 import VGG19Net
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head
from maskfer.learning.models.grid_branch import GridBranch
from maskfer.learning.models.mask_aware import MaskAwareNet
from maskfer.learning.models.mask_classifier import MaskReading
from maskfer.learning.models.two_branch import OneBranchNet, TwoBranchNet

NARROW = 1 / 8

ZOO: dict[str, Callable[[], ExpressionNet]] = {
    "two_branch": lambda: TwoBranchNet(classes=3, width=8, dropout=0.0, spatial_transformer=True),
    "resnet18": lambda: TwoBranchNet(
        classes=3, width=8, backbone=resnet18(stages=2, width=NARROW), dropout=0.0
    ),
    "vgg19_cut": lambda: TwoBranchNet(
        classes=3, width=8, backbone=vgg19(blocks=4, width=NARROW), dropout=0.0
    ),
    "unmasked": lambda: OneBranchNet(classes=3, attention="unmasked", width=8, dropout=0.0),
    "none": lambda: OneBranchNet(classes=3, attention="none", width=8, dropout=0.0),
    "vgg19": lambda: VGG19Net(classes=3, width=NARROW, dropout=0.0),
    "mobilenet": lambda: MobileNet(classes=3, width=NARROW, dropout=0.0),
    "deep_emotion": lambda: DeepEmotionNet(classes=3, dropout=0.0),
    "pacnn": lambda: ACNNNet(classes=3, whole_face=False, width=NARROW, dropout=0.0),
    "gacnn": lambda: ACNNNet(classes=3, whole_face=True, width=NARROW, dropout=0.0),
    "ran": lambda: RANNet(classes=3, width=NARROW, dropout=0.0),
    "oadn": lambda: OADNNet(classes=3, width=NARROW, dropout=0.0),
    "aligned": lambda: AlignedNet(TwoBranchNet(classes=3, width=8, dropout=0.0), classes=3, dropout=0.0),
    "aligned_face_resnet": lambda: AlignedNet(
        TwoBranchNet(
            classes=3,
            width=8,
            backbone=FaceResNet(),
            unmasked_branch=GridBranch(FaceTail(), 3, cells=5, dropout=0.0),
            dropout=0.0,
        ),
        classes=3,
        dropout=0.0,
        side=80,
        spread=1.4,
    ),
    "aligned_gacnn": lambda: AlignedNet(
        ACNNNet(classes=3, whole_face=True, width=NARROW, dropout=0.0), classes=3, dropout=0.0
    ),
}


def _made(name: str) -> ExpressionNet:
    torch.manual_seed(0)
    return ZOO[name]()


def _seeded(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _faces(count: int = 4) -> Tensor:
    return _seeded(count, 1, 96, 96) * 255


def _context(count: int = 4) -> FaceContext:
    """Some of the landmarks lie outside the crop."""
    return FaceContext(_seeded(count, 12, 12), _seeded(count, 68, 2) * 1.4 - 0.2)


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = _made(name)
    reading = network(_faces(), _context())
    loss = torch.stack([head.weight * head.logits.square().sum() for head in reading.heads]).sum()

    (loss if reading.penalty is None else loss + reading.penalty).backward()

    dead = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # A softmax over places is the same with any bias of its scores: what arrives there is rounding, or none.
    assert [name for name in dead if not name.endswith("pool.score.bias")] == []


@pytest.mark.parametrize("name", ZOO)
def test_the_heads_weigh_one_together_and_the_answer_depends_on_the_face(name: str) -> None:
    network = _made(name).eval()

    with torch.inference_mode():
        reading = network(_faces(), FaceContext(torch.full((4, 12, 12), 0.5), torch.full((4, 68, 2), 0.5)))

    assert sum(head.weight for head in reading.heads) == pytest.approx(1)
    assert reading.answer.shape == (4, 3)
    assert reading.answer.std(dim=0).sum() > 0


@pytest.mark.parametrize("name", ZOO)
def test_an_accelerators_half_precision_answers_nearly_the_same(name: str) -> None:
    network = _made(name).eval()

    with torch.inference_mode():
        exact = network(_faces(), _context()).answer
        with torch.autocast("cpu", torch.bfloat16):
            reduced = network(_faces(), _context()).answer.float()

    assert (reduced - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("name", ZOO)
def test_folding_the_normalisations_changes_no_answer(name: str) -> None:
    network = _made(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    folded = fold_norms(network)

    with torch.inference_mode():
        want = network.eval()(_faces(), _context()).answer
        torch.testing.assert_close(folded(_faces(), _context()).answer, want, atol=1e-4, rtol=1e-3)
    # That of the landmarks stands before a layer, behind no convolution.
    left = [where for where, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == (["shape.layers.0"] if name.startswith("aligned") else [])


@pytest.mark.parametrize("name", [name for name in ZOO if _made(name).needs_landmarks])
@pytest.mark.parametrize("where", [-1e30, -1.0, 0.0, 1.0, 1e30])
def test_landmarks_anywhere_give_a_number(name: str, where: float) -> None:
    network = _made(name)
    context = FaceContext(_seeded(2, 12, 12), torch.full((2, 68, 2), where))

    reading = network(_faces(2), context)
    reading.answer.sum().backward()

    assert reading.answer.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


class _Reader(nn.Module):
    """A stage 1 of one layer: the exporter's time goes into what is tested."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 6)

    def forward(self, faces: Tensor) -> MaskReading:
        logits = self.layer(functional.avg_pool2d(faces, 24).flatten(1))
        heatmap = functional.avg_pool2d(faces, 8).squeeze(1) / 64 - 2
        return MaskReading(logits[:, 0], logits[:, 1:], heatmap)


class _OnDrawnLandmarks(ExpressionNet):
    """A network on landmarks that differ from face to face, some of them outside the crop."""

    def __init__(self, network: ExpressionNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("landmarks", _seeded(1, 68, 2) * 1.4 - 0.2)
        self.landmarks: Tensor

    def forward(self, faces: Tensor, context: FaceContext) -> ExpressionReading:
        moved = self.landmarks + context.heatmap.mean(dim=(1, 2)).view(-1, 1, 1) - 0.5
        reading: ExpressionReading = self.network(faces, context._replace(landmarks=moved))
        return reading


# The others' layers are all among these.
@pytest.mark.parametrize("name", ["vgg19", "mobilenet", "deep_emotion", "ran", "oadn", "aligned_gacnn"])
def test_the_exported_graph_answers_as_the_network(name: str) -> None:
    network = _made(name)
    if isinstance(network, RANNet):
        # No region seems worth a look: the logarithms of its weights are far from 0.
        nn.init.constant_(network.self_attention.bias, -200.0)
    model = MaskAwareNet(mask_classifier=_Reader(), expression=_OnDrawnLandmarks(network))  # type: ignore[arg-type]

    graph = export.to_onnx(model, crop_size=96)

    assert export.check_parity(model, graph, crop_size=96) <= export.PARITY_TOLERANCE


def test_h_u_alone_does_not_see_what_the_heatmap_covers() -> None:
    networks = {name: _made(name).eval() for name in ("unmasked", "none")}
    covered = FaceContext(torch.ones(4, 12, 12))

    with torch.inference_mode():
        spread = {name: net(_faces(), covered).answer.std(dim=0).sum() for name, net in networks.items()}

    assert spread["unmasked"] == 0
    assert spread["none"] > 0


def test_gates_lie_between_zero_and_one_and_each_point_has_its_own() -> None:
    torch.manual_seed(0)
    units = PatchUnits(8, inside=4, outputs=5)

    numbers, gates = units(_seeded(2, 1, 8, 3, 3).expand(2, 24, 8, 3, 3))

    assert numbers.shape == (2, 24, 5)
    assert ((gates > 0) & (gates < 1)).all()
    assert gates[0].unique().numel() == 24


def test_a_patch_holds_the_cells_around_its_point_and_stays_in_the_face() -> None:
    maps = torch.arange(144.0).reshape(1, 1, 12, 12)
    points = torch.full((1, 24, 2), 0.5)
    points[0, 0] = torch.tensor([2.5, 3.5]) / 12
    points[0, 1] = torch.tensor([40.0, -40.0])

    read = patches(maps, points)

    torch.testing.assert_close(read[0, 0, 0], maps[0, 0, 2:5, 1:4], atol=1e-3, rtol=0)
    torch.testing.assert_close(read[0, 1, 0, 0], torch.tensor([10.5, 11.0, 11.0]), atol=1e-3, rtol=0)


def test_the_points_are_landmarks_middles_of_pairs_and_two_beside_the_mouth() -> None:
    landmarks = _seeded(1, 68, 2)

    points = expression_points(landmarks)

    assert points.shape == (1, 24, 2)
    torch.testing.assert_close(points[0, 0], landmarks[0, 18])
    torch.testing.assert_close(points[0, 16], (landmarks[0, 19] + landmarks[0, 37]) / 2)
    torch.testing.assert_close(points[0, 22], landmarks[0, 48] - 1 / 16)


def test_a_point_outside_the_crop_has_an_empty_map_and_one_inside_a_peak_at_its_place() -> None:
    points = torch.full((1, 24, 2), 0.5)
    points[0, 0] = torch.tensor([1.01, 0.5])
    points[0, 1] = torch.tensor([0.75, 0.25])

    maps = point_maps(points, cells=6)

    assert maps[0, 0].abs().max() == 0
    assert divmod(int(maps[0, 1].argmax()), 6) == (1, 4)
    assert maps.max() <= 1


def test_a_point_under_the_mask_is_not_looked_at() -> None:
    heatmap = torch.zeros(1, 12, 12)
    heatmap[:, 6:] = 1
    points = torch.full((1, POINTS, 2), 0.25)
    points[0, 3] = torch.tensor([0.5, 0.75])

    bare = is_bare(points, heatmap)

    assert bare.logical_not().nonzero().tolist() == [[0, 3]]


def test_ran_reads_the_face_and_five_enlarged_crops_of_it() -> None:
    across = (torch.arange(96.0) + 0.5).expand(1, 1, 96, 96)
    down = across.transpose(2, 3)

    x, y = regions(across)[0, :, 0], regions(down)[0, :, 0]

    middles = torch.stack([x.mean(dim=(1, 2)), y.mean(dim=(1, 2))], dim=1)
    expected = [[48, 48], [36, 36], [60, 36], [48, 60], [48, 48], [48, 48]]
    torch.testing.assert_close(middles, torch.tensor(expected).float(), atol=0.5, rtol=0)
    widths = x[:, 0, -1] - x[:, 0, 0]
    torch.testing.assert_close(widths / 96, torch.tensor([1, 0.75, 0.75, 0.75, 0.9, 0.85]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("full", "best_crop", "penalty"), [(0.5, 0.4, 0.12), (0.5, 0.51, 0.01), (0.5, 0.7, 0.0)]
)
def test_the_region_biased_loss_asks_a_crop_to_lead_by_the_margin(
    full: float, best_crop: float, penalty: float
) -> None:
    alpha = torch.tensor([[full, 0.1, best_crop, 0.2, 0.1, 0.3]])

    assert region_biased_loss(alpha, margin=0.02).item() == pytest.approx(penalty, abs=1e-6)


class _OneConvolution(ExpressionNet):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1)
        self.read = nn.Linear(2, 3)

    def forward(self, faces: Tensor, context: FaceContext) -> ExpressionReading:
        del context
        answer = self.read(self.layer(faces).mean(dim=(2, 3)))
        return ExpressionReading(answer, (Head(answer, 1.0),))


def test_multiply_adds_and_parameters_are_what_one_counts_by_hand() -> None:
    network = _OneConvolution()

    assert cost.multiply_adds(network, crop_size=32) == 2 * 9 * 32 * 32 + 2 * 3
    assert cost.parameters(network) == (2 * 9 + 2) + (2 * 3 + 3)


def test_the_cost_of_what_ships_includes_stage_1() -> None:
    network = _OneConvolution()
    whole = MaskAwareNet(mask_classifier=_Reader(), expression=network)  # type: ignore[arg-type]

    both = cost.multiply_adds(whole, crop_size=96)

    assert both == cost.multiply_adds(network, crop_size=96) + 16 * 6
