"""What `maskfer mask` has written into a folder, so that it replaces and removes nothing else.

    OUT/.maskfer-mask    a line ["name", "sha256"] for everything that was ever written to OUT

A line is appended before its file is written, so that a run that is killed leaves no file without one. Lines
are only ever added: several runs may write to one folder at a time. A file is this command's where a line has
its name and its content; one that somebody edited or put in its place is not.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from maskfer import atomic
from maskfer.errors import InputError

LIST: Final = ".maskfer-mask"

Files = frozenset[tuple[str, str]]
"""Names, relative to the folder and with forward slashes, each with the sha256 of a content it was given."""


def check_folder(out: Path) -> None:
    """Raise `InputError` where `out` is neither new, nor empty, nor of an earlier run."""
    atomic.check_folder(out)
    names = sorted(entry.name for entry in out.iterdir() if entry.name != atomic.KEPT) if out.exists() else []
    if names and LIST not in names:
        raise InputError(
            f"{out}: holds {names[0]} and no {LIST}, the list of what `maskfer mask` has written there, so "
            "that files of yours could be replaced; name a new or empty folder (one that a version without "
            "such lists has filled may be deleted)"
        )


def check(out: Path, names: Iterable[str]) -> Files:
    """Return what earlier runs have written to `out`.

    Raises `InputError` as `check_folder` does, and where one of `names` is there but is not this command's.
    """
    check_folder(out)
    # Before the list is read: what another run is writing now has its line before it has its name.
    there = [(name, _sha256(out / name)) for name in sorted(set(names)) if _exists(out / name)]
    files = _read(out)
    for name, sha256 in there:
        if (name, sha256) not in files:
            raise InputError(
                f"{out}: holds {name}, which this command did not write or which has changed since; move it "
                "elsewhere, or name another folder"
            )
    return files


def note(out: Path, name: str, content: bytes, *, known: Files) -> None:
    """Put on the list, unless it is `known`, that `content` is about to be written under `name`.

    Raises `FileExistsError` where somebody else has put a file there since `check`, which may be hours ago.
    """
    if _exists(out / name):
        there = (name, _sha256(out / name))
        if there not in known and there not in _read(out):
            raise FileExistsError(errno.EEXIST, "a file that this command did not write has taken its name")
    entry = (name, hashlib.sha256(content).hexdigest())
    if entry in known:
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / LIST).open("ab") as file:
        # The line break first: a line that a power cut has cut short spoils no other.
        file.write(b"\n" + json.dumps(entry).encode("ascii"))


def remove(out: Path, names: Iterable[str]) -> None:
    """Remove those of `names` from `out` that are there and this command's; `InputError` where one stays."""
    files = _read(out)
    for name in names:
        if _exists(out / name) and (name, _sha256(out / name)) in files:
            try:
                (out / name).unlink()
            except OSError as error:
                raise InputError(
                    f"{out / name}: is of an earlier run and cannot be removed ({error.strerror}); remove it"
                ) from error


def _read(out: Path) -> Files:
    try:
        lines = (out / LIST).read_bytes().splitlines()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise InputError(
            f"{out / LIST}: cannot be read ({error.strerror}), and it alone says what `maskfer mask` wrote "
            "there; name another folder"
        ) from error
    files = set()
    for line in lines:
        try:
            name, sha256 = json.loads(line)
            files.add((str(name), str(sha256)))
        except (ValueError, TypeError):
            continue  # a line cut short: its file is not known, and so not replaced
    return frozenset(files)


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:  # also a name that is too long to be there
        return False
    return True


def _sha256(path: Path) -> str:
    """Of what is no file, or cannot be read, a digest that no list has."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
