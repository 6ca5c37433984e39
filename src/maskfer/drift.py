"""Whether faces are still like those that a release was made with.

A release carries the distribution of a few features of its training faces and of its answers on `val`;
whoever serves it compares the last faces with them by the population stability index. Nothing of a face is
kept but seven numbers, and of those only how often each range occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import cv2
import numpy as np
from jaxtyping import Float64, Int64
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maskfer.errors import ReleaseError
from maskfer.inference import Crops, Predictions
from maskfer.release import REFERENCE, Release

PICTURE_FEATURES: Final = ("brightness", "contrast", "sharpness")
"""Mean and standard deviation of the crop, and the root mean square of the step to the next pixel; in grey
levels. A Laplacian says the same of blur at three times the price."""
ANSWER_FEATURES: Final = ("confidence", "masked", "expression", "orientation")
"""The largest probability, and which answer it was."""
FEATURES: Final = (*PICTURE_FEATURES, *ANSWER_FEATURES)

_BINS: Final = 10
_PRIOR: Final = 0.5
"""Faces added to every bin on both sides (Jeffreys' prior), so that an empty bin has a logarithm."""


class Distribution(BaseModel):
    """How often the values of a feature fell into each bin."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    edges: tuple[float, ...]
    """Ascending; bin i holds edges[i - 1] <= value < edges[i], the outer ones are open."""
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0 or sum(self.counts) < 1:
            raise ValueError(f"{len(self.edges)} edges need {len(self.edges) + 1} counts of one face or more")
        if not all(np.isfinite(self.edges)) or any(np.diff(self.edges) <= 0):
            raise ValueError("edges must be finite and ascend")
        return self

    @classmethod
    def of_numbers(cls, values: Float64[np.ndarray, " n"]) -> Self:
        """Bins that hold equally many of `values`, as far as equal values allow."""
        edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS, method="lower"))
        return cls._counted(edges[edges > values.min()], values)

    @classmethod
    def of_classes(cls, values: Float64[np.ndarray, " n"], *, count: int) -> Self:
        """One bin for each of the classes 0 .. count - 1."""
        return cls._counted(np.arange(count - 1) + 0.5, values)

    @classmethod
    def _counted(cls, edges: Float64[np.ndarray, " e"], values: Float64[np.ndarray, " n"]) -> Self:
        bins = np.searchsorted(edges, values, side="right")
        counts = np.bincount(bins, minlength=len(edges) + 1)
        return cls(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


class Reference(BaseModel):
    """What `reference.json` of a release holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format_version: Literal[1] = 1
    features: dict[str, Distribution] = Field(min_length=1)

    @classmethod
    def of(cls, training: Crops, answers: Predictions) -> Self:
        """Return the reference of a release: its training faces, and what it answers on `val`."""
        pictures, said = picture_features(training), answer_features(answers)
        counts = {
            "masked": 2,
            "expression": answers.expression.shape[1],
            "orientation": answers.orientation.shape[1],
        }
        features = {
            name: Distribution.of_numbers(pictures[:, column]) for column, name in enumerate(PICTURE_FEATURES)
        }
        for column, name in enumerate(ANSWER_FEATURES):
            values = said[:, column]
            features[name] = (
                Distribution.of_classes(values, count=counts[name])
                if name in counts
                else Distribution.of_numbers(values)
            )
        return cls(features=features)

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_reference(release: Release) -> Reference | None:
    """Return the reference that a release carries; None where it has none.

    Raises `ReleaseError` where it is of another format.
    """
    if REFERENCE not in release.files:
        return None
    file = release.path / REFERENCE
    try:
        reference = Reference.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "document"
        raise ReleaseError(
            f"{file}: {where}: {problem['msg']}; train or download the release again"
        ) from error
    if unknown := sorted(set(reference.features) - set(FEATURES)):
        raise ReleaseError(
            f"{file}: features: this version does not know {', '.join(unknown)}, expected some of "
            f"{', '.join(FEATURES)}; train the release again"
        )
    return reference


def picture_features(crops: Crops) -> Float64[np.ndarray, "n 3"]:
    """Return `PICTURE_FEATURES` of every crop."""
    rows = np.empty((len(crops), len(PICTURE_FEATURES)))
    for row, crop in zip(rows, crops, strict=True):
        grey: Any = crop if crop.ndim == 2 else cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
        mean, deviation = cv2.meanStdDev(grey)
        steps = cv2.norm(grey[1:], grey[:-1], cv2.NORM_L2SQR) + cv2.norm(
            grey[:, 1:], grey[:, :-1], cv2.NORM_L2SQR
        )
        row[:] = mean[0, 0], deviation[0, 0], (steps / (2 * grey.size)) ** 0.5
    return rows


def answer_features(answers: Predictions) -> Float64[np.ndarray, "n 4"]:
    """Return `ANSWER_FEATURES` of every face."""
    return np.stack(
        [
            answers.expression.max(axis=1),
            answers.masked >= 0.5,
            answers.expression.argmax(axis=1),
            answers.orientation.argmax(axis=1),
        ],
        axis=1,
    ).astype(np.float64)


def stability_index(expected: Sequence[int], got: Sequence[int] | Int64[np.ndarray, " bins"]) -> float:
    """Return the population stability index of two counts over the same bins.

    0 for equal distributions. By chance alone it is about (bins - 1)(1/n + 1/m) for n and m faces; credit
    scoring, where the index comes from, calls 0.1 a change to look at and 0.25 a large one (Siddiqi, Credit
    Risk Scorecards, 2006, ch. 9). Empty bins count half a face.
    """
    want = np.asarray(expected, np.float64) + _PRIOR
    have = np.asarray(got, np.float64) + _PRIOR
    want, have = want / want.sum(), have / have.sum()
    return float(((have - want) * np.log(have / want)).sum())
