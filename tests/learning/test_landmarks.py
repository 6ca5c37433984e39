"""Landmarks: their loss and error, the orientation read from them, what teaches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from maskfer.faces.orientation import orientation_of
from maskfer.faces.shape import fit_mean_face
from maskfer.labels import ORIENTATIONS
from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.landmarks import normalised_mean_error, wing_loss
from maskfer.learning.models.inpainting import InpaintingGenerator
from maskfer.learning.models.landmark_net import LandmarkNet, LandmarkReader, orientation_probabilities
from maskfer.learning.models.mask_classifier import MaskClassifier
from maskfer.learning.tasks.landmarks import LandmarkTask, taught
from maskfer.learning.training import Plan, Trainer

CPU = torch.device("cpu")


def _task(faces: Faces, *, inpainting: bool = True) -> LandmarkTask:
    torch.manual_seed(0)
    network = LandmarkNet(side=32, width=8)
    network.start_from(faces.landmarks[taught(faces)].mean(dim=0))
    return LandmarkTask(
        network,
        MaskClassifier(grid=4, width=8),
        InpaintingGenerator(width=4) if inpainting else None,
        faces,
        faces,
        batch_size=16,
        device=CPU,
    )


def _points(count: int = 5) -> Tensor:
    return torch.rand(count, 68, 2, generator=torch.Generator().manual_seed(0))


def test_the_wing_is_nothing_at_the_truth_one_at_its_width_and_straight_from_there() -> None:
    truth = _points()

    off = [wing_loss(truth + error, truth).item() for error in (0.0, 0.04, 0.08, 0.12)]

    assert off[:2] == pytest.approx([0, 1], abs=1e-4)
    assert off[3] - off[2] == pytest.approx(off[2] - off[1], rel=1e-3)


def test_the_wing_is_steepest_at_small_errors() -> None:
    truth = torch.zeros(1, 68, 2)
    slopes = []
    for error in (0.001, 0.03):
        answers = torch.full((1, 68, 2), error, requires_grad=True)
        wing_loss(answers, truth).backward()  # type: ignore[no-untyped-call]
        assert answers.grad is not None
        slopes.append(answers.grad.mean().item())

    assert slopes[0] > 3 * slopes[1]


def test_the_error_is_in_distances_between_the_outer_corners_of_the_eyes() -> None:
    truth = torch.zeros(2, 68, 2)
    truth[:, 45] = torch.tensor([0.3, 0.4])

    answers = truth + torch.tensor([0.05, 0.0])

    assert normalised_mean_error(answers, truth) == pytest.approx(0.1)


def test_the_orientation_of_landmarks_is_that_of_the_rule_that_labels_the_dataset() -> None:
    rng = np.random.default_rng(0)
    five = np.array([[34, 38], [62, 38], [48, 56], [38, 72], [58, 72]], np.float32)
    faces = fit_mean_face(five) * rng.uniform(0.7, 1.2, (300, 1, 2))
    faces[:, 27:36] += rng.uniform(-12, 12, (300, 1, 2))
    faces += rng.normal(0, 0.5, faces.shape)
    # Rolled, as x + iy; the rule knows no roll.
    turned = (faces[..., 0] + 1j * faces[..., 1]) * np.exp(1j * rng.uniform(-0.5, 0.5, (300, 1)))
    landmarks = np.stack([turned.real, turned.imag], axis=2).astype(np.float32)

    answers = orientation_probabilities(torch.from_numpy(landmarks) / 96, side=96)

    expected = [orientation_of(one) for one in landmarks]
    assert [ORIENTATIONS[index] for index in answers.argmax(dim=1)] == expected
    assert len(set(expected)) == len(ORIENTATIONS)
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(300))


def test_a_network_starts_from_the_mean_face(twins: Callable[..., Faces]) -> None:
    faces = twins()
    network = LandmarkNet(side=32, width=8)

    network.start_from(faces.landmarks.mean(dim=0))

    answers = network.eval()(faces.batch(torch.arange(4)))
    torch.testing.assert_close(answers, faces.landmarks.mean(dim=0).expand(4, 68, 2), atol=0.05, rtol=0)


@pytest.mark.parametrize("inpainting", [False, True])
def test_a_few_epochs_bring_the_landmarks_nearer(twins: Callable[..., Faces], inpainting: bool) -> None:
    task = _task(twins(), inpainting=inpainting)

    reports = list(Trainer(task, Plan(6, task.steps_per_epoch, 5e-3), seed=0, device=CPU).epochs())

    assert reports[-1].loss < reports[0].loss
    figures = reports[-1].metrics
    assert ("nme_masked_inpainted" in figures) == inpainting
    assert 0 < figures["nme_masked"] < 1
    assert 0 <= figures["orientation_agreement"] <= 1


def test_figures_of_what_is_not_there_are_left_out(twins: Callable[..., Faces]) -> None:
    faces = twins(8)
    task = _task(faces, inpainting=False)
    task.val = replace(faces, twins=torch.full_like(faces.twins, UNKNOWN))  # real masks: nothing known

    figures = task.validate(task.model)

    assert "nme_masked" not in figures
    assert "orientation_agreement" not in figures
    assert figures["score"] == pytest.approx(1 - figures["nme_unmasked"])


def test_what_was_guessed_through_a_real_mask_teaches_nothing(twins: Callable[..., Faces]) -> None:
    faces = twins(4)
    real = replace(faces, twins=torch.full_like(faces.twins, UNKNOWN))
    missing = faces.landmarks.clone()
    missing[2, 30, 0] = torch.nan

    assert taught(faces).all()
    assert taught(real).tolist() == [True] * 4 + [False] * 4
    assert taught(replace(faces, landmarks=missing)).sum() == 7


def test_a_reader_paints_over_the_mask_before_it_reads(twins: Callable[..., Faces]) -> None:
    torch.manual_seed(0)
    faces = twins(2).batch(torch.arange(4))
    network, heatmap = LandmarkNet(side=32, width=8), torch.ones(4, 4, 4)
    inpainter = InpaintingGenerator(width=4)
    reader = LandmarkReader(network, inpainter=inpainter).eval()

    with torch.inference_mode():
        torch.testing.assert_close(reader(faces, heatmap), network(inpainter(faces, heatmap)))
        # Without a mask nothing is painted.
        torch.testing.assert_close(reader(faces, torch.zeros(4, 4, 4)), network(faces))
        assert (reader(faces, heatmap) - network(faces)).abs().max() > 0
