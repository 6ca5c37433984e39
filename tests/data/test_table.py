"""The faces table gives back what was written, the same bytes for the same rows, and says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskfer.data.table import (
    SCHEMA,
    FacesTable,
    encode_image,
    encode_region,
    photographs,
    table_sha256,
    write_faces,
    write_table,
)
from maskfer.errors import DatasetError
from maskfer.labels import EXPRESSIONS

METADATA = {"crop_size": 32, "crop_context": 1.2, "seed": 1}


def row(index: int, **changes: Any) -> dict[str, Any]:
    face = np.full((32, 32, 3), 10 * index + 20, np.uint8)
    return {
        "face_id": f"{index:016x}",
        "source": f"{index}.png",
        "source_sha256": "0" * 64,
        "expression": "positive",
        "split": "train",
        "is_masked": False,
        "mask_origin": "none",
        "confidence": 0.9,
        "box": [1.0, 2.0, 3.0, 4.0],
        "landmarks": [float(value) for value in range(136)],
        "image": encode_image(face, quality=101),
        **changes,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    region = np.zeros((32, 32), bool)
    region[16:, 4:20] = True
    rows = [
        row(0),
        row(1, expression="negative", split="val", landmarks=None, emotion="anger"),
        row(2, expression=None, split="test", emotion="surprise"),
        row(3, is_masked=True, mask_origin="drawn", mask_region=encode_region(region)),
    ]
    write_faces(tmp_path / "faces.parquet", rows, metadata=METADATA)
    return tmp_path / "faces.parquet"


def test_what_was_written_is_read(path: Path) -> None:
    table = FacesTable.read(path)
    assert len(table) == 4
    assert table.table.schema.names == SCHEMA.names
    assert table.metadata["crop_context"] == 1.2
    assert table.images().shape == (4, 32, 32)
    assert [int(face.mean()) for face in table.images()] == [20, 30, 40, 50]
    assert table.color_images().shape == (4, 32, 32, 3)
    assert table.mask_regions().sum(axis=(1, 2)).tolist() == [0, 0, 0, 256]
    assert table.landmarks()[0, 3].tolist() == [6.0, 7.0]
    assert np.isnan(table.landmarks()[1]).all()
    assert table.column("box")[0] == [1.0, 2.0, 3.0, 4.0]


def test_labels_are_indices_and_rows_without_one_are_minus_one(path: Path) -> None:
    table = FacesTable.read(path)
    assert table.labels(EXPRESSIONS).tolist() == [0, 2, -1, 0]
    assert table.labels(("surprise", "anger")).tolist() == [-1, 1, 0, -1]


def test_a_labelled_face_counts_once_whether_or_not_it_also_wears_a_drawn_mask(path: Path) -> None:
    # Of two training faces one wears a drawn mask; the test face has an emotion and no expression.
    assert [photographs(path, EXPRESSIONS, split=split) for split in ("train", "val", "test")] == [1, 1, 0]
    assert photographs(path, ("anger", "surprise"), split="test") == 1


def test_a_split_and_some_columns_can_be_read_alone(path: Path) -> None:
    table = FacesTable.read(path, split="train", columns=["face_id", "image"])
    assert table.column("face_id") == [f"{0:016x}", f"{3:016x}"]
    assert table.images().shape == (2, 32, 32)
    with pytest.raises(DatasetError, match=r"'landmarks' was not read"):
        table.column("landmarks")


def test_rows_can_be_chosen(path: Path) -> None:
    table = FacesTable.read(path)
    masked = table.where(np.array(table.column("is_masked")))
    assert masked.column("mask_origin") == ["drawn"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        write_faces(tmp_path / name, [row(index) for index in range(5)], metadata=METADATA)
        hashes.add(table_sha256(tmp_path / name))
    assert len(hashes) == 1
    assert FacesTable.read(tmp_path / "a").sha256() in hashes


def test_an_empty_split_is_an_empty_table(path: Path) -> None:
    table = FacesTable.read(path, split="nobody")
    assert len(table) == 0
    assert table.images().shape == (0, 32, 32)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="maskfer data build"):
        FacesTable.read(tmp_path / "faces.parquet")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    path.write_bytes(b"hello")
    with pytest.raises(DatasetError, match="not a Parquet file"):
        FacesTable.read(path)


def test_a_foreign_table_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    pq.write_table(pa.table({"face_id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"lacks the columns.*source"):
        FacesTable.read(tmp_path / "x.parquet")


def test_a_table_of_another_version_is_refused(path: Path) -> None:
    write_table(path, FacesTable.read(path).table, metadata={"schema_version": 99})
    with pytest.raises(DatasetError, match="schema version 99"):
        FacesTable.read(path)


def test_an_image_that_does_not_decode_is_named_by_its_row(tmp_path: Path) -> None:
    write_faces(tmp_path / "f.parquet", [row(0), row(1, image=b"broken")], metadata=METADATA)
    with pytest.raises(DatasetError, match=r"f\.parquet row 1"):
        FacesTable.read(tmp_path / "f.parquet").images()


def test_a_column_that_a_faces_table_does_not_have_is_refused(path: Path) -> None:
    with pytest.raises(DatasetError, match="no columns"):
        FacesTable.read(path, columns=["colour_of_eyes"])


def test_two_rows_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 face_id in more than one row each, the first is 0{15}1;"):
        write_faces(tmp_path / "f.parquet", [row(0), row(1), row(1)], metadata=METADATA)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    before = table_sha256(path)
    with pytest.raises(pa.ArrowInvalid):
        write_faces(path, [row(0, box=["left"])], metadata=METADATA)
    assert table_sha256(path) == before
    assert list(path.parent.iterdir()) == [path]
