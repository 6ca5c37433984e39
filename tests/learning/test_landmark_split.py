"""Approach 1's classifier: what lies above the landmark and what lies below go separate ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from maskfer.config import ExpressionModel, Params
from maskfer.learning import architecture
from maskfer.learning.faces import Faces
from maskfer.learning.models.expression import FaceContext
from maskfer.learning.models.landmark_net import LandmarkNet, LandmarkReader, orientation_probabilities
from maskfer.learning.models.landmark_split import LandmarkSplitNet, upper_share
from maskfer.learning.models.mask_aware import MaskAwareNet
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.tasks.expression import ExpressionLoss, ExpressionTask
from maskfer.learning.training import Plan, Trainer

CPU = torch.device("cpu")


def _split_at(*heights: float) -> FaceContext:
    landmarks = torch.zeros(len(heights), 68, 2)
    landmarks[:, 28, 1] = torch.tensor(heights)
    return FaceContext(torch.zeros(len(heights), 4, 4), landmarks)


def _faces(count: int = 4, side: int = 32) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)) * 255


def _net(**options: float) -> LandmarkSplitNet:
    torch.manual_seed(0)
    return LandmarkSplitNet(classes=3, width=8, **options)  # type: ignore[arg-type]


def test_the_split_is_at_landmark_29_counted_from_one_and_shares_the_row_it_crosses() -> None:
    landmarks = _split_at(0.5, 5.25 / 8, -1.0, 2.0).landmarks
    assert landmarks is not None

    shares = upper_share(landmarks, 8)[:, 0, :, 0]

    torch.testing.assert_close(
        shares,
        torch.tensor([[1.0] * 4 + [0] * 4, [1] * 5 + [0.25, 0, 0], [0] * 8, [1] * 8]),
    )


def test_each_branch_sees_its_own_part_of_the_picture() -> None:
    model, faces, context = _net().eval(), _faces(1), _split_at(0.5)
    below = faces.clone()
    below[:, :, 16:] = 0

    with torch.inference_mode():
        (_, unmasked, masked), (_, unmasked_2, masked_2) = (
            model(faces, context).heads,
            model(below, context).heads,
        )

    torch.testing.assert_close(unmasked.logits, unmasked_2.logits)
    assert (masked.logits - masked_2.logits).abs().max() > 1e-4


def test_faces_of_a_batch_are_split_each_at_its_own_landmark() -> None:
    model, faces = _net().eval(), _faces(3)

    with torch.inference_mode():
        together = model(faces, _split_at(0.3, 0.5, 0.7)).answer
        alone = torch.cat(
            [model(faces[i : i + 1], _split_at(y)).answer for i, y in enumerate((0.3, 0.5, 0.7))]
        )

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_answer_and_the_loss_weigh_both_branches() -> None:
    model = _net(masked_branch_weight=0.25).eval()

    with torch.inference_mode():
        answer, heads, _ = model(_faces(), _split_at(*[0.5] * 4))

    whole, unmasked, masked = heads
    torch.testing.assert_close(answer, 0.75 * unmasked.logits + 0.25 * masked.logits)
    assert [whole.weight, unmasked.weight, masked.weight] == [0.5, 0.375, 0.125]


def test_every_parameter_gets_a_gradient() -> None:
    model = _net(dropout=0.0)

    reading = model(_faces(side=96), _split_at(0.4, 0.5, 0.5, 0.6))
    torch.stack([head.logits.square().sum() for head in reading.heads]).sum().backward()

    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_a_few_epochs_lower_the_loss_on_landmarks_of_the_augmented_batch(twins: Callable[..., Faces]) -> None:
    faces = twins()
    reader = LandmarkReader(LandmarkNet(side=32, width=8))
    reader.network.start_from(faces.landmarks.mean(dim=0))
    task = ExpressionTask(
        _net(),
        MaskClassifier(grid=4, width=8),
        faces,
        faces,
        classes=3,
        batch_size=16,
        device=CPU,
        weights=ExpressionLoss(prior_strength=0.5, label_smoothing=0.1, consistency=0.5),
        landmarks=reader,
    )
    before = {name: value.clone() for name, value in reader.state_dict().items()}

    reports = list(Trainer(task, Plan(6, task.steps_per_epoch, 1e-2), seed=0, device=CPU).epochs())

    assert reports[-1].loss < 0.9 * reports[0].loss
    for name, value in reader.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=f"{name} is frozen")


def test_a_release_with_a_landmark_network_reads_the_orientation_from_its_landmarks() -> None:
    reader = LandmarkReader(LandmarkNet(side=32, width=8))
    model = MaskAwareNet(
        mask_classifier=MaskClassifier(grid=4, width=8), expression=_net(), landmarks=reader
    ).eval()

    with torch.inference_mode():
        answers = model(_faces())
        landmarks = reader(_faces(), answers.heatmap)

    torch.testing.assert_close(answers.orientation, orientation_probabilities(landmarks, side=32))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("name", get_args(ExpressionModel))
def test_what_a_network_needs_is_known_without_making_it(name: str, aligned: bool) -> None:
    params = Params.model_validate({"expression": {"model": name, "aligned": aligned}})

    assert architecture.expression_classifier(params).needs_landmarks == params.expression.reads_landmarks
    assert params.expression.reads_landmarks or not params.expression.inpaints
