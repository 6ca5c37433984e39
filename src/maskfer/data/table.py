"""`faces.parquet`: one row per face picture, labels and picture together.

One file, because data versioning is slow on many small ones. docs/data.md describes every column.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64, UInt8

from maskfer import atomic
from maskfer.config import DataParams
from maskfer.errors import DatasetError
from maskfer.labels import label_column

SCHEMA_VERSION: Final = 1
FILE_NAME: Final = "faces.parquet"
LANDMARKS: Final = 68

SPLITS: Final = ("train", "val", "test")

SCHEMA: Final = pa.schema(
    [
        pa.field("face_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("person", pa.string()),
        pa.field("emotion", pa.string()),
        pa.field("expression", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("is_masked", pa.bool_(), nullable=False),
        pa.field("mask_origin", pa.string(), nullable=False),
        pa.field("mask_type", pa.string()),
        pa.field("mask_color", pa.string()),
        pa.field("twin_id", pa.string()),
        pa.field("orientation", pa.string()),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
        # Not of fixed size: Arrow cannot read a Parquet column of fixed-size lists in which one is null.
        pa.field("landmarks", pa.list_(pa.float32())),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("mask_region", pa.binary()),
    ]
)
"""The columns of `faces.parquet`; units and meanings in docs/data.md."""

_METADATA_KEY: Final = b"maskfer"


@dataclass(frozen=True)
class FacesTable:
    """The rows of a `faces.parquet`, or those of one split."""

    table: pa.Table
    path: Path
    metadata: Mapping[str, Any]
    """The file's own: schema_version, crop_size, crop_context, seed, ..."""

    @classmethod
    def read(cls, path: Path, split: str | None = None, columns: Sequence[str] | None = None) -> Self:
        """Read a file, or only one split and some columns of it.

        Raises `DatasetError` when the file is missing, no Parquet, or not of this schema.
        """
        schema = _read_schema(path)
        metadata = _metadata(path, schema)
        wanted = None if columns is None else list(dict.fromkeys(columns))
        unknown = sorted(set(wanted or ()) - set(SCHEMA.names))
        if unknown:
            raise DatasetError(f"{path}: no columns {unknown}; a faces table has {SCHEMA.names}")
        chosen = None if split is None else pc.field("split") == split
        try:
            table = pq.read_table(path, columns=wanted, filters=chosen)
        except (pa.ArrowInvalid, OSError) as error:
            raise DatasetError(f"{path}: the file is damaged ({error}); build the dataset again") from error
        return cls(table=table, path=path, metadata=metadata)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def crop_size(self) -> int:
        """Side of a stored face, pixels."""
        return int(self.metadata["crop_size"])

    @property
    def crop_context(self) -> float:
        """Side of a stored face, in units of the longer side of the detector's box."""
        return float(self.metadata["crop_context"])

    def require_crop(self, *, size: int, context: float, wanted_by: str) -> None:
        """Raise `DatasetError` where the faces are cut otherwise than `wanted_by`, in words, wants them."""
        if (self.crop_size, self.crop_context) != (size, context):
            raise DatasetError(
                f"{self.path}: its faces are {self.crop_size} pixels wide and {self.crop_context:g} times "
                f"the box, {wanted_by} wants {size} and {context:g}; build the dataset with "
                f"data.crop_size: {size} and data.crop_context: {context:g}"
            )

    def column(self, name: str) -> list[Any]:
        """Return one column as Python values, `None` where the row has none."""
        return list(self._column(name).to_pylist())

    def images(self) -> UInt8[np.ndarray, "n s s"]:
        """Decode the faces, grey."""
        return self._decode("image", cv2.IMREAD_GRAYSCALE)

    def color_images(self) -> UInt8[np.ndarray, "n s s 3"]:
        """Decode the faces, BGR."""
        return self._decode("image", cv2.IMREAD_COLOR)

    def mask_regions(self) -> Bool[np.ndarray, "n s s"]:
        """Decode where a drawn mask covers the face; all `False` where none is drawn."""
        return self._decode("mask_region", cv2.IMREAD_GRAYSCALE) > 127

    def landmarks(self) -> Float32[np.ndarray, "n 68 2"]:
        """Return the landmarks in crop pixels, NaN where a row has none."""
        flat = np.full((len(self), 2 * LANDMARKS), np.nan, np.float32)
        for row, points in zip(flat, self.column("landmarks"), strict=True):
            if points is not None:
                row[:] = points
        return flat.reshape(len(self), LANDMARKS, 2)

    def labels(self, classes: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """Return each row's index in `classes` (expressions or emotions), -1 where it has no such label."""
        index = {name: position for position, name in enumerate(classes)}
        column = self.column(label_column(tuple(classes)))
        return np.array([index.get(value, -1) for value in column], np.int64)

    def where(self, keep: Bool[np.ndarray, " n"]) -> FacesTable:
        """Return the table of the rows that `keep` names."""
        return FacesTable(self.table.filter(pa.array(keep)), self.path, self.metadata)

    def sha256(self) -> str:
        """Return the hash of the whole file, whatever part of it was read."""
        return table_sha256(self.path)

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self.table.column_names:
            raise DatasetError(f"{self.path}: column {name!r} was not read; have {self.table.column_names}")
        return self.table.column(name)

    def _decode(self, name: str, flags: int) -> UInt8[np.ndarray, "n s s *channels"]:
        values = self._column(name)
        channels = () if flags == cv2.IMREAD_GRAYSCALE else (3,)
        out = np.zeros((len(self), self.crop_size, self.crop_size, *channels), np.uint8)

        def decode(index: int) -> None:
            encoded = values[index]
            if encoded.is_valid:
                out[index] = decode_image(encoded.as_buffer(), flags=flags, where=f"{self.path} row {index}")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode, range(len(self)), chunksize=64):
                pass
        return out


def require_trainable(path: Path, *, data: DataParams, classes: Sequence[str]) -> None:
    """Raise `DatasetError` where a training on the table at `path` would fail or mislead, before it begins.

    That is where the faces are cut otherwise than by `data`, a class has no training face, or no face is left
    to choose the best epoch by (val), or to judge by (test).
    """
    table = FacesTable.read(path, columns=["split"])
    table.require_crop(size=data.crop_size, context=data.crop_context, wanted_by="params.yaml")
    splits = set(table.column("split"))
    for split, use in (("val", "training is watched"), ("test", "models are judged")):
        if split not in splits:
            raise DatasetError(
                f"{path}: none of its {len(table)} faces is of {split} people, by whom {use}; build "
                f"the dataset with data.{split}_fraction above 0, or name some in the column split of "
                "its labels.csv"
            )
    require_classes(path, classes)


def require_classes(path: Path, classes: Sequence[str]) -> None:
    """Raise `DatasetError` naming the classes that no training face of the table at `path` has."""
    table = FacesTable.read(path, split="train", columns=[label_column(tuple(classes))])
    there = set(table.labels(classes).tolist())
    missing = [name for index, name in enumerate(classes) if index not in there]
    if missing:
        raise DatasetError(
            f"{path}: no training face of class {', '.join(missing)}; "
            "add photographs of it, or leave it out of `classes` in params.yaml"
        )


def photographs(path: Path, classes: Sequence[str], *, split: str = "train") -> int:
    """Count the faces of a split with one of these labels, each once: their drawn twins are left out."""
    table = FacesTable.read(path, split=split, columns=[label_column(tuple(classes)), "mask_origin"])
    drawn = np.array([origin == "drawn" for origin in table.column("mask_origin")], bool)
    return int(((table.labels(classes) >= 0) & ~drawn).sum())


def write_faces(path: Path, rows: Iterable[Mapping[str, Any]], *, metadata: Mapping[str, Any]) -> None:
    """Write a `faces.parquet`, atomically: the same rows and metadata give the same bytes.

    Raises `DatasetError` when two rows have the same `face_id`.
    """
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    repeated = [face_id for face_id, count in Counter(table["face_id"].to_pylist()).items() if count > 1]
    if repeated:
        # Without the folder: a stage writes into one that takes its final name later.
        raise DatasetError(
            f"{path.name}: {len(repeated)} face_id in more than one row each, the first is {repeated[0]}; "
            "expected one row for each, build the dataset again from its photographs"
        )
    write_table(path, table, metadata=metadata)


def write_table(path: Path, table: pa.Table, *, metadata: Mapping[str, Any]) -> None:
    """Write any of our tables, atomically, with its description in the file."""
    described = {"schema_version": SCHEMA_VERSION, **metadata}
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(described, sort_keys=True)})
    with atomic.new_file(path) as work:
        pq.write_table(table, work, compression="zstd", row_group_size=4096)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a table of ours says about itself; raises `DatasetError` as `FacesTable.read` does."""
    schema = _read_schema(path, expected=None)
    return _metadata(path, schema)


def table_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal: the dataset's identity."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_image(image: UInt8[np.ndarray, "s s 3"], *, quality: int) -> bytes:
    """Return WebP bytes; quality 101 is lossless."""
    _, encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return encoded.tobytes()


def encode_region(region: Bool[np.ndarray, "s s"]) -> bytes:
    """Return PNG bytes, one channel, 255 where the region is."""
    _, encoded = cv2.imencode(".png", region.astype(np.uint8) * np.uint8(255))
    return encoded.tobytes()


def decode_image(encoded: bytes | pa.Buffer, *, flags: int, where: str) -> UInt8[np.ndarray, "h w *c"]:
    """Decode picture bytes; raises `DatasetError` naming `where` they came from."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if image is None:
        raise DatasetError(f"{where}: the stored picture does not decode; build the dataset again")
    return np.asarray(image, np.uint8)


def _read_schema(path: Path, expected: pa.Schema | None = SCHEMA) -> pa.Schema:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; make it with `maskfer data build RAW --out DIR`")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path}: not a Parquet file; expected a faces.parquet") from error
    missing = [] if expected is None else [name for name in expected.names if name not in schema.names]
    if missing:
        raise DatasetError(f"{path}: lacks the columns {missing}; build it with `maskfer data build`")
    return schema


def _metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        raise DatasetError(
            f"{path}: not written by maskfer (no metadata); build it with `maskfer data build`"
        )
    metadata: dict[str, Any] = json.loads(raw)
    version = metadata.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; build the dataset again"
        )
    return metadata
