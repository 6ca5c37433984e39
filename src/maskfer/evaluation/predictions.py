"""What a release answers to every face of a test set: the ground of every figure and every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64

from maskfer.data.table import FacesTable, read_metadata, write_table
from maskfer.errors import DatasetError
from maskfer.inference import Predictions
from maskfer.labels import label_column

_PROBABILITY = "p_"


@dataclass(frozen=True)
class PredictionTable:
    """One row per face, in the order of the faces table."""

    classes: tuple[str, ...]
    face_ids: tuple[str, ...]
    people: tuple[str, ...]
    """Person where known, else the source picture: faces of one are alike."""
    is_masked: Bool[np.ndarray, " n"]
    orientations: tuple[str | None, ...]
    """From the landmarks; None where there are none."""
    labels: Int64[np.ndarray, " n"]
    """Index in `classes`, -1 where the row has no such label."""
    probabilities: Float32[np.ndarray, "n classes"]
    masked_probability: Float32[np.ndarray, " n"]
    answered_orientations: tuple[str, ...]
    heatmap_iou: Float32[np.ndarray, " n"]
    """IoU of the heatmap with the true mask region; NaN where no mask is drawn."""

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        table: FacesTable,
        *,
        classes: tuple[str, ...],
        orientations: tuple[str, ...],
        heatmap_iou: Float32[np.ndarray, " n"],
    ) -> Self:
        """Join what a release answered with what the faces table knows."""
        people = table.column("person")
        sources = table.column("source")
        return cls(
            classes=classes,
            face_ids=tuple(table.column("face_id")),
            people=tuple(
                f"person {person}" if person else f"source {source}"
                for person, source in zip(people, sources, strict=True)
            ),
            is_masked=np.array(table.column("is_masked"), np.bool_),
            orientations=tuple(table.column("orientation")),
            labels=table.labels(classes),
            probabilities=predictions.expression,
            masked_probability=predictions.masked,
            answered_orientations=tuple(
                orientations[index] for index in predictions.orientation.argmax(axis=1)
            ),
            heatmap_iou=heatmap_iou,
        )

    def __len__(self) -> int:
        return len(self.face_ids)

    @property
    def answers(self) -> Int64[np.ndarray, " n"]:
        """Index of the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @cached_property
    def clusters(self) -> Int64[np.ndarray, " n"]:
        """A number per person, the same for all faces of one."""
        return np.unique(np.array(self.people, dtype=np.str_), return_inverse=True)[1].astype(np.int64)

    def write(self, path: Path) -> None:
        """Write a `predictions.parquet`, whole or not at all."""
        names = np.array([*self.classes, None], dtype=object)  # index -1 is None
        table = pa.table(
            {
                "face_id": pa.array(self.face_ids, pa.string()),
                "person": pa.array(self.people, pa.string()),
                "is_masked": self.is_masked,
                "orientation": pa.array(self.orientations, pa.string()),
                "label": pa.array(names[self.labels].tolist(), pa.string()),
                "answer": pa.array(names[self.answers].tolist(), pa.string()),
                **{f"{_PROBABILITY}{name}": self.probabilities[:, i] for i, name in enumerate(self.classes)},
                "masked_probability": self.masked_probability,
                "answered_orientation": pa.array(self.answered_orientations, pa.string()),
                "heatmap_iou": self.heatmap_iou,
            }
        )
        write_table(path, table, metadata={"classes": list(self.classes)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `predictions.parquet`; raises `DatasetError` where it is none."""
        classes = tuple(read_metadata(path).get("classes", ()))
        try:
            table = pq.read_table(path)
            index = {name: position for position, name in enumerate(classes)}
            columns = {name: table.column(name) for name in table.column_names}
            return cls(
                classes=classes,
                face_ids=tuple(columns["face_id"].to_pylist()),
                people=tuple(columns["person"].to_pylist()),
                is_masked=np.array(columns["is_masked"].to_pylist(), np.bool_),
                orientations=tuple(columns["orientation"].to_pylist()),
                labels=np.array([index.get(name, -1) for name in columns["label"].to_pylist()], np.int64),
                probabilities=np.stack(
                    [columns[f"{_PROBABILITY}{name}"].to_numpy() for name in classes], axis=1
                ),
                masked_probability=columns["masked_probability"].to_numpy(),
                answered_orientations=tuple(columns["answered_orientation"].to_pylist()),
                heatmap_iou=columns["heatmap_iou"].to_numpy(),
            )
        except (KeyError, ValueError, OSError) as error:
            raise DatasetError(
                f"{path}: no predictions of this version ({error}); run `maskfer evaluate` again"
            ) from error


def columns_needed(classes: tuple[str, ...]) -> list[str]:
    """Return the columns of a faces table that judging reads."""
    return [
        "face_id",
        "source",
        "person",
        "is_masked",
        "mask_origin",
        "orientation",
        "image",
        "mask_region",
        label_column(classes),
    ]
