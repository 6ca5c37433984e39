"""The file that a network's weights start from, and what keys a run by it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from maskfer.config import ExpressionParams
from maskfer.errors import TrainingError
from maskfer.faces import packaged
from maskfer.learning import start


def test_the_default_starts_from_no_file() -> None:
    assert start.weights(ExpressionParams()) is None
    assert start.weights_sha256(ExpressionParams()) is None


def test_layers_that_know_faces_start_from_the_packages_file_or_from_the_users(tmp_path: Path) -> None:
    own = tmp_path / "own.dat"
    own.write_bytes(b"mine")

    assert start.weights(ExpressionParams(backbone="face_resnet")) == packaged.packaged_weights(
        packaged.RECOGNITION
    )
    section = ExpressionParams(backbone="face_resnet", pretrained=own)
    assert start.weights(section) == own
    assert start.weights_sha256(section) == hashlib.sha256(b"mine").hexdigest()


def test_weights_that_are_not_there_are_an_error_that_names_the_path_and_key_nothing(tmp_path: Path) -> None:
    section = ExpressionParams(backbone="resnet18", pretrained=tmp_path / "gone.pth")

    with pytest.raises(TrainingError, match=r"gone\.pth: no such weights; correct expression\.pretrained"):
        start.weights(section)
    assert start.weights_sha256(section) is None


def test_few_photographs_for_layers_that_start_at_random_are_worth_a_word() -> None:
    advice = start.advice(ExpressionParams(), photographs=1234)

    assert advice is not None
    assert advice.startswith("expression: {backbone: face_resnet} in params.yaml. 1,234 labelled photographs")


@pytest.mark.parametrize(
    ("section", "photographs"),
    [
        ({}, start.FEW_PHOTOGRAPHS + 1),
        ({"backbone": "face_resnet"}, 100),
        ({"pretrained": Path("small.pth")}, 100),
        ({"model": "ran"}, 100),
    ],
)
def test_there_is_nothing_to_advise_where_they_are_many_or_something_else_was_chosen(
    section: dict[str, Any], photographs: int
) -> None:
    assert start.advice(ExpressionParams(**section), photographs=photographs) is None
