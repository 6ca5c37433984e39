"""PSNR and SSIM against arithmetic, and only where the region is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskfer.learning.reconstruction import psnr, ssim


def _faces() -> Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 255


def _regions() -> Tensor:
    regions = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    regions[:, :, 16:28, 8:24] = True
    return regions


def test_ten_grey_levels_off_are_28_decibels() -> None:
    faces = _faces()

    assert psnr(faces + 10, faces, _regions()) == pytest.approx(20 * math.log10(25.5), abs=1e-3)


def test_between_two_plain_pictures_only_their_brightness_differs() -> None:
    first, second = torch.full((1, 1, 32, 32), 100.0), torch.full((1, 1, 32, 32), 150.0)
    small = 2.55**2

    similarity = ssim(first, second, torch.ones(1, 1, 32, 32, dtype=torch.bool))

    assert similarity == pytest.approx((2 * 100 * 150 + small) / (100**2 + 150**2 + small), abs=1e-4)


def test_equal_pictures_are_wholly_similar_and_inverted_ones_are_not() -> None:
    faces = _faces()

    assert ssim(faces, faces, _regions()) == pytest.approx(1)
    assert psnr(faces, faces, _regions()) == pytest.approx(68.13, abs=0.01)
    assert ssim(255 - faces, faces, _regions()) < 0


def test_what_lies_outside_the_region_does_not_count() -> None:
    faces = _faces()
    changed = faces.clone()
    changed[:, :, :8] = 0

    assert psnr(changed, faces, _regions()) == psnr(faces, faces, _regions())
    assert ssim(changed, faces, _regions()) == pytest.approx(1)


def test_a_face_without_a_region_does_not_count() -> None:
    faces, regions = _faces(), _regions()
    regions[0] = False
    changed = faces.clone()
    changed[0] = 0

    assert ssim(changed, faces, regions) == pytest.approx(1)
    assert psnr(changed, faces, regions) == pytest.approx(psnr(faces, faces, regions))
