"""The crop is a square around the box, and its frame knows the way back."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest

from maskfer.faces.crop import crop_face, model_input
from maskfer.faces.face import Box


def test_a_point_finds_its_way_into_the_crop_and_back() -> None:
    _, frame = crop_face(np.zeros((200, 300, 3), np.uint8), Box(40, 30, 50, 80), size=96, context=1.2)
    points = np.array([[40, 30], [65, 70], [90, 110]], np.float32)
    np.testing.assert_allclose(frame.to_image(frame.to_crop(points)), points, atol=1e-4)
    np.testing.assert_allclose(frame.to_crop(points[1:2]), [[47.5, 47.5]], atol=0.6)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_what_is_at_a_point_in_the_picture_is_at_its_point_in_the_crop(scale: float) -> None:
    image = np.zeros((int(400 * scale), int(400 * scale), 3), np.uint8)
    spot = np.array([[152.0, 132.0]], np.float32) * np.float32(scale)
    cv2.circle(image, (int(spot[0, 0]), int(spot[0, 1])), max(1, int(8 * scale)), (255, 255, 255), -1)
    box = Box(100 * scale, 80 * scale, 120 * scale, 160 * scale)
    crop, frame = crop_face(image, box, size=96, context=1.1)
    ys, xs = np.nonzero(crop[:, :, 0] > 127)
    np.testing.assert_allclose([xs.mean(), ys.mean()], frame.to_crop(spot)[0], atol=0.75)


def test_the_longer_side_of_the_box_and_the_context_decide_the_size() -> None:
    _, frame = crop_face(np.zeros((200, 200, 3), np.uint8), Box(50, 50, 40, 80), size=64, context=1.25)
    assert (frame.side, frame.size) == (100, 64)
    assert (frame.left, frame.top) == (20, 40)


def test_the_border_is_repeated_where_the_crop_reaches_over_it() -> None:
    image = np.full((50, 50, 3), 90, np.uint8)
    image[:, :10] = 200
    crop, _ = crop_face(image, Box(-30, 0, 50, 50), size=50, context=1.0)
    assert (crop[:, :35] == 200).all()
    assert (crop[:, 45:] == 90).all()


def test_a_box_far_outside_still_gives_a_crop_of_the_asked_size() -> None:
    crop, _ = crop_face(np.full((20, 20, 3), 7, np.uint8), Box(500, 500, 30, 30), size=96, context=1.2)
    assert crop.shape == (96, 96, 3)
    assert (crop == 7).all()


def test_a_crop_over_the_edge_of_a_wide_picture_takes_no_more_memory_than_its_square() -> None:
    image = np.full((100, 200_000, 3), 90, np.uint8)
    tracemalloc.start()
    try:
        crop_face(image, Box(1_000, -100, 300, 300), size=96, context=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 300 * 300 * 3


def test_models_get_grey_levels_from_colour_and_grey_alike() -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (3, 96, 96, 3), np.uint8)
    grey = np.stack([cv2.cvtColor(face, cv2.COLOR_BGR2GRAY) for face in colour])
    from_colour, from_grey = model_input(colour), model_input(grey)
    assert from_colour.shape == (3, 1, 96, 96)
    assert from_colour.dtype == np.float32
    np.testing.assert_array_equal(from_colour, from_grey)
    assert from_grey.max() > 200
