"""A dataset is built once for its photographs, and anew when one of them changes, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.config import Params, Settings
from maskfer.errors import DatasetError
from pipelines.dataset import faces_table


def test_a_photograph_that_changes_behind_a_link_is_not_answered_from_the_cache(
    raw_faces: Path, tmp_path: Path
) -> None:
    raw, away = tmp_path / "raw", tmp_path / "away"
    for folder in (raw, away):
        folder.mkdir()
    (away / "a.png").write_bytes((raw_faces / "positive/center.png").read_bytes())
    (raw / "positive").symlink_to(away)
    settings, said = Settings(home=tmp_path / "home"), list[str]()
    for _ in range(2):
        faces_table(raw, params=Params(), settings=settings, say=said.append)
    assert [line.split()[1] for line in said] == ["running", "done", "cached"]
    (away / "a.png").write_bytes(b"no picture any more")
    with pytest.raises(DatasetError, match="does not decode as a picture"):
        faces_table(raw, params=Params(), settings=settings, say=said.append)
