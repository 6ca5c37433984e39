"""What a dataset holds and what it dropped, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maskfer.data import rejects as rejected
from maskfer.data.table import FILE_NAME, SPLITS, FacesTable
from maskfer.labels import ORIENTATIONS

ORIGINS: Final = {"none": "unmasked", "drawn": "drawn mask", "real": "real mask"}
NO_LABEL: Final = "(no label)"


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of one dataset folder."""

    images: int
    """Raw images: those that gave a face and those that were rejected."""
    faces: int
    """Pictures in the table, drawn twins not counted."""
    twins: int
    rejects: int
    people: int
    labels: dict[tuple[str, str, str], int]
    """Rows for each split, label and key of `ORIGINS`."""
    orientations: dict[tuple[str, str], int]
    """Faces for each split and orientation, drawn twins not counted."""
    mask_types: dict[str, int]
    reasons: dict[tuple[str, str], int]
    """Rejects for each stage and reason."""

    @classmethod
    def of(cls, folder: Path) -> Summary:
        """Count `folder/faces.parquet` and `folder/rejects.csv`; raises `DatasetError`."""
        columns = ["split", "expression", "emotion", "mask_origin", "mask_type", "orientation", "person"]
        table = FacesTable.read(folder / FILE_NAME, columns=columns)
        column = {name: table.column(name) for name in columns}
        labels = [a or b or NO_LABEL for a, b in zip(column["expression"], column["emotion"], strict=True)]
        rejects = rejected.read_rejects(folder / rejected.FILE_NAME)
        is_twin = [origin == "drawn" for origin in column["mask_origin"]]
        photographs = [not twin for twin in is_twin]
        return cls(
            images=sum(photographs) + len(rejects),
            faces=sum(photographs),
            twins=sum(is_twin),
            rejects=len(rejects),
            people=len(set(column["person"]) - {None}),
            labels=dict(Counter(zip(column["split"], labels, column["mask_origin"], strict=True))),
            orientations=dict(
                Counter(
                    (split, looks)
                    for split, looks, counts in zip(
                        column["split"], column["orientation"], photographs, strict=True
                    )
                    if counts
                )
            ),
            mask_types=dict(Counter(kind for kind in column["mask_type"] if kind is not None)),
            reasons=rejected.count_reasons(rejects),
        )

    def label_rows(self) -> list[tuple[str, str, int, int, int]]:
        """Return split, label and the counts of each of `ORIGINS`, in the splits' order."""
        keys = {(split, label) for split, label, _ in self.labels}
        return [
            (split, label, *self._origins(split, label))
            for split, label in sorted(keys, key=lambda key: (_position(key[0], SPLITS), key[1]))
        ]

    def orientation_rows(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return split and its faces in each of `ORIENTATIONS`."""
        splits = sorted({split for split, _ in self.orientations}, key=lambda split: _position(split, SPLITS))
        return [
            (split, tuple(self.orientations.get((split, looks.value), 0) for looks in ORIENTATIONS))
            for split in splits
        ]

    def _origins(self, split: str, label: str) -> tuple[int, int, int]:
        none, drawn, real = (self.labels.get((split, label, origin), 0) for origin in ORIGINS)
        return none, drawn, real


def _position(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
