"""What is read off a photograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from maskfer.masking.light import blur_sigma, grain_sigma, is_grey, picture_white, read_light


@pytest.mark.parametrize("sigma", [0.8, 1.5, 2.5])
def test_blur_is_measured_on_an_edge(sigma):
    edge = np.zeros((60, 60), np.uint8)
    edge[:, 30:] = 200
    blurred = cv2.GaussianBlur(edge, (0, 0), sigma)
    # Three quarters, so that the mask is never softer than the face; a sharp edge is a pixel wide at least.
    assert abs(blur_sigma(blurred) - 0.75 * sigma) < 0.25


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
def test_grain_is_measured_on_a_surface(sigma):
    noisy = np.clip(128 + np.random.default_rng(0).normal(0, sigma, (120, 120)), 0, 255).astype(np.uint8)
    assert grain_sigma(noisy) == pytest.approx(sigma, rel=0.25)


def test_a_grey_picture_is_told_from_a_coloured_one(frontal):
    grey = np.repeat(cv2.cvtColor(frontal.image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    _, lossy = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert is_grey(grey)
    assert is_grey(cv2.imdecode(lossy, cv2.IMREAD_COLOR))
    assert not is_grey(frontal.image)


def test_dark_skin_in_a_bright_room_is_well_lit_and_a_dark_room_is_not():
    face = np.array([[10.0, 10], [90, 10], [90, 90], [10, 90]])
    skin = np.full((100, 100), 70, np.uint8)
    lips = np.array([[40.0, 60], [60, 60], [50, 70]])
    bright = read_light(skin, face, lips, picture_white=245.0)
    dark = read_light(skin, face, lips, picture_white=80.0)
    assert bright.gain > 0.9
    assert dark.gain < 0.7


def test_picture_white_is_what_one_pixel_in_twenty_exceeds():
    image = np.full((200, 200, 3), 30, np.uint8)
    image[:, :20] = 220
    assert picture_white(image) == 220
