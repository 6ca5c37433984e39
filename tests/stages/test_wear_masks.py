"""Wear masks: a twin for every face, aligned with it, the same whoever draws it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskfer.config import MaskingParams, Params
from maskfer.data.rejects import read_rejects
from maskfer.data.table import FacesTable, table_sha256, write_faces
from maskfer.stages import align, ingest, wear_masks

PARAMS = Params()


@pytest.fixture(scope="module")
def aligned(raw_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligned")
    ingest.run(raw_faces, folder / "records", params=PARAMS)
    align.run(folder / "records", folder / "faces", raw=raw_faces, params=PARAMS)
    return folder / "faces"


def changed(aligned: Path, out: Path, **columns: list[object]) -> Path:
    """Copy a table with other values in some columns of its first rows."""
    table = FacesTable.read(aligned / "faces.parquet")
    rows = table.table.to_pylist()
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=False):
            row[name] = value
    write_faces(out / "faces.parquet", rows, metadata=table.metadata)
    return out


def test_every_face_has_a_twin_that_is_the_same_but_for_the_mask(aligned: Path, tmp_path: Path) -> None:
    report = wear_masks.run(aligned, tmp_path / "w", params=PARAMS)
    assert (report.faces, report.twins, report.rejected, report.already_masked) == (9, 9, 0, 0)
    table = FacesTable.read(tmp_path / "w/faces.parquet")
    ids, twin_of = table.column("face_id"), table.column("twin_id")
    images, regions = table.images().astype(int), table.mask_regions()
    assert len(set(ids)) == len(ids) == 18
    for twin, original in ((row, ids.index(of)) for row, of in enumerate(twin_of) if of is not None):
        assert ids[twin] == f"{ids[original]}-m"
        for column in ("person", "expression", "split", "orientation", "landmarks", "box", "source"):
            assert table.column(column)[twin] == table.column(column)[original]
        region = regions[twin]
        assert 0.05 < region.mean() < 0.6
        assert not regions[original].any()
        change = np.abs(images[twin] - images[original])
        assert change[:30][~region[:30]].mean() < 3  # above the mask nothing but compression changes
        assert change[region].mean() > 10
    assert set(table.column("mask_origin")) == {"none", "drawn"}
    assert all(color is None or color.startswith("#") for color in table.column("mask_color"))


def test_one_worker_and_two_draw_the_same_bytes_and_another_seed_others(
    aligned: Path, tmp_path: Path
) -> None:
    hashes = []
    for name, params, workers in (("a", PARAMS, 1), ("b", PARAMS, 2), ("c", Params(seed=8), 1)):
        wear_masks.run(aligned, tmp_path / name, params=params, workers=workers)
        hashes.append(table_sha256(tmp_path / name / "faces.parquet"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_twin_does_not_depend_on_the_faces_beside_it(aligned: Path, tmp_path: Path) -> None:
    wear_masks.run(aligned, tmp_path / "all", params=PARAMS)
    table = FacesTable.read(aligned / "faces.parquet")
    write_faces(tmp_path / "few/faces.parquet", table.table.slice(3, 2).to_pylist(), metadata=table.metadata)
    wear_masks.run(tmp_path / "few", tmp_path / "fewer", params=PARAMS)
    whole, part = (FacesTable.read(tmp_path / name / "faces.parquet") for name in ("all", "fewer"))
    pictures = dict(zip(whole.column("face_id"), whole.column("image"), strict=True))
    for face_id, picture in zip(part.column("face_id"), part.column("image"), strict=True):
        assert pictures[face_id] == picture


def test_a_face_that_cannot_be_masked_is_rejected_and_leaves_the_table(aligned: Path, tmp_path: Path) -> None:
    faces = changed(aligned, tmp_path / "f", landmarks=[[5.0] * 136, None])
    report = wear_masks.run(faces, tmp_path / "w", params=PARAMS)
    assert (report.faces, report.twins, report.rejected) == (9, 7, 2)
    rejects = read_rejects(tmp_path / "w/rejects.csv")
    assert {reject.stage for reject in rejects} == {"wear_masks"}
    assert "the face has no landmarks" in {reject.reason for reject in rejects}
    table = FacesTable.read(tmp_path / "w/faces.parquet")
    assert len(table) == 14
    assert not {reject.image for reject in rejects} & set(table.column("source"))


def test_a_really_masked_face_is_kept_without_a_twin(aligned: Path, tmp_path: Path) -> None:
    faces = changed(aligned, tmp_path / "f", is_masked=[True], mask_origin=["real"])
    report = wear_masks.run(faces, tmp_path / "w", params=PARAMS)
    assert (report.twins, report.already_masked, report.rejected) == (8, 1, 0)
    table = FacesTable.read(tmp_path / "w/faces.parquet")
    assert sorted(table.column("mask_origin")) == ["drawn"] * 8 + ["none"] * 8 + ["real"]


def test_a_table_with_twins_gets_new_ones_in_their_place(aligned: Path, tmp_path: Path) -> None:
    other = Params(masking=MaskingParams(types=("duckbill",)))
    wear_masks.run(aligned, tmp_path / "fresh", params=other)
    wear_masks.run(aligned, tmp_path / "w", params=PARAMS)
    report = wear_masks.run(tmp_path / "w", tmp_path / "again", params=other)
    assert (report.faces, report.twins, report.already_masked) == (9, 9, 0)
    fresh, again = (table_sha256(tmp_path / name / "faces.parquet") for name in ("fresh", "again"))
    assert again == fresh


def test_only_the_types_of_the_parameters_are_worn(aligned: Path, tmp_path: Path) -> None:
    params = Params(masking=MaskingParams(types=("duckbill",)))
    report = wear_masks.run(aligned, tmp_path / "w", params=params)
    assert dict(report.types) == {"duckbill": 9}
