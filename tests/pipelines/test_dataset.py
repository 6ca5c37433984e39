"""A dataset is built once for its photographs, and anew when one of them changes, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.config import Params, Settings
from maskfer.errors import DatasetError
from pipelines.dataset import faces_table
from tests.known import KnownFaces


def test_a_photograph_that_changes_behind_a_link_is_not_answered_from_the_cache(
    raw_faces: Path, tmp_path: Path
) -> None:
    raw, away = tmp_path / "raw", tmp_path / "away"
    for folder in (raw, away):
        folder.mkdir()
    for name, look in (("a", "center"), ("b", "left"), ("c", "right")):
        (away / f"{name}.png").write_bytes((raw_faces / f"positive/{look}.png").read_bytes())
    (raw / "positive").symlink_to(away)
    settings, said = Settings(home=tmp_path / "home"), list[str]()
    for _ in range(2):
        faces_table(raw, params=Params(), settings=settings, say=said.append)
    assert [line.split()[1] for line in said] == ["running", "done", "cached"]
    (away / "a.png").write_bytes(b"no picture any more")
    faces_table(raw, params=Params(), settings=settings, say=said.append)
    assert "2 faces + 1 rejected" in said[-1]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"crop_context": 1.4}, r"1 times the box, params\.yaml wants 96 and 1\.4"),
        ({"crop_size": 128}, r"96 pixels wide .* params\.yaml wants 128 and 1;"),
        ({}, r"none of its 10 faces is of test people"),
    ],
)
def test_a_table_that_cannot_be_trained_on_or_judged_by_is_refused_before_anything_runs(
    known_faces: KnownFaces, tmp_path: Path, data: dict[str, float], problem: str
) -> None:
    table = known_faces.table(people=1, split="train")
    params = Params.model_validate({"data": data})
    with pytest.raises(DatasetError, match=problem):
        faces_table(table, params=params, settings=Settings(home=tmp_path), say=print)
