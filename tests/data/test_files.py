"""The files of a raw folder are all its files, whatever links lead to them, and each once for each name."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer.data.files import files_below
from maskfer.errors import DatasetError


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_linked_folders_and_files_belong_to_it_and_hidden_ones_do_not(tmp_path: Path) -> None:
    raw, away = tmp_path / "raw", tmp_path / "away"
    touch(raw / "b/2.png", raw / "b/1.png", raw / ".hidden/3.png", raw / "b/.4.png", away / "deep/5.png")
    (raw / "a").symlink_to(away)
    (raw / "6.png").symlink_to(away / "deep/5.png")
    (raw / "7.png").symlink_to(away / "nothing")
    assert names(raw) == ["6.png", "7.png", "a/deep/5.png", "b/1.png", "b/2.png"]


def test_a_link_to_a_folder_around_it_ends(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    touch(raw / "a/1.png", tmp_path / "beside.png")
    (raw / "a/round").symlink_to(raw)
    (raw / "out").symlink_to(tmp_path)
    assert names(raw) == ["a/1.png", "out/beside.png"]


def test_a_folder_that_cannot_be_looked_into_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its path is longer than the system takes; permissions would not stop root.
    monkeypatch.chdir(tmp_path)
    for _ in range(17):
        Path("d" * 250).mkdir()
        monkeypatch.chdir("d" * 250)
    with pytest.raises(DatasetError, match="cannot be looked into: File name too long"):
        names(tmp_path)
