"""Styles and outlines."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from maskfer.config import MaskingParams
from maskfer.masking.prints import pattern_weights
from maskfer.masking.templates import MASK_TYPES, PATTERNS, MaskStyle, templates_of
from maskfer.masking.textures import WIDTHS, relief


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("helmet", "#000000"), "type"),
        (("cloth", "red"), "colour"),
        (("cloth", "#000000", "tartan"), "pattern"),
    ],
)
def test_an_impossible_style_is_refused(arguments, problem):
    with pytest.raises(ValueError, match=f"mask {problem}"):
        MaskStyle(*arguments)


def test_random_styles_follow_the_parameters():
    params = MaskingParams(types=("cloth", "n95"), patterned=1.0)
    styles = [MaskStyle.random(params, np.random.default_rng(seed)) for seed in range(200)]
    assert {style.type for style in styles} == {"cloth", "n95"}
    assert all((style.pattern is not None) == (style.type == "cloth") for style in styles)
    assert {style.pattern for style in styles if style.pattern} == set(PATTERNS)


def test_random_types_are_drawn_uniformly_and_colours_are_light_and_dark():
    rng = np.random.default_rng(0)
    styles = [MaskStyle.random(MaskingParams(), rng) for _ in range(1000)]
    counts = Counter(style.type for style in styles)
    assert all(150 < counts[mask_type] < 250 for mask_type in MASK_TYPES)
    brightness = np.array([style.bgr.mean() for style in styles])
    assert (brightness > 200).mean() > 0.2
    assert (brightness < 60).mean() > 0.1
    assert len({style.color for style in styles}) > 900


def test_one_generator_state_gives_one_style():
    first, second = (MaskStyle.random(MaskingParams(), np.random.default_rng(9)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_outlines_are_symmetric_and_reach_from_nose_to_chin(mask_type):
    for template in templates_of(mask_type):
        outline = template.outline()
        mirrored = outline * [-1, 1]
        nearest = np.linalg.norm(outline[:, None] - mirrored[None], axis=-1).min(axis=1)
        assert nearest.max() < 1e-9
        assert outline[:, 1].min() < 0.03
        assert outline[:, 1].max() > 1.0


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("width", WIDTHS[:3])
def test_prints_are_weights_with_something_to_see(pattern, width):
    first, second = pattern_weights(pattern, width, np.random.default_rng(2))
    for weights in (first, second):
        assert weights.dtype == np.float32
        assert weights.min() >= 0
        assert weights.max() <= 1
    assert 0.005 < first.mean() < 0.97
    assert first.max() > 0.5
    assert first.min() < 0.5


def test_reliefs_are_made_once():
    template = templates_of("surgical")[0]
    assert relief(template, WIDTHS[0]) is relief(template, WIDTHS[0])
