"""Files and folders that appear whole or not at all, and in no place that holds something else."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maskfer.errors import InputError

KEPT = ".gitignore"
"""DVC writes one beside each output that git does not ignore yet."""


@contextmanager
def new_folder(out: Path, *, holds: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its place when the block ends well.

    `holds` names all that the block puts into it: `InputError` where an `out` that is there holds anything
    else but a `.gitignore`, which stays. When the block raises, the new folder is gone and an `out` that was
    there before is untouched. Where `out` is a link, the folder it leads to is replaced. A process that is
    killed between the two renames at the end leaves no `out`, and beside it the earlier folder, whole, under
    a hidden name that ends in `.old`. It is not put back by itself: to the next process, another one that is
    between its own two renames looks the same.
    """
    check_replaceable(out, holds=holds)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp: its folders are private to one user, and this one stays.
    work = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    work.mkdir()
    try:
        yield work
        # Again: the block may have taken hours.
        check_replaceable(out, holds=holds)
        if (out / KEPT).is_file():
            shutil.copyfile(out / KEPT, work / KEPT)
        _take_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_replaceable(
    out: Path, *, holds: Collection[str], marker: str | None = None, inputs: Collection[Path] = ()
) -> None:
    """Raise `InputError` where a new folder with the entries `holds` may not take the place of `out`.

    It may where `out` does not exist or has no entry but `holds` and `.gitignore`, and where none of `inputs`
    is `out` or lies in it. `marker` is the entry without which the others could be anybody's.
    """
    for source in inputs:
        if source.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{out}: would take the place of the input {source}; name another folder")
    check_folder(out)
    names = sorted(entry.name for entry in out.iterdir() if entry.name != KEPT) if out.exists() else []
    strangers = [name for name in names if name not in holds]
    if strangers:
        raise InputError(
            f"{out}: holds {strangers[0]}, which is not of this command and would be lost; "
            "name a new or empty folder"
        )
    if names and marker is not None and marker not in names:
        raise InputError(
            f"{out}: holds {names[0]} and no {marker}, so it is not of this command and would be lost; "
            "name a new or empty folder"
        )


def check_folder(out: Path) -> None:
    """Raise `InputError` where there can be no folder `out`, because it or one above it is a file."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{out}: {there} is a file; name a folder")


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Yield a path beside `out` to write to; the file takes `out`'s place when the block ends well.

    It is on the disk when it does, and so is its name when this returns: a power cut leaves the whole file or
    the one before. Where `out` is a link, the file it leads to is replaced; what is no file, as a pipe or
    `/dev/stdout`, is written to.
    """
    if out.exists() and not out.is_file() and not out.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / out.name
            yield work
            out.write_bytes(work.read_bytes())
        return
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        work = Path(folder) / out.name
        yield work
        _flush(work)
        work.replace(out)
    with suppress(OSError):  # some network file systems have no such thing for folders
        _flush(out.parent)


def write_bytes(out: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with new_file(out) as work:
        work.write_bytes(content)


def write_text(out: Path, content: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    write_bytes(out, content.encode("utf-8"))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(work: Path, out: Path) -> None:
    # rename(2) does not replace a folder that holds files: step the old one aside first.
    try:
        work.replace(out)
    except OSError:
        if not out.is_dir():
            raise
        aside = work.with_name(f"{work.name}.old")
        out.replace(aside)
        try:
            work.replace(out)
        except OSError:
            aside.replace(out)
            raise
        shutil.rmtree(aside, ignore_errors=True)
