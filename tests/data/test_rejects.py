"""The list of what was dropped is read as it was written, and no other file is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.data.rejects import Reject, read_rejects, write_rejects
from maskfer.errors import DatasetError


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    rejects = [Reject("b,c.png", "align", "no face found"), Reject("a.png", "ingest", 'same bytes: "x"')]
    write_rejects(tmp_path / "rejects.csv", rejects)
    assert read_rejects(tmp_path / "rejects.csv") == sorted(rejects)


def test_a_name_that_is_not_utf8_is_written_with_escapes(tmp_path: Path) -> None:
    write_rejects(tmp_path / "rejects.csv", [Reject("caf\udce9.png", "ingest", "the name is not UTF-8")])
    (reject,) = read_rejects(tmp_path / "rejects.csv")
    assert reject.image == r"caf\udce9.png"


def test_another_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rejects.csv").write_text("image,reason\na.png,no face found\n")
    with pytest.raises(DatasetError, match="expected a dataset's, image, stage, reason"):
        read_rejects(tmp_path / "rejects.csv")
