"""The paper's steps: resize by the ratio of the sides, rotate by the nose-jaw line, place by the nose."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskfer.labels import Orientation
from maskfer.masking.fit import fit_mask


def fitted(portrait, **changes):
    options = {"rise": 0.0, "slant": 0.05, "depth": 0.05} | changes
    return fit_mask(portrait.landmarks, portrait.orientation, **options)


def test_a_turned_face_has_a_smaller_ratio_of_its_sides(portraits):
    frontal, left, right = (
        fitted(portraits[orientation]).ratio
        for orientation in (Orientation.CENTER, Orientation.LEFT, Orientation.RIGHT)
    )
    assert frontal > 0.75
    assert left < 0.6
    assert right < 0.6


def test_only_faces_that_look_aside_wear_the_side_template(portraits):
    sides = {orientation: fitted(portrait).is_side for orientation, portrait in portraits.items()}
    assert {orientation for orientation, is_side in sides.items() if is_side} == {
        Orientation.LEFT,
        Orientation.RIGHT,
    }


@pytest.mark.parametrize("degrees", [-60, -20, 35, 120])
def test_the_mask_turns_with_the_nose_jaw_line(frontal, degrees):
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    upright = fitted(frontal)
    turned = fit_mask(
        (frontal.landmarks @ turn).astype(np.float32), Orientation.CENTER, rise=0.0, slant=0.05, depth=0.05
    )
    difference = (turned.angle_deg - upright.angle_deg - degrees + 180) % 360 - 180
    assert abs(difference) < 1e-3
    chart = np.array([[0.0, 0.0], [-0.7, 0.4], [0.9, 1.0]])
    np.testing.assert_allclose(turned.to_image(chart), upright.to_image(chart) @ turn, atol=1e-3)


def test_the_mask_grows_with_the_face_and_stays_at_the_nose(frontal):
    small = fitted(frontal)
    large = fit_mask(
        frontal.landmarks * np.float32(2.5), Orientation.CENTER, rise=0.0, slant=0.05, depth=0.05
    )
    assert large.height_px == pytest.approx(2.5 * small.height_px, rel=1e-5)
    np.testing.assert_allclose(small.nose, frontal.landmarks[28], atol=1e-4)
    np.testing.assert_allclose(small.to_image(np.zeros((1, 2)))[0], small.nose, atol=1e-6)


def test_rise_moves_the_upper_edge_along_the_nose(frontal):
    high, low = fitted(frontal, rise=0.4).nose, fitted(frontal, rise=-1.2).nose
    assert high[1] < frontal.landmarks[28, 1] < low[1]


def test_the_charts_sides_lie_on_the_jaw(frontal):
    edge = fitted(frontal).to_image(np.array([[sign, t] for sign in (-1.0, 1.0) for t in (0.3, 0.6, 0.9)]))
    jaw = frontal.landmarks[:17]
    segments = np.concatenate([jaw[:-1] + share * (jaw[1:] - jaw[:-1]) for share in np.linspace(0, 1, 20)])
    distance = np.linalg.norm(edge[:, None] - segments[None], axis=-1).min(axis=1)
    assert distance.max() < 0.06 * np.linalg.norm(jaw[16] - jaw[0])


def test_upright_and_picture_coordinates_are_inverse(portraits):
    points = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    for portrait in portraits.values():
        fit = fitted(portrait)
        np.testing.assert_allclose(fit.into_upright(fit.from_upright(points)), points, atol=1e-9)
