"""Ingest: records on disk are the records read, with a split each, and counts that add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.config import Params
from maskfer.data.rejects import read_rejects
from maskfer.errors import DatasetError
from maskfer.stages import ingest


def test_records_and_rejects_add_up_to_the_images(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("positive", "neutral", "surprise"):
        for index in range(4):
            (raw / name).mkdir(parents=True, exist_ok=True)
            (raw / name / f"{index}.png").write_bytes(f"{name}{index // 2}".encode())
    report = ingest.run(raw, tmp_path / "r", params=Params())
    records, rejects = ingest.read_records(tmp_path / "r"), read_rejects(tmp_path / "r/rejects.csv")
    assert (report.images, report.records, report.rejected) == (12, 4, 8)
    assert (len(records), len(rejects)) == (4, 8)
    assert {record.split for record in records} <= {"train", "val", "test"}
    assert {reject.stage for reject in rejects} == {"ingest"}
    assert [record.image for record in records] == sorted(record.image for record in records)


def test_a_folder_without_images_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        ingest.run(tmp_path / "raw", tmp_path / "r", params=Params())
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
