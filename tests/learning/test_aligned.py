"""Faces lie alike before their expression is read, however they lay in the crop."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from maskfer.faces.shape import five_of
from maskfer.learning.augment import Jitter, random_warps, warp, warp_landmarks
from maskfer.learning.models.aligned import AlignedNet, five_points, similarity
from maskfer.learning.models.baselines.oadn import OADNNet
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext, Head

JITTER = Jitter(shift=0.1, scale=0.2, rotation_deg=25.0, mirror=0.0)


class Recording(ExpressionNet):
    """Keeps what it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, FaceContext]] = []

    def forward(self, faces: Tensor, context: FaceContext) -> ExpressionReading:
        self.seen.append((faces, context))
        answer = faces.flatten(1)[:, :3]
        return ExpressionReading(answer, (Head(answer, 0.5), Head(2 * answer, 0.25)))


def _net() -> AlignedNet:
    return AlignedNet(Recording(), classes=3).eval()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _landmarks(count: int) -> Tensor:
    """The same face each time; its five points lie where aligned ones do."""
    landmarks = torch.rand((1, 68, 2), generator=_generator())
    places = _net().places
    landmarks[0, 36:42], landmarks[0, 42:48] = places[0], places[1]
    landmarks[0, [30, 48, 54]] = places[2:]
    return landmarks.repeat(count, 1, 1)


def _face() -> Tensor:
    """Soft spots: moved twice they are still nearly the same."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    spots = [(0.33, 0.4, 150.0), (0.66, 0.4, 90.0), (0.5, 0.75, 200.0)]
    return sum(
        (level * torch.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.02) for u, v, level in spots),
        torch.zeros(96, 96),
    ).reshape(1, 1, 96, 96)


def test_a_turned_moved_and_scaled_face_is_read_as_it_was() -> None:
    warps = random_warps(8, jitter=JITTER, generator=_generator())
    faces, landmarks = _face().repeat(8, 1, 1, 1), _landmarks(8)
    heatmaps = torch.nn.functional.avg_pool2d(faces, 8)
    network = _net()

    network(
        warp(faces, warps),
        FaceContext(warp(heatmaps, warps).squeeze(1), warp_landmarks(landmarks, warps)),
    )

    [(seen, context)] = network.network.seen  # type: ignore[union-attr]
    inner = (slice(None), slice(None), slice(24, 72), slice(24, 72))
    assert (warp(faces, warps)[inner] - faces[inner]).abs().mean() > 15
    assert (seen[inner] - faces[inner]).abs().mean() < 2
    assert context.landmarks is not None
    torch.testing.assert_close(context.landmarks, landmarks, atol=1e-4, rtol=0)
    cells = (slice(None), slice(3, 9), slice(3, 9))
    assert (context.heatmap[cells] - heatmaps.squeeze(1)[cells]).abs().mean() < 10


def test_while_training_an_aligned_face_is_moved_anew_but_not_far() -> None:
    faces, landmarks = _face().repeat(64, 1, 1, 1), _landmarks(64)
    context = FaceContext(torch.nn.functional.avg_pool2d(faces, 8).squeeze(1), landmarks)
    network = _net()

    for training in (True, True, False):
        network.train(training)(faces, context)

    first, second, still = (seen[1].landmarks for seen in network.network.seen)  # type: ignore[union-attr]
    assert first is not None
    assert second is not None
    torch.testing.assert_close(still, landmarks, atol=1e-5, rtol=0)
    for moved in (first, second):
        tip = (moved - landmarks)[:, 30]
        assert tip.abs().mean() > 0.005
        assert tip.abs().max() < 0.03
    assert (first - second).abs().mean() > 0.005
    # A point of the face and its landmark stay together.
    seen = network.network.seen[0][0]  # type: ignore[union-attr]
    read = torch.nn.functional.grid_sample(seen, 2 * first[:, None, [36, 42, 30], :] - 1, align_corners=False)
    there = torch.nn.functional.grid_sample(
        faces, 2 * landmarks[:, None, [36, 42, 30], :] - 1, align_corners=False
    )
    assert (read - there).abs().max() < 3


def test_what_the_landmarks_say_is_added_to_the_answer_and_judged_with_it() -> None:
    faces, landmarks = _face().repeat(4, 1, 1, 1), _landmarks(4)
    # Another mouth between the same five points.
    landmarks[1, 49:54, 1] -= 0.03
    network = _net()
    nn.init.normal_(network.shape.layers[-1].weight, generator=_generator())  # type: ignore[arg-type]

    reading = network(faces, FaceContext(torch.zeros(4, 12, 12), landmarks))

    [(moved, _)] = network.network.seen  # type: ignore[union-attr]
    seen = moved.flatten(1)[:, :3]
    said = reading.answer - seen
    torch.testing.assert_close(said[0], said[2])
    assert (said[0] - said[1]).abs().max() > 1e-3
    (of_answer, other) = reading.heads
    assert of_answer == (reading.answer, 0.5)
    assert other.weight == 0.25
    torch.testing.assert_close(other.logits, 2 * seen)


def test_an_answer_that_is_none_of_the_heads_is_judged_too() -> None:
    network = AlignedNet(OADNNet(classes=3, width=0.125), classes=3).eval()

    reading = network(_face(), FaceContext(torch.zeros(1, 12, 12), _landmarks(1)))

    assert reading.heads[0] == (reading.answer, 1.0)
    assert len(reading.heads) == 6


def test_five_points_of_a_face_come_as_near_as_they_can() -> None:
    places = _net().places
    points = places + torch.randn((16, 5, 2), generator=_generator()) * 0.05

    theta = similarity(points, places)

    def error(changed: Tensor) -> Tensor:
        reached = (2 * places - 1) @ changed[:, :, :2].transpose(1, 2) + changed[:, :, 2].unsqueeze(1)
        return (reached - (2 * points - 1)).square().sum(dim=(1, 2))

    best = error(theta)
    for turn in (torch.tensor([[0.0, -0.02], [0.02, 0.0]]), 0.02 * torch.eye(2)):
        for sign in (-1, 1):
            changed = theta.clone()
            changed[:, :, :2] += sign * turn
            assert (error(changed) > best).all()
    for axis in (0, 1):
        changed = theta.clone()
        changed[:, axis, 2] += 0.01
        assert (error(changed) > best).all()


def test_points_that_are_no_face_turn_nothing() -> None:
    places = _net().places

    theta = similarity(torch.full((1, 5, 2), 0.5), places)

    assert theta[0, 0, 0] == theta[0, 1, 1] > 0
    assert theta[0, 0, 1] == theta[0, 1, 0] == 0


def test_the_five_points_are_those_that_the_dataset_is_built_by() -> None:
    landmarks = torch.rand((3, 68, 2), generator=_generator())

    points = five_points(landmarks)

    for face, found in zip(landmarks, points, strict=True):
        np.testing.assert_allclose(found.numpy(), five_of(face.numpy()), atol=1e-6)
