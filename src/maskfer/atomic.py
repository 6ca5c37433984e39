"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its place when the block ends well.

    When the block raises, the new folder is gone and an `out` that was there before is untouched.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp: its folders are private to one user, and this one stays.
    work = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    work.mkdir()
    try:
        yield work
        _take_place(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Yield a path beside `out` to write to; the file takes `out`'s place when the block ends well."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        work = Path(folder) / out.name
        yield work
        work.replace(out)


def write_bytes(out: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with new_file(out) as work:
        work.write_bytes(content)


def write_text(out: Path, content: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    write_bytes(out, content.encode("utf-8"))


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
