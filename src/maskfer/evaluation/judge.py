"""From a release and a faces table to figures, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from maskfer.config import EvaluationParams
from maskfer.data.table import FacesTable
from maskfer.errors import DatasetError
from maskfer.evaluation.predictions import PredictionTable
from maskfer.inference import Analyzer
from maskfer.labels import ORIENTATIONS
from maskfer.metrics import Figures, figures, intersection_over_union

HEATMAP_THRESHOLD: Final = 0.5
"""H_m at or above this counts as mask (H_u = 1 - H_m has the rest)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a release is on a set of faces."""

    rows: int
    """Faces in the set, with or without a label."""
    overall: Figures
    masked: Figures
    unmasked: Figures
    orientation: dict[str, Figures]
    heatmap_iou: float | None
    """Mean over the faces with a drawn mask; None where there is none."""
    heatmap_n: int
    mask_accuracy: float
    """Share of faces whose masked/unmasked is answered right."""
    mask_recall: dict[str, float | None]
    """The same for `masked` and `unmasked` faces alone."""
    orientation_agreement: float | None
    """Share of faces whose orientation is answered as the landmarks say; None where none has landmarks."""
    orientation_n: int
    predictions: PredictionTable
    heatmaps: Float32[np.ndarray, "n g g"]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values; None where a set has no face to measure by."""
        return {
            "rows": self.rows,
            "classes": list(self.predictions.classes),
            **self.overall.to_json(),
            "slices": {
                "masked": self.masked.to_json(),
                "unmasked": self.unmasked.to_json(),
                "orientation": {name: part.to_json() for name, part in self.orientation.items()},
            },
            "heatmap_iou": self.heatmap_iou,
            "heatmap_n": self.heatmap_n,
            "mask_accuracy": self.mask_accuracy,
            "mask_recall": self.mask_recall,
            "orientation_agreement": self.orientation_agreement,
            "orientation_n": self.orientation_n,
        }


def evaluate(analyzer: Analyzer, table: FacesTable, *, params: EvaluationParams | None = None) -> Evaluation:
    """Let a release answer every face of a table and judge the answers.

    Raises `DatasetError` where the table is empty or its crops are not the release's.
    """
    params = params or EvaluationParams()
    release = analyzer.release
    if len(table) == 0:
        raise DatasetError(
            f"{table.path}: no face to judge by in this split; give another --split or dataset"
        )
    table.require_crop(
        size=release.crop_size, context=release.crop_context, wanted_by=f"release {release.metadata.name}"
    )
    answers = analyzer.predict(table.images())
    drawn = np.array([origin == "drawn" for origin in table.column("mask_origin")], np.bool_)
    predictions = PredictionTable.of(
        answers,
        table,
        classes=release.classes,
        orientations=release.orientations,
        heatmap_iou=_heatmap_iou(answers.heatmap, table, drawn),
    )
    return judge(predictions, heatmaps=answers.heatmap, bins=params.calibration_bins)


def judge(predictions: PredictionTable, *, heatmaps: Float32[np.ndarray, "n g g"], bins: int) -> Evaluation:
    """Compute every figure from what was answered."""

    def of(rows: Bool[np.ndarray, " n"]) -> Figures:
        return figures(
            predictions.labels[rows],
            predictions.probabilities[rows],
            classes=predictions.classes,
            bins=bins,
        )

    masked = predictions.is_masked
    orientation = np.array([name or "" for name in predictions.orientations])
    agrees = np.array(predictions.answered_orientations) == orientation
    right = (predictions.masked_probability >= 0.5) == masked
    measured = np.isfinite(predictions.heatmap_iou)
    return Evaluation(
        rows=len(predictions),
        overall=of(np.ones(len(predictions), np.bool_)),
        masked=of(masked),
        unmasked=of(~masked),
        orientation={str(name): of(orientation == name) for name in ORIENTATIONS},
        heatmap_iou=_mean(predictions.heatmap_iou[measured]),
        heatmap_n=int(measured.sum()),
        mask_accuracy=float(right.mean()),
        mask_recall={"masked": _mean(right[masked]), "unmasked": _mean(right[~masked])},
        orientation_agreement=_mean(agrees[orientation != ""]),
        orientation_n=int((orientation != "").sum()),
        predictions=predictions,
        heatmaps=heatmaps,
    )


def _heatmap_iou(
    heatmaps: Float32[np.ndarray, "n g g"], table: FacesTable, drawn: Bool[np.ndarray, " n"]
) -> Float32[np.ndarray, " n"]:
    out = np.full(len(table), np.nan, np.float32)
    if not drawn.any():
        return out
    size = (table.crop_size, table.crop_size)
    regions = table.where(drawn).mask_regions()
    maps = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in heatmaps[drawn]])
    out[drawn] = intersection_over_union(maps >= HEATMAP_THRESHOLD, regions)
    return out


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
