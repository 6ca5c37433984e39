"""What is written appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskfer import atomic


def write_half_a_folder(out: Path) -> None:
    with atomic.new_folder(out) as work:
        (work / "half").touch()
        raise RuntimeError("half way")


def write_half_a_file(out: Path) -> None:
    with atomic.new_file(out) as work:
        work.write_text("ne")
        raise RuntimeError("half way")


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with atomic.new_folder(out) as work:
            (work / text).write_text(text)
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(RuntimeError, match="half"):
        write_half_a_folder(out)
    assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("a file")
    with pytest.raises(OSError, match="out"), atomic.new_folder(out):
        pass
    assert out.read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "file.txt"
    atomic.write_text(out, "old")
    with pytest.raises(RuntimeError, match="half"):
        write_half_a_file(out)
    assert out.read_text() == "old"
    atomic.write_bytes(out, b"new")
    assert out.read_bytes() == b"new"
    assert [path.name for path in out.parent.iterdir()] == ["file.txt"]
