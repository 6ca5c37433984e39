"""Augmentation: moves what belongs together together, and draws only from its generator."""

from __future__ import annotations

import pytest
import torch

from maskfer.labels import ORIENTATIONS
from maskfer.learning import augment
from maskfer.learning.augment import DEFAULT_JITTER, Jitter, Warps
from maskfer.learning.models.backbones import MIDDLE_GREY


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _mirror(count: int) -> Warps:
    theta = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(count, 2, 3)
    return Warps(theta, torch.ones(count, dtype=torch.bool))


def test_mirroring_a_face_swaps_left_and_right_and_nothing_else() -> None:
    labels = torch.arange(5)
    swapped = augment.mirrored_orientations(labels, torch.ones(5, dtype=torch.bool))

    assert [ORIENTATIONS[index] for index in swapped] == ["up", "right", "center", "left", "down"]
    torch.testing.assert_close(
        augment.mirrored_orientations(labels, torch.zeros(5, dtype=torch.bool)), labels
    )


def test_an_unknown_orientation_stays_unknown() -> None:
    labels = torch.full((2,), -1)

    torch.testing.assert_close(augment.mirrored_orientations(labels, torch.tensor([True, False])), labels)


def test_a_mirroring_map_mirrors_the_picture() -> None:
    faces = torch.rand(2, 1, 8, 8, generator=_generator())

    torch.testing.assert_close(augment.warp(faces, _mirror(2)), faces.flip(-1))


def test_without_jitter_only_mirroring_is_left() -> None:
    still = Jitter(shift=0, scale=0, rotation_deg=0)
    faces = torch.rand(16, 1, 8, 8, generator=_generator())

    warps = augment.random_warps(16, jitter=still, generator=_generator())
    moved = augment.warp(faces, warps)

    assert 0 < warps.mirrored.sum() < 16
    torch.testing.assert_close(moved[~warps.mirrored], faces[~warps.mirrored], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved[warps.mirrored], faces[warps.mirrored].flip(-1), atol=1e-5, rtol=1e-4)


def test_maps_are_chosen_face_by_face() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (augment.random_warps(3, jitter=DEFAULT_JITTER, generator=generator) for _ in range(2))

    chosen = ours.where(torch.tensor([True, False, True]), theirs)

    assert torch.equal(chosen.theta[[0, 2]], ours.theta[[0, 2]])
    assert torch.equal(chosen.theta[1], theirs.theta[1])
    assert chosen.mirrored.tolist() == [*ours.mirrored[:1], *theirs.mirrored[1:2], *ours.mirrored[2:]]


def test_twins_move_alike() -> None:
    warps = augment.random_warps(4, jitter=DEFAULT_JITTER, generator=_generator()).followed_by(3)

    torch.testing.assert_close(warps.theta[4:], warps.theta[:3])


def _points() -> torch.Tensor:
    return torch.rand(3, 68, 2, generator=_generator())


def _warps(theta: list[list[float]], *, mirrored: bool = False) -> Warps:
    return Warps(torch.tensor(theta, dtype=torch.float32).expand(3, 2, 3), torch.full((3,), mirrored))


@pytest.mark.parametrize(
    ("index", "becomes"),
    [
        (0, 16),
        (8, 8),
        (17, 26),
        (21, 22),
        (28, 28),
        (31, 35),
        (36, 45),
        (41, 46),
        (48, 54),
        (57, 57),
        (60, 64),
    ],
)
def test_a_mirrored_face_has_its_landmarks_numbered_anew(index: int, becomes: int) -> None:
    points = _points()

    moved = augment.warp_landmarks(points, _warps([[-1, 0, 0], [0, 1, 0]], mirrored=True))

    torch.testing.assert_close(moved[:, becomes, 0], 1 - points[:, index, 0])
    torch.testing.assert_close(moved[:, becomes, 1], points[:, index, 1])


def test_mirroring_landmarks_twice_is_nothing() -> None:
    mirror, points = _warps([[-1, 0, 0], [0, 1, 0]], mirrored=True), _points()

    torch.testing.assert_close(augment.warp_landmarks(augment.warp_landmarks(points, mirror), mirror), points)


def test_a_face_that_is_read_from_further_right_moves_left() -> None:
    points = _points()

    # Coordinates of the map span two units per side.
    moved = augment.warp_landmarks(points, _warps([[1, 0, 0.2], [0, 1, 0]]))

    torch.testing.assert_close(moved, points - torch.tensor([0.1, 0.0]))


def test_a_landmark_stays_on_what_it_marks() -> None:
    jitter = Jitter(shift=0.1, scale=0.3, rotation_deg=30)
    warps = augment.random_warps(16, jitter=jitter, generator=_generator())
    # A blob around (0.6, 0.45) of the crop, the same point of each of the 68, so that numbers do not matter.
    place = torch.tensor([0.6, 0.45])
    rows = (torch.arange(64) + 0.5) / 64
    distance = (rows.view(1, -1) - place[0]).square() + (rows.view(-1, 1) - place[1]).square()
    blob = torch.exp(-distance / 0.002).expand(16, 1, 64, 64)

    moved = augment.warp(blob, warps).squeeze(1)
    landmarks = augment.warp_landmarks(place.expand(16, 68, 2), warps)

    weight = moved / moved.sum(dim=(1, 2), keepdim=True)
    found = torch.stack([(weight * rows).sum(dim=(1, 2)), (weight * rows.view(-1, 1)).sum(dim=(1, 2))], dim=1)
    torch.testing.assert_close(landmarks[:, 0], found, atol=3e-3, rtol=0)


def test_twins_are_relit_alike() -> None:
    faces = torch.rand(8, 1, 16, 16, generator=_generator()) * 255
    twins = faces.clone()
    twins[:, :, 8:] = 200

    first, second = augment.relight_alike(faces, twins, jitter=DEFAULT_JITTER, generator=_generator())

    # The blur of some faces reaches four pixels over the border.
    torch.testing.assert_close(first[:, :, :4], second[:, :, :4], rtol=0, atol=0)
    assert (first - faces).abs().mean() > 2


def test_relit_faces_stay_grey_levels_and_differ() -> None:
    faces = torch.rand(8, 1, 16, 16, generator=_generator()) * 255

    relit = augment.relight(faces, jitter=DEFAULT_JITTER, generator=_generator())

    assert relit.min() >= 0
    assert relit.max() <= 255
    assert (relit - faces).abs().mean() > 2


def test_erased_rectangles_are_plain_and_reported() -> None:
    faces = torch.rand(64, 1, 32, 32, generator=_generator()) * 255

    erased, covered = augment.erase(faces, jitter=Jitter(erase=1.0), generator=_generator())

    assert covered.flatten(1).any(dim=1).all()
    torch.testing.assert_close(erased[~covered], faces[~covered])
    levels = [erased[row][covered[row]].unique() for row in range(64)]
    assert all(len(level) == 1 for level in levels)
    assert any(level.item() == MIDDLE_GREY for level in levels)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_generator_gives_the_same_faces_and_the_global_one_is_untouched(seed: int) -> None:
    faces = torch.rand(4, 1, 16, 16, generator=_generator()) * 255
    before = torch.get_rng_state()

    first, second = (
        augment.relight(faces, jitter=DEFAULT_JITTER, generator=_generator(seed)) for _ in range(2)
    )

    torch.testing.assert_close(first, second)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_a_patchwork_is_made_of_whole_squares_in_every_share() -> None:
    chosen = augment.random_patchwork(64, 24, cells=6, generator=_generator()).float()

    shares = chosen.mean(dim=(1, 2, 3))
    assert shares.min() < 0.2
    assert shares.max() > 0.8
    # A square is four pixels wide: along a row the patchwork changes at most every four pixels.
    changes = (chosen.diff(dim=-1) != 0).sum(dim=-1)
    assert changes.max() <= 6
