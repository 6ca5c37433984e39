"""Faces lie alike before their expression is read, however they lay in the crop."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskfer.faces.shape import five_of
from maskfer.learning.augment import Jitter, random_warps, warp, warp_landmarks
from maskfer.learning.models.aligned import AlignedNet, five_points, similarity
from maskfer.learning.models.expression import ExpressionNet, ExpressionReading, FaceContext

JITTER = Jitter(shift=0.1, scale=0.2, rotation_deg=25.0, mirror=0.0)


class Recording(ExpressionNet):
    """Keeps what it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, FaceContext]] = []

    def forward(self, faces: Tensor, context: FaceContext) -> ExpressionReading:
        self.seen.append((faces, context))
        return ExpressionReading(faces.flatten(1)[:, :3], ())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _landmarks(count: int) -> Tensor:
    """The same face each time; its five points lie where aligned ones do."""
    landmarks = torch.rand((1, 68, 2), generator=_generator())
    places = AlignedNet(Recording()).places
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
    network = AlignedNet(Recording())

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


def test_five_points_of_a_face_come_as_near_as_they_can() -> None:
    places = AlignedNet(Recording()).places
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
    places = AlignedNet(Recording()).places

    theta = similarity(torch.full((1, 5, 2), 0.5), places)

    assert theta[0, 0, 0] == theta[0, 1, 1] > 0
    assert theta[0, 0, 1] == theta[0, 1, 0] == 0


def test_the_five_points_are_those_that_the_dataset_is_built_by() -> None:
    landmarks = torch.rand((3, 68, 2), generator=_generator())

    points = five_points(landmarks)

    for face, found in zip(landmarks, points, strict=True):
        np.testing.assert_allclose(found.numpy(), five_of(face.numpy()), atol=1e-6)
