"""Align: every record is a face or a reject, and the number of workers changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskfer.config import Params
from maskfer.data.rejects import read_rejects
from maskfer.data.table import FacesTable, table_sha256
from maskfer.errors import DatasetError
from maskfer.stages import align, ingest

PARAMS = Params()


def records_of(raw: Path, out: Path) -> Path:
    ingest.run(raw, out, params=PARAMS)
    return out


def test_every_picture_becomes_a_face_or_a_reject_with_its_reason(raw_faces: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(raw_faces, raw)
    cv2.imwrite(str(raw / "neutral/wall.png"), np.full((200, 200, 3), 128, np.uint8))
    cv2.imwrite(str(raw / "neutral/line.png"), np.full((10, 100_000, 3), 128, np.uint8))
    (raw / "neutral/broken.png").write_bytes(b"\x89PNG and nothing more")
    report = align.run(records_of(raw, tmp_path / "r"), tmp_path / "a", raw=raw, params=PARAMS)

    assert (report.images, report.faces, report.rejected) == (12, 9, 3)
    assert {(reject.image, reject.reason) for reject in read_rejects(tmp_path / "a/rejects.csv")} == {
        ("neutral/wall.png", "no face found"),
        ("neutral/line.png", "no face found"),
        ("neutral/broken.png", "the file does not decode as a picture"),
    }
    table = FacesTable.read(tmp_path / "a/faces.parquet")
    assert table.column("source") == sorted(table.column("source"))
    assert table.images().shape == (9, 96, 96)
    assert table.column("mask_origin") == ["none"] * 9
    assert sum(report.orientations.values()) == 9


def test_landmarks_are_where_the_face_is_in_the_crop(raw_faces: Path, tmp_path: Path) -> None:
    align.run(records_of(raw_faces, tmp_path / "r"), tmp_path / "a", raw=raw_faces, params=PARAMS)
    landmarks = FacesTable.read(tmp_path / "a/faces.parquet").landmarks()
    noses, chins = landmarks[:, 30], landmarks[:, 8]
    assert ((noses > 12) & (noses < 84)).all()
    assert (chins[:, 1] > noses[:, 1] + 10).all()


def test_one_worker_and_two_write_the_same_bytes(raw_faces: Path, tmp_path: Path) -> None:
    records = records_of(raw_faces, tmp_path / "r")
    for workers in (1, 2):
        align.run(records, tmp_path / f"{workers}", raw=raw_faces, params=PARAMS, workers=workers)
    assert table_sha256(tmp_path / "1/faces.parquet") == table_sha256(tmp_path / "2/faces.parquet")


def test_pictures_without_any_face_are_an_error_and_leave_what_was_there(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("positive", "neutral"):
        (raw / name).mkdir(parents=True)
        cv2.imwrite(str(raw / name / "wall.png"), np.full((90, 90, 3), len(name), np.uint8))
    out = tmp_path / "a"
    out.mkdir()
    (out / "faces.parquet").write_bytes(b"of yesterday")
    with pytest.raises(DatasetError, match="none of 2 images gives a face: no face found"):
        align.run(records_of(raw, tmp_path / "r"), out, raw=raw, params=PARAMS)
    assert (out / "faces.parquet").read_bytes() == b"of yesterday"
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "r", "a"}


@pytest.mark.shared
def test_photographs_of_real_masks_are_faces_too(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "datasets/face-masks"
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    lines = (source / "labels.csv").read_text(encoding="utf-8").splitlines()
    chosen = lines[1::80]
    (raw / "labels.csv").write_text("\n".join([lines[0], *chosen]) + "\n", encoding="utf-8")
    for line in chosen:
        shutil.copy(source / "images" / line.split(",")[0], raw / "images")
    report = align.run(records_of(raw, tmp_path / "r"), tmp_path / "a", raw=raw, params=PARAMS)
    assert report.images == len(chosen)
    assert report.faces >= 0.95 * report.images
    origins = FacesTable.read(tmp_path / "a/faces.parquet").column("mask_origin")
    assert set(origins) == {"none", "real"}
