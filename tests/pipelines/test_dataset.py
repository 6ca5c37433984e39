"""A dataset is built once for its photographs, and anew when one of them changes, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from maskfer.config import Params, Settings
from maskfer.data.table import FILE_NAME, FacesTable, write_table
from maskfer.errors import DatasetError
from maskfer.labels import EXPRESSIONS
from pipelines.dataset import faces_table
from tests.known import KnownFaces


def test_a_photograph_that_changes_behind_a_link_is_not_answered_from_the_cache(
    raw_faces: Path, tmp_path: Path
) -> None:
    raw, away = tmp_path / "raw", tmp_path / "away"
    rows = ["image,expression,split"]
    for folder in (raw, away):
        folder.mkdir()
    for expression in EXPRESSIONS:
        for look, split in (("center", "train"), ("left", "val"), ("right", "test")):
            name = f"{expression}-{look}.png"
            (away / name).write_bytes((raw_faces / expression / f"{look}.png").read_bytes())
            rows.append(f"images/{name},{expression},{split}")
    (raw / "images").symlink_to(away)
    (raw / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings, said = Settings(home=tmp_path / "home"), list[str]()
    for _ in range(2):
        faces_table(raw, params=Params(), settings=settings, say=said.append)
    assert [line.split()[1] for line in said] == ["running", "done", "cached"]
    (away / "positive-left.png").write_bytes(b"no picture any more")
    faces_table(raw, params=Params(), settings=settings, say=said.append)
    assert "8 faces + 1 rejected" in said[-1]


@pytest.mark.parametrize(
    ("data", "splits", "problem"),
    [
        ({"crop_context": 1.4}, "train", r"1 times the box, params\.yaml wants 96 and 1\.4"),
        ({"crop_size": 128}, "train", r"96 pixels wide .* params\.yaml wants 128 and 1;"),
        (
            {},
            "train",
            r"none of its \d+ faces is of val people, by whom training is watched; build the",
        ),
        ({}, "train val", r"none of its \d+ faces is of test people, by whom models are judged; build the"),
        ({}, "val test", r"no training face of class positive, neutral, negative; add photographs of it"),
    ],
)
def test_a_table_that_cannot_be_trained_on_or_judged_by_is_refused_before_anything_runs(
    known_faces: KnownFaces, tmp_path: Path, data: dict[str, float], splits: str, problem: str
) -> None:
    parts = [FacesTable.read(known_faces.table(people=1, split=split)) for split in splits.split()]
    table = tmp_path / FILE_NAME
    write_table(table, pa.concat_tables([part.table for part in parts]), metadata=parts[0].metadata)
    params = Params.model_validate({"data": data})
    with pytest.raises(DatasetError, match=problem):
        faces_table(table, params=params, settings=Settings(home=tmp_path), say=print)
