"""Masks dressed anew: another cloth, another face's mask, and never a pixel outside the two regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from maskfer.learning.faces import UNKNOWN, Faces
from maskfer.learning.redress import Redress, Wardrobe


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _twin_rows(faces: Faces) -> torch.Tensor:
    return (faces.twins != UNKNOWN).nonzero().squeeze(1)


def _moved_regions(faces: Faces) -> Faces:
    # Every second mask sits four pixels lower, so that a borrowed one shows.
    regions, images = faces.regions.clone(), faces.images.clone()
    for row in _twin_rows(faces)[::2].tolist():
        regions[row] = faces.regions[row].roll(4, dims=0) & faces.regions[row]
        bare = images[int(faces.twins[row])]
        images[row] = torch.where(regions[row], images[row], bare)
    return replace(faces, regions=regions, images=images)


def test_without_redressing_the_twins_are_those_of_the_table(twins: Callable[..., Faces]) -> None:
    faces = twins()
    rows = _twin_rows(faces)

    dressed, regions = Wardrobe(faces).dressed(rows, redress=Redress(0, 0), generator=_generator())

    torch.testing.assert_close(dressed, faces.batch(rows))
    torch.testing.assert_close(regions.squeeze(1), faces.regions[rows])


def test_a_borrowed_mask_is_that_of_a_face_with_the_same_orientation(twins: Callable[..., Faces]) -> None:
    faces = twins(60)
    rows = _twin_rows(faces)
    # The mask's grey names the orientation of the face it was drawn on.
    images = torch.where(faces.regions, 200 + faces.orientations.view(-1, 1, 1), faces.images).byte()
    named = replace(faces, images=images)

    dressed, _ = Wardrobe(named).dressed(rows, redress=Redress(1, 0), generator=_generator())

    worn = dressed.squeeze(1)[faces.regions[rows]].reshape(len(rows), -1)
    assert (worn == 200 + faces.orientations[rows].unsqueeze(1)).all()


def test_a_face_that_borrows_shows_its_own_skin_beside_the_mask(twins: Callable[..., Faces]) -> None:
    faces = _moved_regions(twins(60))
    rows = _twin_rows(faces)

    dressed, regions = Wardrobe(faces).dressed(rows, redress=Redress(1, 0), generator=_generator())

    bare = faces.batch(faces.twins[rows])
    assert (dressed[regions] == 250).all()
    torch.testing.assert_close(dressed[~regions], bare[~regions])
    own = faces.regions[rows].unsqueeze(1)
    assert (regions != own).any(), "nobody wears another one's mask"


def test_another_cloth_changes_only_the_masks_region(twins: Callable[..., Faces]) -> None:
    faces = twins(60)
    rows = _twin_rows(faces)

    dressed, regions = Wardrobe(faces).dressed(rows, redress=Redress(0, 1), generator=_generator())

    before = faces.batch(rows)
    torch.testing.assert_close(dressed[~regions], before[~regions])
    assert (dressed[regions] - before[regions]).abs().mean() > 10
    assert 0 <= dressed.min() <= dressed.max() <= 255


def test_a_table_without_twins_has_an_empty_wardrobe(twins: Callable[..., Faces]) -> None:
    faces = twins(6)
    alone = replace(faces, twins=torch.full_like(faces.twins, UNKNOWN))

    dressed, regions = Wardrobe(alone).dressed(_twin_rows(alone), redress=Redress(), generator=_generator())

    assert dressed.shape == regions.shape == (0, 1, 32, 32)
