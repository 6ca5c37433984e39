"""Drift: what a release remembers of its faces, and how far other faces are from it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer import release as releases
from maskfer.drift import (
    FEATURES,
    Distribution,
    Reference,
    answer_features,
    picture_features,
    read_reference,
    stability_index,
)
from maskfer.errors import ReleaseError
from maskfer.inference import Predictions
from maskfer.release import Description, Lineage, Release
from tests.faces_of_light import answers_to, crops_of_light


def _counted(known: Distribution, values: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(known.edges, values, side="right"), minlength=len(known.counts))


def _indices(reference: Reference, crops: np.ndarray, answers: Predictions) -> dict[str, float]:
    values = np.concatenate([picture_features(crops), answer_features(answers)], axis=1)
    return {
        name: stability_index(known.counts, _counted(known, values[:, FEATURES.index(name)]))
        for name, known in reference.features.items()
    }


@pytest.fixture(scope="module")
def reference() -> Reference:
    crops = crops_of_light(1000, seed=0)
    return Reference.of(crops, answers_to(crops))


def test_every_feature_has_a_reference(reference: Reference) -> None:
    assert tuple(reference.features) == FEATURES
    assert all(sum(known.counts) == 1000 for known in reference.features.values())


def test_other_faces_of_the_same_kind_have_not_drifted(reference: Reference) -> None:
    crops = crops_of_light(1000, seed=1)
    indices = _indices(reference, crops, answers_to(crops))
    assert max(indices.values()) < 0.05


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (lambda crop: (crop * 0.5).astype(np.uint8), "brightness"),
        (lambda crop: np.clip(128 + (crop - 128.0) * 0.3, 0, 255).astype(np.uint8), "contrast"),
        (lambda crop: cv2.GaussianBlur(crop, (7, 7), 2), "sharpness"),
    ],
)
def test_darker_flatter_and_blurred_faces_have(reference: Reference, change: object, feature: str) -> None:
    crops = np.stack([change(crop) for crop in crops_of_light(1000, seed=2)])
    assert _indices(reference, crops, answers_to(crops))[feature] > 1.0


def test_answers_of_another_kind_have_drifted_where_the_pictures_have_not(reference: Reference) -> None:
    crops = crops_of_light(1000, seed=3)
    said = answers_to(crops)
    turned = Predictions(said.expression[:, ::-1] ** 2, 1 - said.masked, said.orientation, said.heatmap)
    indices = _indices(reference, crops, turned)
    assert indices["expression"] > 0.25
    assert indices["masked"] > 0.25
    assert max(indices["brightness"], indices["contrast"], indices["sharpness"]) < 0.05


def test_the_index_is_that_of_the_definition() -> None:
    # Large counts, so that the half face for empty bins plays no part: shares .5/.5 and .8/.2.
    expected = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert stability_index([5_000_000, 5_000_000], [800_000, 200_000]) == pytest.approx(expected, rel=1e-5)
    assert stability_index([50, 50], [7, 7]) == pytest.approx(0.0)


def test_an_empty_bin_is_large_but_finite() -> None:
    assert 1 < stability_index([1000, 0], [0, 1000]) < 20


def test_equal_values_share_a_bin() -> None:
    known = Distribution.of_numbers(np.array([1.0] * 50 + [2.0] * 50))
    assert (known.edges, known.counts) == ((2.0,), (50, 50))
    assert Distribution.of_numbers(np.ones(10)) == Distribution(edges=(), counts=(10,))


def test_grey_and_colour_crops_say_the_same() -> None:
    grey = crops_of_light(3, seed=4)
    colour = np.repeat(grey[..., None], 3, axis=3)
    assert picture_features(colour) == pytest.approx(picture_features(grey), rel=1e-6)


@pytest.fixture
def release(tmp_path: Path, reference: Reference) -> Release:
    return _write(tmp_path / "release", reference.to_bytes())


def _write(path: Path, reference: bytes | None) -> Release:
    description = Description(
        name="maskfer",
        classes=("positive", "neutral", "negative"),
        crop_size=96,
        crop_context=1.0,
        params={},
        lineage=Lineage(dataset_sha256="1" * 64),
    )
    return releases.write(path, description=description, weights=b"w", onnx=b"g", reference=reference)


def test_a_release_carries_its_reference_and_a_judged_one_keeps_it(
    release: Release, reference: Reference, tmp_path: Path
) -> None:
    assert read_reference(release) == reference
    judged = releases.judged(release, tmp_path / "judged", metrics={}, card="# Card", plots={})
    assert read_reference(judged) == reference


def test_a_release_without_one_says_none(tmp_path: Path) -> None:
    assert read_reference(_write(tmp_path / "bare", None)) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "format_version"),
        ({"features": {}}, "features"),
        ({"features": {"colour": {"edges": [], "counts": [1]}}}, "does not know colour"),
        ({"features": {"brightness": {"edges": [1.0], "counts": [1]}}}, "1 edges need 2 counts"),
        ({"features": {"brightness": {"edges": [2.0, 1.0], "counts": [1, 1, 1]}}}, "ascend"),
    ],
)
def test_a_reference_of_another_kind_is_refused(
    tmp_path: Path, reference: Reference, change: dict[str, object], says: str
) -> None:
    document = json.loads(reference.to_bytes()) | change
    with pytest.raises(ReleaseError, match=says):
        read_reference(_write(tmp_path / "odd", json.dumps(document).encode()))
