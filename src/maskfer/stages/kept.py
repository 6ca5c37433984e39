"""Folders made once under a key, by whichever of several processes comes first, and then only read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from maskfer import atomic
from maskfer.learning.training import machine


def keyed(folder: Path, name: str, key: str) -> Path:
    """Return where what is called `name` is kept under `key`."""
    # A name of its own for each key: what another key's run made is not replaced.
    return folder / f"{name}-{key[:8]}"


def once(out: Path, key: str, make: Callable[[Path], Any]) -> bool:
    """Let `make` write the folder `out` unless it did so under this key; return whether it had to.

    What another process is making is waited for, so that several can share a table's work.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f"{out.name}.lock")):
        if is_made(out, key):
            return False
        make(out)
        atomic.write_text(_marker(out), json.dumps({"key": key, "made_on": machine()}))
        return True


def is_made(out: Path, key: str) -> bool:
    """Whether the folder `out` was made under this key."""
    marker = _marker(out)
    return out.is_dir() and marker.is_file() and json.loads(marker.read_text(encoding="utf-8"))["key"] == key


def _marker(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def made_on(out: Path) -> str:
    """Return the machine on which the folder `out` was made, in words."""
    return str(json.loads(_marker(out).read_text(encoding="utf-8"))["made_on"])


@contextmanager
def taken(folder: Path, *, patient: bool) -> Iterator[bool]:
    """Keep others from what is made in `folder`; where one has it wait if `patient`, else yield False."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=patient)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
