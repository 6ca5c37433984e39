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


def test_twins_move_alike() -> None:
    warps = augment.random_warps(4, jitter=DEFAULT_JITTER, generator=_generator()).followed_by(3)

    torch.testing.assert_close(warps.theta[4:], warps.theta[:3])


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
