"""What is written appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskfer import atomic
from maskfer.errors import InputError


def write_half_a_folder(out: Path) -> None:
    with atomic.new_folder(out, holds=("old", "half")) as work:
        (work / "half").touch()
        raise RuntimeError("half way")


def write_a_table(out: Path, *, meanwhile: Path | None = None) -> None:
    with atomic.new_folder(out, holds=("table",)) as work:
        (work / "table").touch()
        if meanwhile is not None:
            meanwhile.touch()


def write_half_a_file(out: Path) -> None:
    with atomic.new_file(out) as work:
        work.write_text("ne")
        raise RuntimeError("half way")


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with atomic.new_folder(out, holds=("old", "new")) as work:
            (work / text).write_text(text)
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_dvc_wrote_for_git_stays_in_a_folder_that_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".gitignore").write_text("/table\n")
    write_a_table(out)
    assert (out / ".gitignore").read_text() == "/table\n"
    assert (out / "table").exists()


def test_a_link_goes_on_leading_to_the_folder_that_is_replaced(tmp_path: Path) -> None:
    big, link = tmp_path / "big", tmp_path / "small" / "out"
    big.mkdir()
    link.parent.mkdir()
    link.symlink_to(big / "out")
    for text in ("old", "new"):
        with atomic.new_folder(link, holds=("old", "new")) as work:
            (work / text).touch()
    assert link.readlink() == big / "out"
    assert [path.name for path in link.iterdir()] == ["new"]
    assert [path.name for folder in (big, link.parent) for path in folder.iterdir()] == ["out", "out"]


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
    for wanted in (out, out / "below"):
        with pytest.raises(InputError, match="out is a file"), atomic.new_folder(wanted, holds=()):
            pass
    assert out.read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_holds_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "holiday").mkdir(parents=True)
    (out / "table").touch()
    with pytest.raises(InputError, match=r"out: holds holiday, .*would be lost"):
        write_a_table(out)
    assert sorted(path.name for path in out.iterdir()) == ["holiday", "table"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_put_into_a_folder_while_its_successor_is_made_stays_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match="holds notes"):
        write_a_table(out, meanwhile=out / "notes")
    assert [path.name for path in out.iterdir()] == ["notes"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_without_its_mark_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="holds raw and no mark"):
        atomic.check_replaceable(tmp_path, holds=("mark", "raw"), marker="mark")
    (tmp_path / "mark").touch()
    atomic.check_replaceable(tmp_path, holds=("mark", "raw"), marker="mark")


def test_an_input_is_never_replaced_by_what_is_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "table").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        for source in (tmp_path, tmp_path / "table", tmp_path / "link" / "table"):
            with pytest.raises(InputError, match="would take the place of the input"):
                atomic.check_replaceable(out, holds=("table", "link"), inputs=(source,))


def test_a_file_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "file.txt"
    atomic.write_text(out, "old")
    with pytest.raises(RuntimeError, match="half"):
        write_half_a_file(out)
    assert out.read_text() == "old"
    atomic.write_bytes(out, b"new")
    assert out.read_bytes() == b"new"
    assert [path.name for path in out.parent.iterdir()] == ["file.txt"]


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_then_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "file.txt"
    flushed: list[tuple[int, bool]] = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        flush(descriptor)
        flushed.append((os.fstat(descriptor).st_ino, out.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    atomic.write_text(out, "whole")
    assert flushed == [(out.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "there" / "file"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)

    atomic.write_text(link, "new")

    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Opened for both, so that neither side waits for the other.
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        atomic.write_text(pipe, "figures")
        assert os.read(descriptor, 100) == b"figures"
    finally:
        os.close(descriptor)

    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
