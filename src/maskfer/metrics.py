"""Figures of a classifier, and whether one is worse than another on the same faces. numpy alone.

A row counts where its label is one of the classes; -1 says that it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int, Int64

Confusion = Int64[np.ndarray, "classes classes"]
"""Counts; row: the truth, column: the answer."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How one class is told from the others."""

    n: int
    """Faces of this class."""
    precision: float | None
    """None where the class was never answered."""
    recall: float | None
    """None where no face is of this class; so is F1."""
    f1: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """How well a set of faces is answered; the shares are None where it has no labelled face."""

    n: int
    accuracy: float | None
    macro_f1: float | None
    """Mean F1 over the classes that the set's truth holds."""
    per_class: dict[str, ClassFigures]
    confusion: Confusion
    ece: float | None
    """Expected calibration error of the answered class's probability."""

    @property
    def absent(self) -> list[str]:
        """Classes without a face in the set; macro-F1 leaves them out."""
        return [name for name, figures in self.per_class.items() if figures.n == 0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `confusion` has a row per true class in the order of `per_class`."""
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "per_class": {
                name: {"n": one.n, "precision": one.precision, "recall": one.recall, "f1": one.f1}
                for name, one in self.per_class.items()
            },
            "absent": self.absent,
            "confusion": self.confusion.tolist(),
            "ece": self.ece,
        }


def figures(
    labels: Int64[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    *,
    classes: tuple[str, ...],
    bins: int,
) -> Figures:
    """Judge probabilities against the truth; rows without a label are left out."""
    known = labels >= 0
    labels, probabilities = labels[known], probabilities[known]
    counts = confusion(labels, probabilities.argmax(axis=1), classes=len(classes))
    per_class = {name: _class_figures(counts, index) for index, name in enumerate(classes)}
    return Figures(
        n=len(labels),
        accuracy=_number(accuracy(counts)),
        macro_f1=_number(macro_f1(counts)),
        per_class=per_class,
        confusion=counts,
        ece=expected_calibration_error(labels, probabilities, bins=bins),
    )


def confusion(labels: Int[np.ndarray, " n"], answers: Int[np.ndarray, " n"], *, classes: int) -> Confusion:
    """Count the answers to each class; labels must be in [0, classes)."""
    flat = np.bincount(labels * classes + answers, minlength=classes**2)
    return flat.reshape(classes, classes).astype(np.int64)


def accuracy(counts: Float[np.ndarray, "*b classes classes"]) -> Float[np.ndarray, "*b"]:
    """Share of right answers of each confusion matrix; NaN for an empty one."""
    right = np.trace(counts, axis1=-2, axis2=-1)
    return _divide(right, counts.sum(axis=(-2, -1)))


def f1(counts: Float[np.ndarray, "*b classes classes"]) -> Float[np.ndarray, "*b classes"]:
    """F1 of every class of each confusion matrix; NaN for a class that the truth does not hold."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    truth, answered = counts.sum(axis=-1), counts.sum(axis=-2)
    return np.where(truth > 0, _divide(2.0 * right, truth + answered), np.nan)


def macro_f1(counts: Float[np.ndarray, "*b classes classes"]) -> Float[np.ndarray, "*b"]:
    """Mean F1 over the classes that the truth of each confusion matrix holds; NaN for an empty one."""
    scores = f1(counts)
    present = np.isfinite(scores)
    return _divide(np.where(present, scores, 0.0).sum(axis=-1), present.sum(axis=-1))


def expected_calibration_error(
    labels: Int64[np.ndarray, " n"], probabilities: Float[np.ndarray, "n classes"], *, bins: int
) -> float | None:
    """Mean distance between confidence and accuracy over equal-width bins, weighted by their faces.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, §2.
    """
    if len(labels) == 0:
        return None
    table = calibration_table(labels, probabilities, bins=bins)
    return float(sum(count * abs(share - mean) for mean, share, count in table) / len(labels))


def calibration_table(
    labels: Int64[np.ndarray, " n"], probabilities: Float[np.ndarray, "n classes"], *, bins: int
) -> list[tuple[float, float, int]]:
    """Return (mean confidence, share of right answers, faces) of every bin that holds a face."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # (lower, upper]: a confidence of exactly 1 belongs to the last bin.
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        (float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (index == bin_ for bin_ in np.unique(index))
    ]


def intersection_over_union(
    one: Bool[np.ndarray, "n h w"], other: Bool[np.ndarray, "n h w"]
) -> Float[np.ndarray, " n"]:
    """IoU of every pair of regions; NaN where both are empty."""
    both = (one & other).sum(axis=(1, 2))
    return _divide(both, (one | other).sum(axis=(1, 2)))


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Confusion counts of two classifiers on the same faces, by cluster of faces that are alike.

    A person's faces are near-duplicates, and a face and its masked twin more so: resampling single faces
    would find every difference more certain than it is.
    """

    candidate: Int64[np.ndarray, "clusters classes classes"]
    champion: Int64[np.ndarray, "clusters classes classes"]

    @classmethod
    def count(
        cls,
        labels: Int64[np.ndarray, " n"],
        *,
        candidate: Int64[np.ndarray, " n"],
        champion: Int64[np.ndarray, " n"],
        clusters: Int64[np.ndarray, " n"],
        classes: int,
    ) -> PairedCounts:
        """Count both answers (class indices) to the labelled rows."""
        known = labels >= 0
        labels = labels[known]
        _, cluster = np.unique(clusters[known], return_inverse=True)
        size = int(cluster.max(initial=-1)) + 1

        def counts(answers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "clusters classes classes"]:
            flat = (cluster * classes + labels) * classes + answers[known]
            return np.bincount(flat, minlength=size * classes**2).reshape(size, classes, classes)

        return cls(counts(candidate), counts(champion))

    @property
    def n(self) -> int:
        """Labelled faces."""
        return int(self.candidate.sum())

    def resampled(
        self, *, samples: int, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "samples classes classes"], Float[np.ndarray, "samples classes classes"]]:
        """Draw clusters with replacement `samples` times; return both classifiers' counts of each draw.

        Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 8 (clusters as units).
        """
        clusters, classes, _ = self.candidate.shape
        if clusters == 0:
            empty = np.zeros((samples, classes, classes))
            return empty, empty
        weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=samples).astype(np.float64)
        return (
            (weights @ self.candidate.reshape(clusters, -1)).reshape(samples, classes, classes),
            (weights @ self.champion.reshape(clusters, -1)).reshape(samples, classes, classes),
        )


def _class_figures(counts: Confusion, index: int) -> ClassFigures:
    right, truth = int(counts[index, index]), int(counts[index].sum())
    answered = int(counts[:, index].sum())
    return ClassFigures(
        n=truth,
        precision=right / answered if answered else None,
        recall=right / truth if truth else None,
        f1=2 * right / (truth + answered) if truth else None,
    )


def _divide(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    out: npt.NDArray[np.float64] = np.full(part.shape, np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
