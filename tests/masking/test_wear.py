"""What a worn mask covers, what it leaves alone, and what it looks like."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from maskfer.config import MaskingParams
from maskfer.labels import ORIENTATIONS, Orientation
from maskfer.masking.templates import MASK_TYPES, PATTERNS, MaskStyle, templates_of
from maskfer.masking.wear import CannotWear, wear_mask
from tests.masking.conftest import Portrait

BLUE = "#7fb4d8"
_SEEDS = range(6)


def worn(portrait: Portrait, style: MaskStyle, seed: int = 0, **options):
    rng = np.random.default_rng(seed)
    return wear_mask(
        portrait.image, portrait.landmarks, portrait.orientation, style=style, rng=rng, **options
    )


def inside(region: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y = np.rint(points).astype(int).T
    return region[y, x]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_every_type_covers_nose_mouth_and_chin_in_every_orientation(portraits, mask_type, orientation):
    portrait = portraits[orientation]
    for seed in _SEEDS:
        image, region = worn(portrait, MaskStyle(mask_type, BLUE), seed)
        assert image.shape == portrait.image.shape
        assert image.dtype == np.uint8
        assert region.shape == portrait.image.shape[:2]
        points = portrait.landmarks
        lips = points[48:68].mean(axis=0) + 0.9 * (points[48:68] - points[48:68].mean(axis=0))
        assert inside(region, lips).all()
        assert inside(region, points[30:31]).all(), "the tip of the nose shows"
        chin = points[8] + 0.04 * (points[28] - points[8])
        assert inside(region, chin[None]).all(), "the chin shows"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_the_eyes_stay_bit_for_bit(portraits, mask_type, orientation):
    portrait = portraits[orientation]
    eyes = np.zeros(portrait.image.shape[:2], np.uint8)
    for eye in (portrait.landmarks[36:42], portrait.landmarks[42:48]):
        cv2.fillPoly(eyes, [np.rint(eye).astype(np.int32)], 1)
    for seed in _SEEDS:
        image, region = worn(portrait, MaskStyle(mask_type, BLUE), seed)
        assert (image[eyes == 1] == portrait.image[eyes == 1]).all()
        assert not region[eyes == 1].any()


def test_nothing_changes_far_from_the_mask(frontal):
    image, region = worn(frontal, MaskStyle("surgical", BLUE))
    near = cv2.dilate(region.astype(np.uint8), np.ones((61, 61), np.uint8)) == 1
    assert (image[~near] == frontal.image[~near]).all()
    assert (image[region] != frontal.image[region]).any(axis=-1).mean() > 0.95


def test_the_given_picture_is_not_touched(frontal):
    before = frontal.image.copy()
    worn(frontal, MaskStyle("n95", BLUE))
    assert (frontal.image == before).all()


@pytest.mark.parametrize("pattern", [None, *PATTERNS])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(frontal, pattern):
    style = MaskStyle("cloth", "#203040", pattern)
    first, second, other = (worn(frontal, style, seed) for seed in (3, 3, 4))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()
    assert first[0].tobytes() != other[0].tobytes()


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_a_face_that_looks_right_wears_the_mirrored_mask_of_one_that_looks_left(portraits, mask_type):
    left = portraits[Orientation.LEFT]
    right = left.mirrored()
    for seed in _SEEDS:
        image, region = worn(left, MaskStyle(mask_type, BLUE), seed)
        other_image, other_region = worn(right, MaskStyle(mask_type, BLUE), seed)
        both, either = region & other_region[:, ::-1], region | other_region[:, ::-1]
        assert both.sum() / either.sum() > 0.97
        difference = np.abs(image[both].astype(int) - other_image[:, ::-1][both].astype(int))
        assert difference.mean() < 8


def test_a_side_mask_shows_one_ear_loop_and_a_front_mask_two(portraits):
    def changed_outside(orientation: Orientation) -> tuple[int, int]:
        portrait = portraits[orientation]
        image, region = worn(portrait, MaskStyle("n95", BLUE))
        loops = (np.abs(image.astype(int) - portrait.image).max(axis=-1) > 40) & ~cv2.dilate(
            region.astype(np.uint8), np.ones((7, 7), np.uint8)
        ).astype(bool)
        middle = int(portrait.landmarks[30, 0])
        return int(loops[:, :middle].sum()), int(loops[:, middle:].sum())

    near_left, near_right = changed_outside(Orientation.CENTER)
    assert min(near_left, near_right) > 20
    far, near = changed_outside(Orientation.LEFT)
    assert near > 20
    assert far < near / 4


@pytest.mark.parametrize("color", ["#d8d8d8", "#7fb4d8", "#a03040", "#202228", "#30a050"])
@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_in_even_light_the_mask_has_the_colour_that_was_asked_for(evenly_lit, mask_type, color):
    style = MaskStyle(mask_type, color)
    for seed in _SEEDS:
        image, region = worn(evenly_lit, style, seed, grey=False)
        core = cv2.erode(region.astype(np.uint8), np.ones((9, 9), np.uint8)) == 1
        median = np.median(image[core], axis=0)
        assert np.abs(median - style.bgr).max() < 26


def test_a_dark_room_makes_a_dark_mask(evenly_lit, frontal):
    style = MaskStyle("surgical", "#e0e0e0")
    _, region = worn(evenly_lit, style)
    levels = []
    for level in (150, 80, 40):
        image = np.full_like(frontal.image, level)
        masked, _ = worn(Portrait(image, frontal.landmarks, Orientation.CENTER), style)
        levels.append(float(np.median(masked[region])))
    assert levels[0] > levels[1] + 20 > levels[2] + 40


def test_the_mask_is_darker_on_the_shaded_side_of_the_face(frontal):
    columns = np.linspace(60, 200, frontal.image.shape[1]).astype(np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(columns[None, :, None], frontal.image.shape))
    masked, region = worn(
        Portrait(image, frontal.landmarks, Orientation.CENTER), MaskStyle("cloth", "#c0c0c0")
    )
    middle = int(frontal.landmarks[30, 0])
    shaded, lit = masked[:, :middle][region[:, :middle]], masked[:, middle:][region[:, middle:]]
    assert shaded.mean() + 25 < lit.mean()


def test_a_grey_photograph_stays_grey_unless_asked(frontal):
    grey = np.repeat(cv2.cvtColor(frontal.image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    portrait = Portrait(grey, frontal.landmarks, Orientation.CENTER)
    image, _ = worn(portrait, MaskStyle("surgical", "#2060f0"))
    assert (np.ptp(image, axis=-1) == 0).all()
    colored, region = worn(portrait, MaskStyle("surgical", "#2060f0"), grey=False)
    assert np.ptp(colored[region].astype(int), axis=-1).mean() > 40


def test_a_rotated_face_wears_the_rotated_mask(frontal):
    size = frontal.image.shape[0]
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), 40, 1.0)
    landmarks = (frontal.landmarks @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    image = cv2.warpAffine(frontal.image, turn, (size, size), borderMode=cv2.BORDER_REPLICATE)
    style = MaskStyle("surgical", BLUE)
    _, upright = worn(frontal, style)
    _, turned = worn(Portrait(image, landmarks, Orientation.CENTER), style)
    expected = cv2.warpAffine(upright.astype(np.uint8) * 255, turn, (size, size)) > 127
    assert (turned & expected).sum() / (turned | expected).sum() > 0.97


@pytest.mark.parametrize("scale", [0.25, 0.5, 3.0])
def test_masks_fit_small_and_large_faces(frontal, scale):
    image = cv2.resize(frontal.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    portrait = Portrait(image, (frontal.landmarks * scale).astype(np.float32), Orientation.CENTER)
    _, region = worn(portrait, MaskStyle("kn95", BLUE))
    _, full = worn(frontal, MaskStyle("kn95", BLUE))
    assert region.mean() == pytest.approx(full.mean(), rel=0.1)


def test_a_face_cut_by_the_picture_is_masked_as_far_as_it_shows(frontal):
    cut = int(frontal.landmarks[62, 1])
    portrait = Portrait(np.ascontiguousarray(frontal.image[:cut]), frontal.landmarks, Orientation.CENTER)
    image, region = worn(portrait, MaskStyle("surgical", BLUE))
    assert image.shape == portrait.image.shape
    assert region[-1].any()


@pytest.mark.parametrize(
    ("landmarks", "reason"),
    [
        (np.full((68, 2), np.nan, np.float32), "not 68 finite points"),
        (np.zeros((5, 2), np.float32), "not 68 finite points"),
        (np.full((68, 2), 50, np.float32), "too small"),
        (
            np.full((68, 2), 50, np.float32) + np.arange(68, dtype=np.float32)[:, None] * [100, 0],
            "make no face",
        ),
    ],
)
def test_landmarks_that_make_no_face_are_refused(frontal, landmarks, reason):
    portrait = Portrait(frontal.image, landmarks.astype(np.float32), Orientation.CENTER)
    with pytest.raises(CannotWear, match=reason):
        worn(portrait, MaskStyle("surgical", BLUE))


def test_a_face_outside_the_picture_is_refused(frontal):
    away = Portrait(frontal.image, frontal.landmarks + np.float32(1000), Orientation.CENTER)
    with pytest.raises(CannotWear, match="outside the picture"):
        worn(away, MaskStyle("surgical", BLUE))


def test_any_twist_of_the_landmarks_gives_a_mask_or_a_reason(frontal):
    rng = np.random.default_rng(0)
    for _ in range(150):
        twist = rng.normal(0, 1.5, (2, 2))
        landmarks = frontal.landmarks @ twist + rng.normal(60, 60, 2) + rng.normal(0, 6, (68, 2))
        orientation = ORIENTATIONS[int(rng.integers(5))]
        portrait = Portrait(frontal.image, landmarks.astype(np.float32), orientation)
        try:
            image, region = worn(portrait, MaskStyle.random(MaskingParams(), rng))
        except CannotWear:
            continue
        assert image.shape == frontal.image.shape
        assert region.any()


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_each_type_has_several_cuts(mask_type):
    assert len(templates_of(mask_type)) >= 2
