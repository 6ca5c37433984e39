"""A split of the faces table as tensors: what every training task draws its batches from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from maskfer.config import DataParams
from maskfer.data.table import FacesTable
from maskfer.errors import DatasetError
from maskfer.labels import ORIENTATIONS

UNKNOWN = -1
"""Stands for a label, an orientation or a twin that a row does not have."""


@dataclass(frozen=True, slots=True)
class Faces:
    """The rows of one split, in the table's order."""

    face_ids: tuple[str, ...]
    images: UInt8[Tensor, "n s s"]
    regions: Bool[Tensor, "n s s"]
    """Where the drawn mask is; all False on other rows."""
    is_masked: Bool[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    """Class index, or `UNKNOWN`."""
    orientations: Int64[Tensor, " n"]
    """Index into `labels.ORIENTATIONS`, or `UNKNOWN`."""
    twins: Int64[Tensor, " n"]
    """On a drawn twin the row of the same face unmasked, else `UNKNOWN`."""
    landmarks: Float[Tensor, "n 68 2"]
    """x, y in sides of the crop, iBUG-68; NaN where the row has none. A drawn twin has its bare face's."""

    def __len__(self) -> int:
        return len(self.face_ids)

    def batch(self, rows: Int64[Tensor, " b"]) -> Float[Tensor, "b 1 s s"]:
        """Faces as the networks take them: grey, 0..255, one channel."""
        return self.images[rows].unsqueeze(1).float()

    def to(self, device: torch.device) -> Faces:
        """The same faces on another device."""
        return Faces(
            self.face_ids,
            *(
                getattr(self, name).to(device)
                for name in (
                    "images",
                    "regions",
                    "is_masked",
                    "labels",
                    "orientations",
                    "twins",
                    "landmarks",
                )
            ),
        )


def load(path: Path, *, split: str | None, classes: tuple[str, ...], data: DataParams) -> Faces:
    """Read one split of `faces.parquet`; None is all of it.

    Raises `DatasetError` where the split is empty or its faces are cut otherwise than `data` says.
    """
    table = FacesTable.read(path, split=split)
    if len(table) == 0:
        raise DatasetError(
            f"{path}: no face in split {split!r}; build the dataset with more people, "
            "or raise data.val_fraction, so that every split has some"
        )
    table.require_crop(size=data.crop_size, context=data.crop_context, wanted_by="the network")
    face_ids = tuple(table.column("face_id"))
    row_of = {face_id: row for row, face_id in enumerate(face_ids)}
    return Faces(
        face_ids=face_ids,
        images=torch.from_numpy(np.ascontiguousarray(table.images())),
        regions=torch.from_numpy(np.ascontiguousarray(table.mask_regions())),
        is_masked=torch.tensor(table.column("is_masked"), dtype=torch.bool),
        labels=torch.from_numpy(np.asarray(table.labels(classes), dtype=np.int64)),
        orientations=_indices(table.column("orientation"), dict(zip(ORIENTATIONS, range(5), strict=True))),
        twins=_indices(table.column("twin_id"), row_of),
        # The table counts from the first pixel's centre, the networks from the crop's edge.
        landmarks=(torch.from_numpy(table.landmarks()) + 0.5) / data.crop_size,
    )


def load_for_training(path: Path, *, classes: tuple[str, ...], data: DataParams) -> tuple[Faces, Faces]:
    """Read the splits train and val; raises as `load` does."""
    train, val = (load(path, split=split, classes=classes, data=data) for split in ("train", "val"))
    return train, val


def _indices(values: list[str | None], index_of: dict[str, int]) -> Int64[Tensor, " n"]:
    return torch.tensor(
        [UNKNOWN if value is None else index_of.get(value, UNKNOWN) for value in values], dtype=torch.int64
    )
